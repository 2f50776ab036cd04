package manager_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/managertest"
)

// A clerk hands out tokens that begin with the name of what is asked for.
type clerk struct {
	calls atomic.Int64
	most  atomic.Int64 // at once
	now   atomic.Int64
	delay time.Duration
}

// kind is an environment whose tokens are of that kind, and live for 100 s.
func (c *clerk) kind(name string) manager.Environment {
	return manager.Environment{SourceID: name, Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
		defer c.now.Add(-1)
		if now := c.now.Add(1); now > c.most.Load() {
			c.most.Store(now)
		}
		n := c.calls.Add(1)
		<-time.After(c.delay)
		return &manager.Reply{AccessToken: manager.NewSecret(fmt.Sprintf("%s-%d", name, n)), ExpiresIn: 100 * time.Second}, nil
	})}
}

func (c *clerk) called(t *testing.T, want int64) {
	t.Helper()
	if got := c.calls.Load(); got != want {
		t.Errorf("%d calls of the source, want %d", got, want)
	}
}

// tenants starts n managers without environments, which look up what resolve knows.
func tenants(t *testing.T, n int, resolve func(ctx context.Context, name string) (manager.Environment, error)) *managertest.Kit {
	t.Helper()
	return managertest.NewFleet(t, n, managertest.Options{InMemory: true, Config: func(_ int, c *manager.Config) {
		c.Environments, c.Resolve = nil, resolve
	}})
}

// got returns the token of the environment as it is handed out.
func got(t *testing.T, token func(context.Context) (*manager.Token, error)) string {
	t.Helper()
	tok, err := token(t.Context())
	if err != nil {
		t.Error(err)
		return ""
	}
	return tok.AccessToken.Reveal()
}

func (c *clerk) kit(t *testing.T) (*managertest.Kit, *manager.Env) {
	t.Helper()
	kit := managertest.New(t, managertest.Options{InMemory: true})
	must(t, kit.Manager.SetEnvironment("a", c.kind("one")))
	e, err := kit.Manager.Env("a")
	must(t, err)
	return kit, e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnEnvironmentIsAddedAndChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, e := c.kit(t)
		if got, want := kit.Manager.Environments(), []string{"a", managertest.Environment}; !slices.Equal(got, want) {
			t.Errorf("environments %v, want %v", got, want)
		}
		var h heard
		defer e.OnToken(h.add)()
		if got := got(t, e.Token); got != "one-1" {
			t.Errorf("got %s", got)
		}
		must(t, kit.Manager.SetEnvironment("a", c.kind("one"))) // of the same kind: the token stays
		if got := got(t, e.Token); got != "one-1" {
			t.Errorf("after a change that needs no other token: got %s", got)
		}
		<-time.After(2 * time.Second) // a token of another configuration is replaced after a second
		must(t, kit.Manager.SetEnvironment("a", c.kind("two")))
		if got := got(t, e.Token); got != "two-2" {
			t.Errorf("after the change: got %s", got)
		}
		c.called(t, 2)
		if tokens := h.all(); len(tokens) != 2 || tokens[1].AccessToken.Reveal() != "two-2" {
			t.Errorf("the listener heard of %d tokens", len(tokens))
		}
	})
}

func TestABadEnvironmentChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, e := c.kit(t)
		for name, env := range map[string]manager.Environment{"a": {}, "b": {}, "no name": c.kind("one")} {
			err := kit.Manager.SetEnvironment(name, env)
			if _, ok := errors.AsType[*manager.ConfigError](err); !ok {
				t.Errorf("%s: %v, want a ConfigError", name, err)
			}
		}
		if got := got(t, e.Token); got != "one-1" {
			t.Errorf("got %s", got)
		}
		if _, err := kit.Manager.Env("b"); err == nil {
			t.Error("there is an environment b")
		}
		must(t, kit.Manager.Close())
		if err := kit.Manager.SetEnvironment("c", c.kind("one")); !errors.Is(err, manager.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Who waits for another replica's refresh goes on with the new settings; who waits for a request that was sent gets its token.
func TestCallersWhoWaitWhileAnEnvironmentIsChanged(t *testing.T) {
	for _, holder := range []string{"another replica", "this one"} {
		t.Run(holder, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clerk{delay: 5 * time.Second}
				kit := managertest.NewFleet(t, 2, managertest.Options{InMemory: true})
				for _, m := range kit.Managers {
					must(t, m.SetEnvironment("a", c.kind("one")))
				}
				first := kit.Managers[0]
				if holder == "another replica" {
					first = kit.Managers[1]
				}
				var asking sync.WaitGroup
				asking.Go(func() {
					if got := got(t, func(ctx context.Context) (*manager.Token, error) { return first.Token(ctx, "a") }); got != "one-1" {
						t.Errorf("the first caller got %s", got)
					}
				})
				<-time.After(time.Second)
				asking.Go(func() {
					want := "two-2"
					if holder == "this one" {
						want = "one-1"
					}
					if got := got(t, func(ctx context.Context) (*manager.Token, error) { return kit.Manager.Token(ctx, "a") }); got != want {
						t.Errorf("the second caller got %s, want %s", got, want)
					}
				})
				<-time.After(time.Second)
				must(t, kit.Manager.SetEnvironment("a", c.kind("two")))
				asking.Go(func() {
					if got := got(t, func(ctx context.Context) (*manager.Token, error) { return kit.Manager.Token(ctx, "a") }); got != "two-2" {
						t.Errorf("the third caller got %s", got)
					}
				})
				asking.Wait()
				c.called(t, 2)
			})
		})
	}
}

func TestARemovedEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clerk{delay: time.Second}
		kit, e := c.kit(t)
		unknown := func(err error) {
			t.Helper()
			if _, ok := errors.AsType[*manager.UnknownEnvironmentError](err); !ok {
				t.Errorf("got %v, want an UnknownEnvironmentError", err)
			}
		}
		var h heard
		stop := e.OnToken(h.add)
		_ = got(t, e.Token)
		synctest.Wait() // for the listener
		must(t, kit.Manager.RemoveEnvironment("a"))
		unknown(kit.Manager.RemoveEnvironment("a"))
		_, err := e.Token(t.Context())
		unknown(err)
		_, err = kit.Manager.Token(t.Context(), "a")
		unknown(err)
		_, err = kit.Manager.Client("a").Get("https://api.example/")
		unknown(err)
		if _, err := kit.Redis.HGetAll(t.Context(), kit.Store.Keys("a").Token).Result(); err != nil || len(h.all()) != 1 {
			t.Errorf("what is in Redis: %v; %d tokens heard of", err, len(h.all()))
		}
		var late heard
		defer e.OnToken(late.add)()
		<-time.After(90 * time.Second) // it would have been refreshed
		c.called(t, 1)

		must(t, kit.Manager.SetEnvironment("a", c.kind("one")))
		if got := got(t, e.Token); got != "one-2" {
			t.Errorf("by the old handle: %s", got)
		}
		if _, ok := e.Replace(t.Context(), &manager.Token{}); !ok {
			t.Error("Replace by the old handle finds nothing newer")
		}
		<-time.After(2 * time.Second)
		if len(h.all()) != 1 || len(late.all()) != 1 {
			t.Errorf("the listeners heard of %d and %d tokens; want 1, from before, and 1", len(h.all()), len(late.all()))
		}
		stop()
	})
}

func TestRemovingAnEnvironmentEndsItsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clerk{delay: 5 * time.Second}
		kit := managertest.NewFleet(t, 2, managertest.Options{InMemory: true})
		for _, m := range kit.Managers {
			must(t, m.SetEnvironment("a", c.kind("one")))
		}
		var asking sync.WaitGroup
		asking.Go(func() { // its request is sent: it gets the token
			if got := got(t, func(ctx context.Context) (*manager.Token, error) { return kit.Managers[1].Token(ctx, "a") }); got != "one-1" {
				t.Errorf("got %s", got)
			}
		})
		<-time.After(time.Second)
		asking.Go(func() {
			began := time.Now()
			_, err := kit.Manager.Token(t.Context(), "a")
			if _, ok := errors.AsType[*manager.UnknownEnvironmentError](err); !ok || time.Since(began) != time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
		<-time.After(time.Second)
		for _, m := range kit.Managers {
			must(t, m.RemoveEnvironment("a"))
		}
		asking.Wait()
		if kit.Redis.Exists(t.Context(), kit.Store.Keys("a").Token).Val() != 1 {
			t.Error("the token whose request was sent isn't stored")
		}
	})
}

func TestATenantIsLookedUpOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		var lookups atomic.Int64
		kit := tenants(t, 1, func(_ context.Context, name string) (manager.Environment, error) {
			lookups.Add(1)
			<-time.After(time.Second)
			return c.kind(name), nil
		})
		gone, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		var asking sync.WaitGroup
		asking.Go(func() {
			_, err := kit.Manager.Token(gone, "t1")
			if wait, ok := errors.AsType[*manager.WaitError](err); !ok || !errors.Is(wait, context.DeadlineExceeded) {
				t.Errorf("a caller without patience got %v", err)
			}
		})
		for range 50 {
			asking.Go(func() {
				if got := got(t, func(ctx context.Context) (*manager.Token, error) { return kit.Manager.Token(ctx, "t1") }); got != "t1-1" {
					t.Errorf("got %s", got)
				}
			})
		}
		asking.Wait()
		if n := lookups.Load(); n != 1 {
			t.Errorf("looked up %d times", n)
		}
		if _, err := kit.Manager.Token(t.Context(), "no name"); err == nil || lookups.Load() != 1 {
			t.Errorf("a name that can't be one: %v, after %d lookups", err, lookups.Load())
		}
	})
}

func TestWhatCantBeLookedUpIsAskedForOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lookups atomic.Int64
		broken := errors.New("no connection to db://user:password@host")
		kit := tenants(t, 1, func(_ context.Context, name string) (manager.Environment, error) {
			lookups.Add(1)
			switch name {
			case "nobody":
				return manager.Environment{}, fmt.Errorf("tenants: %w", manager.ErrNoEnvironment)
			case "empty":
				return manager.Environment{}, nil
			}
			return manager.Environment{}, broken
		})
		for range 10 {
			_, err := kit.Manager.Token(t.Context(), "nobody")
			if _, ok := errors.AsType[*manager.UnknownEnvironmentError](err); !ok {
				t.Errorf("nobody: %v", err)
			}
			_, err = kit.Manager.Token(t.Context(), "empty")
			if _, ok := errors.AsType[*manager.ConfigError](err); !ok {
				t.Errorf("empty: %v", err)
			}
			_, err = kit.Manager.Token(t.Context(), "away")
			if _, ok := errors.AsType[*manager.ResolveError](err); !ok || !errors.Is(err, broken) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), broken.Error()) {
				t.Errorf("away: %v", err)
			}
		}
		if n := lookups.Load(); n != 3 {
			t.Errorf("%d lookups of three names within a second", n)
		}
		<-time.After(1100 * time.Millisecond)
		_, _ = kit.Manager.Token(t.Context(), "away")
		if n := lookups.Load(); n != 4 {
			t.Errorf("%d lookups after a second", n)
		}
		if n := len(kit.Manager.Environments()); n != 0 {
			t.Errorf("%d environments", n)
		}
	})
}

func TestTenantsThatNobodyAsksForAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		var lookups atomic.Int64
		kit := tenants(t, 2, func(_ context.Context, name string) (manager.Environment, error) {
			lookups.Add(1)
			return c.kind(name), nil
		})
		m, other := kit.Managers[0], kit.Managers[1]
		handle, err := m.Env("idle")
		must(t, err)
		ask := func(m *manager.Manager, name string) {
			t.Helper()
			_ = got(t, func(ctx context.Context) (*manager.Token, error) { return m.Token(ctx, name) })
		}
		ask(m, "idle")
		listening, err := m.Env("listening")
		must(t, err)
		defer listening.OnToken(func(*manager.Token) {})()
		for range 31 { // minutes; the other replica keeps the token of "idle" fresh, which this one hears of
			ask(m, "used")
			ask(other, "idle")
			<-time.After(time.Minute)
		}
		if got, want := m.Environments(), []string{"listening", "used"}; !slices.Equal(got, want) {
			t.Errorf("there are %v, want %v", got, want)
		}
		n := lookups.Load()
		if got := got(t, handle.Token); got == "" || lookups.Load() != n+1 {
			t.Errorf("by the handle of one that was let go: %q, after %d lookups", got, lookups.Load()-n)
		}
		if got, want := m.Environments(), []string{"idle", "listening", "used"}; !slices.Equal(got, want) {
			t.Errorf("there are %v, want %v", got, want)
		}
	})
}

func TestATenantThatIsRefusedIsLookedUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		var lookups atomic.Int64
		refused := manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return nil, &endpoint.Error{Code: "invalid_client", Status: 401}
		})
		kit := tenants(t, 1, func(_ context.Context, name string) (manager.Environment, error) {
			env := c.kind("one")
			env.ClientSecret = manager.NewSecret(fmt.Sprintf("secret %d", lookups.Add(1)))
			if lookups.Load() == 1 {
				env.Source = refused
			}
			return env, nil
		})
		_, err := kit.Manager.Token(t.Context(), "t1")
		if failed, ok := errors.AsType[*manager.EndpointError](err); !ok || failed.Code != "invalid_client" {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if got := got(t, func(ctx context.Context) (*manager.Token, error) { return kit.Manager.Token(ctx, "t1") }); got != "one-1" {
			t.Errorf("with the new secret: %s", got)
		}
		if n := lookups.Load(); n != 2 {
			t.Errorf("%d lookups", n)
		}
	})
}

