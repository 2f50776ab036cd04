// Package store keeps access tokens, failures and their events in Redis.
//
// Every change is one Lua script that compares, writes, expires and publishes in one step, takes the time from Redis,
// and may be run again: a write whose reply was lost is settled by running it once more. The scripts decide which
// write comes first; what is usable, and when to refresh, is decided by the caller.
//
// For a namespace N (default "onetoken") and an environment "prod" the keys are
//
//	N:{prod}:token    hash    the token; its TTL is the token's remaining life
//	N:{prod}:grant    hash    the refresh token, where one is used
//	N:{prod}:mark     hash    issued, stored, dropped: the versions that order the writes
//	N:{prod}:failure  hash    the last failure, while it is remembered
//	N:{prod}:lock     string  the lease, "<replica>|<random>" (of package lock; a read may take it, too)
//	N:events          channel {"env","kind","version"}
//
// The environment is a hash tag, so that its keys share one slot of a cluster.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/store/seal"
)

// DefaultNamespace is the namespace of an [Options] that has none.
const DefaultNamespace = "onetoken"

// DefaultTimeout is the deadline of one call of Redis. A client obeys it only with ContextTimeoutEnabled.
const DefaultTimeout = time.Second

// A Secret is text that doesn't print; see its Reveal.
type Secret = secret.Secret

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret { return secret.New(s) }

// ErrName is in the chain of every error about a namespace or environment name that is not [A-Za-z0-9._-]{1,128}.
var ErrName = errors.New(`names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`)

// Options configure a [Store]. Zero fields mean the defaults.
type Options struct {
	Namespace string        // default [DefaultNamespace]
	Codec     Codec         // default: secrets are stored as they are ([seal.None])
	Timeout   time.Duration // of one call of Redis; default [DefaultTimeout]
}

// A Codec seals the secret fields of a record on their way to Redis and opens them on the way back. It is the interface
// of an AEAD with associated data: a value sealed for one namespace, environment, field and version must not open for
// another. Implementations must be safe for concurrent use, and their errors must not contain what they were given. Package
// seal has one, and Tink's AEADs are such.
type Codec interface {
	Encrypt(plaintext, associatedData []byte) (ciphertext []byte, err error)
	Decrypt(ciphertext, associatedData []byte) (plaintext []byte, err error)
}

// A Store reads and writes the records of one namespace. It is safe for concurrent use and owns nothing: the client
// stays the caller's.
type Store struct {
	rdb       redis.UniversalClient
	namespace string
	codec     Codec
	timeout   time.Duration
	known     known
}

// New returns a Store on rdb. It does no I/O.
func New(rdb redis.UniversalClient, opts Options) (*Store, error) {
	if rdb == nil {
		return nil, errors.New("store: no Redis client")
	}
	s := &Store{
		rdb:       rdb,
		namespace: cmp.Or(opts.Namespace, DefaultNamespace),
		codec:     opts.Codec,
		timeout:   cmp.Or(opts.Timeout, DefaultTimeout),
	}
	if err := CheckName(s.namespace); err != nil {
		return nil, fmt.Errorf("store: namespace: %w", err)
	}
	if s.codec == nil {
		s.codec = seal.None{}
	}
	return s, nil
}

// CheckName returns an error that wraps [ErrName] unless name can be a namespace or an environment.
func CheckName(name string) error {
	if !isName(name) {
		return fmt.Errorf("%.150q: %w", name, ErrName)
	}
	return nil
}

// isName is a pattern's ^[A-Za-z0-9._-]{1,128}$: every command looks at a name.
func isName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// Namespace returns the namespace of the store's keys.
func (s *Store) Namespace() string { return s.namespace }

// Keys are the names of an environment's keys in Redis.
type Keys struct{ Token, Grant, Mark, Failure, Lock string }

// Keys returns the names of the keys of env.
func (s *Store) Keys(env string) Keys {
	const token, grant, mark, failure, lock = "token", "grant", "mark", "failure", "lock"
	p := s.namespace + ":{" + env + "}:"
	all := p + token + p + grant + p + mark + p + failure + p + lock // one allocation for all
	next := func(name string) (key string) {
		key, all = all[:len(p)+len(name)], all[len(p)+len(name):]
		return key
	}
	return Keys{Token: next(token), Grant: next(grant), Mark: next(mark), Failure: next(failure), Lock: next(lock)}
}

// Channel returns the name of the channel of the namespace's events.
func (s *Store) Channel() string { return s.namespace + ":events" }

// Version orders everything that is written for an environment: it is issued under the lease, one per attempt, and is
// about Redis's clock in microseconds since the epoch. 0 means "none".
type Version int64

