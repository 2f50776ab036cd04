package manager

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/jitter"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
)

// run is the way to a token: read, decide, and then serve, fail, wait or try the lease; and look again after every wait.
func (f *flight) run(ctx context.Context) {
	defer f.cancel(nil)
	defer func() { f.unclaim(ctx) }()
	e, poll := f.env, poll{}
	for ctx.Err() == nil {
		r, heard, sent, err := f.read(ctx)
		if err != nil {
			if f.redisFailed(ctx, &e.reads, sent, err) {
				return
			}
			continue
		}
		e.noteRead(ctx, r)
		e.observe(r, sent)
		if f.step(ctx, f.view(r, sent), &poll) {
			e.lookIfHeardSince(heard)
			return
		}
	}
	e.mu.Lock()
	f.finishLocked(nil, context.Cause(ctx))
	e.mu.Unlock()
}

// step does what is decided on v, and reports whether the flight is over. If not, it has waited as long as makes sense.
func (f *flight) step(ctx context.Context, v view, poll *poll) (over bool) {
	e, r := f.env, v.record
	d := decide(v)
	if d.step != stepAcquire {
		f.unclaim(ctx)
	}
	switch d.step {
	case stepServe:
		if f.serve() {
			return true
		}
		// It ran out between the read and here, or more is asked for; or it has ended here before it does in Redis.
		f.passOver(r.Token.Version)
		f.wait(ctx, poll.shortly())
	case stepFail:
		failure := e.endpointError(r.Failure, r.Now)
		e.noteBackoff(v.sent + failure.RetryAfter)
		if endpoint.IsRefusal(failure.Code) {
			f.holdBack(failure, failure.Attempt)
		}
		var answer error = failure
		if d.reason != "" {
			answer = e.loginError(d.reason, failure)
		}
		return f.failAsRead(ctx, v.sent, answer, failure.Version, failure.RetryAfter)
	case stepLogin:
		return f.failAsRead(ctx, v.sent, e.loginError(d.reason, nil), 0, learnt)
	case stepHoldBack:
		return f.failAsRead(ctx, v.sent, v.local.err.after(v.localPause), 0, v.localPause)
	case stepYield:
		return f.yield(&ConflictError{Environment: e.name, Err: r.TokenErr})
	case stepWait:
		f.waitForOther(ctx, whoRefreshes(r), d.pause, d.soon && poll.again(v.explicit), poll)
	case stepUnwritten:
		return f.unwritten(ctx, v.sent, poll)
	case stepAcquire:
		over, busy := f.acquire(ctx, r, decide(v.plainly()).step == stepAcquire)
		switch {
		case over:
			return true
		case busy != nil:
			f.waitForOther(ctx, holder(busy.Holder), busy.TTL, false, poll)
		default:
			f.wait(ctx, poll.shortly()) // things are no longer as they were read
		}
	}
	return false
}

// waitForOther waits for an event, or as long as polling has it, but no longer than limit; not long for what may be over soon.
func (f *flight) waitForOther(ctx context.Context, who string, limit time.Duration, soon bool, poll *poll) {
	f.waits("for " + who)
	pause := poll.pause(f.env.m.subscribed.Load(), limit)
	if soon {
		pause = poll.shortly()
	}
	poll.next(f.wait(ctx, pause))
}

func whoRefreshes(r *store.Record) string {
	if r.Lock != nil {
		return holder(r.Lock.Holder)
	}
	if r.Grant != nil && r.Grant.Taken != 0 {
		name, _, _ := strings.Cut(r.Grant.TakenBy, "|")
		return "the outcome of the refresh token's use by " + cmp.Or(name, "somebody without a name")
	}
	if r.Sealed != nil {
		return "a token that can't be read with the keys here to be old enough"
	}
	return "a token of another configuration to be old enough"
}

func holder(name string) string {
	return cmp.Or(name, "somebody without a name") + ", which is refreshing it"
}

func (f *flight) waits(what string) {
	f.env.mu.Lock()
	f.waitingFor = what
	f.env.mu.Unlock()
}

// view gathers what decide looks at.
func (f *flight) view(r *store.Record, sent time.Duration) view {
	e := f.env
	credential, seed := f.credentialIfRefused(r), f.conf.seed() // they look at files
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.m.now()
	if credential != "" && e.local.err != nil && endpoint.IsRefusal(e.local.err.Code) && e.local.credential != credential {
		e.local = local{} // the secret was replaced, in its file: it is tried at once
	}
	f.lessened = false
	if sent > f.askedAt && r.Mark.Issued < f.above && (r.Stored() == nil || r.Stored().Version < f.above) {
		// Redis lost its history, and not just the mark: what it issues from here on may be lower.
		f.above, f.replaced = anyVersion, f.above
	}
	// Since when, by Redis's clock, in terms of ours: at the latest the age before the reply, at the earliest before the
	// request. The earliest, so that nothing older than the call passes for its outcome.
	since := func(t time.Time) time.Duration { return sent - r.Now.Sub(t) }
	if f.explicit && f.above == anyVersion && r.Stored() != nil && since(r.Stored().IssuedAt) < f.called {
		f.above = r.Stored().Version
	}
	return view{
		record: r, sent: sent, policy: f.conf.policy, fingerprint: f.conf.fingerprint, credential: credential,
		above:        f.above,
		base:         min(f.base.above, f.above),
		explicit:     f.explicit,
		failureIsOld: f.explicit && r.Failure != nil && since(r.Failure.FailedAt) < f.called,
		hasUsable:    e.usableLocked(anyVersion) != nil,
		local:        e.local,
		localPause:   e.local.until - now,
		replaceAfter: e.conflict.wait(now),
		grant:        e.grantViewLocked(f.conf, seed),
	}
}

