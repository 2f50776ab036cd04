package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

// What is looked at of a Redis with many keys.
const (
	scanCount   = 1000   // keys that Redis looks at in one step
	maxScans    = 2000   // steps, for each node
	maxKeys     = 10_000 // of the namespace, for each node
	maxExamples = 5      // that are named of one kind
)

// types are the types that an environment's keys have, by their kind.
func types() map[string]string {
	return map[string]string{"token": "hash", "grant": "hash", "mark": "hash", "failure": "hash", "lock": "string"}
}

// A foundKey is a key of the namespace.
type foundKey struct {
	name, env, kind string // without env where it is none of onetoken's
	typ             string
	ttl             time.Duration // -1: none
}

// keys looks for what nobody of onetoken would have written.
func (e *examination) keys(ctx context.Context, r *report, nodes []*node) {
	const check = GroupRedis + ".keys"
	before := len(r.findings)
	found := map[string]bool{} // environments
	total := 0
	for _, n := range nodes {
		keys, err := e.scan(ctx, r, n)
		if err != nil {
			if !denied(err) {
				r.fail(check, n.name, printable.Redis(err), redisMend(err, "+scan"))
			}
			return
		}
		total += len(keys)
		e.oddKeys(r, keys)
		for _, k := range keys {
			if k.env != "" {
				found[k.env] = true
			}
		}
	}
	e.marks(ctx, r, found)
	if !e.records(ctx, r, found) {
		r.unknown(check, e.store.Namespace()+":*", "tokens and failures can't be read without the rights above", "give the user these rights, and run doctor again")
	}
	if len(r.findings) == before {
		r.ok(check, e.store.Namespace()+":*", "%s of %s, none that looks wrong", Count(total, "key"), Count(len(found), "environment"))
	}
	e.strangers(r, found)
}

// scan returns the namespace's keys on a node, as far as it looks, without those of a doctor.
func (e *examination) scan(ctx context.Context, r *report, n *node) ([]foundKey, error) {
	var keys []foundKey
	cursor := uint64(0)
	for scans := 0; ; scans++ {
		if scans == maxScans || len(keys) >= maxKeys {
			r.ok(GroupRedis+".keys", n.name, "it has many keys: only the first %d of the namespace were looked at", len(keys))
			return keys, nil
		}
		names, next, err := n.rdb.Scan(ctx, cursor, e.store.Namespace()+":*", scanCount).Result()
		if err != nil {
			return nil, err
		}
		batch, err := e.look(ctx, n, names)
		if err != nil {
			return nil, err
		}
		keys = append(keys, batch...)
		if cursor = next; cursor == 0 {
			break
		}
	}
	slices.SortFunc(keys, func(a, b foundKey) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(keys, func(a, b foundKey) bool { return a.name == b.name }), nil // SCAN may repeat itself
}

// look reads type and TTL of keys, in one round trip.
func (e *examination) look(ctx context.Context, n *node, names []string) ([]foundKey, error) {
	var keys []foundKey
	for _, name := range names {
		env, kind := e.store.ParseKey(name)
		if !strings.HasPrefix(env, "doctor-") && e.chosen(env) {
			keys = append(keys, foundKey{name: name, env: env, kind: kind})
		}
	}
	types, ttls := make([]*redis.StatusCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	if len(keys) == 0 {
		return nil, nil
	}
	if _, err := n.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range keys {
			types[i], ttls[i] = p.Type(ctx, k.name), p.PTTL(ctx, k.name)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range keys {
		keys[i].typ, keys[i].ttl = types[i].Val(), ttls[i].Val()
	}
	return slices.DeleteFunc(keys, func(k foundKey) bool { return k.typ == "none" || k.ttl == -2 }), nil // gone meanwhile
}

// chosen reports whether keys of env are looked at: all, unless some environments were asked for.
func (e *examination) chosen(env string) bool {
	return len(e.Environments) == 0 || slices.Contains(e.envs, env)
}

// oddKeys tells of keys that have the wrong name, type or TTL.
func (e *examination) oddKeys(r *report, keys []foundKey) {
	const check = GroupRedis + ".keys"
	odd := map[string][]string{} // by what is wrong with them
	for _, k := range keys {
		switch lasting := k.ttl == -1; {
		case k.env == "":
			odd["unknown"] = append(odd["unknown"], k.name)
		case k.typ != types()[k.kind] && k.kind == "grant":
			odd["grant"] = append(odd["grant"], k.name)
		case k.typ != types()[k.kind]:
			odd["type"] = append(odd["type"], k.name)
		case lasting && (k.kind == "token" || k.kind == "failure" || k.kind == "lock"):
			odd["lasting"] = append(odd["lasting"], k.name)
		case !lasting && k.kind == "mark":
			odd["passing"] = append(odd["passing"], k.name)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(odd)) {
		names := odd[kind]
		message, mend := oddity(kind)
		r.warn(check, examples(names), message, mend)
	}
}

func oddity(kind string) (message, mend string) {
	switch kind {
	case "unknown":
		return "not written by this version of onetoken: another program, or a version to come, uses the namespace", "give it a namespace of its own; remove what nobody uses"
	case "type":
		return "of a type that onetoken doesn't write: read as missing, or in a lock's place as taken", "DEL it: nothing is lost"
	case "grant":
		return "of a type that onetoken doesn't write: no refresh token is stored over it", "have a person log in (onetoken login), who replaces it; DEL it where that is for nobody"
	case "lasting":
		return "without a TTL: such a token is never served, and such a lock counts as taken until a replica gives it a TTL", "DEL it: a new token is fetched"
	default:
		return "a mark with a TTL: when it ends, so does what was invalidated", "PERSIST it"
	}
}

// examples names some of many.
func examples(names []string) string {
	if len(names) <= maxExamples {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxExamples], ", "), len(names)-maxExamples)
}

// marks looks at the versions that the scripts would take for 0.
func (e *examination) marks(ctx context.Context, r *report, found map[string]bool) {
	names := slices.Sorted(maps.Keys(found))
	for chunk := range slices.Chunk(names, 256) {
		replies := make([]*redis.SliceCmd, len(chunk))
		_, _ = e.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, env := range chunk {
				replies[i] = p.HMGet(ctx, e.store.Keys(env).Mark, "issued", "stored", "dropped")
			}
			return nil
		})
		for i, env := range chunk {
			for _, value := range replies[i].Val() { // none where it is no hash
				if s, ok := value.(string); ok && !e.plausible(s) {
					r.warn(GroupRedis+".keys", e.store.Keys(env).Mark, "it has a version that can't have been issued; it counts as 0", "nothing: the next write mends it")
					break
				}
			}
		}
	}
}

