// Package lock takes a lease on a name: a Redsync mutex on one Redis, tried once, renewed while it is held.
//
// A lease is no fence. Its holder can be paused past its end, and then two believe to hold it; what is written under a
// lease must be ordered by something else (in onetoken: versions, see package store). Nor is there a queue: a caller who
// finds the lease taken waits for what the holder produces, not for the lease.
package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/deadline"
	"github.com/onetoken/onetoken/internal/printable"
)

// ErrLost is in the chain of the error of a lease that ended before its release: it expired, or another holds it.
var ErrLost = errors.New("lock: the lease was lost")

// A BusyError says that another holds the lease. It is an ordinary outcome of [Locker.Try].
type BusyError struct {
	Key    string
	Holder string        // the other's name; "" where the key isn't one of ours
	TTL    time.Duration // until the lease ends unless it is renewed
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("lock: %s is held by %q for another %v", e.Key, e.Holder, e.TTL)
}

// An UnavailableError says that Redis didn't answer, or refused: whether the lease is free isn't known. It wraps the
// client's error.
type UnavailableError struct {
	Key string
	Err error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("lock: %s: Redis: %s", e.Key, printable.Redis(e.Err))
}
func (e *UnavailableError) Unwrap() error { return e.Err }

// Longest is the longest lease there can be.
const Longest = 10 * time.Minute

// DefaultTimeout bounds one call of Redis: an acquire, a renewal, a release.
const DefaultTimeout = time.Second

// minPause is how long a renewal that failed is let alone at least.
const minPause = 20 * time.Millisecond

// A Locker takes leases for one holder. It is safe for concurrent use; the client stays the caller's.
type Locker struct {
	rdb     redis.UniversalClient
	holder  string
	timeout time.Duration
}

// New returns a Locker whose leases name holder, which must not contain "|". It does no I/O.
func New(rdb redis.UniversalClient, holder string) (*Locker, error) {
	switch {
	case rdb == nil:
		return nil, errors.New("lock: no Redis client")
	case holder == "" || strings.Contains(holder, "|"):
		return nil, fmt.Errorf(`lock: holder %q: it must not be empty or contain "|"`, holder)
	}
	return &Locker{rdb: rdb, holder: holder, timeout: DefaultTimeout}, nil
}

// Try takes the lease on key for length, once, and keeps renewing it every third of length until it is released or
// lost. Errors: a *[BusyError] (somebody holds it), an *[UnavailableError] (Redis), ctx's cause. A key without TTL, which
// would be held for ever, or with one above [Longest], is given one of length and reported as busy.
//
// ctx bounds the taking alone, never what is done under the lease.
func (l *Locker) Try(ctx context.Context, key string, length time.Duration) (*Lease, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	value := l.NewValue()
	p := &pool{rdb: l.rdb}
	mutex := redsync.New(p).NewMutex(key,
		redsync.WithExpiry(length),
		redsync.WithTries(1),
		redsync.WithTimeoutFactor(min(float64(l.timeout)/float64(length), 0.5)),
		redsync.WithGenValueFunc(func() (string, error) { return value, nil }),
	)
	switch err := mutex.TryLockContext(ctx); {
	case p.taken:
		return nil, &BusyError{Key: key, Holder: p.holder, TTL: p.ttl}
	case err != nil:
		return nil, l.unknown(ctx, key, value, err)
	}
	return l.held(mutex, key, length, mutex.Until(), false), nil
}

// NewValue returns a value for a lock key that no other lease has: "<holder>|<random>".
func (l *Locker) NewValue() string { return l.holder + "|" + rand.Text() }

// Held returns the lease on key that a script of the caller's has taken, with value (a [Locker.NewValue]) and for the time that
// ttl is, by a command that was sent at the instant. It is renewed to length at once, and then like one of [Locker.Try].
func (l *Locker) Held(key, value string, ttl, length time.Duration, sent time.Time) *Lease {
	mutex := redsync.New(&pool{rdb: l.rdb}).NewMutex(key, redsync.WithExpiry(length), redsync.WithValue(value))
	return l.held(mutex, key, length, sent.Add(ttl-ttl/100), true) // a hundredth for clocks that drift, as Redsync has it
}

// held starts to renew a lease that ends unless it is, for the first time now or after a while.
func (l *Locker) held(mutex *redsync.Mutex, key string, length time.Duration, end time.Time, now bool) *Lease {
	lease := &Lease{
		mutex: mutex, key: key, length: length, timeout: l.timeout, now: make(chan chan error), stop: make(chan struct{}),
		stopped: make(chan struct{}), lost: make(chan struct{}),
	}
	lease.until.Store(&until{end})
	go lease.renew(now)
	return lease
}

