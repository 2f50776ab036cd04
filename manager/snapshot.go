package manager

import (
	"hash/fnv"
	"io"
	"time"

	"github.com/onetoken/onetoken/store"
)

// A snapshot is what a replica knows of a token. It is immutable. Instants are by the monotonic clock.
type snapshot struct {
	token       *Token
	quietUntil  time.Duration // until here it is handed out without a second thought
	refreshAt   time.Duration // from here on it is refreshed behind its users: quietUntil, but where that is 0
	usableUntil time.Duration // until here it is handed out; 0 where it has to be looked at again before
	expires     time.Duration // its end
	published   time.Duration // when it became known here
	wallExpires time.Time     // its end by the wall clock, which runs on while the machine is suspended
	stored      time.Duration // since when it is known to have stood in Redis; never where it isn't
	suspect     bool          // the clocks have parted since: it must be read again
	slept       time.Duration // at most its end, by what the wall clock said when they parted; never where they haven't
}

// newSnapshot makes a snapshot of t, which lives until the instant expires.
func (e *Env) newSnapshot(t *Token, expires time.Duration) *snapshot {
	// The wall clock of the last comparison, not of now: the machine may have slept since, and a reply that was on its way
	// must not take that for life that is left.
	life, last, policy := t.Life(), e.m.clocks.Load(), e.conf().policy
	s := &snapshot{token: t, expires: expires, slept: never, stored: never, published: e.m.now(), wallExpires: last.wall.Round(0).Add(expires - last.mono)}
	s.usableUntil = expires - policy.margin(life)
	s.refreshAt = min(expires-life+policy.refreshAge(t, e.name, e.m.replica), s.usableUntil)
	s.quietUntil = s.refreshAt
	return s
}

// renewed makes a snapshot of the same token, known as long, that lives until the instant expires, by the settings of now.
func (e *Env) renewed(s *snapshot, expires time.Duration) *snapshot {
	n := e.newSnapshot(s.token, expires)
	n.published, n.stored = s.published, s.stored
	return n
}

// refreshAge is the age at which a replica refreshes the environment's token behind its callers: the one that refreshed last is
// the first, so that the others need only hear of it. Replicas that share a name are all the first.
func (p Policy) refreshAge(t *Token, env, replica string) time.Duration {
	own := draw(replica, t.Version)
	if t.Version == 0 { // nobody else has it
		return p.refreshPoint(t.Life(), t.Took, own)
	}
	first := p.refreshPoint(t.Life(), t.Took, draw(env, t.Version))
	if t.RefreshedBy == replica {
		return first
	}
	return p.standInPoint(t.Life(), t.Took, first, own)
}

// newStoredSnapshot makes a snapshot of a token that is known to stand in Redis.
func (e *Env) newStoredSnapshot(t *Token, expires time.Duration) *snapshot {
	s := e.newSnapshot(t, expires)
	s.stored = s.published
	return s
}

// draw is a number in [0, 1), once for a token and a name: drawn anew at every look, it would collapse the spread.
func draw(name string, v Version) float64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name+"|"+v.String())
	// FNV's high bits hardly change with the last characters: spread them (a step of splitmix64).
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}

// observe takes in a read that was sent at the instant: invalidations, a token, a lost history.
func (e *Env) observe(r *store.Record, sent time.Duration) {
	e.reads.ok(e)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastRead = max(e.lastRead, sent)
	if sent > e.droppedAt && r.Mark.Issued < e.dropped {
		e.dropped, e.rejected = 0, 0 // Redis lost its history: its invalidations are gone, what was replaced may be back
	}
	e.dropLocked(r.Mark.Dropped)
	if g := r.Grant; g != nil && e.local.err != nil && e.local.err.Version != 0 && g.Version > e.local.err.Version {
		e.local = local{} // somebody has logged in since this replica was refused
		e.noteBackoff(0)
	}
	e.warnLocked(r)
	if e.conf().judge(r) == usable {
		lost := func(s *snapshot) bool {
			// A failover may forget that it was stored, and not that it was issued.
			return sent > s.published && r.Mark.Issued < s.token.Version || sent > s.stored && r.Mark.Stored < s.token.Version
		}
		e.publishLocked(e.newStoredSnapshot(r.Token, sent+min(r.TTL, r.Token.Life())), sent, lost)
	}
	if sent >= e.suspectedAt {
		e.clearSuspicionLocked()
	}
}

// warnLocked logs what can't be read, and of tokens that don't open here each once: they stay, and are read again and again.
func (e *Env) warnLocked(r *store.Record) {
	switch {
	case r.Sealed == nil && r.TokenErr != nil:
		e.log.Warn("the stored token is unreadable", "outcome", "unreadable", "error", r.TokenErr)
	case r.Sealed != nil && r.Sealed.Version != e.sealed:
		e.sealed = r.Sealed.Version
		e.log.Warn("the stored token can't be read with the keys here", "outcome", "sealed", "version", r.Sealed.Version, "error", r.TokenErr)
	}
}

