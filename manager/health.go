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
	outage  outage

	mu          sync.Mutex // guards what follows
	since, last time.Duration
}

// ok notes a success.
func (h *health) ok(e *Env) {
	h.lastOK.Store(int64(e.m.now()))
	h.all(e).succeeded()
	h.outage.over()
	e.m.outage.over()
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
	h.outage.goesOn(sent, now)
	e.m.outage.goesOn(sent, now)
	if !h.failing.Swap(true) {
		h.since = max(sent, time.Duration(h.lastOK.Load())) // one call that hung is no outage if others succeeded meanwhile
		e.log.Warn("redis fails", "outcome", "redis_away", "error", err)
	} else if sent-h.last > 5*outageGrace {
		h.since = sent
	}
	h.last = now
	h.all(e).failed(sent, now, err)
	return now-max(h.since, e.m.awakeSince(now)) >= outageGrace
}

// all returns the trials of this kind of calls.
func (h *health) all(e *Env) *trials {
	if h == &e.writes {
		return &e.m.writes
	}
	return &e.m.reads
}

// An outage is a row of calls of Redis that failed, for who reads the metrics: it is told by looking alone.
type outage struct {
	since atomic.Int64 // when the first was sent; 0: there is none
	last  atomic.Int64 // when the last had failed
}

func (o *outage) over() {
	if o.since.Load() != 0 {
		o.since.Store(0)
	}
}

func (o *outage) goesOn(sent, now time.Duration) {
	o.since.CompareAndSwap(0, max(int64(sent), 1))
	o.last.Store(int64(now))
}

// outageKnown is how long after its last sign an outage is believed to go on while events arrive, by which Redis answers:
// what isn't asked for isn't tried again either.
const outageKnown = time.Minute

// lasts reports whether calls have been failing for the grace, and there is no sign that they would not now.
func (o *outage) lasts(m *Manager, now time.Duration) bool {
	since, last := time.Duration(o.since.Load()), time.Duration(o.last.Load())
	return since != 0 && last-max(since, m.awakeSince(now)) >= outageGrace && (now-last < outageKnown || !m.subscribed.Load())
}
