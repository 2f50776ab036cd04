package manager

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/store"
)

const (
	// maxReads is how many flights read at once. A herd of environments waits here for its turn, and not in the client's
	// pool: there the deadline of a call runs meanwhile, and late calls fail with their connections, which makes all others
	// later.
	maxReads = 16
	// trialEvery is how often one of the environments for which Redis fails tries it again, while it fails for all.
	trialEvery = 100 * time.Millisecond
)

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

func (t *trials) failed(err error) { t.failure.Store(&err) }

// spare returns the error of the last call, if that failed and another trial was only just made: this one would fare
// no better. A success ends that for all.
func (t *trials) spare(now time.Duration) error {
	err := t.failure.Load()
	if err == nil {
		return nil
	}
	next := t.next.Load()
	if int64(now) >= next && t.next.CompareAndSwap(next, int64(now+trialEvery)) {
		return nil
	}
	return *err
}

// turn waits until the flight may read, and returns what ends that. Or it returns why a read would fail: to one for whose
// environment reads have failed, or have so many to wait for. One for which all is well isn't kept by others' failures: they
// may be those of another shard.
func (f *flight) turn(ctx context.Context) (done func(), err error) {
	e, m := f.env, f.env.m
	suspect := e.reads.failing.Load()
	select {
	case m.reading <- struct{}{}:
	default:
		suspect = true
		select {
		case m.reading <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	done = func() { <-m.reading }
	if suspect {
		if err := m.reads.spare(m.now()); err != nil {
			done()
			return nil, e.ownRead(err)
		}
	}
	return done, nil
}

// ownRead is another environment's error of a read as this one would have had it.
func (e *Env) ownRead(err error) error {
	if status, ok := errors.AsType[*store.StatusError](err); ok {
		return &store.StatusError{Op: status.Op, Key: e.m.store.Keys(e.name).Token, Err: status.Err}
	}
	return err
}
