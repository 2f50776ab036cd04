package manager

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// An attempt is one request to the token endpoint, under the lease, with a version of its own.
type attempt struct {
	flight *flight
	env    *Env
	conf   *resolved // the flight's
	lease  *lock.Lease
	seen   *store.Record // the read that it is based on
	log    *slog.Logger
	signal telemetry.Refresh

	outcome, kind string // how it ended and, of a failure, which

	issue store.Issue
	at    time.Duration // an instant before the version was issued
	kept  bool          // the lease is released by whoever goes on with the write
	plain bool          // it would be made without those, too, who want more than any usable token

	// Where a refresh token is used.
	use          *store.Use
	refreshToken Secret          // that which is used
	label        string          // of the configured one, used now or before; "" where there is none
	grant        *store.NewGrant // what is good from now on, nil until it is known
	grantKept    bool            // that is settled in Redis
}

func (f *flight) newAttempt(seen *store.Record, lease *lock.Lease, plain bool) *attempt {
	return &attempt{flight: f, env: f.env, conf: f.conf, lease: lease, seen: seen, log: f.env.log, plain: plain}
}

// writes is how often a write of unknown outcome is run before the callers are answered without it.
const writes = 2

// run makes the attempt and reports whether its flight is over. If not, things are no longer as they were read.
func (a *attempt) run(ctx context.Context) (over bool) {
	e := a.env
	var err error
	if a.issue.Version == 0 { // else it came with the lease
		a.at = e.m.now()
		err = a.take(ctx)
	}
	if errors.Is(err, store.ErrLost) || errors.Is(err, store.ErrChanged) {
		a.ends(outcomeOf(err), "")
		return false
	}
	if unreadable, ok := errors.AsType[*store.UnreadableError](err); ok {
		a.unreadable(unreadable)
		return true
	}
	if err != nil {
		if a.ends(outcomeRedis, redisKind(err)); ctx.Err() != nil {
			a.ends(outcomeUnwanted, "") // which says nothing of Redis
		}
		a.release(ctx) // before the pause: others may have more luck
		return a.flight.redisFailed(ctx, &e.writes, a.at, err)
	}
	e.writes.ok(e)
	a.signal.Issued(int64(a.issue.Version))
	if done, over := a.renew(ctx); done {
		return over
	}
	if ok, over := a.flight.send(a.plain); !ok {
		a.ends(outcomeUnwanted, "")
		a.unused(ctx)
		return over // nobody wants it any more, or not now
	}
	// From here on it is finished, whoever goes, and though the lease be lost: the answer may be the only one there is.
	ctx = context.WithoutCancel(ctx)
	reply, took, failed := e.ask(ctx, a.conf, a.source())
	a.log = a.log.With("version", a.issue.Version, "took_ms", took.Milliseconds())
	a.noteLostLease()
	if failed != nil {
		return a.failed(ctx, failed)
	}
	return a.fetched(ctx, reply, took)
}

// renew renews the lease right before a refresh token is spent, or else it is not. It reports whether that ends the attempt, and if
// so whether its flight.
func (a *attempt) renew(ctx context.Context) (done, over bool) {
	if a.use == nil {
		return false, false
	}
	sent := a.env.m.now()
	err := a.lease.Renew(ctx)
	if err == nil {
		return false, false
	}
	a.unused(ctx)
	if _, unavailable := errors.AsType[*lock.UnavailableError](err); unavailable {
		a.ends(outcomeRedis, redisKind(err))
		a.release(ctx)
		return true, a.flight.redisFailed(ctx, &a.env.writes, sent, err)
	}
	a.ends(outcomeLost, "")
	return true, false
}

