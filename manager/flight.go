package manager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
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
}

// A flight is a replica's one way to a new token of an environment, shared by all who wait for it. It runs in a goroutine
// of its own, under no caller's context: it ends with its last caller while it only waits, and never while a request is
// under way.
type flight struct {
	env    *Env
	cancel context.CancelCauseFunc
	poke   chan struct{} // "look again"; buffered, so that a poke between a look and the wait isn't lost
	done   chan struct{} // closed when result and err are set

	// guarded by env.mu
	ask                      // the most that is asked for
	askedAt    time.Duration // since when that is asked for
	waiters    int
	sent       bool   // the request is under way: no end but its own
	waitingFor string // for the error of a caller that gives up
	result     *Token // set before done is closed, and so is err
	err        error
}

var errAbandoned = errors.New("onetoken: nobody waits for it any more")

// await joins the environment's flight, or starts one, and returns what it brings.
func (e *Env) await(ctx context.Context, a ask) (*Token, error) {
	if ctx.Err() != nil {
		return nil, &WaitError{Environment: e.name, Waiting: "for a token", Err: context.Cause(ctx)}
	}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil, ErrClosed
	}
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
	e.mu.Unlock()
	return f.waitFor(ctx, a)
}

// waitFor returns what the flight brings to a caller that has joined it with a. One that didn't ask for a refresh leaves
// with a usable token however that came, also when the flight, which others may have asked for more, brings an error.
func (f *flight) waitFor(ctx context.Context, a ask) (*Token, error) {
	e := f.env
	for {
		e.mu.Lock()
		if s := e.usableLocked(a.above); s != nil && !a.explicit {
			f.leaveLocked()
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
			return f.giveUp(ctx)
		}
		if f.err != nil && !a.explicit {
			e.mu.Lock()
			s := e.usableLocked(a.above)
			e.mu.Unlock()
			if s != nil {
				return s.token, nil
			}
		}
		return f.result, f.err
	}
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
	}
}

// startLocked starts a flight for a. After Close its result is ErrClosed.
func (e *Env) startLocked(a ask) *flight {
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &flight{
		env: e, cancel: cancel, poke: make(chan struct{}, 1), done: make(chan struct{}),
		ask: a, askedAt: e.m.now(), waitingFor: "for Redis",
	}
	e.flight = f
	e.behindAt.Store(int64(never))
	if !e.m.spawn(func() { f.run(ctx) }) {
		f.finishLocked(nil, ErrClosed)
	}
	return f
}

// giveUp takes a caller's interest back, unless the result is there after all.
func (f *flight) giveUp(ctx context.Context) (*Token, error) {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	select {
	case <-f.done:
		return f.result, f.err
	default:
	}
	f.leaveLocked()
	return nil, &WaitError{Environment: f.env.name, Waiting: f.waitingFor, Err: context.Cause(ctx)}
}

// leaveLocked takes a caller's interest back.
func (f *flight) leaveLocked() {
	f.waiters--
	f.endUnwantedLocked()
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
	f.cancel(cause)
	f.finishLocked(nil, cause)
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

// serve ends the flight with the snapshot, if that is above all that was asked for until now.
func (f *flight) serve() bool {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.usableLocked(f.above)
	if s == nil {
		return false
	}
	f.finishLocked(s.token, nil)
	return true
}

// serveOwn is serve for the flight's own new token, which has no snapshot if the manager was closed meanwhile.
func (f *flight) serveOwn(t *Token) bool {
	if f.serve() {
		return true
	}
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		f.finishLocked(t, nil)
	}
	return e.closed
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
// since: that needs a newer answer.
func (f *flight) failAsRead(sent time.Duration, err error, v Version, hold time.Duration) (over bool) {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.explicit && f.called >= sent {
		return false
	}
	f.failLocked(err, v, hold)
	return true
}

// fail ends the flight with err.
func (f *flight) fail(err error, v Version, hold time.Duration) {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	f.failLocked(err, v, hold)
}

// failLocked ends the flight with err, which is also the answer for those who ask within the hold.
func (f *flight) failLocked(err error, v Version, hold time.Duration) {
	f.env.holdLocked(err, v, min(hold, learnt))
	f.finishLocked(nil, err)
}

func (e *Env) pokeLocked() {
	if e.flight != nil {
		select {
		case e.flight.poke <- struct{}{}:
		default:
		}
	}
}

// run is the refresh as DESIGN has it: read, decide, and then serve, fail, wait or try the lease; and look again after
// every wait.
func (f *flight) run(ctx context.Context) {
	defer f.cancel(nil)
	e, poll := f.env, poll{}
	for ctx.Err() == nil {
		sent := e.m.now()
		r, err := e.m.store.Read(ctx, e.name)
		if err != nil {
			if f.redisFailed(ctx, &e.reads, sent, err) {
				return
			}
			continue
		}
		e.observe(r, sent)
		v := f.view(r, sent)
		d := decide(v)
		switch d.step {
		case stepServe:
			if f.serve() {
				return
			}
			// It ran out between the read and here, or more is asked for; or it has ended here before it does in Redis.
			f.passOver(r.Token.Version)
			f.wait(ctx, poll.shortly())
		case stepFail:
			failure := e.endpointError(r.Failure, r.Now)
			if endpoint.IsRefusal(failure.Code) {
				e.holdBack(failure, failure.Attempt)
			}
			if f.failAsRead(sent, failure, failure.Version, failure.RetryAfter) {
				return
			}
		case stepHoldBack:
			if f.failAsRead(sent, v.local.err.after(v.localPause), 0, v.localPause) {
				return
			}
		case stepYield:
			if f.yield(&ConflictError{Environment: e.name}) {
				return
			}
		case stepWait:
			f.waits("for " + whoRefreshes(r))
			poll.next(f.wait(ctx, poll.pause(e.m.subscribed.Load(), d.pause)))
		case stepAcquire:
			over, busy := f.acquire(ctx, r)
			if over {
				return
			}
			if busy == nil {
				f.wait(ctx, poll.shortly()) // things are no longer as they were read
				continue
			}
			f.waits("for " + busy.Holder + ", which is refreshing it")
			poll.next(f.wait(ctx, poll.pause(e.m.subscribed.Load(), busy.TTL)))
		}
	}
	e.mu.Lock()
	f.finishLocked(nil, context.Cause(ctx))
	e.mu.Unlock()
}

func whoRefreshes(r *store.Record) string {
	if r.Lock != nil && r.Lock.Holder != "" {
		return r.Lock.Holder + ", which is refreshing it"
	}
	return "a token of another configuration to be old enough"
}

func (f *flight) waits(what string) {
	f.env.mu.Lock()
	f.waitingFor = what
	f.env.mu.Unlock()
}

// view gathers what decide looks at.
func (f *flight) view(r *store.Record, sent time.Duration) view {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.m.now()
	if sent > f.askedAt && r.Mark.Issued < f.above {
		f.above = anyVersion // Redis lost its history: what it issues from here on may be lower
	}
	// Since when, by Redis's clock, in terms of ours: at the latest the age before the reply, at the earliest before the
	// request. The earliest, so that nothing older than the call passes for its outcome.
	since := func(t time.Time) time.Duration { return sent - r.Now.Sub(t) }
	if f.explicit && f.above == anyVersion && r.Token != nil && since(r.Token.IssuedAt) < f.called {
		f.above = r.Token.Version
	}
	return view{
		record: r, policy: e.policy, fingerprint: e.fingerprint, credential: e.credential,
		above:        f.above,
		explicit:     f.explicit,
		failureIsOld: f.explicit && r.Failure != nil && since(r.Failure.FailedAt) < f.called,
		hasUsable:    e.usableLocked(anyVersion) != nil,
		local:        e.local,
		localPause:   e.local.until - now,
		replaceAfter: e.conflict.wait(now),
	}
}

// wait returns after d at the latest, and reports whether it was woken before.
func (f *flight) wait(ctx context.Context, d time.Duration) (woken bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-f.poke:
		return true
	case <-ctx.Done():
		return false
	}
}

