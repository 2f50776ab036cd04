package manager_test

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// What only a caller who has left asked for isn't done in the name of those who stay.
func TestARefreshWithinABackoffEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	arrived, goOn := make(chan struct{}, 1), make(chan struct{})
	var armed atomic.Bool
	f := newFleet(t, redistest.Mini(t), 1, tapped(func(cmd redis.Cmder) error {
		if isAcquire(cmd) && armed.CompareAndSwap(true, false) {
			arrived <- struct{}{}
			<-goOn
		}
		return nil
	}), policy(manager.Policy{Backoff: manager.Backoff{Min: time.Minute, Max: time.Minute}}))
	m := f.managers[0]
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	if _, err := f.tries(m); err == nil {
		t.Fatal("no error while the endpoint fails")
	}
	<-time.After(1100 * time.Millisecond) // until that is looked for again, rather than repeated

	armed.Store(true)
	ctx, leave := context.WithCancel(t.Context())
	refreshed := make(chan error, 1)
	go func() {
		_, err := m.Refresh(ctx, env)
		refreshed <- err
	}()
	<-arrived
	stays := f.start(m, token)
	f.joined(m, 2)
	leave()
	if err := <-refreshed; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v, want its own end", err)
	}
	close(goOn)
	var failed *manager.EndpointError
	if o := <-stays; !errors.As(o.err, &failed) || failed.Status != 503 {
		t.Errorf("the one who stays: %v, want the failure whose backoff is running", o.err)
	}
	f.calls(1)
}

// joined returns once so many goroutines wait for a flight of m.
func (f *fleet) joined(m *manager.Manager, n int) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); manager.Waiting(m, env) < n; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d callers wait, want %d", manager.Waiting(m, env), n)
		}
	}
}

// A flight that waits for a newer token than the one that it reads must not be woken by its own read.
func TestWhoWaitsForANewerTokenReadsRarely(t *testing.T) {
	t.Parallel()
	var reads atomic.Int64
	f := newFleet(t, redistest.Mini(t), 2, func(i int, c *manager.Config, _ *manager.Environment) {
		if i == 1 {
			c.Redis.AddHook(tap(func(cmd redis.Cmder) error {
				if isRead(cmd) {
					reads.Add(1)
				}
				return nil
			}))
		}
	})
	f.oneToken(f.all(token))
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	first := f.start(f.managers[0], refresh)
	f.awaitCalls(2)
	before := reads.Load()
	second := f.start(f.managers[1], refresh)
	<-time.After(time.Second)
	if n := reads.Load() - before; n < 1 || n > 20 {
		t.Errorf("%d reads in a second of waiting", n)
	}
	close(gate)
	if a, b := <-first, <-second; a.err != nil || b.err != nil || a.token.Version != b.token.Version {
		t.Errorf("got %v %v, %v %v, want one new token", a.token, a.err, b.token, b.err)
	}
}

// A caller's deadline says nothing of Redis.
func TestAnInvalidationEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, c *manager.Config, _ *manager.Environment) {
		c.Redis.AddHook(stalled{})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := f.managers[0].Invalidate(ctx, env, 0)
	var waited *manager.WaitError
	if !errors.As(err, &waited) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a WaitError of the caller's deadline", err)
	}
	_, err = f.managers[0].Invalidate(t.Context(), env, 0)
	if _, away := errors.AsType[*manager.RedisError](err); !away {
		t.Errorf("without a deadline of its own: got %v, want a RedisError", err)
	}
}

// stalled is a Redis that doesn't answer: the client notices the deadline.
type stalled struct{}

func (stalled) DialHook(next redis.DialHook) redis.DialHook { return next }

func (stalled) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (stalled) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		<-ctx.Done()
		cmd.SetErr(os.ErrDeadlineExceeded)
		return os.ErrDeadlineExceeded
	}
}
