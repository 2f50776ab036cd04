package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	env       = "prod"
	lockValue = "replica-1|an-attempt"
)

// A fixture is a store on an empty Redis, with the steps of a refresh as its methods.
type fixture struct {
	t    *testing.T
	rdb  *redis.Client
	s    *store.Store
	keys store.Keys
}

func newFixture(t *testing.T, rdb *redis.Client) *fixture {
	t.Helper()
	s, err := store.New(rdb, store.Options{Timeout: 5 * time.Second}) // a slow machine is no failure
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, rdb: rdb, s: s, keys: s.Keys(env)}
}

func (f *fixture) ctx() context.Context { return f.t.Context() }

func (f *fixture) read() *store.Record {
	f.t.Helper()
	r, err := f.s.Read(f.ctx(), env)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// lease writes the lock key as package lock does.
func (f *fixture) lease(value string) {
	f.t.Helper()
	if err := f.rdb.Set(f.ctx(), f.keys.Lock, value, time.Minute).Err(); err != nil {
		f.t.Fatal(err)
	}
}

// issue takes the lease and issues a version after a fresh read.
func (f *fixture) issue() store.Issue {
	f.t.Helper()
	f.lease(lockValue)
	at, err := f.s.Issue(f.ctx(), env, lockValue, f.read())
	if err != nil {
		f.t.Fatalf("issue: %v", err)
	}
	return at
}

func newToken(text string) *store.Token {
	return store.NewToken(store.Token{
		AccessToken: store.NewSecret(text), TokenType: "Bearer", Scope: "campaigns.read",
		RefreshedBy: "replica-1", Took: 120 * time.Millisecond, Config: "c1",
	})
}

// put stores a token with the text and an hour to live.
func (f *fixture) put(at store.Issue, text string) {
	f.t.Helper()
	if _, err := f.s.Put(f.ctx(), env, at, time.Hour, newToken(text)); err != nil {
		f.t.Fatalf("put: %v", err)
	}
}

// stored issues and stores a token.
func (f *fixture) stored(text string) store.Issue {
	f.t.Helper()
	at := f.issue()
	f.put(at, text)
	return at
}

func newFailure(at store.Issue) store.Failure {
	return store.Failure{
		Code: "http_503", Status: 503, Message: "Service Unavailable", Attempt: 1, Version: at.Version,
		ReportedBy: "replica-1", Config: "c1", Credential: "a1b2",
	}
}

// fail records a failure, to be repeated after a minute.
func (f *fixture) fail(failure store.Failure) {
	f.t.Helper()
	if _, _, err := f.s.Fail(f.ctx(), env, failure, time.Minute, 2*time.Minute); err != nil {
		f.t.Fatalf("fail: %v", err)
	}
}

// wantToken reads and checks that the token with the text is there and that version is its.
func (f *fixture) wantToken(version store.Version, text string) {
	f.t.Helper()
	r := f.read()
	if r.Token == nil {
		f.t.Fatalf("no token (%v); want %q", r.TokenErr, text)
	}
	if got := r.Token.AccessToken.Reveal(); got != text || r.Token.Version != version {
		f.t.Errorf("token %q with version %v; want %q with %v", got, r.Token.Version, text, version)
	}
}

// dump returns all there is of the environment's token, mark and failure, and their lives in minutes: what must not
// change where nothing was written.
func (f *fixture) dump() string {
	f.t.Helper()
	var b strings.Builder
	for _, key := range []string{f.keys.Token, f.keys.Mark, f.keys.Failure} {
		fields, err := f.rdb.Do(f.ctx(), "HGETALL", key).Result()
		if err != nil {
			f.t.Fatal(err)
		}
		ttl := f.rdb.PTTL(f.ctx(), key).Val().Round(time.Minute)
		b.WriteString(key + " " + ttl.String() + ": " + flat(fields) + "\n")
	}
	return b.String()
}

func about(got, want, tolerance time.Duration) bool { return (got - want).Abs() <= tolerance }