// plausible reports whether a version can have been issued. This machine's clock stands for Redis's: a day is wide enough.
func (e *examination) plausible(raw string) bool {
	v, err := store.ParseVersion(raw)
	return err == nil && int64(v) <= e.now().Add(24*time.Hour+time.Minute).UnixMicro()
}

// records looks at what the tokens and failures say, and reports whether it may.
func (e *examination) records(ctx context.Context, r *report, found map[string]bool) (allowed bool) {
	names := slices.Clone(e.envs)
	for name := range found {
		if !slices.Contains(e.envs, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	records, err := e.store.ReadMany(ctx, names)
	if err != nil {
		if !denied(err) { // a missing right was found
			r.fail(GroupRedis+".keys", e.store.Namespace()+":*", err.Error(), redisMend(err, ""))
		}
		return !denied(err)
	}
	view := overview.New(e.store, e.manager)
	for i, record := range records {
		row := view.Row(names[i], record)
		e.record(r, row, record)
		e.grant(ctx, r, row, record)
	}
	return true
}

func (e *examination) record(r *report, row manager.Status, record *store.Record) {
	env := row.Environment
	noKeys := errors.Is(record.TokenErr, seal.ErrNoKeys)
	switch {
	case record.Sealed != nil && noKeys && e.manager == nil:
		r.unknown(GroupRedis+".keys", e.store.Keys(env).Token, "it is sealed, and no keys are configured here", "name a configuration with sealing.keyring_file by --config")
	case record.Sealed != nil:
		r.warn(GroupRedis+".keys", e.store.Keys(env).Token, record.TokenErr.Error(), "have all replicas use the same sealing.keyring_file: docs/sealing.md has the order in which keys are changed")
	case record.TokenErr != nil:
		r.warn(GroupRedis+".keys", e.store.Keys(env).Token, record.TokenErr.Error(), "nothing, it isn't served: the next refresh replaces it, or onetoken refresh "+env+" now")
	}
	if row.State == manager.StateConflict && record.Sealed == nil {
		r.warn(GroupRedis+".conflict", env, fmt.Sprintf("the stored token, by %s, is of another configuration than this file's: a deploy under way, or two services with different settings in one namespace", *row.RefreshedBy),
			"when no deploy is under way: have all replicas use the same token URL, client, scopes and params, or a namespace each")
	}
	if f := row.Failure; f.Code != nil && f.RetryAt != nil {
		message := "the fleet's last attempt to get a token failed: " + *f.Code
		if f.Message != nil {
			message += " (" + *f.Message + ")"
		}
		r.warn(GroupEndpoint+".failure", env, message+"; next try at "+f.RetryAt.UTC().Format(time.RFC3339), tokenMend(&manager.EndpointError{Code: *f.Code}))
	}
	if t := record.Token; t != nil && slices.Contains(e.envs, env) {
		if margin := e.file.Environments[env].ExpiryMargin; margin > t.Life()/2 {
			r.warn(GroupConfiguration+".environment", env, fmt.Sprintf("expiry_margin %v is more than half the life of its tokens (%v), and is cut to that", margin, t.Life()), "shorten expiry_margin")
		}
	}
}

// grant looks at what is known of the refresh token.
func (e *examination) grant(ctx context.Context, r *report, row manager.Status, record *store.Record) {
	const check = GroupEndpoint + ".login"
	env := row.Environment
	logIn := fmt.Sprintf("onetoken login %s, or onetoken grant import %s", env, env)
	if row.Login != "" {
		message := "a person must log in: " + row.Login
		if row.Usable {
			message += "; the token that there is serves until " + row.ExpiresAt.UTC().Format(time.RFC3339)
		}
		r.fail(check, env, message, logIn)
		return
	}
	g := record.Grant
	if g == nil || g.Version == 0 || e.manager == nil {
		return
	}
	seals, err := e.store.Seals(ctx, env)
	if err != nil {
		return // there are no keys here; or Redis is away, which others tell of
	}
	for _, s := range seals {
		if s.Field == "refresh_token" && s.Err != nil {
			r.fail(check, env, fmt.Sprintf("the refresh token in %s can't be used: %v", e.store.Keys(env).Grant, s.Err),
				"have all replicas use the keyring with the key that sealed it (sealing.keyring_file); if that is lost, "+logIn)
		}
	}
}

// strangers tells of environments that aren't configured here.
func (e *examination) strangers(r *report, found map[string]bool) {
	var others []string
	for name := range found {
		if _, ok := e.file.Environments[name]; !ok {
			others = append(others, name)
		}
	}
	if slices.Sort(others); len(others) > 0 && e.file.Path != "" {
		r.ok(GroupRedis+".environments", examples(others), "in Redis, and not in this file")
	}
}