// ask asks the source, within the endpoint timeout. Time in which the process was stopped doesn't count.
func (e *Env) ask(ctx context.Context, conf *resolved, source Source) (reply *Reply, took time.Duration, failed *endpoint.Error) {
	ctx, cancel := unhurried(ctx, conf.policy.EndpointTimeout, e.m.now)
	defer cancel()
	ctx, request := e.signals.StartRequest(ctx, conf.server)
	asked := e.m.now()
	reply, failed = fetch(ctx, source)
	took = e.m.now() - asked
	if failed != nil {
		request.End(ctx, took, telemetry.ErrorType(failed.Code), failed.Status)
	} else {
		request.End(ctx, took, "", 0)
	}
	return reply, took, failed
}

// send marks the flight as one that doesn't end with its callers. It is not ok if the flight has ended, or if those have
// left for whom alone the endpoint was to be asked (not plain): then it is to be decided again.
func (f *flight) send(plain bool) (ok, over bool) {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	return f.sendLocked(plain)
}

func (f *flight) sendLocked(plain bool) (ok, over bool) {
	select {
	case <-f.done:
		return false, true
	default:
	}
	if f.env.closed || f.lessened && !plain {
		return false, f.env.closed
	}
	f.sent, f.waitingFor = true, "for the token endpoint, which this replica has asked"
	if f.rejected {
		f.env.rejected = f.above
	}
	return true, false
}

func (a *attempt) noteLostLease() {
	select {
	case <-a.lease.Lost():
		a.log.Warn("the lease was lost while the token endpoint was asked", "outcome", "lease_lost")
	default:
	}
}

