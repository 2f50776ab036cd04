package manager

import (
	"context"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/jitter"
	"github.com/onetoken/onetoken/store"
)

// watcher is what a manager makes of events.
type watcher struct{ m *Manager }

// Subscribed has all in use read again: whatever was published until now may have been missed.
func (w watcher) Subscribed(ok bool) {
	w.m.subscribed.Store(ok)
	w.m.subscribedAt.Store(int64(w.m.now()))
	if !ok {
		return
	}
	w.m.log.Debug("events arrive", "outcome", "subscribed")
	for _, e := range w.m.envs.all() {
		e.hear(true, true)
	}
}

// Event has the environment read again, unless it is known already.
func (w watcher) Event(ev store.Event) {
	e := w.m.envs.find(ev.Env)
	if e == nil {
		return
	}
	if s := e.snap.Load(); s != nil && ev.Kind == store.EventStored && s.token.Version == ev.Version {
		return
	}
	e.mu.Lock()
	known := e.answer != nil && e.answer.version == ev.Version
	if !known {
		e.answer = nil
		e.noteEventLocked(ev)
	}
	e.mu.Unlock()
	if !known {
		e.hear(ev.Kind != store.EventFailed, false)
	}
}

// hear wakes a flight that waits or, if there is none, has an environment in use read again: so, too, while a flight is
// busy with the token endpoint, whose callers may be helped sooner. If calm, nothing was heard of this one by itself.
func (e *Env) hear(look, calm bool) {
	e.mu.Lock()
	busy := e.flight != nil && e.flight.sent
	waits := e.flight != nil && !busy
	if look && waits {
		e.heards++
	}
	e.pokeLocked()
	e.mu.Unlock()
	if look && !waits && (busy || e.inUse()) {
		e.lookAt(calm && !busy)
	}
}

// listen is called before a read is sent: that brings all that the flight was told of until now. It returns how often that was.
func (f *flight) listen() int {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	select {
	case <-f.poke:
	default:
	}
	return f.env.heards
}

// lookIfHeardSince reads again where a flight has ended with a read before which it was told to look that often, and was since:
// what it was told of may have come after.
func (e *Env) lookIfHeardSince(heard int) {
	e.mu.Lock()
	missed := e.heards != heard
	e.mu.Unlock()
	if missed && e.inUse() {
		e.lookAt(false)
	}
}

// inUse reports whether somebody was given a token that has not ended.
func (e *Env) inUse() bool {
	s := e.snap.Load()
	return s != nil && e.m.now() < s.expires
}

// clocks are the wall and the monotonic clock at one moment.
type clocks struct {
	wall time.Time
	mono time.Duration
}

// tick does every second what time alone asks for.
func (m *Manager) tick(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	next := 0
	m.keepWarm()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, last := clocks{m.wall(), m.now()}, m.clocks.Load()
		if parted := now.wall.Round(0).Sub(last.wall.Round(0)) - (now.mono - last.mono); parted > time.Second || parted < -time.Second {
			m.log.Warn("the clocks have parted: a suspended machine or a stepped clock", "outcome", "clock", "by", parted)
			m.signals.ClockStep(ctx)
			m.suspectAll(parted)
		}
		if now.mono-last.mono > stall {
			m.awake.Store(int64(now.mono))
		}
		m.clocks.Store(&now)
		next = m.sweep(next)
		m.keepWarm()
		m.forgetLookups(now.mono)
		m.letGo(now.mono)
		m.custody.forget(now.mono, func(env string) bool { return m.envs.find(env) != nil })
	}
}

// stall is how far apart two ticks, which are a second apart, must be before the process counts as having been stopped.
const stall = 1500 * time.Millisecond

// awakeSince is since when this process has been running without having been stopped.
func (m *Manager) awakeSince(now time.Duration) time.Duration {
	if now-m.clocks.Load().mono > stall {
		return now // it has only just been woken
	}
	return time.Duration(m.awake.Load())
}

// sweep reads again what is in use and was not read for long, a few environments a second, from the one at next on. It
// is the net under lost events.
func (m *Manager) sweep(next int) int {
	started, envs := 0, m.envs.all()
	for range envs {
		next %= len(envs)
		e := envs[next]
		next++
		e.mu.Lock()
		due := e.inUse() && m.now()-e.lastRead >= sweepEvery
		e.mu.Unlock()
		if !due {
			continue
		}
		e.lookAt(false)
		if started++; started == sweepsASecond {
			break
		}
	}
	return next
}

// keepWarm refreshes what is configured so, or has listeners, without being asked for the token.
func (m *Manager) keepWarm() {
	var due []*Env
	now := m.now()
	for _, e := range m.envs.all() {
		if (e.conf().policy.KeepWarm || e.listening.Load() > 0) && e.isDue(now) {
			due = append(due, e)
		}
	}
	// In an order of its own: a fleet that starts shares the work, instead of waiting for one and the same at a time.
	jitter.Shuffle(due)
	m.warming.add(due)
}

// warm starts a flight behind nobody, where the token is due.
func (e *Env) warm(now time.Duration) {
	if e.isDue(now) {
		e.refreshBehind(e.snap.Load(), now)
	}
}

// isDue reports whether the token is to be fetched, or refreshed behind its users.
func (e *Env) isDue(now time.Duration) bool {
	s := e.snap.Load()
	return (s == nil || !s.suspect && now >= s.refreshAt) && int64(now) >= e.behindAt.Load()
}

// warming is what is to be refreshed without being asked for: thousands of environments at a start, but not all at once.
type warming struct {
	m *Manager

	mu      sync.Mutex // guards what follows
	due     []*Env
	workers int
}

const (
	maxWarming = 8 // that are refreshed at once
	// warmingTakes is how long the next one waits for one that takes its time: an endpoint that hangs must not keep the
	// environments of others cold.
	warmingTakes = time.Second
)

// add has environments refreshed, unless there are still some to do: then they will be found due again.
func (w *warming) add(due []*Env) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.due) > 0 {
		return
	}
	w.due = due
	for range min(len(due), maxWarming) - w.workers {
		if w.m.spawn(w.work) {
			w.workers++
		}
	}
}

func (w *warming) work() {
	for {
		w.mu.Lock()
		if len(w.due) == 0 {
			w.workers--
			w.mu.Unlock()
			return
		}
		e := w.due[0]
		w.due = w.due[1:]
		w.mu.Unlock()
		e.warm(w.m.now())
		e.awaitFlight(w.m.ctx, warmingTakes)
	}
}

// awaitFlight waits for the flight under way, if there is one, for d at most.
func (e *Env) awaitFlight(ctx context.Context, d time.Duration) {
	e.mu.Lock()
	f := e.flight
	e.mu.Unlock()
	if f == nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}
