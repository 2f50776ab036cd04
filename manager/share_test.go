package manager_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestAColdFleetOf50AsksOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 50)
		f.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond})
		tok := f.oneToken(f.all(token))
		f.calls(1)
		if got, want := tok.AccessToken.Reveal(), f.endpoint.Issued()[0]; got != want {
			t.Error("the token isn't the one that the endpoint gave out")
		}
	})
}

func TestCallersOfOneProcessShareOneRefresh(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 50 * time.Millisecond})
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { f.mustToken(f.managers[0]) })
	}
	wg.Wait()
	f.calls(1)
}

func TestEnvironmentsAreSideBySide(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 2, func(_ int, c *manager.Config, e *manager.Environment) {
		c.Environments = map[string]manager.Environment{"prod": *e, "test": *e}
	})
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 20 * time.Millisecond})
	prod := f.oneToken(f.all(token))
	test := f.oneToken(f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) { return m.Token(ctx, "test") }))
	if prod.AccessToken.Equal(test.AccessToken) {
		t.Error("two environments share one token")
	}
	f.calls(2)
	if _, err := f.managers[0].Token(t.Context(), "staging"); err == nil || !strings.Contains(err.Error(), "prod, test") {
		t.Errorf("an unknown environment: %v, want the known ones named", err)
	}
}

func TestTheTTLIsTheTokensRemainingLife(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 1)
		f.endpoint.SetDefault(mockendpoint.Reply{Delay: 1200 * time.Millisecond, ExpiresIn: 100})
		tok := f.mustToken(f.managers[0])
		// The life counts from before the request, by Redis's clock: the endpoint's own may have begun as early.
		ttl := rdb.PTTL(t.Context(), key("token")).Val()
		if ttl > 98900*time.Millisecond || ttl < 98*time.Second {
			t.Errorf("PTTL is %v after 1.2 s of a life of 100 s", ttl)
		}
		if got := f.managers[0].ExpiresIn(env, tok); got > ttl+50*time.Millisecond || got < ttl-time.Second {
			t.Errorf("ExpiresIn is %v, PTTL %v", got, ttl)
		}
	})
}

func TestALeaseIsRenewedWhileTheEndpointIsSlow(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Start(t).Client(t), 5, policy(manager.Policy{Lease: 2 * time.Second}))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 6 * time.Second})
	f.oneToken(f.all(token))
	f.calls(1)
}

func TestALateHolderAnswersWithWhatIsStored(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	f := newFleet(t, rdb, 2)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate}, mockendpoint.Reply{})
	late := f.start(f.managers[0], token)
	f.awaitCalls(1)
	if err := rdb.Del(t.Context(), key("lock")).Err(); err != nil { // as if it had run out under a paused holder
		t.Fatal(err)
	}
	newer := f.mustToken(f.managers[1])
	close(gate)
	got := <-late
	if got.err != nil {
		t.Fatal(got.err)
	}
	if got.token.Version != newer.Version {
		t.Errorf("the late holder has version %d, stored is %d", got.token.Version, newer.Version)
	}
	if stored := rdb.HGet(t.Context(), key("token"), "version").Val(); stored != newer.Version.String() {
		t.Errorf("version %s is stored, want the newer %d", stored, newer.Version)
	}
	f.calls(2)
}

func TestARotationThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	waits := newMeter(t)
	f := newFleet(t, redistest.Start(t).Client(t), 10, func(_ int, c *manager.Config, _ *manager.Environment) { c.MeterProvider = waits.provider })
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond, ExpiresIn: 5})
	f.oneToken(f.all(token))
	waits.becomes("onetoken.wait.duration", ofEnv+",onetoken.outcome=token", 10) // for the first token
	end := time.Now().Add(9 * time.Second)
	f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
		var last *manager.Token
		for time.Now().Before(end) {
			tok, err := m.Token(ctx, env)
			if err != nil {
				t.Error(err)
				return nil, err
			}
			if last != nil && tok.Version < last.Version {
				t.Errorf("version %d after %d", tok.Version, last.Version)
			}
			if !f.endpoint.Accepts(tok.AccessToken.Reveal()) {
				t.Error("an expired token was handed out")
			}
			last = tok
			pause(t, 5*time.Millisecond)
		}
		return last, nil
	})
	if n := waits.value("onetoken.wait.duration", ofEnv+",onetoken.outcome=token") - 10; n != 0 {
		t.Errorf("%v calls waited for a rotation", n)
	}
	// A life of 5 s is refreshed after 3.2 to 3.5 s (margin 0.6 s, lead 3 × 0.3 s): 9 s have room for three lives.
	if n := f.endpoint.Calls(); n < 3 || n > 4 {
		t.Errorf("%d calls of the endpoint in 9 s of 5 s lives", n)
	}
	if f.endpoint.MaxInFlight() != 1 {
		t.Errorf("%d calls at once", f.endpoint.MaxInFlight())
	}
}

func TestNothingIsFetchedBeforeItIsAskedFor(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2)
	pause(t, 1200*time.Millisecond)
	f.calls(0)
}

func TestKeepWarm(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2, policy(manager.Policy{KeepWarm: true}))
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 2})
	eventually(t, 5*time.Second, "two refreshes without a caller", func() bool { return f.endpoint.Calls() >= 2 })
}

