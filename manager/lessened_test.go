package manager_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A request that is under way stays what it was asked for, also when the one who asked has left.
func TestA401JoinsTheRequestUnderWayThoughItsFirstCallerHasLeft(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 20}, mockendpoint.Reply{ExpiresIn: 20, Gate: gate})
	api := newAPI(t, f.endpoint.Protect(echo))
	m := f.managers[0]
	f.mustToken(m)
	pause(t, 2100*time.Millisecond) // until it is old enough to be rejected
	f.endpoint.RevokeAll()
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := m.Client(env).Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	f.awaitCalls(2)
	leave()
	<-gone
	second := make(chan int, 1)
	go func() {
		status, _ := get(t, m.Client(env), api.URL)
		second <- status
	}()
	f.joined(m, 1)
	close(gate)
	if status := <-second; status != http.StatusOK {
		t.Errorf("got %d, while the endpoint was being asked for a token in place of the rejected one", status)
	}
	f.calls(2)
}

// Those who want a new token, and leave before it comes, must not keep those waiting who have none.
func TestRefreshesThatAreGivenUpDoNotStarveACallerWithoutAToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1, tapped(func(redis.Cmder) error {
		<-time.After(10 * time.Millisecond) // a Redis that is 10 ms away
		return nil
	}))
	m := f.managers[0]
	ctx, stop := context.WithCancel(t.Context())
	refreshes := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			short, cancel := context.WithTimeout(ctx, 15*time.Millisecond)
			_, _ = m.Refresh(short, env)
			cancel()
		}
		refreshes <- n
	}()
	_, err := f.tries(m)
	stop()
	if n := <-refreshes; err != nil || n > 100 {
		t.Errorf("the caller without a token got it, or an error (%v), after %d refreshes that were given up", err, n)
	}
}

// Where storing fails for good the lease isn't kept: it would make a queue of the fleet, and save no call.
func TestAStoreThatFailsForGoodMakesNoQueue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 3, func(_ int, c *manager.Config, _ *manager.Environment) { c.Redis.AddHook(noRights{}) })
	for i, o := range f.all(token) {
		if o.err != nil || o.took > 5*time.Second {
			t.Errorf("replica %d: %v after %v", i, o.err, o.took)
		}
	}
}

// noRights is a Redis in which tokens can't be written.
type noRights struct{ stalled }

type noPermError struct{}

func (noPermError) Error() string {
	return "NOPERM this user has no permissions to access one of the keys used as arguments"
}
func (noPermError) RedisError() {}

func (noRights) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if isPut(cmd) {
			cmd.SetErr(noPermError{})
			return noPermError{}
		}
		return next(ctx, cmd)
	}
}

// Whoever waited for what only another wanted is told at once what binds him, when that one leaves.
func TestWhoStaysHearsWhatBindsHimWhenTheRefreshLeaves(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2, policy(manager.Policy{Backoff: manager.Backoff{Min: time.Minute, Max: time.Minute}}))
	m := f.managers[0]
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	if _, err := f.tries(m); err == nil {
		t.Fatal("no error while the endpoint fails")
	}
	pause(t, 1100*time.Millisecond) // until that is looked for again, rather than repeated
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	others := f.start(f.managers[1], refresh)
	f.awaitCalls(2)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = m.Refresh(ctx, env)
	}()
	f.joined(m, 1)
	pause(t, 1500*time.Millisecond) // until it looks rarely
	stays := f.start(m, token)
	f.joined(m, 2)
	begun := time.Now()
	leave()
	<-left
	if o := <-stays; o.err == nil || time.Since(begun) > time.Second {
		t.Errorf("got %v, %v after the refresh was given up; want the failure at once", o.err, time.Since(begun))
	}
	close(gate)
	<-others
}
