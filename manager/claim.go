package manager

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

// A claim is the lease, and a version, that a flight's first look takes where there is nothing in Redis: no token, no failure,
// no lock. It stands for a read, an acquire and an issue with nothing in between. So whoever is first calls the endpoint one
// round trip after it was asked, and all the others of a fleet that starts at once know after one that somebody does.
type claim struct {
	lease *lock.Lease // nil where there is none, or an attempt has it
	issue store.Issue
	sent  time.Duration // an instant before the version was issued
	began time.Time
	leave func() // gives the place among those who refresh back
}

const (
	// claimLasts is how long a look takes the lease for. Who hears that it has taken it renews it at once, to its whole length. What
	// nobody hears of, since the reply is lost or its caller has left, keeps others waiting about as long as a poll would.
	claimLasts = 2 * time.Second

	// claimsAgain is how long after that no look of this manager takes a lease.
	claimsAgain = 10 * time.Second
)

// mayClaim reports whether a look that is sent at the instant may take the lease; the flight then has a place among those who
// refresh. Only the first look may, while calls of Redis succeed; not for a Refresh, which failures and what others do concern in
// another way, nor where a refresh token is used, nor where this replica has a token that is alive, though it may not hand it out at
// the moment.
func (f *flight) mayClaim(sent time.Duration) bool {
	e, first := f.env, !f.looked
	f.looked = true
	if !first || f.conf.rotating != nil || e.m.reads.failing() || e.m.writes.failing() || int64(sent) < e.m.claimAfter.Load() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.snap.Load(); f.explicit || s != nil && s.expires > sent || e.local.until > sent {
		return false
	}
	return e.m.refreshing.takeIfFree()
}

// readOrClaim is a look, sent at the instant, that takes the lease where there is nothing.
func (f *flight) readOrClaim(ctx context.Context, sent time.Duration) (*store.Record, error) {
	m, env := f.env.m, f.env.name
	value, length, began := m.locker.NewValue(), f.conf.leaseLength(), time.Now()
	lasts := min(claimLasts, length)
	r, issue, err := m.store.ReadOrIssue(ctx, env, value, lasts)
	if err == nil && issue.Version == 0 {
		m.refreshing.leave()
		return r, nil
	}
	key := m.store.Keys(env).Lock
	switch {
	case err != nil:
	case ctx.Err() != nil: // nobody waits for it any more; but it may tell of an invalidation
		f.env.observe(r, sent)
		err = context.Cause(ctx)
	case time.Since(began) > lasts/2: // too late: it might end before it is renewed
		err = &store.StatusError{Op: "read", Key: key, Err: os.ErrDeadlineExceeded}
	default:
		f.claim = claim{m.locker.Held(key, value, lasts, length, began), issue, sent, began, m.refreshing.leaveWithin(refreshTakes)}
		return r, nil
	}
	m.refreshing.leave()
	m.claimedInVain()
	m.spawn(func() { // else it ends by itself
		_ = m.locker.Forget(ctx, key, value)
		f.wakeNext()
	})
	return nil, err
}

// wakeNext has a flight look again that has begun since, and may have seen the lease.
func (f *flight) wakeNext() {
	e := f.env.present()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != f {
		e.pokeLocked()
	}
}

// claimedInVain has no look take a lease for a while.
func (m *Manager) claimedInVain() { m.claimAfter.Store(int64(m.now() + claimsAgain)) }

// unclaim gives back what no attempt was made with.
func (f *flight) unclaim(ctx context.Context) {
	c, e := &f.claim, f.env
	if c.lease == nil {
		return
	}
	e.m.claimedInVain()
	c.leave()
	if err := c.lease.Release(ctx); err != nil && !errors.Is(err, lock.ErrLost) {
		e.storeFailed(ctx, err)
		e.log.Warn("the lease could not be released", "outcome", "release_failed", "error", err)
	}
	c.lease = nil
	f.wakeNext()
}
