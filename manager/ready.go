package manager

import "time"

// Health is what a manager knows of itself without asking anybody.
type Health struct {
	// RedisAway is whether Redis counts as away: for 2 s its calls have been failing or, where none was made, the
	// subscription has been missing. A failure that wasn't repeated for 10 s says nothing any more.
	RedisAway bool
	// Usable is how many environments have a token here that can be handed out now. Only those that were asked for, or
	// are kept warm, can have one.
	Usable int
}

// Health looks at every environment once. It does no I/O.
func (m *Manager) Health() Health {
	now := m.now()
	var h Health
	var reads, writes evidence
	for _, e := range m.envs.all() {
		if s := e.snap.Load(); s != nil && now < s.usableUntil {
			h.Usable++
		}
		reads.add(&e.reads)
		writes.add(&e.writes)
	}
	// A subscription that came after the last failure shows that Redis answers, not that it takes writes.
	changed := time.Duration(m.subscribedAt.Load())
	if m.subscribed.Load() {
		reads.lastOK = max(reads.lastOK, changed)
	}
	awake := m.awakeSince(now)
	silent := !m.subscribed.Load() && now-max(changed, awake) >= outageGrace &&
		(reads.lastOK == 0 || now-reads.lastOK >= evidenceLasts)
	h.RedisAway = reads.away(now, awake) || writes.away(now, awake) || silent
	return h
}

// evidenceLasts is for how long a call tells what Redis does.
const evidenceLasts = 5 * outageGrace

// evidence is what the healths of many environments say of one kind of calls together.
type evidence struct {
	since, last time.Duration // of the failures that were repeated last
	failing     bool
	lastOK      time.Duration // 0: never
}

func (v *evidence) add(h *health) {
	v.lastOK = max(v.lastOK, time.Duration(h.lastOK.Load()))
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !v.failing || h.last > v.last {
		v.failing, v.since, v.last = true, h.since, h.last
	}
}

// away reports whether the calls count as failing: for the grace, without a success after the last failure, and of late.
func (v *evidence) away(now, awake time.Duration) bool {
	return v.failing && v.last > v.lastOK && now-v.last < evidenceLasts && v.last-max(v.since, awake) >= outageGrace
}
