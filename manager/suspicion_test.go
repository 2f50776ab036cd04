package manager_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A wall is the managers' wall clock, for a test to step.
type wall struct {
	off atomic.Int64
	log logBuffer
}

func (w *wall) edit(_ int, c *manager.Config, _ *manager.Environment) {
	c.WallClock = func() time.Time { return time.Now().Add(time.Duration(w.off.Load())) }
	c.Logger = w.log.logger()
}

func (w *wall) step(d time.Duration) { w.off.Add(int64(d)) }

// noticed reports whether a manager has noticed that the clocks have parted.
func (w *wall) noticed() bool { return strings.Contains(w.log.String(), `"outcome":"clock"`) }

// noticedFor reports, asked again and again, when that has been so for d.
func (w *wall) noticedFor(d time.Duration) func() bool {
	var since time.Time
	return func() bool {
		if since.IsZero() && w.noticed() {
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) > d
	}
}

func TestASuspectTokenIsServedAgainWhateverRedisHasInItsPlace(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(t *testing.T, f *fleet){
		"another configuration's token": func(t *testing.T, f *fleet) {
			if err := f.rdb.HSet(t.Context(), key("token"), "config", "another").Err(); err != nil {
				t.Fatal(err)
			}
		},
		"a failure that binds": func(t *testing.T, f *fleet) {
			if err := f.rdb.Del(t.Context(), key("token")).Err(); err != nil {
				t.Fatal(err)
			}
			f.endpoint.SetDefault(mockendpoint.Reply{Status: 503, RetryAfter: time.Minute})
			_, err := f.add().Token(t.Context(), env)
			endpointError(t, err)
		},
		"nothing, and an endpoint that hangs": func(t *testing.T, f *fleet) {
			if err := f.rdb.Del(t.Context(), key("token")).Err(); err != nil {
				t.Fatal(err)
			}
			f.endpoint.SetDefault(mockendpoint.Reply{Hang: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w wall
			var slow atomic.Bool
			f := newFleet(t, redistest.Mini(t), 1, w.edit, tapped(func(redis.Cmder) error {
				if slow.Load() {
					<-time.After(50 * time.Millisecond) // callers meet the token while it is suspect
				}
				return nil
			}))
			tok := f.mustToken(f.managers[0])
			put(t, f)
			slow.Store(true)
			w.step(5 * time.Second)
			f.serves(f.managers[0], tok.Version, w.noticedFor(500*time.Millisecond))
			slow.Store(false)
			f.endpoint.Close()
		})
	}
}

func TestASuspendedMachineWithARefreshUnderWayKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	var w wall
	f := newFleet(t, redistest.Mini(t), 1, w.edit)
	tok := f.mustToken(f.managers[0])
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	newer := f.start(f.managers[0], refresh)
	f.awaitCalls(2)
	w.step(5 * time.Second)
	f.serves(f.managers[0], tok.Version, w.noticedFor(500*time.Millisecond))
	close(gate)
	if o := <-newer; o.err != nil || o.token.Version <= tok.Version {
		t.Errorf("the refresh got %v, %v", o.token, o.err)
	}
	f.calls(2)
}

func TestATokenThatHasEndedHereButNotInRedisIsReplaced(t *testing.T) {
	t.Parallel()
	var commands atomic.Int64
	f := newFleet(t, redistest.Mini(t), 1, tapped(func(redis.Cmder) error {
		commands.Add(1)
		return nil
	}))
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 2})
	first := f.mustToken(f.managers[0])
	if err := f.rdb.PExpire(t.Context(), key("token"), time.Hour).Err(); err != nil { // its clock went back
		t.Fatal(err)
	}
	pause(t, 1800*time.Millisecond) // usable for 1.75 s
	commands.Store(0)
	if tok := f.mustToken(f.managers[0]); tok.Version <= first.Version {
		t.Errorf("got %v again", tok)
	}
	if n := commands.Load(); n > 30 {
		t.Errorf("%d commands to find out", n)
	}
	f.calls(2)
}

func TestATokenThatEndedHereWhileRedisWasAwayIsReplacedOnceItIsBack(t *testing.T) {
	t.Parallel()
	var w wall
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 1, w.edit)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	f.mustToken(f.managers[0])
	server.Pause(t)
	w.step(2 * time.Hour)
	eventually(t, 10*time.Second, "the token has ended", func() bool {
		_, err := f.tries(f.managers[0])
		_, away := errors.AsType[*manager.RedisError](err)
		return away
	})
	server.Continue(t)
	eventually(t, 5*time.Second, "there is a new one", func() bool {
		_, err := f.tries(f.managers[0])
		return err == nil
	})
	f.calls(2)
}
