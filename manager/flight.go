package manager

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// anyVersion is below every version.
const anyVersion Version = -1

// An ask is what a caller wants: a usable token with a version above one.
type ask struct {
	above      Version
	explicit   bool          // a Refresh: failures before it don't count
	called     time.Duration // when that was called
	background bool          // nobody waits for it
	rejected   bool          // a 401 is the reason
	longer     bool          // the life that is left of the usable one is
}

// A flight is a replica's one way to a new token of an environment, shared by all who wait for it. It runs in a goroutine
// of its own, under no caller's context: it ends with its last caller while it only waits, and never while a request is
// under way.
type flight struct {
	env    *Env
	conf   *resolved // as it was configured when it began
	cancel context.CancelCauseFunc
	poke   chan struct{} // "look again"; buffered, so that a poke between a look and the wait isn't lost
	done   chan struct{} // closed when result and err are set
	claim  claim         // used by run alone, and so is looked
	looked bool          // it has looked, or is about to

	// guarded by env.mu
	ask                      // the most that is asked for
	base       ask           // what is asked for beside callers who want more than any usable token
	replaced   Version       // no answer, though above: it was to be replaced when Redis lost its history; 0: there is none
	askedAt    time.Duration // since when that is asked for
	waiters    int
	special    int               // of them, those who want more
	explicits  int               // of these, those who don't wait for a backoff to end
	lessened   bool              // the last of either has left since it was decided what to do
	sent       bool              // the request is under way: no end but its own
	waitingFor string            // for the error of a caller that gives up
	refresh    trace.SpanContext // of its last attempt
	result     *Token            // set before done is closed, and so is err
	err        error             // with a result, for those who asked for a newer one
}

var errAbandoned = errors.New("onetoken: nobody waits for it any more")

// await is join for a caller who gets the error, which counts unless he has left before he came.
func (e *Env) await(ctx context.Context, a ask) (*Token, error) {
	left := ctx.Err() != nil
	t, err := e.joinPresent(ctx, a)
	if err != nil && !left {
		e.signals.CallerError(ctx, kindOf(err))
	}
	return t, err
}

// joinPresent is join with whatever has the environment's name, and settings, at the time: who waits goes on with those.
func (e *Env) joinPresent(ctx context.Context, a ask) (*Token, error) {
	t, err := e.join(ctx, a)
	for errors.Is(err, errRetired) || errors.Is(err, errReconfigured) {
		var now *Env
		if now, err = e.current(ctx); err == nil {
			e = now
			t, err = e.join(ctx, a)
		}
	}
	return t, err
}

// join joins the environment's flight, or starts one, and returns what it brings.
func (e *Env) join(ctx context.Context, a ask) (*Token, error) {
	if ctx.Err() != nil {
		return nil, &WaitError{Environment: e.name, Waiting: "for a token", Err: context.Cause(ctx)}
	}
	e.mu.Lock()
	if e.closed || e.retired {
		defer e.mu.Unlock()
		if e.closed {
			return nil, ErrClosed
		}
		return nil, errRetired
	}
	e.noteUseLocked()
	if s := e.usableLocked(a.above); s != nil && !a.explicit {
		e.mu.Unlock()
		return s.token, nil
	}
	if err := e.heldLocked(); err != nil && !a.explicit {
		e.mu.Unlock()
		return nil, err
	}
	f := e.flight
	if f == nil {
		f = e.startLocked(a)
	} else {
		f.joinLocked(a)
	}
	f.waiters++
	if a.special() {
		f.special++
	}
	if a.explicit {
		f.explicits++
	}
	e.mu.Unlock()
	ctx, wait := e.signals.StartWait(ctx)
	t, err := f.waitFor(ctx, a)
	outcome, kind := waited(err)
	wait.End(ctx, outcome, kind, f.linked())
	return t, err
}

