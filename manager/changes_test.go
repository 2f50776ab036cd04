package manager_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// tokenOf asks for a token by name.
func tokenOf(m *manager.Manager, name string) func(context.Context) (*manager.Token, error) {
	return func(ctx context.Context) (*manager.Token, error) { return m.Token(ctx, name) }
}

// A lookup that was begun before may bring what was there before.
func TestALookupUnderWayIsOlderThanWhatIsSetAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		var lookups atomic.Int64
		kit := tenants(t, 1, func(context.Context, string) (manager.Environment, error) {
			kind := "old"
			if lookups.Add(1) > 1 {
				kind = "new"
			}
			<-time.After(2 * time.Second)
			return c.kind(kind), nil
		})
		m := kit.Manager
		ask := func(name string) {
			go func() { _, _ = m.Token(t.Context(), name) }()
			<-time.After(time.Second)
		}
		ask("set")
		must(t, m.SetEnvironment("set", c.kind("set")))
		began := time.Now()
		if got := got(t, tokenOf(m, "set")); got != "set-1" || time.Since(began) > 0 {
			t.Errorf("after %v: %s", time.Since(began), got)
		}
		<-time.After(2 * time.Second)
		if got := got(t, tokenOf(m, "set")); got != "set-1" {
			t.Errorf("after the lookup has ended: %s", got)
		}
		lookups.Store(0)
		ask("removed")
		if _, ok := errors.AsType[*manager.UnknownEnvironmentError](m.RemoveEnvironment("removed")); !ok {
			t.Error("what was being looked up was there")
		}
		if got := got(t, tokenOf(m, "removed")); got != "new-2" {
			t.Errorf("after the removal: %s", got)
		}
	})
}

func TestWhatIsSetWhileATenantIsLookedUpAgainStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		refused := c.kind("refused")
		refused.Source = manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return nil, &endpoint.Error{Code: "invalid_client", Status: 401}
		})
		var lookups atomic.Int64
		kit := tenants(t, 1, func(context.Context, string) (manager.Environment, error) {
			if lookups.Add(1) > 1 {
				<-time.After(2 * time.Second)
			}
			return refused, nil
		})
		if _, err := kit.Manager.Token(t.Context(), "a"); err == nil {
			t.Error("a token of an endpoint that refuses")
		}
		<-time.After(time.Second)
		must(t, kit.Manager.SetEnvironment("a", c.kind("set")))
		<-time.After(2 * time.Second)
		if got := got(t, tokenOf(kit.Manager, "a")); got != "set-1" || lookups.Load() != 2 {
			t.Errorf("after %d lookups: %s", lookups.Load(), got)
		}
	})
}

// Two tenants' secrets, both wrong, in two replicas: what is in Redis binds only one of them at a time.
func TestARefusedTenantThatIsLookedUpAgainForNothingHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, made atomic.Int64
		kit := managertest.NewFleet(t, 2, managertest.Options{InMemory: true, Config: func(_ int, c *manager.Config) {
			secret := manager.NewSecret(fmt.Sprint("secret ", made.Add(1)))
			c.Environments, c.Resolve = nil, func(context.Context, string) (manager.Environment, error) {
				return manager.Environment{ClientSecret: secret, Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
					asked.Add(1)
					return nil, &endpoint.Error{Code: "invalid_client", Status: 401}
				})}, nil
			}
		}})
		for range 100 { // 10 s of a backoff of 15
			for _, m := range kit.Managers {
				_, _ = m.Token(t.Context(), "a")
			}
			<-time.After(100 * time.Millisecond)
		}
		if n := asked.Load(); n != 2 {
			t.Errorf("two replicas that are refused have asked %d times", n)
		}
	})
}

func TestAResolverThatMisbehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		defer close(end)
		var m *manager.Manager
		kit := tenants(t, 1, func(_ context.Context, name string) (manager.Environment, error) {
			switch name {
			case "panics":
				panic("client_secret=hunter2")
			case "exits":
				runtime.Goexit()
			case "asks-for-itself":
				_, err := m.Env(name)
				return manager.Environment{}, err
			}
			<-end // and ignores its context
			return manager.Environment{}, nil
		})
		m = kit.Manager
		for name, limit := range map[string]time.Duration{"panics": 0, "exits": 0, "hangs": 11 * time.Second, "asks-for-itself": 11 * time.Second} {
			began := time.Now()
			_, err := m.Env(name)
			if _, ok := errors.AsType[*manager.ResolveError](err); !ok || time.Since(began) > limit {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
		}
		go func() { _, _ = m.Env("hangs-still") }()
		synctest.Wait()
		began := time.Now()
		must(t, m.Close())
		if d := time.Since(began); d > time.Second {
			t.Errorf("Close took %v", d)
		}
	})
}

