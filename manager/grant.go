package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onetoken/onetoken/internal/deadline"
	"github.com/onetoken/onetoken/internal/digest"
	"github.com/onetoken/onetoken/internal/jitter"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

// A Refresher exchanges a refresh token for an access token (RFC 6749 §6): a [Source] must be one where the environment's grant
// is [RefreshToken]. It is called like a Source. Where refresh tokens rotate, a call spends the one that it is given: two uses of one
// may end with the account locked out. The reply has the one that is good from then on, or none where that is still the
// same; an *[endpoint.Error] may have one, too.
type Refresher interface {
	Refresh(ctx context.Context, refreshToken Secret) (*Reply, error)
}

const (
	// sendReserve is how much longer than the endpoint timeout a lease lasts where a refresh token is used: from the renewal
	// before the request to the write of its answer.
	sendReserve = 2 * time.Second
	// takenReserve is how much longer still others leave a refresh token alone whose use has no outcome. Its user may have been
	// cut off from Redis with the answer in its hand, or have died.
	takenReserve = 30 * time.Second
	// closeReserve is how long Close tries to write a refresh token that nobody else has.
	closeReserve = 5 * time.Second
)

// leaseLength is the lease's. A refresh token is used by one alone: no request with it may outlive its lease.
func (r *resolved) leaseLength() time.Duration {
	if r.rotating == nil {
		return r.policy.Lease
	}
	return max(r.policy.Lease, r.policy.EndpointTimeout+sendReserve)
}

// seedLabel tells a configured refresh token from another, "" where there is none.
func seedLabel(seed Secret) string {
	if seed.IsEmpty() {
		return ""
	}
	return digest.Of([]string{"seed", seed.Reveal()})[:16]
}

// A grantView is what a flight's next step depends on where a refresh token is used.
type grantView struct {
	used   bool   // whether one is
	label  string // of the configured one, "" where there is none
	client string // digest of the client that it must have been given to
	over   string // lock value of an attempt of this replica that is over, though Redis may not know
	held   bool   // this replica has a newer one that it couldn't write yet
	closed string // version of a grant that doesn't open here, "" where none is known
}

// seeds reports whether the configured refresh token is the one to use: where there is no grant, or it is a new one.
func (v grantView) seeds(g *store.Grant) bool { return v.label != "" && !g.HasLabel(v.label) }

// needsLogin says why no refresh token can be used until a person brings one; "" where one can.
func (v grantView) needsLogin(g *store.Grant) string {
	switch {
	case !v.used:
		return ""
	case g != nil && g.Err != nil:
		return g.Err.Error()
	case g != nil && v.closed != "" && v.closed == g.Version.String(): // also where a new one is configured: it isn't overwritten
		return "the stored refresh token doesn't open with the configured keys: configure the one that sealed it"
	case v.seeds(g):
		return ""
	case g == nil || g.Version == 0 && g.Refused == 0:
		if v.label != "" { // taken, and then lost with the one who took it
			return ""
		}
		return "there is no refresh token"
	case g.Reason == store.ReasonLogout:
		return "somebody has logged out"
	case g.Refused != 0:
		return "the refresh token was refused (" + g.Reason + ")"
	case g.Client != v.client:
		return "the stored refresh token was given to another client, or by another endpoint"
	}
	return ""
}

// refusal is needsLogin for whoever knows no configuration: what is said of the refresh token in Redis alone.
func (v grantView) refusal(g *store.Grant) string {
	if g == nil || g.Refused == 0 {
		return ""
	}
	v.client = g.Client
	return v.needsLogin(g)
}

// mayTry reports whether an explicit refresh may ask the endpoint all the same.
func (v grantView) mayTry(g *store.Grant) bool {
	return g != nil && g.Err == nil && g.Refused != 0 && g.Reason != store.ReasonLogout && g.Version != 0 && g.Client == v.client
}

// takenFor is how long the refresh token is left to somebody who has taken it and has no outcome yet; 0 where it is free.
func (v grantView) takenFor(r *store.Record) time.Duration {
	g := r.Grant
	switch {
	case !v.used:
		return 0
	case g == nil || g.Taken == 0 || g.TakenBy == v.over:
		return 0
	}
	left := g.TakenUntil.Sub(r.Now)
	if left > lock.Longest+takenReserve { // nothing that we could have written
		return 0
	}
	return max(left, 0)
}

// grantInUse reports whether somebody has taken the refresh token in r, and its outcome isn't known.
func (e *Env) grantInUse(r *store.Record) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.grantViewLocked(e.conf(), Secret{}).takenFor(r) > 0
}