// waitFor returns what the flight brings to a caller that has joined it with a. One that didn't ask for a refresh leaves
// with a usable token however that came, also when the flight, which others may have asked for more, brings an error.
func (f *flight) waitFor(ctx context.Context, a ask) (*Token, error) {
	e := f.env
	for {
		e.mu.Lock()
		if s := e.usableLocked(a.above); s != nil && !a.explicit {
			f.leaveLocked(a)
			e.mu.Unlock()
			return s.token, nil
		}
		if e.news == nil {
			e.news = make(chan struct{})
		}
		news := e.news
		e.mu.Unlock()
		select {
		case <-news:
			continue
		case <-f.done:
		case <-ctx.Done():
			return f.giveUp(ctx, a)
		}
		if f.err != nil && !a.explicit {
			e.mu.Lock()
			s := e.usableLocked(a.above)
			e.mu.Unlock()
			if s != nil {
				return s.token, nil
			}
		}
		return f.outcome(a)
	}
}

// outcome is what the flight, which is over, has brought to a caller that joined it with a.
func (f *flight) outcome(a ask) (*Token, error) {
	if f.err != nil && (f.result == nil || f.result.Version <= a.above) {
		return nil, f.err
	}
	return f.result, nil
}

// joinLocked adds a to what the flight is asked for.
func (f *flight) joinLocked(a ask) {
	if a.above > f.above {
		f.askedAt = f.env.m.now()
	}
	f.ask = f.merge(a)
}

// merge adds b to what the flight is asked for.
func (a ask) merge(b ask) ask {
	return ask{
		above:      max(a.above, b.above),
		explicit:   a.explicit || b.explicit,
		called:     max(a.called, b.called),
		background: a.background || b.background,
		rejected:   a.rejected || b.rejected,
		longer:     a.longer || b.longer,
	}
}

// special reports whether a is for more than any usable token.
func (a ask) special() bool { return a.explicit || a.rejected || a.longer }

// startLocked starts a flight for a. After Close its result is ErrClosed.
func (e *Env) startLocked(a ask) *flight {
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &flight{
		env: e, conf: e.conf(), cancel: cancel, poke: make(chan struct{}, 1), done: make(chan struct{}),
		ask: a, base: ask{above: anyVersion}, waitingFor: "for Redis",
		askedAt: e.m.now() - 1, // all that it reads is sent after it, though the clock may not tell
	}
	if a.background {
		f.base = a
	}
	e.flight = f
	e.behindAt.Store(int64(never))
	if !e.m.spawn(func() { f.run(ctx) }) {
		f.finishLocked(nil, ErrClosed)
	}
	return f
}

// giveUp takes a caller's interest back, unless the result is there after all.
func (f *flight) giveUp(ctx context.Context, a ask) (*Token, error) {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	select {
	case <-f.done:
		return f.outcome(a)
	default:
	}
	f.leaveLocked(a)
	return nil, &WaitError{Environment: f.env.name, Waiting: f.waitingFor, Err: context.Cause(ctx)}
}

// leaveLocked takes back a caller's interest in a. What only he asked for, a call of the endpoint within a backoff, say, is
// not to be done in his absence.
func (f *flight) leaveLocked(a ask) {
	f.waiters--
	if a.special() {
		f.special--
		if a.explicit {
			f.explicits--
		}
		f.lessenLocked()
		f.wake() // what others wait for may have been decided long ago
	}
	f.endUnwantedLocked()
}

// lessenLocked reduces what the flight is asked for to what the others want, once the last of those who want more has
// left. A request that is under way is still what they asked for: others may join it.
func (f *flight) lessenLocked() {
	switch {
	case f.sent:
	case f.special == 0:
		f.ask, f.lessened = f.base, true
	case f.explicits == 0 && f.explicit:
		f.explicit, f.lessened = false, true
	}
}

// endUnwantedLocked ends a flight that only waits, when nobody waits for it any more or the manager is closed.
func (f *flight) endUnwantedLocked() {
	var cause error
	switch {
	case f.sent:
		return
	case f.env.closed:
		cause = ErrClosed
	case f.waiters == 0 && !f.background:
		cause = errAbandoned
	default:
		return
	}
	f.endLocked(cause)
}

