package manager

import (
	"context"
	"testing"
	"time"

	"github.com/onetoken/onetoken/store"
)

// hourToken is a token of an hour.
func hourToken(e *Env, v Version) *Token {
	now := time.Now()
	return store.NewToken(Token{
		AccessToken: NewSecret("t"), TokenType: "Bearer", IssuedAt: now, ExpiresAt: now.Add(time.Hour), Version: v, Config: e.conf().fingerprint,
	})
}

// recordWith is a read that shows a token and a mark.
func recordWith(e *Env, v, issued, stored Version) *store.Record {
	return &store.Record{Now: time.Now(), Token: hourToken(e, v), TTL: time.Hour, Mark: store.Mark{Issued: issued, Stored: stored}}
}

// later is an instant after all that was before.
func later(e *Env) time.Duration {
	for now := e.m.now(); ; {
		if at := e.m.now(); at > now {
			return at
		}
	}
}

// A read that was sent before a late store, and answered after another has seen it, shows no lost history.
func TestAReadFromBeforeALateStoreTakesNothingBack(t *testing.T) {
	e := quietEnv(t)
	e.observe(recordWith(e, 1, 1, 1), later(e))
	e.mu.Lock() // the outcome of the store isn't known
	e.publishLocked(e.newSnapshot(hourToken(e, 2), e.m.now()+time.Hour), e.m.now(), notLost)
	e.mu.Unlock()
	early := later(e) // a read is sent: Redis still has 1
	earlyReply := recordWith(e, 1, 2, 1)
	e.observe(recordWith(e, 2, 2, 2), later(e)) // the store has arrived, as a second read shows
	e.observe(earlyReply, early)
	if v := e.snap.Load().token.Version; v != 2 {
		t.Errorf("the replica went back to version %d, and 2 is stored", v)
	}
	e.observe(recordWith(e, 1, 2, 1), later(e))
	if v := e.snap.Load().token.Version; v != 1 {
		t.Errorf("the replica stays on version %d, though Redis has forgotten its store since", v)
	}
}

func TestARejectedTokenThatComesBackAfterAnInvalidationIsReplacedAgain(t *testing.T) {
	e := quietEnv(t)
	e.observe(recordWith(e, 1, 1, 1), later(e))
	e.mu.Lock()
	e.rejected = 1
	e.mu.Unlock()
	e.observe(recordWith(e, 2, 2, 2), later(e))
	e.mu.Lock()
	e.dropLocked(2)
	e.mu.Unlock()
	back := recordWith(e, 1, 1, 1)
	back.TTL = 30 * time.Minute // old enough to be rejected
	e.observe(back, later(e))
	s := e.snap.Load()
	if s == nil || s.token.Version != 1 {
		t.Fatalf("%+v, want the token that Redis has after it lost its history", s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.rejectLocked(s.token); !ok {
		t.Error("the token that has come back can't be replaced after a 401")
	}
}

// A call may be under way while the machine sleeps and its clock is then set back a little.
func TestStepsOfTheClockDuringACallAddUp(t *testing.T) {
	e := quietEnv(t)
	sent := e.m.now()
	e.m.suspectAll(time.Hour)
	e.m.suspectAll(-2 * time.Second)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publishLocked(e.newSnapshot(hourToken(e, 2), sent+time.Hour), sent, notLost)
	e.clearSuspicionLocked() // Redis is away
	if left := e.snap.Load().expires - e.m.now(); left > time.Minute {
		t.Errorf("%v are left of a token of an hour, whose request was sent before an hour of sleep", left)
	}
}

// A flight of which the last one who wanted more has left goes alone for those who stay, and ends.
func TestAFlightThatGoesAloneEndsWhoeverHasLeft(t *testing.T) {
	e := quietEnv(t)
	f := handFlight(e)
	f.conf.source = SourceFunc(func(context.Context) (*Reply, error) {
		return &Reply{AccessToken: NewSecret("alone"), ExpiresIn: time.Hour}, nil
	})
	e.mu.Lock()
	e.flight = f
	f.waiters, f.special, f.explicits = 2, 1, 1
	f.ask = ask{above: anyVersion, explicit: true}
	f.base = ask{above: anyVersion}
	f.leaveLocked(f.ask)
	e.mu.Unlock()
	if !f.alone(t.Context()) {
		t.Fatal("it didn't go alone")
	}
	select {
	case <-f.done:
	default:
		t.Error("the flight is given up, and nobody who waits for it is told")
	}
}
