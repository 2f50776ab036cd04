package top

import (
	"time"

	"github.com/onetoken/onetoken/manager"
)

// A Row is an environment as it was read. What counts down in it is told for a given time, so that it goes on between two
// reads. Rows are never changed once they are handed out.
type Row struct {
	manager.Status
	Read time.Time // before the read was sent, by this process's clock
}

// left is the stored token's remaining life.
func (r *Row) left(now time.Time) time.Duration { return r.remaining(now, r.TTL) }

// leaseLeft is the lease's.
func (r *Row) leaseLeft(now time.Time) time.Duration { return r.remaining(now, r.Lock.TTL) }

func (r *Row) remaining(now time.Time, ttl manager.Milliseconds) time.Duration {
	return max(time.Duration(ttl)-max(now.Sub(r.Read), 0), 0)
}

// nextTry is the time until a failure's next try: 0 if it is due.
func (r *Row) nextTry(now time.Time) time.Duration {
	if r.Failure.RetryAt == nil {
		return 0
	}
	if r.ReadAt.IsZero() {
		return max(r.Failure.RetryAt.Sub(now), 0)
	}
	return max(r.Failure.RetryAt.Sub(r.ReadAt)-now.Sub(r.Read), 0) // by Redis's clock
}

// usable reports whether the stored token is still usable: one whose time has run out since the read isn't.
func (r *Row) usable(now time.Time) bool { return r.Usable && r.left(now) > 0 }

// state is the row's, but for a token whose time has run out since the read.
func (r *Row) state(now time.Time) manager.State {
	ends := r.State == manager.StateFresh || r.State == manager.StateStale
	if ends && r.left(now) <= 0 {
		return manager.StateMissing
	}
	return r.State
}

// trouble orders states: what needs somebody to look at it comes first.
func (r *Row) trouble(now time.Time) int {
	usable := r.usable(now)
	switch r.state(now) {
	case manager.StateFailing:
		if usable {
			return 4
		}
		return 0
	case manager.StateConflict:
		return 1
	case manager.StateMissing:
		return 2
	case manager.StateRefreshing:
		if usable {
			return 6
		}
		return 3
	case manager.StateStale:
		return 5
	default:
		return 7
	}
}