// Its next use is noticed, and must do what any use does.
func TestATenantThatIsRarelyUsedIsRefreshedBehindItsUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit := managertest.New(t, managertest.Options{InMemory: true, Config: func(_ int, config *manager.Config) {
			config.IdleAfter = 20 * time.Second
			config.Resolve = func(context.Context, string) (manager.Environment, error) { return c.kind("one"), nil }
		}})
		for range 8 { // the last time when a fifth of its life is left
			_ = got(t, tokenOf(kit.Manager, "a"))
			<-time.After(12200 * time.Millisecond)
		}
		c.called(t, 2)
	})
}

// What waits for its turn to be refreshed may be removed before.
func TestWhatWasRemovedIsNotKeptWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clerk{delay: 5 * time.Second}
		kit := managertest.New(t, managertest.Options{InMemory: true})
		for i := range 40 {
			env := c.kind("one")
			env.KeepWarm = true
			must(t, kit.Manager.SetEnvironment(fmt.Sprint("env-", i), env))
		}
		<-time.After(1100 * time.Millisecond)
		n := c.calls.Load()
		for i := range 40 {
			must(t, kit.Manager.RemoveEnvironment(fmt.Sprint("env-", i)))
		}
		<-time.After(20 * time.Second)
		if c.calls.Load() != n || n > 16 {
			t.Errorf("%d calls, and %d after all were removed", n, c.calls.Load()-n)
		}
	})
}

// Of listeners that came when the environment had been removed, too: stop ends the calls at once, also where f calls it.
func TestAListenerOfARemovedEnvironmentStopsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, e := c.kit(t)
		must(t, kit.Manager.RemoveEnvironment("a"))
		var stop func()
		calls := 0
		stop = e.OnToken(func(*manager.Token) {
			calls++
			_ = kit.Manager.SetEnvironment("a", c.kind("two"))
			_, _ = e.Token(t.Context()) // which is another one, to be called with next
			stop()
		})
		must(t, kit.Manager.SetEnvironment("a", c.kind("one")))
		<-time.After(10 * time.Second)
		if calls != 1 {
			t.Errorf("%d calls, want one", calls)
		}
	})
}

// A request that is sent once more because of a 401 waits through a change, as any other.
func TestReplaceGoesOnWithNewSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, e := c.kit(t)
		tok, err := e.Token(t.Context())
		must(t, err)
		<-time.After(20 * time.Second)
		must(t, kit.Redis.Set(t.Context(), kit.Store.Keys("a").Lock, "other|1", 3*time.Second).Err())
		replaced := make(chan string, 1)
		go func() {
			newer, ok := e.Replace(t.Context(), tok)
			if !ok {
				replaced <- "nothing"
				return
			}
			replaced <- newer.AccessToken.Reveal()
		}()
		<-time.After(time.Second)
		must(t, kit.Manager.SetEnvironment("a", c.kind("two")))
		if got := <-replaced; got != "two-2" {
			t.Errorf("got %s", got)
		}
	})
}

// A request that waits for its token was checked against the origins of the settings then.
func TestATokenOfOtherSettingsDoesNotGoToTheOldOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clerk
		kit, _ := c.kit(t)
		m := kit.Manager
		at := func(kind string, delay time.Duration) manager.Environment {
			env := c.kind(kind)
			env.Origins = []string{"https://" + kind + ".test"}
			source := env.Source
			env.Source = manager.SourceFunc(func(ctx context.Context) (*manager.Reply, error) {
				<-time.After(delay)
				return source.Fetch(ctx)
			})
			return env
		}
		seen := map[string]string{}
		transport := m.Transport("b", roundTrip(func(req *http.Request) (*http.Response, error) {
			seen[req.URL.Host] = req.Header.Get("Authorization")
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		}))
		must(t, m.SetEnvironment("b", at("two", 0)))
		// Another replica holds the lease: the request waits, and no request of its own is under way.
		must(t, kit.Redis.Set(t.Context(), kit.Store.Keys("b").Lock, "other|1", 3*time.Second).Err())
		done := make(chan struct{})
		go func() {
			defer close(done)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://two.test/", http.NoBody)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		}()
		<-time.After(time.Second)
		must(t, m.SetEnvironment("b", at("three", 0)))
		<-done
		if auth, came := seen["two.test"]; auth != "" || !came {
			t.Errorf("the old origin got %q", auth)
		}
	})
}

