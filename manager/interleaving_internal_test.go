package manager

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
)

// quietEnv is an environment that nothing happens in by itself.
func quietEnv(t *testing.T) *Env {
	t.Helper()
	source := SourceFunc(func(context.Context) (*Reply, error) { return nil, errors.New("no token") })
	m, err := New(Config{Redis: redistest.Mini(t), Environments: map[string]Environment{"prod": {Source: source}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m.envs.find("prod")
}

// handFlight is a flight that doesn't run by itself.
func handFlight(e *Env) *flight {
	return &flight{env: e, conf: e.conf(), cancel: func(error) {}, poke: make(chan struct{}, 1), done: make(chan struct{}), ask: ask{above: anyVersion}}
}

func TestARefreshThatJoinsAfterTheReadIsNotAnsweredByAnOlderFailure(t *testing.T) {
	e := quietEnv(t)
	f := handFlight(e)
	r, sent := recordOf(noToken, failed("http_503")), e.m.now()
	if d := decide(f.view(r, sent)); d.step != stepFail {
		t.Fatalf("%+v", d)
	}
	e.mu.Lock()
	f.joinLocked(ask{above: anyVersion, explicit: true, called: e.m.now()})
	e.mu.Unlock()
	old := errors.New("older than the refresh")
	if f.failAsRead(t.Context(), sent, old, r.Failure.Version, time.Minute) {
		t.Fatalf("the refresh was answered: %v", f.err)
	}
	if e.answer != nil {
		t.Error("the older failure is the answer to others")
	}
	sent = e.m.now()
	if d := decide(f.view(r, sent)); d.step != stepAcquire {
		t.Errorf("after the next read: %+v, want the lease tried", d)
	}
	r.Failure.FailedAt = r.Now.Add(time.Second)
	if d := decide(f.view(r, sent)); d.step != stepFail || !f.failAsRead(t.Context(), sent, old, r.Failure.Version, time.Minute) {
		t.Errorf("a failure since the refresh: %+v, %v", d, f.err)
	}
}

func TestAHoldHasItsReasonThoughItEndsWhileItIsLookedAt(t *testing.T) {
	e := quietEnv(t)
	f, r := handFlight(e), recordOf(noToken)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			f.holdBack(&EndpointError{Code: "unreachable", RetryAfter: time.Hour}, 1)
			e.mu.Lock()
			e.local = local{} // a token was published
			e.mu.Unlock()
		}
	}()
	held := 0
	for n := 0; n < 10_000 || held == 0 && n < 10_000_000; n++ {
		v := f.view(r, 0)
		if decide(v).step != stepHoldBack {
			continue
		}
		held++
		if v.local.err.after(v.localPause).Code != "unreachable" {
			t.Fatal("another reason")
		}
	}
	close(done)
	<-ended
	if held == 0 {
		t.Error("it was never held")
	}
}

// healthEnv is an environment whose instants are what the test sets.
func healthEnv() (e *Env, at func(time.Duration)) {
	e = &Env{m: &Manager{}, log: slog.New(slog.DiscardHandler)}
	return e, func(now time.Duration) {
		e.m.base = time.Now().Add(-now)
		e.m.clocks.Store(&clocks{mono: now}) // it has been running all the time
	}
}

func TestRedisIsAwayAfterErrorsForTheGraceAlone(t *testing.T) {
	const s = time.Second
	ok := time.Duration(-1) // in place of an error
	for _, c := range []struct {
		name string
		at   []time.Duration // when calls failed
		want bool            // of the last one
	}{
		{"one error, long after the start", []time.Duration{3600 * s}, false},
		{"an error again at once", []time.Duration{10 * s, 10 * s}, false},
		{"errors for 1.9 s", []time.Duration{10 * s, 11 * s, 11900 * time.Millisecond}, false},
		{"errors for 2 s", []time.Duration{10 * s, 11 * s, 12 * s}, true},
		{"errors 5 s apart", []time.Duration{10 * s, 15 * s}, true},
		{"errors a minute apart, and nothing asked between", []time.Duration{10 * s, 70 * s}, false},
		{"a success between", []time.Duration{10 * s, 11 * s, ok, 12 * s}, false},
		{"a success long before", []time.Duration{10 * s, ok, 20 * s, 21 * s, 22 * s}, true},
	} {
		e, at := healthEnv()
		var got bool
		for _, now := range c.at {
			if now == ok {
				e.reads.ok(e)
				continue
			}
			at(now)
			got = e.reads.failed(e, now, errors.New("EOF"))
		}
		if got != c.want {
			t.Errorf("%s: away is %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSingleErrorsAmongSuccessesAreNoOutage(t *testing.T) {
	e, at := healthEnv()
	at(time.Hour)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 20_000 {
				if i%2 == 0 {
					e.reads.ok(e)
				} else if e.reads.failed(e, e.m.now(), errors.New("EOF")) {
					t.Error("single errors within no time count as an outage of 2 s")
					return
				}
			}
		})
	}
	wg.Wait()
}
