package manager_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{}) // it reports every dial that fails, as many tests make it
	goleak.VerifyTestMain(m)
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

const (
	env    = "prod"
	id     = "client-id"
	secret = "client-secret-5f1d"
)

// A fleet is a number of managers on one Redis and one scripted endpoint, each with a client of its own.
type fleet struct {
	t        *testing.T
	rdb      *redis.Client // for the test's own looks
	endpoint *mockendpoint.Endpoint
	url      string
	many     bool // so many that they keep the machine busy
	managers []*manager.Manager
}

type edit func(i int, c *manager.Config, e *manager.Environment)

// newFleet starts n managers on the Redis of rdb. Each of edits may change what is configured for the i-th.
func newFleet(t *testing.T, rdb *redis.Client, n int, edits ...edit) *fleet {
	t.Helper()
	f := &fleet{t: t, rdb: rdb, many: n >= 50, endpoint: mockendpoint.New(mockendpoint.Options{ClientID: id, ClientSecret: secret})}
	server := httptest.NewServer(f.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(f.endpoint.Close)
	f.url = server.URL
	for range n {
		f.add(edits...)
	}
	return f
}

// add starts another manager.
func (f *fleet) add(edits ...edit) *manager.Manager {
	f.t.Helper()
	i := len(f.managers)
	e := manager.Environment{TokenURL: f.url + "/token", ClientID: id, ClientSecret: manager.NewSecret(secret)}
	o := redistest.Options(f.rdb.Options().Addr)
	if f.many { // on one machine they may be too much for a second: that is no Redis that is away
		o.ContextTimeoutEnabled, o.DialTimeout, o.ReadTimeout, o.WriteTimeout = false, 20*time.Second, 20*time.Second, 20*time.Second
	}
	c := manager.Config{Redis: redistest.NewClient(f.t, o), Replica: fmt.Sprintf("replica-%02d", i)}
	for _, edit := range edits {
		edit(i, &c, &e)
	}
	if c.Environments == nil {
		c.Environments = map[string]manager.Environment{env: e}
	}
	m, err := manager.New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = m.Close() })
	f.managers = append(f.managers, m)
	return m
}

// policy edits the policy of every manager.
func policy(p manager.Policy) edit {
	return func(_ int, _ *manager.Config, e *manager.Environment) { e.Policy = p }
}

// An outcome is what one call of Token or Refresh brought.
type outcome struct {
	token *manager.Token
	err   error
	took  time.Duration
}

// all calls call on every manager at once and returns the outcomes.
func (f *fleet) all(call func(context.Context, *manager.Manager) (*manager.Token, error)) []outcome {
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	out := make([]outcome, len(f.managers))
	var wg sync.WaitGroup
	for i, m := range f.managers {
		wg.Go(func() {
			start := time.Now()
			tok, err := call(ctx, m)
			out[i] = outcome{tok, err, time.Since(start)}
		})
	}
	wg.Wait()
	return out
}

func token(ctx context.Context, m *manager.Manager) (*manager.Token, error) { return m.Token(ctx, env) }

func refresh(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
	return m.Refresh(ctx, env)
}

// oneToken returns the token that all outcomes have, and fails the test if there is another, or an error.
func (f *fleet) oneToken(out []outcome) *manager.Token {
	f.t.Helper()
	for i, o := range out {
		if o.err != nil {
			f.t.Fatalf("manager %d: %v", i, o.err)
		}
		if o.token.Version != out[0].token.Version || !o.token.AccessToken.Equal(out[0].token.AccessToken) {
			f.t.Fatalf("manager %d has %v, manager 0 has %v", i, o.token, out[0].token)
		}
	}
	return out[0].token
}

// mustToken returns what Token gives a manager within 30 s.
func (f *fleet) mustToken(m *manager.Manager) *manager.Token {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	tok, err := m.Token(ctx, env)
	if err != nil {
		f.t.Fatal(err)
	}
	return tok
}

// converge waits until all managers have one token, which they do once they have heard of it, and returns that.
func (f *fleet) converge(limit time.Duration) *manager.Token {
	f.t.Helper()
	var tok *manager.Token
	eventually(f.t, limit, "all have one token", func() bool {
		out := f.all(token)
		tok = out[0].token
		for _, o := range out {
			if o.err != nil || o.token.Version != tok.Version {
				return false
			}
		}
		return true
	})
	return tok
}

// servedWhileUsable takes tokens on all managers, which had first, and fails unless they get the same at once, until no more
// than margin is left of its life for one of them. What is left is the manager's own view of it, looked at after the call:
// that only shrinks, by as long as a read of Redis takes on its way there.
func (f *fleet) servedWhileUsable(first []outcome, margin time.Duration) {
	f.t.Helper()
	tok := f.oneToken(first)
	for {
		out := f.all(token)
		for i, m := range f.managers {
			if m.ExpiresIn(env, first[i].token) <= margin {
				return // how it ended while we asked, nobody can say
			}
		}
		for i, o := range out {
			if o.err != nil || o.token.Version != tok.Version || o.took > 10*time.Second {
				f.t.Fatalf("manager %d: %v, %v after %v", i, o.token, o.err, o.took)
			}
		}
		pause(f.t, 5*time.Millisecond)
	}
}

func (f *fleet) calls(want int) {
	f.t.Helper()
	if got := f.endpoint.Calls(); got != want {
		f.t.Errorf("%d calls of the endpoint, want %d", got, want)
	}
}

// eventually looks every 10 ms until ok, for at most limit, and returns how long it took.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		pause(t, 10*time.Millisecond)
	}
	return time.Since(start)
}

// pause lets time go by: for tests whose subject is that nothing happens, or what happens later.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal("the test is over")
	}
}

// key returns the name of one of the environment's keys.
func key(kind string) string { return "onetoken:{" + env + "}:" + kind }

// A logBuffer collects what is logged, for tests that read it.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
