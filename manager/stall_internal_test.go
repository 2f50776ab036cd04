package manager

import (
	"errors"
	"log/slog"
	"testing"
	"time"
)

// A process that was stopped with a command under way has learnt nothing of Redis.
func TestTheTimeInWhichTheProcessWasStoppedIsNoOutage(t *testing.T) {
	at := func(lastTick, awake time.Duration) *Env {
		m := &Manager{base: time.Now().Add(-time.Hour), wall: time.Now}
		m.clocks.Store(&clocks{mono: m.now() - lastTick})
		m.awake.Store(int64(m.now() - awake))
		return &Env{m: m, log: slog.New(slog.DiscardHandler)}
	}
	failing := errors.New("i/o timeout")
	for _, c := range []struct {
		name            string
		lastTick, awake time.Duration
		away            bool
	}{
		{"it has run all the time", time.Second, time.Hour, true},
		{"it has only just been woken", 10 * time.Second, time.Hour, false},
		{"it was woken a second ago", 500 * time.Millisecond, time.Second, false},
		{"it was woken three seconds ago", 500 * time.Millisecond, 3 * time.Second, true},
	} {
		e := at(c.lastTick, c.awake)
		if got := e.reads.failed(e, e.m.now()-10*time.Second, failing); got != c.away {
			t.Errorf("%s: away is %t after a call of ten seconds, want %t", c.name, got, c.away)
		}
	}
}
