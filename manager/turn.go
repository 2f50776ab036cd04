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
	// maxRefreshing is how many are at the lease or at the token endpoint at once: each of those is a connection of its own.
	maxRefreshing = 128
	// refreshTakes is when one of them no longer counts: an endpoint that hangs must not keep others from being asked.
	refreshTakes = time.Second
	// trialEvery is how often one of the environments for which Redis fails tries it again, while it fails for all.
	trialEvery = 100 * time.Millisecond
)

// places are for so many at once as their capacity says.
type places chan struct{}

var errHeard = errors.New("onetoken: something was heard")

// take takes a place, and reports whether that was to be waited for. The error is ctx's cause, or errHeard after a poke.
func (p places) take(ctx context.Context, poke <-chan struct{}) (waited bool, err error) {
	if p.takeIfFree() {
		return false, nil
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

// takeIfFree takes a place if that isn't to be waited for.
func (p places) takeIfFree() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
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
	row  atomic.Pointer[failures] // nil where the last call succeeded
	next atomic.Int64             // no trial before this instant
}

// failures are a row of them, of any environments.
type failures struct {
	since time.Duration // when the first call was sent
	at    time.Duration // when the last one had failed
	last  error         // the client's
}

// old reports whether the row says nothing any more: nobody has tried for long.
func (f *failures) old(now time.Duration) bool { return now-f.at >= evidenceLasts }

// failing reports whether the last call failed.
func (t *trials) failing() bool { return t.row.Load() != nil }

func (t *trials) succeeded() {
	if t.failing() {
		t.row.Store(nil)
	}
}

func (t *trials) failed(sent, now time.Duration, err error) {
	if status, ok := errors.AsType[*store.StatusError](err); ok {
		err = status.Err
	} else if unavailable, ok := errors.AsType[*lock.UnavailableError](err); ok {
		err = unavailable.Err
	}
	row := failures{sent, now, err}
	if before := t.row.Load(); before != nil && !before.old(now) {
		row.since = before.since
	}
	t.row.Store(&row)
}

// spare returns a *sparedError if the last call has failed and another trial was only just made: this one would fare no
// better. A success ends that for all. Failures may be another shard's: an environment for which calls don't fail is spared
// one only if it had to wait for its turn, and none has succeeded for so long that Redis counts as away.
func (t *trials) spare(now time.Duration, fails, waited bool) error {
	row := t.row.Load()
	if row == nil || row.old(now) || !fails && (!waited || now-row.since < outageGrace) {
		return nil
	}
	next := t.next.Load()
	if int64(now) >= next && t.next.CompareAndSwap(next, int64(now+trialEvery)) {
		return nil
	}
	return &sparedError{*row}
}

// A sparedError says of a call that it wasn't made, since others have failed.
type sparedError struct{ failures }

func (e *sparedError) Error() string { return e.last.Error() }
func (e *sparedError) Unwrap() error { return e.last }

// isExplicit reports whether a refresh is asked for: what failed before it was called is no answer to that.
func (f *flight) isExplicit() bool {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	return f.explicit
}

// read reads the environment when it is the flight's turn, and returns what had been heard by then, and when that was.
func (f *flight) read(ctx context.Context) (r *store.Record, heard int, sent time.Duration, err error) {
	e, m := f.env, f.env.m
	waited, err := m.reading.take(ctx, nil)
	if err != nil {
		return nil, heard, m.now(), err
	}
	defer m.reading.leave()
	heard, sent = f.listen(), m.now()
	if err := m.reads.spare(sent, e.reads.failing.Load(), waited); err != nil && !f.isExplicit() {
		return nil, heard, sent, err
	}
	if f.mayClaim(sent) {
		r, err = f.readOrClaim(ctx, sent)
	} else {
		r, err = m.store.Read(ctx, e.name)
	}
	return r, heard, sent, err
}
