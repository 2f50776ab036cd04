// Package compose_test proves what docker-compose.yml promises, without containers: the rights of its Redis users are
// enough, and none is too many; and what it would start works together.
package compose_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

// binaries are the commands, built once.
var binaries struct{ onetoken, worker string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onetoken-compose-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func build(dir string) error {
	binaries.onetoken, binaries.worker = filepath.Join(dir, "onetoken"), filepath.Join(dir, "worker")
	args := []string{"build", "-o", dir + "/"}
	if raceEnabled {
		args = append(args, "-race")
	}
	args = append(args, "github.com/onetoken/onetoken/cmd/onetoken", "github.com/onetoken/onetoken/cmd/worker")
	if output, err := exec.CommandContext(context.Background(), "go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, output)
	}
	return nil
}

const (
	password = "of-the-test"
	lease    = 6 * time.Second
	patience = 60 * time.Second // for what must come, but has no bound of its own
)

// The users of users.acl beside the administrator.
const (
	workerUser = "onetoken"     // the library, the command, the agent
	opsUser    = "onetoken-ops" // looks, and changes nothing
)

// users returns the lines of users.acl, as redis.sh writes them, and the rights of one user.
func users(t *testing.T, name string) (lines, rights []string) {
	t.Helper()
	data, err := os.ReadFile("users.acl")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(password))
	text := regexp.MustCompile(`[A-Z]+_SHA256`).ReplaceAllString(string(data), hex.EncodeToString(digest[:]))
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
		if !strings.HasPrefix(line, "user "+name+" ") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "+") {
				rights = append(rights, word)
			}
		}
	}
	if len(rights) < 10 {
		t.Fatalf("users.acl gives %s the rights %q", name, rights)
	}
	return lines, rights
}

func client(t *testing.T, addr, user string) *redis.Client {
	t.Helper()
	o := redistest.Options(addr)
	o.Username, o.Password, o.ClientName = user, password, "onetoken"
	o.ReadTimeout, o.WriteTimeout, o.DialTimeout = patience, patience, patience // the machine may be busy
	return redistest.NewClient(t, o)
}

func TestTheRightsAreEnough(t *testing.T) {
	lines, _ := users(t, workerUser)
	server := redistest.Start(t, lines...)
	if err := everything(t.Context(), client(t, server.Addr(), workerUser), lease); err != nil {
		t.Error(err)
	}
	rdb := client(t, server.Addr(), workerUser)
	refused(t, map[string]error{
		"another key":     rdb.Get(t.Context(), "else:{prod}:token").Err(),
		"another channel": rdb.Publish(t.Context(), "else:events", "x").Err(),
		"FLUSHALL":        rdb.FlushAll(t.Context()).Err(),
		"KEYS":            rdb.Keys(t.Context(), "*").Err(),
		"CONFIG":          rdb.ConfigGet(t.Context(), "*").Err(),
		"no password":     server.Client(t).Ping(t.Context()).Err(),
	})
}

// refused checks that Redis has answered each with a refusal.
func refused(t *testing.T, answers map[string]error) {
	t.Helper()
	refusal := regexp.MustCompile("NOPERM|NOAUTH|can't run this command") // the last: what a script called, in Redis 7.0
	for name, err := range answers {
		if err == nil || !refusal.MatchString(err.Error()) {
			t.Errorf("%s: %v; want a refusal", name, err)
		}
	}
}

func TestEveryRightIsNeeded(t *testing.T) {
	eachIsNeeded(t, workerUser, func(ctx context.Context, _, rdb *redis.Client) error {
		return everything(ctx, rdb, 600*time.Millisecond)
	})
}

// eachIsNeeded takes the user's rights away one by one: use, with a client of the administrator and one of the user, must
// fail each time.
func eachIsNeeded(t *testing.T, user string, use func(ctx context.Context, admin, rdb *redis.Client) error) {
	t.Helper()
	lines, rights := users(t, user)
	server := redistest.Start(t, lines...)
	admin := client(t, server.Addr(), "default")
	for _, right := range rights {
		admin.FlushAll(t.Context())
		if err := admin.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		set := func(rule string) {
			if err := admin.ACLSetUser(t.Context(), user, rule).Err(); err != nil {
				t.Fatal(err)
			}
		}
		set("-" + right[1:])
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if err := use(ctx, admin, client(t, server.Addr(), user)); err == nil {
			t.Errorf("%s isn't needed", right)
		}
		cancel()
		set(right)
	}
}

