package manager

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

const (
	// maxReads is how many flights read at once. A herd of environments waits here for its turn, and not in the client's
	// pool: there the deadline of a call runs meanwhile, and late calls fail with their connections, which makes all others
	// later.
	maxReads = 16
	// maxAsks is how many are at the lease or at the token endpoint at once: each of those is a connection of its own.
	maxAsks = 128
	// asksTake is when one of them no longer counts: an endpoint that hangs must not keep others from being asked.
	asksTake = time.Second
	// trialEvery is how often one of the environments for which Redis fails tries it again, while it fails for all.
	trialEvery = 100 * time.Millisecond
)

// places are for so many at once as their capacity says.
type places chan struct{}

var errHeard = errors.New("onetoken: something was heard")

// take takes a place, and reports whether that was to be waited for. The error is ctx's cause, or errHeard after a poke.
func (p places) take(ctx context.Context, poke <-chan struct{}) (waited bool, err error) {
	select {
	case p <- struct{}{}:
		return false, nil
	default:
	}
	select {
	case p <- struct{}{}:
		return true, nil
	case <-poke:
		return true, errHeard
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

func (p places) leave() { <-p }

// leaveWithin returns what gives the place back, which it does by itself after d.
func (p places) leaveWithin(d time.Duration) (leave func()) {
	once := sync.OnceFunc(p.leave)
	timer := time.AfterFunc(d, once)
	return func() { timer.Stop(); once() }
}

// trials space the calls of one kind that follow failures, for all environments together.
type trials struct {
	failure atomic.Pointer[error] // of the last call; nil where it succeeded
	next    atomic.Int64          // no trial before this instant
}

func (t *trials) succeeded() {
	if t.failure.Load() != nil {
		t.failure.Store(nil)
	}
}

func (t *trials) failed(err error) {
	if status, ok := errors.AsType[*store.StatusError](err); ok {
		err = status.Err
	} else if unavailable, ok := errors.AsType[*lock.UnavailableError](err); ok {
		err = unavailable.Err
	}
	t.failure.Store(&err)
}

// spare returns a *sparedError if the last call has failed and another trial was only just made: this one would fare no
// better. A success ends that for all. It is for environments for which calls have failed, or that had to wait for others: one
// for which all is well isn't kept by failures that may be another shard's.
func (t *trials) spare(now time.Duration) error {
	err := t.failure.Load()
	if err == nil {
		return nil
	}
	next := t.next.Load()
	if int64(now) >= next && t.next.CompareAndSwap(next, int64(now+trialEvery)) {
		return nil
	}
	return &sparedError{*err}
}

// A sparedError is the client's error of another call: this one wasn't made.
type sparedError struct{ err error }

func (e *sparedError) Error() string { return e.err.Error() }
func (e *sparedError) Unwrap() error { return e.err }

// read reads the environment when it is the flight's turn, and returns when that was.
func (f *flight) read(ctx context.Context) (r *store.Record, sent time.Duration, err error) {
	e, m := f.env, f.env.m
	waited, err := m.reading.take(ctx, nil)
	if err != nil {
		return nil, m.now(), err
	}
	defer m.reading.leave()
	sent = m.now()
	if waited || e.reads.failing.Load() {
		if err := m.reads.spare(sent); err != nil {
			return nil, sent, err
		}
	}
	r, err = m.store.Read(ctx, e.name)
	return r, sent, err
}
