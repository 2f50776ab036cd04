package manager

import (
	"sync"
	"sync/atomic"
	"time"
)

// health is since when one kind of calls of Redis fails.
type health struct {
	failing atomic.Bool  // for a look without the mutex
	lastOK  atomic.Int64 // the instant of the last success

	mu          sync.Mutex // guards what follows
	since, last time.Duration
}

// ok notes a success.
func (h *health) ok(e *Env) {
	h.lastOK.Store(int64(e.m.now()))
	if h.failing.Load() && h.failing.Swap(false) {
		e.log.Info("redis answers again", "outcome", "redis_back")
	}
}

// failed notes that a call that was sent at the instant failed, and reports whether Redis counts as away: it has been
// failing for the grace, and was asked meanwhile. The time in which this process was stopped doesn't count: it is no
// wonder then that an answer didn't arrive.
func (h *health) failed(e *Env, sent time.Duration, err error) (away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := e.m.now()
	if !h.failing.Swap(true) {
		h.since = max(sent, time.Duration(h.lastOK.Load())) // one call that hung is no outage if others succeeded meanwhile
		e.log.Warn("redis fails", "outcome", "redis_away", "error", err)
	} else if sent-h.last > 5*outageGrace {
		h.since = sent
	}
	h.last = now
	return now-max(h.since, e.m.awakeSince(now)) >= outageGrace
}