func TestTwentyRefreshesAtOnceAreOneCall(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 4)
		first := f.oneToken(f.all(token))
		f.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond})
		var versions sync.Map
		f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					tok, err := m.Refresh(ctx, env)
					if err != nil {
						t.Error(err)
						return
					}
					versions.Store(tok.Version, true)
				})
			}
			wg.Wait()
			return nil, nil
		})
		f.calls(2)
		versions.Range(func(v, _ any) bool {
			if v.(manager.Version) <= first.Version {
				t.Errorf("a refresh brought version %d, known was %d", v, first.Version)
			}
			return true
		})
	})
}

func TestARefreshInAColdProcessIsANewToken(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 2)
	old := f.mustToken(f.managers[0])
	tok, err := f.managers[1].Refresh(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if tok.Version <= old.Version || tok.AccessToken.Equal(old.AccessToken) {
		t.Errorf("the refresh brought %v, stored was %v", tok, old)
	}
	eventually(t, 3*time.Second, "the other replica has it", func() bool {
		return f.mustToken(f.managers[0]).Version == tok.Version
	})
	f.calls(2)
}

func TestACallersEndIsItsOwn(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	ctx, cancel := context.WithCancelCause(t.Context())
	gaveUp, others := make(chan error, 1), make(chan error, 5)
	go func() {
		_, err := f.managers[0].Token(ctx, env)
		gaveUp <- err
	}()
	if err := f.endpoint.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range cap(others) {
		go func() {
			_, err := f.managers[0].Token(t.Context(), env)
			others <- err
		}()
	}
	boom := errors.New("boom")
	cancel(boom)
	if err := <-gaveUp; !errors.Is(err, boom) {
		t.Errorf("the caller that gave up got %v", err)
	}
	close(gate)
	for range cap(others) {
		if err := <-others; err != nil {
			t.Error(err)
		}
	}
	f.calls(1)
}

func TestASentRequestOutlivesItsOnlyCaller(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.managers[0].Token(ctx, env); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the caller got %v", err)
	}
	eventually(t, 2*time.Second, "the token is stored", func() bool {
		return f.rdb.Exists(t.Context(), key("token")).Val() == 1
	})
	f.mustToken(f.managers[0])
	f.calls(1)
}

func TestACancelledCallerStillGetsAWarmToken(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.mustToken(f.managers[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.managers[0].Token(ctx, env); err != nil {
		t.Error(err)
	}
}

func TestCloseFinishesASentRequest(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	got := f.start(f.managers[0], token)
	f.awaitCalls(1)
	closed := make(chan struct{})
	go func() {
		_ = f.managers[0].Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("Close didn't wait for the request")
	case <-time.After(100 * time.Millisecond):
	}
	close(gate)
	<-closed
	if o := <-got; o.err != nil {
		t.Errorf("the caller got %v", o.err)
	}
	if f.rdb.Exists(t.Context(), key("token")).Val() != 1 {
		t.Error("the token wasn't stored")
	}
	if f.rdb.Exists(t.Context(), key("lock")).Val() != 0 {
		t.Error("the lease wasn't released")
	}
	if _, err := f.managers[0].Token(t.Context(), env); !errors.Is(err, manager.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCloseEndsThoseWhoOnlyWait(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	if err := f.rdb.Set(t.Context(), key("lock"), "other|1", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := f.managers[0].Token(t.Context(), env)
		got <- err
	}()
	pause(t, 50*time.Millisecond)
	_ = f.managers[0].Close()
	if err := <-got; !errors.Is(err, manager.ErrClosed) {
		t.Errorf("the caller got %v", err)
	}
	f.calls(0)
}

func TestAWaiterThatGivesUpSaysWhatItWaitedFor(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	if err := f.rdb.Set(t.Context(), key("lock"), "other:7|1", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := f.managers[0].Token(ctx, env)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "other:7") {
		t.Errorf("got %v", err)
	}
}

func TestAPanicInASourceIsAnErrorAndReleasesTheLease(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 2, func(i int, _ *manager.Config, e *manager.Environment) {
		e.Source, e.SourceID = manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			panic("secret-in-a-panic")
		}), "test"
	})
	_, err := f.managers[0].Token(t.Context(), env)
	var failed *manager.EndpointError
	if !errors.As(err, &failed) || failed.Code != "bad_reply" || strings.Contains(err.Error(), "secret-in-a-panic") {
		t.Errorf("got %v", err)
	}
	eventually(t, time.Second, "the lease is released", func() bool { return f.rdb.Exists(t.Context(), key("lock")).Val() == 0 })
}

func TestASourceOfTheUsers(t *testing.T) {
	var calls atomic.Int64
	f := newFleet(t, redistest.Mini(t), 5, func(_ int, _ *manager.Config, e *manager.Environment) {
		*e = manager.Environment{SourceID: "vault", Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			calls.Add(1)
			return &manager.Reply{AccessToken: manager.NewSecret("from-the-vault"), ExpiresIn: time.Hour}, nil
		})}
	})
	tok := f.oneToken(f.all(token))
	if got := tok.AuthHeader(); got != "Bearer from-the-vault" {
		t.Errorf("the header is %q", got)
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls of the source", calls.Load())
	}
}

func TestTheSameTokenAgainIsBelieved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 3)
	f.endpoint.SetDefault(mockendpoint.Reply{SameToken: true, ExpiresIn: 3})
	f.oneToken(f.all(token))
	end := time.Now().Add(4 * time.Second)
	for time.Now().Before(end) {
		f.all(token)
		pause(t, 5*time.Millisecond)
	}
	if n := f.endpoint.Calls(); n > 5 {
		t.Errorf("%d calls in 4 s of 3 s lives", n)
	}
}