// String returns the version's decimal digits.
func (v Version) String() string { return strconv.FormatInt(int64(v), 10) }

// ParseVersion reads 1 to 16 decimal digits.
func ParseVersion(s string) (Version, error) {
	if s == "" || len(s) > 16 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("store: %.40q is no version: 1 to 16 digits", s)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return Version(n), err
}

// maxAhead is how far a version, a clock reading of Redis in microseconds, may be ahead of Redis's clock.
const maxAhead = 24 * time.Hour

// plausible is the rule of the scripts' function version, in Go: both must agree on what can be read.
func plausible(raw string, now time.Time) Version {
	v, err := ParseVersion(raw)
	if err != nil || int64(v) > now.Add(maxAhead).UnixMicro() {
		return 0
	}
	return v
}

// A StatusError is what Redis or the way to it refused, with the operation and the key that it was about. It wraps the
// client's error.
type StatusError struct {
	Op  string // "read", "issue a version", …
	Key string
	Err error
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("store: Redis: %s of %s: %s", e.Op, e.Key, printable.Redis(e.Err))
}

func (e *StatusError) Unwrap() error { return e.Err }

// run runs a script about env under the call's own deadline and returns its reply, an array of at least n elements.
func (s *Store) run(ctx context.Context, env string, sc *redis.Script, op string, n int, keys []string, args ...any) ([]any, error) {
	if err := CheckName(env); err != nil {
		return nil, fmt.Errorf("store: environment: %w", err)
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(caller, s.timeout)
	defer cancel()
	reply, err := s.eval(ctx, sc, keys, args...).Slice()
	if err == nil && len(reply) < n {
		err = fmt.Errorf("a reply of %d elements instead of %d", len(reply), n)
	}
	if err != nil {
		s.unreachable(caller, err)
		return nil, &StatusError{Op: op, Key: keys[0], Err: err}
	}
	return reply, nil
}

// unreachable is told of errors, and does what is to be done when a node can't be reached. It has a Cluster client ask where
// the slots are, in the background: by itself it only does on a redirection, or once a minute, and a node that is dead
// redirects nobody.
func (s *Store) unreachable(ctx context.Context, err error) {
	if _, answered := errors.AsType[redis.Error](err); answered || ctx.Err() != nil {
		return
	}
	s.known.forget()
	if c, ok := s.rdb.(interface{ ReloadState(ctx context.Context) }); ok {
		c.ReloadState(context.WithoutCancel(ctx))
	}
}

// text returns element i of a reply as text, "" where it is nil.
func text(reply []any, i int) string {
	if i < len(reply) {
		if s, ok := reply[i].(string); ok {
			return s
		}
	}
	return ""
}

func number(reply []any, i int) int64 {
	if i < len(reply) {
		switch v := reply[i].(type) {
		case int64:
			return v
		case string:
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

func list(reply []any, i int) []any {
	if i < len(reply) {
		if l, ok := reply[i].([]any); ok {
			return l
		}
	}
	return nil
}

// Environments returns the names of the environments that have any key in the namespace, in no order. It uses SCAN, in
// a cluster on every master, never KEYS; ctx bounds the whole of it.
func (s *Store) Environments(ctx context.Context) ([]string, error) {
	found := map[string]struct{}{}
	scan := func(ctx context.Context, node redis.Cmdable) error {
		it := node.Scan(ctx, 0, s.namespace+":{*}:*", 512).Iterator()
		for it.Next(ctx) {
			if env, _ := s.ParseKey(it.Val()); env != "" {
				found[env] = struct{}{}
			}
		}
		return it.Err()
	}
	var err error
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		// One master after the other: ForEachMaster would run them at once, on one map.
		nodes := make(chan *redis.Client, 1024)
		err = cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
			nodes <- node
			return nil
		})
		close(nodes)
		for node := range nodes {
			err = cmp.Or(err, scan(ctx, node))
		}
	} else {
		err = scan(ctx, s.rdb)
	}
	if err != nil {
		return nil, &StatusError{Op: "scan", Key: s.namespace + ":*", Err: err}
	}
	names := make([]string, 0, len(found))
	for env := range found {
		names = append(names, env)
	}
	return names, nil
}

// ParseKey takes a name of [Keys] apart: the environment, and "token", "grant", "mark", "failure" or "lock". Both are "" where
// key is none of the store's.
func (s *Store) ParseKey(key string) (env, kind string) {
	rest, ok := strings.CutPrefix(key, s.namespace+":{")
	if !ok {
		return "", ""
	}
	env, kind, ok = strings.Cut(rest, "}:")
	if !ok || CheckName(env) != nil {
		return "", ""
	}
	switch kind {
	case "token", "grant", "mark", "failure", "lock":
		return env, kind
	}
	return "", ""
}