// A poll spaces the looks of a flight that waits for another replica: events do the waking, polling is the net.
type poll struct {
	quiet int  // waits in a row that nothing ended
	woken bool // something was heard, but not what we wait for: it may follow at once
}

func (p *poll) next(woken bool) {
	p.woken = woken
	if p.quiet++; woken {
		p.quiet = 0
	}
}

// shortly is a pause for what is about to be over, spread so that replicas don't go in step.
func (p *poll) shortly() time.Duration { return 25*time.Millisecond + rand.N(50*time.Millisecond) }

// pause is 250 to 750 ms, or up to 2 s where a subscription would wake us, but no longer than until the lease ends.
func (p *poll) pause(subscribed bool, lease time.Duration) time.Duration {
	mean := 500 * time.Millisecond
	if subscribed {
		mean <<= min(p.quiet, 2)
	}
	d := min(mean/2+rand.N(mean), 2*time.Second)
	if p.woken {
		d = p.shortly()
	}
	return min(d, lease+p.shortly())
}

// redisFailed handles an error of Redis, and reports whether the flight is over. It waits a moment where it is not.
func (f *flight) redisFailed(ctx context.Context, calls *health, sent time.Duration, err error) (over bool) {
	if ctx.Err() != nil {
		return false // the flight has ended, which says nothing of Redis
	}
	e := f.env
	f.waits("for Redis")
	if !calls.failed(e, sent, err) {
		f.wait(ctx, 100*time.Millisecond+rand.N(100*time.Millisecond))
		return false
	}
	e.mu.Lock()
	e.clearSuspicionLocked()
	e.mu.Unlock()
	if f.serve() {
		return true
	}
	if e.policy.Outage == OutageRefreshAlone && f.alone(ctx) {
		return true
	}
	f.fail(&RedisError{Environment: e.name, Err: err}, 0, learnt)
	return true
}

// acquire tries the lease and, with it, makes one attempt. It reports whether the flight is over; if not: look again,
// at once or, where the lease is busy, when its holder is done.
func (f *flight) acquire(ctx context.Context, r *store.Record) (over bool, busy *lock.BusyError) {
	e := f.env
	f.waits("for the lease")
	sent := e.m.now()
	lease, err := e.m.locker.Try(ctx, e.m.store.Keys(e.name).Lock, e.policy.Lease)
	if busy, ok := errors.AsType[*lock.BusyError](err); ok {
		return false, busy
	}
	if err != nil {
		return f.redisFailed(ctx, &e.writes, sent, err), nil
	}
	a := &attempt{flight: f, env: e, lease: lease, seen: r, log: e.log}
	over = a.run(ctx)
	a.release(ctx)
	if !over {
		e.mu.Lock()
		f.sent = false
		f.endUnwantedLocked()
		e.mu.Unlock()
	}
	return over, nil
}

// A ConflictError says that the stored token is of another configuration, while this replica has one that it can use. It
// ends a refresh behind the callers; no caller gets it.
type ConflictError struct{ Environment string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("onetoken: %s: the stored token is of another configuration (a deploy under way, or two services in one namespace)", e.Environment)
}
