package manager

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/internal/deadline"
	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// An Env is an environment's handle. It is safe for concurrent use.
type Env struct {
	m    *Manager
	name string
	log  *slog.Logger
	base time.Time // the manager's, here to be near

	snap     atomic.Pointer[snapshot] // read by anyone, written under mu
	behindAt atomic.Int64             // no flight behind the callers starts before this instant
	settings atomic.Pointer[resolved] // read by anyone, written under mu

	// A Redis that is full or read-only still answers reads, and one shard of a cluster may be away: each kind of call
	// has its own health, in each environment.
	reads, writes health

	mu          sync.Mutex    // guards what follows; never held across I/O
	flight      *flight       // the one under way, nil where none is
	news        chan struct{} // closed when a token becomes usable; nil where nobody waits
	answer      *answer       // what the last flight learnt, nil where nothing
	dropped     Version       // the highest invalidation known here
	droppedAt   time.Duration // when it was learnt
	rejected    Version       // the version that was last asked to be replaced because of a 401
	suspectedAt time.Duration // when the clocks last parted
	parted      time.Duration // by how much the wall clock ran ahead then
	local       local
	conflict    conflict
	aloneAt     time.Duration // no token is fetched without Redis before
	lastRead    time.Duration
	sealed      Version // the last token that was found not to open here
	heards      int     // how often a flight that waits was told to look
	look        look
	failedLooks int           // in a row
	closed      bool          // with the manager
	retired     bool          // it is no longer one of the manager's
	tenant      bool          // it was looked up, and is let go when nobody asks for it
	usedAt      time.Duration // when it was last seen to be asked for
	watched     bool          // its next use is noticed
	listeners   map[*listener]struct{}

	listening atomic.Int64 // how many of them there are

	// Where a refresh token is used.
	closedGrant string // version of a grant that doesn't open here
	closedUntil time.Duration

	// For the signals alone, and by no mutex.
	signals  *telemetry.Env
	backsOff atomic.Int64 // the instant until when the endpoint is not asked after a failure, as far as it is known
	heard    atomic.Int64 // the version of a token that an event has told of, until it is read
}

// answer is an error that is repeated, rather than looked for again, until an instant.
type answer struct {
	err     error
	version Version // of the failure; 0 where it isn't one
	until   time.Duration
}

// local is why a replica holds back by itself: it can't reach the endpoint, or is refused there. A refusal is in Redis,
// too, but only the last one is: two refused replicas with different secrets would free each other.
type local struct {
	attempt int           // failures in a row
	until   time.Duration // it doesn't try before
	err     *EndpointError

	credential string // a refusal says nothing of another one
}

// Name returns the environment's name.
func (e *Env) Name() string { return e.name }

// conf is what is configured now. Who needs more of it than one thing, at more than one moment, keeps what he got.
func (e *Env) conf() *resolved { return e.settings.Load() }

// Token returns a token with at least the expiry margin of life left. On a warm snapshot it is one atomic load and one
// look at the monotonic clock: no lock, no allocation, no Redis, and ctx isn't looked at. Past its refresh point the
// token is returned, too, and refreshed behind the caller.
//
// Else it waits for the one refresh of the fleet. Errors: an *[EndpointError] as soon as the endpoint's answer is known,
// also to another replica; a *[RedisError]; a *[WaitError] with ctx's cause, which ends this caller's wait and nobody
// else's; [ErrClosed].
func (e *Env) Token(ctx context.Context) (*Token, error) {
	if s := e.snap.Load(); s != nil {
		now := time.Since(e.base)
		if now < s.quietUntil {
			return s.token, nil
		}
		if now < s.usableUntil {
			e.refreshBehind(s, now)
			return s.token, nil
		}
	}
	return e.await(ctx, ask{above: anyVersion})
}

// Refresh returns a token with a version above the one known to this replica when it was called. It doesn't wait for a
// backoff to end; a failure since the call is its answer. Calls at the same time are one refresh. Errors as for
// [Env.Token].
func (e *Env) Refresh(ctx context.Context) (*Token, error) {
	a := ask{above: anyVersion, explicit: true, called: e.m.now()}
	if s := e.snap.Load(); s != nil {
		a.above = s.token.Version
	}
	return e.await(ctx, a)
}

// Invalidate drops version v and all below it or, where v is 0, all that was issued so far: in Redis, here at once, and
// in other replicas as soon as they hear of it. It returns the highest version dropped. Errors: a *[RedisError], a
// *[WaitError] with ctx's cause, after which it isn't known whether it was done, [store.ErrImplausible].
func (e *Env) Invalidate(ctx context.Context, v Version) (Version, error) {
	sent := e.m.now()
	d, err := e.m.store.Invalidate(ctx, e.name, v)
	if errors.Is(err, store.ErrImplausible) {
		return 0, err
	}
	if err != nil && deadline.Over(ctx) { // which says nothing of Redis
		return 0, &WaitError{Environment: e.name, Waiting: "for Redis", Err: context.Cause(ctx)}
	}
	if err != nil {
		e.storeFailed(ctx, err)
		e.writes.failed(e, sent, err)
		return 0, &RedisError{Environment: e.name, Err: err}
	}
	e.writes.ok(e)
	e.log.Info("invalidated", "outcome", "invalidated", "version", d)
	e = e.present()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropLocked(d)
	return d, nil
}

// refreshBehind starts a flight that nobody waits for, at most one at a time.
func (e *Env) refreshBehind(s *snapshot, now time.Duration) {
	if int64(now) < e.behindAt.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	shown := e.snap.Load() // before it is replaced because its use was to be noticed
	e.noteUseLocked()
	if e.retired || shown != s || s != nil && now < s.refreshAt && !s.suspect || e.flight != nil || int64(now) < e.behindAt.Load() {
		return
	}
	above := anyVersion
	if s != nil {
		above = s.token.Version
	}
	e.startLocked(ask{above: above, background: true})
}

// usableLocked returns the snapshot where it can be handed out and its version is above v.
func (e *Env) usableLocked(above Version) *snapshot {
	if s := e.snap.Load(); s != nil && e.m.now() < s.usableUntil && s.token.Version > above {
		return s
	}
	return nil
}

// hold makes err the answer for a while, and keeps flights from starting behind callers as long.
func (e *Env) holdLocked(err error, v Version, d time.Duration) {
	until := e.m.now() + max(d, 0)
	e.answer = &answer{err: err, version: v, until: until}
	e.behindAt.Store(int64(until))
}

func (e *Env) heldLocked() error {
	if e.answer != nil && e.m.now() < e.answer.until {
		return e.answer.err
	}
	return nil
}

func (e *Env) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.snap.Store(nil)
	if e.flight != nil {
		e.flight.endUnwantedLocked()
	}
}

// never is an instant that doesn't come.
const never = time.Duration(math.MaxInt64)