func TestTheScriptStartsRedisForItsUsers(t *testing.T) {
	redistest.Start(t).Stop() // skips where there is none
	socket := filepath.Join(t.TempDir(), "redis.sock")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "redis.sh", "--port", "0", "--unixsocket", socket)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "REDIS_ADMIN_PASSWORD="+password,
		"ONETOKEN_REDIS_PASSWORD="+password, "ONETOKEN_OPS_PASSWORD="+password)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	o := redistest.Options(socket)
	o.Network, o.Username, o.Password = "unix", "onetoken", password
	o.ReadTimeout, o.WriteTimeout, o.DialTimeout = patience, patience, patience
	rdb := redistest.NewClient(t, o)
	for rdb.Ping(ctx).Err() != nil {
		select {
		case <-ctx.Done():
			t.Fatal("it doesn't start")
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := everything(ctx, rdb, lease); err != nil {
		t.Error(err)
	}
}

const env = "prod"

// everything uses all there is of store and lock, and returns the first error.
// A lease that is to be renewed may be short where an error is what is looked for.
func everything(ctx context.Context, rdb *redis.Client, length time.Duration) error {
	s, err := store.New(rdb, store.Options{Timeout: patience})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	heard, stop, err := listen(ctx, s)
	if err != nil {
		return err
	}
	defer stop()
	if err := refresh(ctx, rdb, s, length); err != nil {
		return err
	}
	if err := heard.wait(ctx, "an event", func(what any) bool { return what != true }); err != nil {
		return err
	}
	names, err := s.Environments(ctx)
	if err != nil || !slices.Contains(names, env) {
		return fmt.Errorf("environments %q: %w", names, errors.Join(err, errors.New("not found")))
	}
	return rdb.Ping(ctx).Err() // as the watch does after 10 s
}

// listen watches, and returns once the subscription is confirmed. The caller calls stop in the end.
func listen(ctx context.Context, s *store.Store) (heard ears, stop func(), err error) {
	heard = make(ears, 10)
	ended := make(chan struct{})
	watching, cancel := context.WithCancel(ctx)
	go func() { defer close(ended); _ = s.Watch(watching, heard) }()
	stop = func() { cancel(); <-ended }
	if err := heard.wait(ctx, "a subscription", func(what any) bool { return what == true }); err != nil {
		stop()
		return nil, nil, err
	}
	return heard, stop, nil
}

// refresh makes one attempt that fails and one that succeeds, and invalidates its token.
func refresh(ctx context.Context, rdb *redis.Client, s *store.Store, length time.Duration) error {
	key := s.Keys(env).Lock
	l, err := lock.New(rdb, "replica-1")
	if err != nil {
		return err
	}
	// A lock without TTL heals itself.
	if err := rdb.Set(ctx, key, "x", 0).Err(); err != nil {
		return err
	}
	var busy *lock.BusyError
	if _, err := l.Try(ctx, key, time.Second); !errors.As(err, &busy) {
		return err
	}
	if err := rdb.Del(ctx, key).Err(); err != nil {
		return err
	}
	lease, err := l.Try(ctx, key, length)
	if err != nil {
		return err
	}
	defer func() { _ = lease.Release(ctx) }()
	if err := renewed(ctx, lease); err != nil {
		return err
	}
	if err := attempt(ctx, s, lease); err != nil {
		return err
	}
	return lease.Release(ctx)
}

func renewed(ctx context.Context, lease *lock.Lease) error {
	first := lease.Until()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !lease.Until().After(first) {
		select {
		case <-lease.Lost():
			return lock.ErrLost
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func attempt(ctx context.Context, s *store.Store, lease *lock.Lease) error {
	for _, fails := range []bool{true, false} {
		if err := outcome(ctx, s, lease, env, fails); err != nil {
			return err
		}
	}
	if r, err := s.Read(ctx, env); err != nil || r.Token == nil {
		return fmt.Errorf("no token: %w", errors.Join(err, errors.New("nothing is stored")))
	}
	_, err := s.Invalidate(ctx, env, 0)
	return err
}

// outcome stores a failure or a token of name, whose lease it is.
func outcome(ctx context.Context, s *store.Store, lease *lock.Lease, name string, fails bool) error {
	r, err := s.Read(ctx, name)
	if err != nil {
		return err
	}
	at, err := s.Issue(ctx, name, lease.Value(), r)
	if err != nil {
		return err
	}
	if fails {
		_, _, err = s.Fail(ctx, name, store.Failure{Code: "timeout", Version: at.Version}, time.Minute, time.Minute)
		return err
	}
	token := store.NewToken(store.Token{AccessToken: store.NewSecret("tok"), TokenType: "Bearer", Config: "c"})
	_, err = s.Put(ctx, name, at, time.Hour, token)
	return err
}

// ears hear what a Watcher is told: true, or an Event.
type ears chan any

func (e ears) Subscribed(confirmed bool) {
	if confirmed {
		e <- true
	}
}

func (e ears) Event(event store.Event) { e <- event }

func (e ears) wait(ctx context.Context, what string, is func(any) bool) error {
	for {
		select {
		case heard := <-e:
			if is(heard) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}