// Forget frees key where it holds value: after a command of the caller's that may have taken it. It doesn't end with the
// caller's ctx, and takes at most [DefaultTimeout]. The error is an *[UnavailableError]: it isn't known, and where it isn't done the
// lock ends with its TTL.
func (l *Locker) Forget(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	defer cancel()
	err := free(ctx, redsync.New(&pool{rdb: l.rdb}).NewMutex(key, redsync.WithValue(value)))
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// unknown ends an acquire that failed with err, although the key may have been set. Redsync has cleaned up, on the
// caller's ctx: where that is done, it is done here. Where Redis answers neither, the orphan ends with its TTL.
func (l *Locker) unknown(ctx context.Context, key, value string, err error) error {
	if !deadline.Over(ctx) {
		return &UnavailableError{Key: key, Err: err}
	}
	_ = l.Forget(ctx, key, value)
	return context.Cause(ctx)
}

// A Lease is held until it is released, or lost. Its methods are safe for concurrent use.
type Lease struct {
	mutex   *redsync.Mutex // used by renew alone, and by Release once renew has ended
	key     string
	length  time.Duration
	timeout time.Duration
	until   atomic.Pointer[until]
	now     chan chan error // asks renew to extend the lease at once
	stop    chan struct{}   // closed by the first Release
	once    atomic.Bool
	stopped chan struct{} // closed by renew
	lost    chan struct{} // closed by renew
}

type until struct{ time.Time }

// Value returns the lock key's value while this lease holds it: "<holder>|<random>".
func (l *Lease) Value() string { return l.mutex.Value() }

// Until returns when the lease ends unless it is renewed before, by this process's monotonic clock. It is no fence: a
// process stopped right after looking wakes up with the lease in other hands.
func (l *Lease) Until() time.Time { return l.until.Load().Time }

// Lost is closed when the lease is found to be lost. What is under way should be finished all the same.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Renew extends the lease to its whole length, now: before what must be over when it ends. Errors: one that wraps [ErrLost],
// also after a Release; an *[UnavailableError]; ctx's cause. It takes at most [DefaultTimeout], twice that where a renewal is
// under way.
func (l *Lease) Renew(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case l.now <- done:
	case <-l.stopped:
		return fmt.Errorf("%w: %s", ErrLost, l.key)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-done
}

// renew extends the lease every third of its length, and now where that is asked for. A Redis that doesn't answer is tried again
// until the lease is over.
func (l *Lease) renew(now bool) {
	defer close(l.stopped)
	timer := time.NewTimer(l.length / 3)
	defer timer.Stop()
	for ; ; now = false {
		asked := make(chan<- error, 1)
		if !now {
			select {
			case <-l.stop:
				return
			case done := <-l.now:
				asked = done
			case <-timer.C:
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), min(l.timeout, l.length/3))
		ok, err := l.mutex.ExtendContext(ctx)
		cancel()
		var taken *redsync.ErrTaken
		switch {
		case ok:
			l.until.Store(&until{l.mutex.Until()})
			timer.Reset(l.length / 3)
			asked <- nil
		case errors.As(err, &taken) || !time.Now().Before(l.Until()):
			close(l.lost)
			asked <- fmt.Errorf("%w: %s", ErrLost, l.key)
			return
		default:
			timer.Reset(max(min(l.length/10, time.Until(l.Until())/2), minPause)) // there may be far less left than its length
			asked <- &UnavailableError{Key: l.key, Err: err}
		}
	}
}

// Release ends the renewal and gives the lease back. It doesn't end with the caller's ctx: a caller that is gone must
// not leave a lock behind. It takes at most [DefaultTimeout], twice that where a renewal is under way. The error wraps
// [ErrLost] where the lease had ended before, or is an *[UnavailableError], after which the lock ends with its TTL.
// Further calls return nil and do nothing.
func (l *Lease) Release(ctx context.Context) error {
	if l.once.Swap(true) {
		return nil
	}
	close(l.stop)
	<-l.stopped
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
	defer cancel()
	return free(ctx, l.mutex)
}

// free frees the mutex's key. The error wraps [ErrLost] where that isn't the mutex's, or is an *[UnavailableError].
func free(ctx context.Context, mutex *redsync.Mutex) error {
	ok, err := mutex.UnlockContext(ctx)
	var taken *redsync.ErrTaken
	switch {
	case ok:
		return nil
	case err == nil, errors.Is(err, redsync.ErrLockAlreadyExpired), errors.As(err, &taken):
		return fmt.Errorf("%w: %s", ErrLost, mutex.Name())
	default:
		return &UnavailableError{Key: mutex.Name(), Err: err}
	}
}