// grantViewLocked gathers what decide looks at. seed was read before, as it may come from a file.
func (e *Env) grantViewLocked(conf *resolved, seed Secret) grantView {
	if conf.rotating == nil {
		return grantView{}
	}
	kept := e.m.custody.of(e.name)
	v := grantView{used: true, label: seedLabel(seed), client: conf.client, over: kept.takenOver, held: kept.unwritten > 0}
	if e.m.now() < e.closedUntil {
		v.closed = e.closedGrant
	}
	return v
}

// seed is the configured refresh token.
func (r *resolved) seed() Secret {
	if r.seeds == nil {
		return Secret{}
	}
	return r.seeds()
}

// take issues the attempt's version, and takes the refresh token where one is used.
func (a *attempt) take(ctx context.Context) error {
	e := a.env
	var err error
	if a.conf.rotating == nil {
		a.issue, err = e.m.store.Issue(ctx, e.name, a.lease.Value(), a.seen)
		return err
	}
	seed := a.conf.seed()
	e.mu.Lock()
	view := e.grantViewLocked(a.conf, seed)
	e.mu.Unlock()
	a.issue, a.use, err = e.m.store.IssueWithGrant(ctx, e.name, a.lease.Value(), a.seen, a.conf.leaseLength()+takenReserve)
	if err != nil {
		if a.use != nil || isUnknown(err) {
			a.unused(ctx)
		}
		return err
	}
	a.refreshToken, a.label = a.use.RefreshToken, view.label
	if view.seeds(a.seen.Grant) || a.refreshToken.IsEmpty() {
		a.refreshToken, a.use.Label = seed, view.label
	}
	return nil
}

// unused says that the refresh token that was taken wasn't, or isn't, used.
func (a *attempt) unused(ctx context.Context) {
	e := a.env
	if a.conf.rotating == nil {
		return
	}
	a.over()
	if a.issue.Version == 0 {
		return
	}
	if err := e.m.store.SettleGrant(context.WithoutCancel(ctx), e.name, a.issue.Version); err != nil {
		e.storeFailed(ctx, err)
	}
}

// over notes that what this attempt has taken is free for this replica's next one, whether or not Redis has learnt it.
func (a *attempt) over() {
	e := a.env
	e.m.custody.change(e.name, func(h *inHand) { h.takenOver, h.until = a.lease.Value(), e.m.now()+lock.Longest+takenReserve })
}

// unreadable ends the flight where the refresh token that stands in Redis can't be read here.
func (a *attempt) unreadable(reason *store.UnreadableError) {
	e := a.env
	a.ends(outcomeFailed, grantRefused)
	e.mu.Lock()
	if a.use != nil { // it doesn't open; what isn't a grant at all is seen before it is taken
		e.closedGrant, e.closedUntil = a.seen.Grant.Version.String(), e.m.now()+reopenAfter
	}
	e.mu.Unlock()
	a.log.Error("the stored refresh token can't be used", "outcome", outcomeFailed, "error", reason)
	a.flight.fail(e.loginError(reason.Error(), reason), 0, learnt)
}

// reopenAfter is how long a grant that didn't open is left alone: its key may be configured meanwhile.
const reopenAfter = 15 * time.Second

// source is what the attempt asks.
func (a *attempt) source() Source {
	if a.conf.rotating == nil {
		return a.conf.source
	}
	return SourceFunc(func(ctx context.Context) (*Reply, error) { return a.conf.rotating.Refresh(ctx, a.refreshToken) })
}

// granted notes the refresh token that is good from now on: the endpoint's, or the one that was used. life is that of a new
// one, 0 where it isn't known.
func (a *attempt) granted(refreshToken Secret, life time.Duration) {
	if a.conf.rotating == nil {
		return
	}
	g := store.NewGrant{RefreshToken: refreshToken, Client: a.conf.client, Label: a.label, Life: min(max(life, 0), longestGrant)}
	if refreshToken.IsEmpty() {
		g.RefreshToken, g.SameLife = a.refreshToken, a.use.Label == ""
	}
	a.grant = &g
}

// longestGrant is the longest life of a refresh token that is believed.
const longestGrant = 20 * 365 * 24 * time.Hour

// keep writes the refresh token of an attempt without a usable access token, until its outcome is known.
func (a *attempt) keep(ctx context.Context) {
	if a.grant == nil || a.grantKept {
		return
	}
	write := func() error { return a.env.m.store.KeepGrant(ctx, a.env.name, a.issue.Version, *a.grant) }
	var err error
	for range writes {
		err = write()
		a.noteGrant(err)
		if !isUnknown(err) {
			return
		}
		a.env.storeFailed(ctx, err)
	}
	a.kept = true
	a.later(err, func() {
		a.writeLater(ctx, never, 0, func() bool {
			err := write()
			a.noteGrant(err)
			return !isUnknown(err)
		})
	})
}