// endLocked ends a flight whose request wasn't sent.
func (f *flight) endLocked(cause error) {
	f.cancel(cause)
	f.finishLocked(nil, cause)
}

// endOutdatedLocked ends a flight whose settings are no longer those of its environment.
func (f *flight) endOutdatedLocked() {
	if err := f.outdatedLocked(); err != nil {
		f.endLocked(err)
	}
}

// outdatedLocked returns why the flight's settings are no longer those of its environment, nil where they are.
func (f *flight) outdatedLocked() error {
	switch e := f.env; {
	case e.retired:
		return errRetired
	case f.conf != e.conf():
		return errReconfigured
	}
	return nil
}

// finishLocked gives everybody the result. Only the first one counts.
func (f *flight) finishLocked(t *Token, err error) {
	select {
	case <-f.done:
		return
	default:
	}
	f.result, f.err = t, err
	close(f.done)
	if e := f.env; e.flight == f {
		e.flight = nil
		if e.behindAt.Load() == int64(never) {
			e.behindAt.Store(0)
		}
	}
}

// serve ends the flight with the snapshot, if that is above all that was asked for until now, also before Redis lost its history.
func (f *flight) serve() bool {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.usableLocked(f.above)
	if s == nil || f.replaced != 0 && s.token.Version == f.replaced {
		return false
	}
	f.finishLocked(s.token, nil)
	return true
}

// serveOwn is serve for the flight's own new token, known since the instant, which has no snapshot if the manager was closed meanwhile,
// or the environment taken out or changed. Who has joined since for a newer one gets that as an error, and so do all where it was
// invalidated.
func (f *flight) serveOwn(t *Token, since time.Duration) bool {
	if f.serve() {
		return true
	}
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	gone := f.outdatedLocked()
	if e.closed {
		gone = ErrClosed
	}
	if gone == nil {
		return false
	}
	if e.isDroppedLocked(t, since) {
		t = nil
	}
	f.finishLocked(t, gone)
	return true
}

// passOver asks for a token above one that is alive in Redis, but not here, where its life only shrinks.
func (f *flight) passOver(v Version) {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.snap.Load(); s == nil || s.token.Version <= v && !s.suspect {
		f.above = max(f.above, v)
	}
}

// yield ends a flight behind the callers, who have a token; the next one starts in a while. It reports whether it did:
// not where somebody has joined who hasn't.
func (f *flight) yield(err error) (over bool) {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.explicit || e.usableLocked(anyVersion) == nil {
		return false
	}
	e.behindAt.Store(int64(e.m.now() + learnt))
	f.finishLocked(nil, err)
	return true
}

// failAsRead ends the flight with err, which was read by a call sent at the instant, unless a refresh has been asked for
// since: that needs a newer answer, of a read that is later by any clock.
func (f *flight) failAsRead(ctx context.Context, sent time.Duration, err error, v Version, hold time.Duration) (over bool) {
	e := f.env
	e.mu.Lock()
	asked := f.explicit && f.called >= sent
	if !asked {
		f.failLocked(err, v, hold)
	}
	e.mu.Unlock()
	if asked {
		f.wait(ctx, time.Millisecond)
	}
	return !asked
}

// fail ends the flight with err.
func (f *flight) fail(err error, v Version, hold time.Duration) {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	f.failLocked(err, v, hold)
}

// failLocked ends the flight with err, which is also the answer for those who ask within the hold.
func (f *flight) failLocked(err error, v Version, hold time.Duration) {
	if f.conf == f.env.conf() {
		f.env.holdLocked(err, v, min(hold, learnt))
	}
	f.finishLocked(nil, err)
}

func (e *Env) pokeLocked() {
	if e.flight != nil {
		e.flight.wake()
	}
}

// wake ends the flight's wait, or keeps it from waiting the next time.
func (f *flight) wake() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}
