package manager_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A replied is a hook that is called with each command once its reply is there.
type replied func(cmd redis.Cmder)

func (replied) DialHook(next redis.DialHook) redis.DialHook { return next }

func (replied) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h replied) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h(cmd)
		return err
	}
}

// isRead reports whether cmd is the script that reads all there is.
func isRead(cmd redis.Cmder) bool {
	args := cmd.Args()
	return strings.HasPrefix(cmd.Name(), "eval") && len(args) == 8 && args[2] == 5
}

// isClaim reports whether cmd is the script that reads and, where there is nothing, takes the lease.
func isClaim(cmd redis.Cmder) bool {
	args := cmd.Args()
	return strings.HasPrefix(cmd.Name(), "eval") && len(args) == 10 && args[2] == 5
}

// isAcquire reports whether cmd is the script that takes the lease.
func isAcquire(cmd redis.Cmder) bool {
	args := cmd.Args()
	return strings.HasPrefix(cmd.Name(), "eval") && len(args) == 7 && strings.HasSuffix(args[3].(string), ":lock")
}

// listening waits until that many managers hear events.
func (f *fleet) listening(logged *logBuffer, n int) {
	f.t.Helper()
	eventually(f.t, 5*time.Second, "all hear events", func() bool {
		return strings.Count(logged.String(), `"outcome":"subscribed"`) >= n
	})
}

func TestAnInvalidationHeardWhileAReadIsOnItsWayBack(t *testing.T) {
	t.Parallel()
	var logged logBuffer
	var armed atomic.Bool
	held, goOn := make(chan struct{}), make(chan struct{})
	f := newFleet(t, redistest.Mini(t), 2, func(i int, c *manager.Config, _ *manager.Environment) {
		c.Logger = logged.logger()
		if i == 1 {
			c.Redis.AddHook(replied(func(cmd redis.Cmder) {
				if isRead(cmd) && armed.CompareAndSwap(true, false) {
					close(held)
					<-goOn
				}
			}))
		}
	})
	f.listening(&logged, 2)
	f.mustToken(f.managers[0])
	armed.Store(true)
	got := f.start(f.managers[1], token)
	<-held
	dropped, err := f.managers[0].Invalidate(t.Context(), env, 0)
	if err != nil {
		t.Fatal(err)
	}
	pause(t, 100*time.Millisecond) // it is heard
	close(goOn)
	<-got
	eventually(t, 3*time.Second, "what was dropped isn't served any more", func() bool {
		return f.mustToken(f.managers[1]).Version > dropped
	})
}

func TestAColdReplicaLeavesItsOwnRequestForATokenThatIsStored(t *testing.T) {
	t.Parallel()
	var logged logBuffer
	f := newFleet(t, redistest.Mini(t), 2, func(_ int, c *manager.Config, _ *manager.Environment) { c.Logger = logged.logger() })
	f.listening(&logged, 2)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	got := f.start(f.managers[0], token)
	f.awaitCalls(1)
	if err := f.rdb.Del(t.Context(), key("lock")).Err(); err != nil { // the lease is lost
		t.Fatal(err)
	}
	stored := f.mustToken(f.managers[1])
	if o := <-got; o.err != nil || o.token.Version != stored.Version {
		t.Errorf("got %v, %v; stored is %v", o.token, o.err, stored)
	}
	close(gate)
}

func TestAnEvictedMarkIsNoLostHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		kit := managertest.New(t, managertest.Options{
			InMemory: true, Endpoint: mockendpoint.Options{Life: time.Minute},
			Config: func(_ int, c *manager.Config) {
				c.Redis.AddHook(replied(func(cmd redis.Cmder) {
					if isRead(cmd) {
						reads.Add(1)
					}
				}))
			},
		})
		first, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		if err := kit.Redis.Del(t.Context(), kit.Store.Keys(managertest.Environment).Mark).Err(); err != nil {
			t.Fatal(err)
		}
		reads.Store(0)
		for tok := first; tok.Version == first.Version; <-time.After(10 * time.Millisecond) {
			if tok, err = kit.Manager.Token(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
		}
		if left := kit.Manager.ExpiresIn(managertest.Environment, first); left < 6*time.Second {
			t.Errorf("it was replaced with %v left, within its margin: callers waited", left)
		}
		if n := reads.Load(); n > 5 {
			t.Errorf("%d reads", n)
		}
	})
}

func TestASteppedClockRefreshesNothing(t *testing.T) {
	t.Parallel()
	var w wall
	f := newFleet(t, redistest.Mini(t), 3, w.edit, policy(manager.Policy{KeepWarm: true}))
	f.converge(10 * time.Second)
	w.step(3 * time.Second)
	eventually(t, 5*time.Second, "the step is noticed", w.noticedFor(1500*time.Millisecond))
	f.calls(1)
}

func TestRefreshAloneWithASlowClockAfterAnInvalidation(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	f := newFleet(t, redistest.Mini(t), 1, policy(manager.Policy{Outage: manager.OutageRefreshAlone}),
		func(_ int, c *manager.Config, _ *manager.Environment) {
			c.WallClock = func() time.Time { return time.Now().Add(-time.Hour) }
		}, tapped(func(redis.Cmder) error {
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}))
	f.mustToken(f.managers[0])
	if _, err := f.managers[0].Invalidate(t.Context(), env, 0); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	if tok, err := f.tries(f.managers[0]); err != nil || tok.Version != 0 {
		t.Errorf("got %v, %v, want a token fetched alone", tok, err)
	}
}

func TestWhatRedisRepeatsOfAPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1, tapped(func(redis.Cmder) error {
		return errors.New("ERR unknown command 'auth', with args beginning with: 'hunter2-hunter2' \x1b[31m")
	}))
	_, err := f.tries(f.managers[0])
	if away, ok := errors.AsType[*manager.RedisError](err); !ok || strings.ContainsAny(away.Error(), "\n\x1b") ||
		strings.Contains(away.Error(), "hunter2") || !strings.Contains(away.Error(), "unknown command") {
		t.Errorf("got %v", err)
	}
}