// noteGrant takes in how a write of the grant ended.
func (a *attempt) noteGrant(err error) {
	if a.grant == nil || isUnknown(err) {
		return
	}
	a.grantKept = true
	if _, ok := errors.AsType[*store.UnreadableError](err); ok || a.grant.Lost {
		a.log.Error("the new refresh token can't be stored, and is lost: something else stands in its place", "outcome", "grant_lost", "error", err)
	}
}

// later runs f, which writes what nobody else has and could not be written for err, behind the callers; where the manager is
// closed, before it ends.
func (a *attempt) later(err error, f func()) {
	e := a.env
	if a.grant != nil {
		e.m.custody.change(e.name, func(h *inHand) {
			if h.unwritten++; h.unwritten == 1 {
				h.unwrittenSince = e.m.now()
			}
			h.unwrittenErr = err
		})
		write := f
		f = func() {
			defer func() {
				e.m.custody.change(e.name, func(h *inHand) { h.unwritten-- })
				now := e.present()
				now.mu.Lock()
				defer now.mu.Unlock()
				now.pokeLocked()
			}()
			write()
		}
	}
	if !e.m.spawn(f) {
		f()
	}
}

// unwritten waits for this replica's own refresh token to be written, or ends the flight where Redis has been refusing that
// for the grace: there is no other one to ask the endpoint with. It reports whether the flight is over.
func (f *flight) unwritten(ctx context.Context, sent time.Duration, poll *poll) (over bool) {
	e := f.env
	kept := e.m.custody.of(e.name)
	if now := e.m.now(); now-max(kept.unwrittenSince, e.m.awakeSince(now)) < outageGrace {
		f.waits("for Redis to take the new refresh token")
		poll.next(f.wait(ctx, poll.pause(false, learnt)))
		return false
	}
	return f.serve() || f.failAsRead(ctx, sent, &RedisError{Environment: e.name, Err: kept.unwrittenErr}, 0, learnt)
}

// lost tells of a refresh token that could not be stored before the process ends.
func (a *attempt) lost() {
	if a.grant != nil {
		a.log.Error("the new refresh token could not be stored, and is lost: log in again if the old one is refused", "outcome", "grant_lost")
	}
}

// loginError is the answer where a person must bring a refresh token.
func (e *Env) loginError(reason string, err error) *LoginError {
	return &LoginError{Environment: e.name, Reason: reason, Err: err}
}

// loginReason says for the status why a person must log in, "" where none must.
func (e *Env) loginReason(r *store.Record) string {
	conf := e.conf()
	if conf.rotating == nil {
		return ""
	}
	seed := conf.seed()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.grantViewLocked(conf, seed).needsLogin(r.Grant)
}

// ImportGrant makes refreshToken, which lives for expiresIn (0: without a known end), the one that the fleet uses, in place of
// whatever stands there. Tokens that were issued before are dropped, everywhere, and a failure is forgotten. It returns the
// grant's version. Errors: an *[UnknownEnvironmentError]; a *[ConfigError] where the environment's grant isn't refresh_token;
// a *[RedisError], after which it isn't known whether it was done.
func (m *Manager) ImportGrant(ctx context.Context, env string, refreshToken Secret, expiresIn time.Duration) (Version, error) {
	e, conf, err := m.grantee(ctx, env)
	if err != nil {
		return 0, err
	}
	if err := store.CheckRefreshToken(refreshToken.Reveal()); err != nil {
		return 0, fmt.Errorf("onetoken: %s: %w", env, err)
	}
	v, err := m.store.AdoptGrant(ctx, env, store.NewGrant{
		RefreshToken: refreshToken, Client: conf.client, Label: seedLabel(conf.seed()), Life: min(max(expiresIn, 0), longestGrant),
	})
	if err != nil {
		return 0, e.grantFailed(ctx, err)
	}
	e.log.Info("a refresh token was brought", "outcome", "imported", "version", v)
	e.forget(v)
	return v, nil
}