// A start with many environments that are kept warm is not one of as many goroutines, nor of as many requests at once.
func TestManyThatAreKeptWarmAreFetchedAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 300
		c := clerk{delay: 100 * time.Millisecond}
		hanging := manager.Environment{SourceID: "hanging", Source: manager.SourceFunc(func(ctx context.Context) (*manager.Reply, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		kit := managertest.New(t, managertest.Options{InMemory: true, Config: func(_ int, config *manager.Config) {
			for i := range many {
				env := c.kind("one")
				if i%3 == 0 {
					env = hanging
				}
				env.KeepWarm = true
				config.Environments[fmt.Sprint("env-", i)] = env
			}
		}})
		<-time.After(20 * time.Second) // a third hangs: those hold a place for a second each
		if n := kit.Manager.Health().Usable; n != many*2/3 {
			t.Errorf("%d of %d have a token", n, many*2/3)
		}
		if most := c.most.Load(); most > 8 {
			t.Errorf("%d calls at once", most)
		}
		c.called(t, many*2/3)
	})
}

// A wire counts round trips, and can cut all connections.
type wire struct {
	trips atomic.Int64
	mu    sync.Mutex
	conns []net.Conn
}

var _ redis.Hook = (*wire)(nil)

// DialHook implements [redis.Hook].
func (w *wire) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.conns = append(w.conns, conn)
		}
		return conn, err
	}
}

// ProcessHook implements [redis.Hook].
func (w *wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.trips.Add(1)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (w *wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		w.trips.Add(1)
		return next(ctx, cmds)
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.Close()
	}
	w.conns = nil
}

// A subscription that comes back has all in use read again: in few round trips, and by few goroutines.
func TestManyInUseAreReadAgainInFewRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 300
		var c clerk
		w := &wire{}
		kit := managertest.New(t, managertest.Options{InMemory: true, Config: func(_ int, config *manager.Config) {
			config.Redis.(*redis.Client).AddHook(w)
			for i := range many {
				env := c.kind("one")
				env.KeepWarm = true
				config.Environments[fmt.Sprint("env-", i)] = env
			}
		}})
		<-time.After(2 * time.Second)
		before, trips := runtime.NumGoroutine(), w.trips.Load()
		dropped := 0
		for i := range many { // without an event: only reading shows it
			if i%10 == 0 {
				must(t, kit.Redis.HSet(t.Context(), kit.Store.Keys(fmt.Sprint("env-", i)).Mark, "dropped", fmt.Sprint(time.Now().UnixMicro())).Err())
				dropped++
			}
		}
		w.cut()
		most := 0
		for range 400 {
			<-time.After(10 * time.Millisecond)
			most = max(most, runtime.NumGoroutine())
		}
		if n := c.calls.Load(); n != int64(many+dropped) {
			t.Errorf("%d tokens were fetched, want %d, and %d for what was dropped", n, many, dropped)
		}
		if n := w.trips.Load() - trips; n > many/64+2+int64(dropped)*8 {
			t.Errorf("%d round trips", n)
		}
		if most > before+100 {
			t.Errorf("%d goroutines, %d at rest", most, before)
		}
	})
}

// A transport that has sent a token of the environment goes by what there is now, whatever it was made for.
func TestATransportGoesByTheEnvironmentOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, _ := c.kit(t)
		var sent []string
		client := &http.Client{Transport: kit.Manager.Transport("a", roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.URL.Host+" "+r.Header.Get("Authorization"))
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
		}))}
		ask := func() error {
			for _, host := range []string{"old.example", "new.example"} {
				resp, err := client.Get("https://" + host + "/")
				if err != nil {
					return err
				}
				_ = resp.Body.Close()
			}
			return nil
		}
		for _, origin := range []string{"https://old.example", "https://new.example"} {
			e := c.kind("one") // the same fingerprint
			e.Origins = []string{origin}
			must(t, kit.Manager.SetEnvironment("a", e))
			must(t, ask())
			must(t, kit.Manager.RemoveEnvironment("a"))
			var unknown *manager.UnknownEnvironmentError
			if err := ask(); !errors.As(err, &unknown) {
				t.Errorf("without the environment: %v", err)
			}
		}
		if want := []string{"old.example Bearer one-1", "new.example ", "old.example ", "new.example Bearer one-1"}; !slices.Equal(sent, want) {
			t.Errorf("sent %q, want %q", sent, want)
		}
	})
}
