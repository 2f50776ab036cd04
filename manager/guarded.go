package manager

import (
	"context"
	"fmt"
	"time"
)

// A strayError says that a function of the user's didn't return.
type strayError struct {
	how string
	err error // nil, or what is known of its panic
}

func (e *strayError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return "it " + e.how
}

func (e *strayError) Unwrap() error { return e.err }

// How a function strays.
const (
	strayEnded    = "ended without a result"
	strayPanicked = "panicked"
	strayIgnores  = "ignores its deadline"
)

// stuckAfter is how long a function that ignores its context is waited for beyond it.
const stuckAfter = time.Second

// guarded calls a function of the user's in a goroutine of its own: one that panics, ends its goroutine, or ignores its context,
// which is then left to itself, is a *strayError. done is called when it has really ended.
func guarded[T any](ctx context.Context, call func(context.Context) (T, error), done func()) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	go func() {
		r := result{err: &strayError{how: strayEnded}}
		defer func() {
			if p := recover(); p != nil {
				// Not the panic's value: it may hold a secret.
				r = result{err: &strayError{strayPanicked, fmt.Errorf("panic with a value of type %T", p)}}
			}
			done()
			results <- r
		}()
		value, err := call(ctx)
		r = result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
	}
	timer := time.NewTimer(stuckAfter)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.value, r.err
	case <-timer.C:
		var none T
		return none, &strayError{how: strayIgnores}
	}
}