// Logout takes the environment's refresh token away from the fleet, hands it to revoke (where that isn't nil) to end it at the
// endpoint, and forgets it and all tokens, everywhere. A configured refresh token isn't used any more either. It waits for a
// refresh that is under way and, where revoke isn't nil, for the outcome of a refresh token's use, as others do. Where revoke
// fails, its error is returned and nothing has changed. found is false where there was no refresh token. Other errors: as for
// [Manager.ImportGrant]; a *[WaitError] with ctx's cause; a *[LoginError] where what stands there can't be read, and so can't
// be revoked.
func (m *Manager) Logout(ctx context.Context, env string, revoke func(ctx context.Context, refreshToken Secret) error) (found bool, err error) {
	e, conf, err := m.grantee(ctx, env)
	if err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		sent := m.now()
		r, err := m.store.Read(ctx, env)
		if err != nil {
			return false, e.grantFailed(ctx, err)
		}
		e.observe(r, sent)
		if r.Grant != nil && r.Grant.Err != nil && revoke != nil {
			return false, e.loginError(r.Grant.Err.Error(), r.Grant.Err)
		}
		if revoke != nil && e.grantInUse(r) { // what is to be revoked isn't known yet
			pause(ctx, 100*time.Millisecond+jitter.N(100*time.Millisecond))
			continue
		}
		lease, err := m.locker.Try(ctx, m.store.Keys(env).Lock, conf.leaseLength())
		if _, busy := errors.AsType[*lock.BusyError](err); busy {
			pause(ctx, 100*time.Millisecond+jitter.N(100*time.Millisecond))
			continue
		}
		if err != nil {
			return false, e.grantFailed(ctx, err)
		}
		found, err := e.logout(ctx, conf, lease, r, revoke)
		if err := lease.Release(ctx); err != nil {
			e.log.Warn("the lease could not be released", "outcome", "release_failed", "error", err)
		}
		if !errors.Is(err, store.ErrChanged) && !errors.Is(err, store.ErrLost) && !errors.Is(err, store.ErrOlder) {
			return found, err
		}
	}
	return false, &WaitError{Environment: env, Waiting: "for a refresh to end", Err: context.Cause(ctx)}
}

// logout is Logout with the lease, based on the read r.
func (e *Env) logout(ctx context.Context, conf *resolved, lease *lock.Lease, r *store.Record, revoke func(context.Context, Secret) error) (found bool, err error) {
	m, seed := e.m, conf.seed()
	at, use, err := m.store.IssueWithGrant(ctx, e.name, lease.Value(), r, conf.leaseLength()+takenReserve)
	unreadable, isUnreadable := errors.AsType[*store.UnreadableError](err)
	switch {
	case errors.Is(err, store.ErrChanged), errors.Is(err, store.ErrLost):
		return false, err
	case isUnreadable && revoke == nil && use == nil: // it is no grant at all
		at, err = m.store.Issue(ctx, e.name, lease.Value(), r)
		if err != nil {
			return false, e.grantFailed(ctx, err)
		}
		found = true
	case isUnreadable && revoke == nil:
		found = true
	case isUnreadable:
		_ = m.store.SettleGrant(context.WithoutCancel(ctx), e.name, at.Version)
		return false, e.loginError(unreadable.Error(), err)
	case err != nil:
		return false, e.grantFailed(ctx, err)
	default:
		token := use.RefreshToken
		if token.IsEmpty() && !r.Grant.HasLabel(seedLabel(seed)) {
			token = seed
		}
		found = !token.IsEmpty()
		if found && revoke != nil {
			err = lease.Renew(ctx)
			switch {
			case errors.Is(err, lock.ErrLost):
				err = store.ErrLost
			case err != nil:
				err = e.grantFailed(ctx, err)
			default:
				err = revoke(ctx, token)
			}
			if err != nil {
				_ = m.store.SettleGrant(context.WithoutCancel(ctx), e.name, at.Version)
				return found, err
			}
		}
	}
	if err := m.store.ForgetGrant(context.WithoutCancel(ctx), e.name, at.Version, seedLabel(seed)); err != nil {
		return found, e.grantFailed(ctx, err)
	}
	e.log.Info("logged out", "outcome", "logged_out", "version", at.Version)
	e.forget(at.Version)
	return found, nil
}

// grantee returns an environment that uses refresh tokens, and how it is configured.
func (m *Manager) grantee(ctx context.Context, name string) (*Env, *resolved, error) {
	e, err := m.lookup(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	conf := e.conf()
	if conf.rotating == nil {
		return nil, nil, &ConfigError{Environment: name, Err: errors.New("grant: its grant is not refresh_token")}
	}
	return e, conf, nil
}

// grantFailed makes the caller's error of one of Redis's.
func (e *Env) grantFailed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrChanged), errors.Is(err, store.ErrLost), errors.Is(err, store.ErrOlder):
		return err
	case deadline.Over(ctx):
		return &WaitError{Environment: e.name, Waiting: "for Redis", Err: context.Cause(ctx)}
	}
	e.storeFailed(ctx, err)
	return &RedisError{Environment: e.name, Err: err}
}

// forget takes in that a person has ended all that was issued up to v: also what this replica holds back for.
func (e *Env) forget(v Version) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer, e.local, e.closedUntil = nil, local{}, 0
	e.noteBackoff(0)
	e.behindAt.Store(0)
	e.dropLocked(v)
}

// pause waits for d, or for ctx's end.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// grantRefused is RFC 6749 §5.2's code of a refresh token that is no good any more.
const grantRefused = "invalid_grant"