// credentialIfRefused returns the credential's digest where it matters: where one was refused, as r or this replica has it.
func (f *flight) credentialIfRefused(r *store.Record) string {
	e := f.env
	e.mu.Lock()
	refused := e.local.err != nil && endpoint.IsRefusal(e.local.err.Code)
	e.mu.Unlock()
	if !refused && (r.Failure == nil || !endpoint.IsRefusal(r.Failure.Code)) {
		return ""
	}
	return f.conf.credential()
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
	woken bool // something ended the last one
	short int  // looks that nothing gave reason for
}

// shortLooks is how often a Refresh looks again, unasked, for a lease that is about to be given back.
const shortLooks = 3

// again reports whether to look again shortly for what may be over in a moment: once after each event, which the lease outlives;
// and, for a Refresh that has come after the event, a few times. Others needn't: what is settled is their answer.
func (p *poll) again(explicit bool) bool {
	if !p.woken && explicit && p.short < shortLooks {
		p.short++
		return true
	}
	return p.woken
}

func (p *poll) next(woken bool) {
	p.woken = woken
	if p.quiet++; woken {
		p.quiet = 0
	}
}

// shortly is a pause for what is about to be over, spread so that replicas don't go in step.
func (p *poll) shortly() time.Duration { return 25*time.Millisecond + jitter.N(50*time.Millisecond) }

// pause is 250 to 750 ms or, where a subscription would wake us, first 1 to 2 s and then a little above 2 s, but no longer than
// until the lease ends.
func (p *poll) pause(subscribed bool, lease time.Duration) time.Duration {
	var d time.Duration
	switch {
	case !subscribed:
		d = 250*time.Millisecond + jitter.N(500*time.Millisecond)
	case p.quiet == 0:
		d = time.Second + jitter.N(time.Second)
	default:
		d = 2*time.Second + jitter.N(250*time.Millisecond)
	}
	return min(d, lease+p.shortly())
}

// redisFailed handles an error of Redis, and reports whether the flight is over. It waits a moment where it is not.
func (f *flight) redisFailed(ctx context.Context, calls *health, sent time.Duration, err error) (over bool) {
	if ctx.Err() != nil {
		return false // the flight has ended, which says nothing of Redis
	}
	e := f.env
	if spared, ok := errors.AsType[*sparedError](err); ok {
		sent, err = spared.since, spared.last
	} else {
		e.storeFailed(ctx, err)
	}
	f.waits("for Redis")
	if !calls.failed(e, sent, err) {
		f.wait(ctx, 100*time.Millisecond+jitter.N(100*time.Millisecond))
		return false
	}
	e.mu.Lock()
	e.clearSuspicionLocked()
	e.mu.Unlock()
	if f.serve() {
		return true
	}
	if f.conf.policy.Outage == OutageRefreshAlone && f.alone(ctx) {
		return true
	}
	f.fail(&RedisError{Environment: e.name, Err: err}, 0, learnt)
	return true
}

// acquire tries the lease, unless a claim has it, and makes one attempt with it. It reports whether the flight is over; if not:
// look again, at once or, where the lease is busy, when its holder is done.
func (f *flight) acquire(ctx context.Context, r *store.Record, plain bool) (over bool, busy *lock.BusyError) {
	e := f.env
	if c := &f.claim; c.lease != nil {
		if ctx.Err() != nil || !time.Now().Before(c.lease.Until()) { // nobody waits for it, or this process was stopped for too long
			f.unclaim(ctx)
			return ctx.Err() != nil, nil
		}
		defer c.leave()
		a := f.newAttempt(r, c.lease, plain)
		a.issue, a.at = c.issue, c.sent
		c.lease = nil
		return f.attempt(ctx, a, c.began), nil
	}
	f.waits("for its turn at the lease")
	waited, err := e.m.refreshing.take(ctx, f.poke)
	if err != nil {
		return false, nil // to look again
	}
	defer e.m.refreshing.leaveWithin(refreshTakes)()
	f.waits("for the lease")
	began, sent := time.Now(), e.m.now()
	if err := e.m.writes.spare(sent, e.writes.failing.Load(), waited); err != nil && !f.isExplicit() {
		return f.redisFailed(ctx, &e.writes, sent, err), nil
	}
	lease, err := e.m.locker.Try(ctx, e.m.store.Keys(e.name).Lock, f.conf.leaseLength())
	if busy, ok := errors.AsType[*lock.BusyError](err); ok {
		return false, busy
	}
	if err != nil {
		return f.redisFailed(ctx, &e.writes, sent, err), nil
	}
	return f.attempt(ctx, f.newAttempt(r, lease, plain), began), nil
}

// attempt makes an attempt with the lease, for which the flight had begun to ask at the instant, and reports whether the
// flight is over.
func (f *flight) attempt(ctx context.Context, a *attempt, began time.Time) (over bool) {
	e := f.env
	ctx, a.signal = e.signals.StartRefresh(ctx, began)
	f.noteRefresh(a.signal.Context())
	a.signal.Event("lease acquired")
	over = a.run(ctx)
	if !a.kept {
		a.release(ctx)
	}
	a.signal.End(ctx, a.outcome, a.kind)
	if !over {
		e.mu.Lock()
		f.sent = false
		f.lessenLocked()
		f.endUnwantedLocked()
		f.endOutdatedLocked()
		e.mu.Unlock()
	}
	return over
}