// fetched stores a token and hands it out.
func (a *attempt) fetched(ctx context.Context, reply *Reply, took time.Duration) (over bool) {
	e := a.env
	a.granted(reply.RefreshToken, reply.RefreshExpiresIn)
	life := a.conf.policy.life(reply.ExpiresIn)
	t := a.conf.newToken(e, reply, a.issue, life, took)
	var ttl, sent time.Duration
	err := store.ErrExpired
	if life >= minLife && a.lasts(life, a.at+life) {
		ttl, sent, err = a.put(ctx, life, t)
	}
	switch {
	case err == nil:
		a.ends(outcomeStored, "")
		a.log.Info("refreshed", "outcome", outcomeStored)
		expires := a.expires(ctx, life, sent+min(ttl, life))
		a.publish(e.newStoredSnapshot(t, expires), sent)
		return a.flight.serveOwn(t, sent) || a.tooShort(life, expires)
	case errors.Is(err, store.ErrOlder), errors.Is(err, store.ErrDropped):
		a.ends(outcomeObsolete, "")
		e.fenced(ctx, "token", err)
		a.log.Info("the token came too late", "outcome", outcomeObsolete, "error", err)
		return false
	case errors.Is(err, store.ErrExpired):
		return a.failed(ctx, &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token's life was over on arrival, or too short to be used"})
	default:
		// Whether it is stored isn't known: the callers get it, and the write goes on until it is.
		a.ends(outcomeUnknown, redisKind(err))
		a.log.Warn("the token could not be stored yet", "outcome", outcomeUnknown, "error", err)
		e.writes.failed(e, sent, err)
		s := e.newSnapshot(t, a.at+life)
		a.publish(s, a.at)
		until := min(e.m.now()+keepLease, s.quietUntil) // when the next one is due, it is needed
		if !passes(err) {
			until = 0
		}
		a.kept = true
		a.later(err, func() { a.putLater(ctx, life, t, until) })
		return a.flight.serveOwn(t, a.at) || a.tooShort(life, a.at+life)
	}
}

// lasts reports whether a token that ends at the instant can still be handed out for a while.
func (a *attempt) lasts(life, expires time.Duration) bool {
	return expires-a.env.m.now() > a.conf.policy.margin(life)
}

// expires is when the token, stored, ends: at the instant, by the write's own reply. A write that took long says less than there is
// left. Where that would be too little to be handed out, a look says more, as it does to all others.
func (a *attempt) expires(ctx context.Context, life, written time.Duration) time.Duration {
	if a.lasts(life, written) {
		return written
	}
	e := a.env
	sent := e.m.now()
	r, err := e.m.store.Read(ctx, e.name)
	if err != nil || r.Token == nil || r.Token.Version != a.issue.Version {
		return written
	}
	return max(written, sent+min(r.TTL, life))
}

// tooShort ends the flight if the token, stored, is already too near its end to be handed out: to ask at once for the next
// one would be a loop. The fleet is not told: a failure no newer than the stored token is none.
func (a *attempt) tooShort(life, expires time.Duration) (over bool) {
	if a.lasts(life, expires) {
		return false
	}
	failed := &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token was too near its end once it was stored"}
	a.ends(outcomeFailed, failed.Code)
	a.flight.failHere(failed, a.issue.Version, a.localAttempt())
	return true
}

// failHere ends the flight with a failure that Redis isn't told of: this replica holds back by itself.
func (f *flight) failHere(failed *endpoint.Error, v Version, attempt int) {
	e := f.env
	answer := &EndpointError{
		Environment: e.name, Code: failed.Code, Status: failed.Status, Message: failed.Message, Attempt: attempt,
		RetryAfter: f.conf.policy.backoff(failed.Code, attempt, failed.RetryAfter), Version: v, ReportedBy: e.m.replica, Err: failed.Err,
	}
	e.log.Warn("no token", "outcome", outcomeFailed, "version", v, "code", answer.Code, "error", answer)
	f.holdBack(answer, attempt)
	f.fail(answer, 0, answer.RetryAfter)
}

func (r *resolved) newToken(e *Env, reply *Reply, at store.Issue, life, took time.Duration) *Token {
	issuedAt := at.At.Truncate(time.Millisecond) // as it stands in Redis
	t := Token{
		AccessToken: reply.AccessToken, TokenType: reply.TokenType, Scope: reply.Scope,
		IssuedAt: issuedAt, ExpiresAt: issuedAt.Add(life),
		Version: at.Version, RefreshedBy: e.m.replica, Took: took, Config: r.fingerprint,
	}
	if t.TokenType == "" {
		t.TokenType = "Bearer"
	}
	return store.NewToken(t)
}

// put runs the write until its outcome is known, at most a few times.
func (a *attempt) put(ctx context.Context, life time.Duration, t *Token) (ttl, sent time.Duration, err error) {
	for range writes {
		sent = a.env.m.now()
		ttl, err = a.env.m.store.PutWithGrant(ctx, a.env.name, a.issue, life, t, a.grant)
		a.noteGrant(err)
		if !isUnknown(err) {
			a.env.writes.ok(a.env)
			break
		}
		a.env.storeFailed(ctx, err)
	}
	return ttl, sent, err
}

// isUnknown reports whether err leaves open if a write was done.
func isUnknown(err error) bool {
	_, ok := errors.AsType[*store.StatusError](err)
	return ok
}

// publish publishes the attempt's own token, known by a call that was sent at the instant.
func (a *attempt) publish(s *snapshot, sent time.Duration) {
	e := a.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.conf.judge(a.seen) == foreign {
		e.conflict = e.conflict.grown(e.m.now())
	}
	// History may have been lost between our snapshot and the version that was just issued above it.
	e.publishLocked(s, sent, func(old *snapshot) bool { return old.published < a.at && a.issue.Version < old.token.Version })
}

// keepLease is how long the lease is kept while a token can't be stored: a slot that moves, a master that is replaced.
const keepLease = 10 * time.Second

// passes reports whether what keeps a token from being stored may be over in a moment. Where others would fare no better,
// as with rights that are missing, the lease kept would make a queue of them.
func passes(err error) bool {
	if status, ok := errors.AsType[*store.StatusError](err); ok && status.Op == "seal" {
		return false
	}
	answer, answered := errors.AsType[redis.Error](err)
	if !answered {
		return true
	}
	return slices.ContainsFunc(
		[]string{"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "NOREPLICAS", "BUSY"},
		func(prefix string) bool { return redis.HasErrorPrefix(answer, prefix) },
	)
}

// putLater runs the write until its outcome is known or the token's life is over: but a refresh token that came with it, which
// nobody else has, is written for as long as it takes.
func (a *attempt) putLater(ctx context.Context, life time.Duration, t *Token, until time.Duration) {
	e, end := a.env, a.at+life
	if a.grant != nil {
		end = never
	}
	a.writeLater(ctx, end, until, func() (settled bool) {
		sent := e.m.now()
		ttl, err := e.m.store.PutWithGrant(ctx, e.name, a.issue, life, t, a.grant)
		a.noteGrant(err)
		if err == nil {
			s := e.newStoredSnapshot(t, sent+min(ttl, life))
			e.mu.Lock()
			e.publishLocked(s, sent, notLost)
			e.mu.Unlock()
		}
		if isUnknown(err) {
			e.storeFailed(ctx, err)
			return false
		}
		e.fenced(ctx, "token", err)
		e.log.Info("the token's fate is settled", "outcome", "stored_late", "version", a.issue.Version, "error", err)
		return true
	})
}

// writeLater runs write until it is settled or the instant end has come. Close gives it one last try, or some more where
// nobody else has what is written. At first it keeps the lease, but not beyond the instant until: whoever took it meanwhile would
// ask the endpoint for what has been fetched.
func (a *attempt) writeLater(ctx context.Context, end, until time.Duration, write func() (settled bool)) {
	e, keeping, longest := a.env, true, time.Second
	done, closeBy := e.m.done, never
	defer func() { a.release(ctx) }() // a second release does nothing
	for pause := 250 * time.Millisecond; e.m.now() < end; pause = min(2*pause, longest) {
		if keeping && e.m.now() >= until {
			a.release(ctx)
			keeping, longest = false, 5*time.Second
		}
		next := pause
		if keeping {
			next = min(pause, until-e.m.now())
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-done:
			timer.Stop()
			done, closeBy = nil, e.m.now()
			if a.grant != nil {
				closeBy += closeReserve
			}
			pause, longest = 125*time.Millisecond, 250*time.Millisecond
		}
		if write() {
			e.writes.ok(e)
			e.lookAt(false)
			return
		}
		if e.m.now() >= closeBy {
			a.lost()
			return
		}
	}
}

// failed records a failure for the fleet and answers the callers.
func (a *attempt) failed(ctx context.Context, failed *endpoint.Error) (over bool) {
	e := a.env
	if !failed.RefreshToken.IsEmpty() { // of no use but for the next attempt
		a.granted(failed.RefreshToken, failed.RefreshExpiresIn)
	}
	a.keep(ctx)
	f := store.Failure{
		Code: failed.Code, Status: failed.Status, Message: failed.Message, Version: a.issue.Version,
		Config: a.conf.fingerprint, Credential: a.conf.credential(), ReportedBy: e.m.replica,
	}
	local := f.Code == endpoint.CodeUnreachable
	if local {
		// Ours alone: others may be able to reach it. They hear of it when the lease is free.
		a.release(ctx)
		f.Attempt, f.ReportedBy = a.localAttempt(), withReporter(a.seen.Failure, e.m.replica)
	} else {
		f.Attempt = attemptNumber(a.seen.Failure, a.conf.fingerprint, a.conf.credential())
	}
	if endpoint.IsRefusal(f.Code) {
		f.Attempt = max(f.Attempt, a.localAttempt())
	}
	backoff := a.conf.policy.backoff(f.Code, f.Attempt, failed.RetryAfter)
	recorded, now, err := a.record(ctx, f, backoff)
	answer := &EndpointError{
		Environment: e.name, Code: f.Code, Status: f.Status, Message: f.Message, Attempt: f.Attempt,
		RetryAfter: backoff, Version: f.Version, ReportedBy: e.m.replica, Err: failed.Err,
	}
	if err == nil {
		answer.RetryAt, answer.RetryAfter = recorded.RetryAt, min(recorded.RetryAt.Sub(now), backoff) // the clock may be set back
	}
	a.ends(outcomeFailed, telemetry.ErrorType(f.Code))
	a.log.Warn("no token", "outcome", outcomeFailed, "code", f.Code, "status", f.Status, "attempt", f.Attempt,
		"retry_at", answer.RetryAt, "error", answer)
	if errors.Is(err, store.ErrChanged) { // another refresh token is there: that is the one to ask with
		a.ends(outcomeChanged, "")
		a.log.Warn("the refresh token was refused, and another one is there", "outcome", outcomeChanged, "configured", a.use.Label != "")
		return false
	}
	if errors.Is(err, store.ErrOlder) && !local {
		a.ends(outcomeObsolete, "")
		e.fenced(ctx, "failure", err)
		return false // something newer is there: that is the answer
	}
	e.noteBackoff(e.m.now() + answer.RetryAfter)
	if local || err != nil || endpoint.IsRefusal(f.Code) { // nobody else knows, or may not for long
		a.flight.holdBack(answer, f.Attempt)
	}
	var end error = answer
	if a.use != nil {
		a.over()
		if a.use.Refused {
			end = e.loginError("the refresh token was refused ("+f.Code+")", answer)
		}
	}
	if endpoint.IsRefusal(f.Code) {
		e.lookUpAgain() //nolint:contextcheck // under no caller's
	}
	a.flight.fail(end, f.Version, backoff)
	return true
}

// record writes the failure, and runs the write again where its outcome isn't known.
func (a *attempt) record(ctx context.Context, f store.Failure, backoff time.Duration) (*store.Failure, time.Time, error) {
	keep := 2 * a.conf.policy.longestOf(f.Code)
	use := a.use
	if use != nil {
		use.Refused = f.Code == grantRefused
	}
	if a.grant != nil && !a.grantKept { // its outcome is the new one, which isn't there yet
		use = nil
	}
	for n := 1; ; n++ {
		recorded, now, err := a.env.m.store.FailWithGrant(ctx, a.env.name, f, backoff, keep, use)
		if isUnknown(err) {
			a.env.storeFailed(ctx, err)
		}
		if n == writes || !isUnknown(err) {
			return recorded, now, err
		}
	}
}

// localAttempt continues this replica's own row or, once so many couldn't reach the endpoint that it binds all, theirs.
func (a *attempt) localAttempt() int {
	a.env.mu.Lock()
	defer a.env.mu.Unlock()
	n := a.env.local.attempt + 1
	if prev := a.seen.Failure; prev != nil && prev.Code == endpoint.CodeUnreachable && len(reporters(prev)) >= unreachableQuorum {
		n = max(n, prev.Attempt+1)
	}
	return n
}

// holdBack keeps this replica from the endpoint, and nobody else: with the settings that the flight has.
func (f *flight) holdBack(err *EndpointError, attempt int) {
	e, credential := f.env, f.conf.credential()
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.conf != e.conf() {
		return
	}
	e.local = local{attempt: attempt, until: e.m.now() + err.RetryAfter, err: err, credential: credential}
	e.noteBackoff(e.local.until)
}

// release gives the lease back, once.
func (a *attempt) release(ctx context.Context) {
	if err := a.lease.Release(ctx); err != nil {
		if errors.Is(err, lock.ErrLost) {
			a.env.signals.LeaseLost(ctx)
		} else {
			a.env.storeFailed(ctx, err)
		}
		a.log.Warn("the lease could not be released", "outcome", "release_failed", "error", err)
	}
}

// after returns e as it is d before the next try.
func (e *EndpointError) after(d time.Duration) *EndpointError {
	c := *e
	c.RetryAfter = d
	return &c
}

// endpointError makes an error of a shared failure, read when Redis's clock was now.
func (e *Env) endpointError(f *store.Failure, now time.Time) *EndpointError {
	return &EndpointError{
		Environment: e.name, Code: f.Code, Status: f.Status, Message: f.Message, Attempt: f.Attempt,
		RetryAt: f.RetryAt, RetryAfter: f.RetryAt.Sub(now), Version: f.Version, ReportedBy: f.ReportedBy,
	}
}
