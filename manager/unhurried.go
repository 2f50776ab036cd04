package manager

import (
	"context"
	"sync"
	"time"
)

const (
	// stoppedFor is how late a timer must be for the process to count as having been stopped.
	stoppedFor = 100 * time.Millisecond
	// wakingUp is how long a process that was stopped has for what has come meanwhile.
	wakingUp = time.Second
)

// An unhurriedContext is as one of [context.WithTimeout], but for a process that was stopped past the deadline (by SIGSTOP, with
// its container, with its machine): that has a second left when it runs again, to read the answer that lies in its socket.
// Where a refresh token was spent for it, it is the only one there is.
type unhurriedContext struct {
	context.Context //nolint:containedctx // it is one: the parent

	deadline time.Time
	now      func() time.Duration
	done     chan struct{}

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	due   time.Duration // when it should fire
	err   error         // set before done is closed
}

// unhurried returns such a context, and what ends it. now is the manager's clock.
func unhurried(ctx context.Context, timeout time.Duration, now func() time.Duration) (context.Context, context.CancelFunc) {
	c := &unhurriedContext{
		Context: ctx, deadline: time.Now().Add(timeout), now: now, done: make(chan struct{}), due: now() + timeout,
	}
	c.mu.Lock()
	c.timer = time.AfterFunc(timeout, c.fire)
	c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.end(ctx.Err()) })
	return c, func() {
		stop()
		c.end(context.Canceled)
	}
}

func (c *unhurriedContext) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.now()
	if c.err == nil && at-c.due > stoppedFor {
		c.due = at + wakingUp
		c.timer.Reset(wakingUp)
		return
	}
	c.endLocked(context.DeadlineExceeded)
}

func (c *unhurriedContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer.Stop()
	c.endLocked(err)
}

func (c *unhurriedContext) endLocked(err error) {
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

func (c *unhurriedContext) Deadline() (deadline time.Time, ok bool) {
	if parents, ok := c.Context.Deadline(); ok && parents.Before(c.deadline) {
		return parents, true
	}
	return c.deadline, true
}

func (c *unhurriedContext) Done() <-chan struct{} { return c.done }

func (c *unhurriedContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