// Who was removed and came back knows what it has spent.
func TestARefreshTokenThatCouldNotBeWrittenIsNotForgottenWithItsEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var env manager.Environment
		kit, cables := wired(t, 1, func(_ int, e *manager.Environment) { env = *e })
		answer := holding(t, kit, mockendpoint.Reply{})
		cables[0].cut.Store(true)
		if _, err := answer(); err != nil {
			t.Error(err)
		}
		must(t, kit.Manager.RemoveEnvironment(managertest.Environment))
		<-time.After(90 * time.Second) // others may take it for lost by now
		must(t, kit.Manager.SetEnvironment(managertest.Environment, env))
		ended := make(chan error, 1)
		go func() { _, err := kit.Manager.Refresh(t.Context(), managertest.Environment); ended <- err }()
		<-time.After(100 * time.Millisecond)
		cables[0].cut.Store(false)
		if _, ok := errors.AsType[*manager.RedisError](<-ended); !ok {
			t.Error("it isn't said that Redis has not taken the new refresh token")
		}
		<-time.After(6 * time.Second)
		if _, err := kit.Manager.Refresh(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, kit)
	})
}

// A Refresh that has joined the flight of the token that is known by then wants a newer one, also where the environment goes before that
// flight is over.
func TestARefreshDoesNotGetWhatWasKnownWhereTheEnvironmentGoes(t *testing.T) {
	isA := func(want any) func(error) bool {
		return func(err error) bool { return errors.As(err, want) }
	}
	for name, c := range map[string]struct {
		goes func(kit *managertest.Kit, env manager.Environment) error
		ok   func(err error) bool // nil: a newer token
	}{
		"it is removed": {
			func(kit *managertest.Kit, _ manager.Environment) error {
				return kit.Manager.RemoveEnvironment(managertest.Environment)
			},
			isA(new(*manager.UnknownEnvironmentError)),
		},
		"it is changed": {
			func(kit *managertest.Kit, env manager.Environment) error {
				env.Scopes = []string{"other"}
				return kit.Manager.SetEnvironment(managertest.Environment, env)
			},
			nil,
		},
		"the manager is closed": {
			func(kit *managertest.Kit, _ manager.Environment) error {
				go func() { _ = kit.Manager.Close() }()
				return nil
			},
			func(err error) bool { return errors.Is(err, manager.ErrClosed) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var env manager.Environment
				var puts atomic.Int32
				kit := managertest.NewFleet(t, 1, managertest.Options{
					InMemory: true,
					Config: func(_ int, config *manager.Config) {
						env = config.Environments[managertest.Environment]
						config.Redis.AddHook(around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
							err := next(ctx, cmd)
							if isPut(cmd) {
								switch puts.Add(1) {
								case 1:
									return errors.New("EOF: the reply was lost")
								case 2:
									<-time.After(500 * time.Millisecond)
								}
							}
							return err
						}))
					},
				})
				known, err := kit.Manager.Token(t.Context(), managertest.Environment) // as it is read, while its writer doesn't know yet
				if err != nil || puts.Load() != 1 && puts.Load() != 2 {
					t.Fatalf("%v, after %d writes", err, puts.Load())
				}
				type answer struct {
					*manager.Token
					err error
				}
				answered := make(chan answer, 1)
				go func() {
					tok, err := kit.Manager.Refresh(t.Context(), managertest.Environment)
					answered <- answer{tok, err}
				}()
				<-time.After(100 * time.Millisecond)
				must(t, c.goes(kit, env))
				got := <-answered
				switch {
				case c.ok != nil && (got.err == nil || !c.ok(got.err)):
					t.Errorf("got %v, %v", got.Token, got.err)
				case c.ok == nil && (got.err != nil || got.Version <= known.Version):
					t.Errorf("got %v, %v; want a newer token than %v", got.Token, got.err, known)
				}
			})
		})
	}
}

// Nor is a token handed out then that was invalidated while it couldn't be written.
func TestAnInvalidatedTokenIsNotHandedOutWhereTheEnvironmentGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var puts atomic.Int32
		kit := managertest.NewFleet(t, 1, managertest.Options{
			InMemory: true,
			Config: func(_ int, config *manager.Config) {
				config.Redis.AddHook(tap(func(cmd redis.Cmder) error {
					if !isPut(cmd) {
						return nil
					}
					puts.Add(1)
					<-time.After(500 * time.Millisecond)
					return errors.New("READONLY You can't write against a read only replica")
				}))
			},
		})
		ended := make(chan error, 1)
		go func() { _, err := kit.Manager.Token(t.Context(), managertest.Environment); ended <- err }()
		for puts.Load() == 0 {
			<-time.After(10 * time.Millisecond)
		}
		_, err := kit.Manager.Invalidate(t.Context(), managertest.Environment, 0)
		must(t, err)
		must(t, kit.Manager.RemoveEnvironment(managertest.Environment))
		if err := <-ended; !errors.As(err, new(*manager.UnknownEnvironmentError)) {
			t.Errorf("got %v, want that there is no such environment", err)
		}
	})
}