// dropLocked takes in that versions up to v were invalidated.
func (e *Env) dropLocked(v Version) {
	if v > e.dropped {
		e.dropped, e.droppedAt = v, e.m.now()
	}
	if s := e.snap.Load(); s != nil && e.isDroppedLocked(s.token, s.published) {
		e.snap.Store(nil)
	}
}

// isDroppedLocked reports whether t, known since the instant, was invalidated. A version 0, fetched while Redis was away,
// is by whatever is learnt later.
func (e *Env) isDroppedLocked(t *Token, since time.Duration) bool {
	if t.Version == 0 {
		return e.dropped != 0 && since <= e.droppedAt
	}
	return t.Version <= e.dropped
}

// publishLocked makes s, known by a call that was sent at the instant, what callers get, unless a newer one is usable and
// Redis hasn't lost its history. For one version the end only moves closer.
func (e *Env) publishLocked(s *snapshot, sent time.Duration, lost func(*snapshot) bool) {
	if e.closed || e.retired || s.token.Config != e.conf().fingerprint || e.isDroppedLocked(s.token, sent) {
		return
	}
	old := e.snap.Load()
	if old != nil {
		switch {
		case old.token.Version == s.token.Version && s.token.Version != 0:
			stored := min(old.stored, s.stored)
			s = e.newSnapshot(old.token, min(old.expires, s.expires))
			s.published, s.stored = old.published, stored
		case old.token.Version > s.token.Version && (old.suspect || e.m.now() < old.usableUntil) && !lost(old):
			return
		}
	}
	if now := e.m.now(); old != nil && old.token.Version != s.token.Version && now < old.usableUntil && now >= s.usableUntil {
		return // newer, and too near its end to be handed out, where the older one isn't
	}
	if old != nil && old.token.Version > s.token.Version {
		e.rejected = 0 // one that had been rejected, and replaced, may have come back with a lost history
	}
	if sent < e.suspectedAt { // the machine may have slept since: what was left of the life then says nothing
		s = s.doubted(s.expires - e.parted)
	}
	e.showLocked(s)
	if e.m.now() >= s.usableUntil {
		return
	}
	if old == nil || old.suspect || old.token.Version != s.token.Version || s.token.Version == 0 {
		// Not for what was known: a flight that waits for a newer token would be woken by its own read, and read again.
		e.answer, e.local = nil, local{}
		e.noteBackoff(0)
		e.behindAt.Store(0)
		e.tellLocked()
	}
}

// showLocked makes s what callers get.
func (e *Env) showLocked(s *snapshot) {
	if e.watched {
		c := *s
		c.quietUntil = 0 // so that its next use is noticed
		s = &c
	}
	e.snap.Store(s)
}

// notLost is for [Env.publishLocked]: whatever is known here, Redis's history isn't in question.
func notLost(*snapshot) bool { return false }

// tellLocked wakes all who wait for a token that can be used, and those who listen.
func (e *Env) tellLocked() {
	for l := range e.listeners {
		l.poke()
	}
	if e.news != nil {
		close(e.news)
		e.news = nil
	}
	e.pokeLocked()
}

// doubted is s as it must be read again before it is handed out, and never after the instant unless Redis says otherwise.
func (s *snapshot) doubted(end time.Duration) *snapshot {
	d := *s
	d.suspect, d.usableUntil, d.quietUntil, d.slept = true, 0, 0, min(s.slept, end)
	return &d
}

// longestCall is more than any call may take that brings a token: steps of the clock within one add up.
const longestCall = time.Hour

// suspectAll makes every snapshot be read again before it is handed out: the machine was suspended, or its clock set, by
// which the wall clock gained that much on the other. What it says of an end is kept: the next step may set it back.
func (m *Manager) suspectAll(gained time.Duration) {
	for _, e := range m.envs.all() {
		e.mu.Lock()
		if m.now()-e.suspectedAt > longestCall {
			e.parted = 0
		}
		e.suspectedAt, e.parted = m.now(), e.parted+max(gained, 0)
		if s := e.snap.Load(); s != nil {
			e.snap.Store(s.doubted(m.now() + s.wallExpires.Sub(m.wall().Round(0))))
		}
		e.mu.Unlock()
		e.hear(true, false)
	}
}

// clearSuspicionLocked hands out a suspect snapshot again, with what is left of its life by the clock that says less: it
// was looked at, and what Redis says of it, or that Redis says nothing, ends it no sooner.
func (e *Env) clearSuspicionLocked() {
	s := e.snap.Load()
	if s == nil || !s.suspect {
		return
	}
	now := e.m.now()
	e.showLocked(e.renewed(s, min(s.expires, s.slept, now+s.wallExpires.Sub(e.m.wall().Round(0)))))
	e.tellLocked()
}
