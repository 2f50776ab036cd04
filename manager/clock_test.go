package manager_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestAReplicaWhoseClockIsAnHourOffRefreshesWhenItShould(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, redistest.Start(t).Client(t), 2, func(i int, c *manager.Config, _ *manager.Environment) {
				if i == 1 {
					c.WallClock = func() time.Time { return time.Now().Add(off) }
				}
			})
			f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 4})
			first := f.mustToken(f.managers[1])
			start := time.Now()
			tok := first
			for tok.Version == first.Version {
				tok = f.mustToken(f.managers[1])
				if !f.endpoint.Accepts(tok.AccessToken.Reveal()) {
					t.Fatal("an expired token was handed out")
				}
				pause(t, 5*time.Millisecond)
			}
			// Refreshed at 3 s less the lead for what the endpoint takes, at the earliest at 2.8 s (80 % less 5 %).
			if age := time.Since(start); age < 1900*time.Millisecond || age > 3500*time.Millisecond {
				t.Errorf("the token of 4 s was replaced after %v", age)
			}
			f.calls(2)
		})
	}
}

func TestASteppedClockHasTheTokenReadAgain(t *testing.T) {
	t.Parallel()
	var off atomic.Int64
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, c *manager.Config, _ *manager.Environment) {
		c.WallClock = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	})
	f.mustToken(f.managers[0])
	// The token in Redis becomes another one, unheard of: only a read can tell.
	if err := f.rdb.HSet(t.Context(), key("token"), "access_token", "another").Err(); err != nil {
		t.Fatal(err)
	}
	if err := f.rdb.HIncrBy(t.Context(), key("token"), "version", 1).Err(); err != nil {
		t.Fatal(err)
	}
	off.Store(int64(time.Minute))
	eventually(t, 3*time.Second, "the token is read again", func() bool {
		return f.mustToken(f.managers[0]).AccessToken.Reveal() == "another"
	})
	f.calls(1)
}

func TestASteppedClockDoesNotTakeATokenAwayWhileRedisIsGone(t *testing.T) {
	t.Parallel()
	var off atomic.Int64
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 1, func(_ int, c *manager.Config, _ *manager.Environment) {
		c.WallClock = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	})
	tok := f.mustToken(f.managers[0])
	server.Stop()
	off.Store(int64(10 * time.Minute))
	end := time.Now().Add(4 * time.Second)
	for time.Now().Before(end) {
		if got := f.mustToken(f.managers[0]); got.Version != tok.Version {
			t.Fatalf("got %v", got)
		}
		pause(t, 10*time.Millisecond)
	}
	if left := f.managers[0].ExpiresIn(env, tok); left > 51*time.Minute {
		t.Errorf("%v are left of an hour after 10 min of suspension", left)
	}
	off.Store(int64(2 * time.Hour)) // slept over its end
	eventually(t, 5*time.Second, "a token that ended while the machine slept isn't served", func() bool {
		_, err := f.managers[0].Token(t.Context(), env)
		return err != nil
	})
}
