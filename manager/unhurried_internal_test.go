package manager

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// ended returns how long it takes until ctx is done, and its error.
func ended(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	<-ctx.Done()
	return time.Since(start), ctx.Err()
}

func TestATimeOutCountsTimeInWhichTheProcessRan(t *testing.T) {
	for name, tt := range map[string]struct {
		stopped time.Duration // after half of the time-out
		want    time.Duration
	}{
		"it ran":                     {0, 4 * time.Second},
		"it ran, slowly":             {50 * time.Millisecond, 4 * time.Second},
		"it was stopped":             {time.Second, 5 * time.Second},
		"it was stopped for minutes": {10 * time.Minute, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := unhurried(t.Context(), 4*time.Second, func() time.Duration { // a clock that has gone on meanwhile
					now := time.Since(start)
					if now > 2*time.Second {
						now += tt.stopped
					}
					return now
				})
				defer cancel()
				if got, err := ended(ctx); got != tt.want || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it ended after %v with %v, want %v", got, err, tt.want)
				}
			})
		})
	}
}

func TestAnUnhurriedContextEndsWithItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := func() time.Duration { return 0 }
		parent, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		ctx, cancel := unhurried(parent, time.Minute, clock)
		defer cancel()
		child, cancelChild := context.WithCancel(ctx)
		defer cancelChild()
		if deadline, _ := ctx.Deadline(); time.Until(deadline) != time.Second {
			t.Errorf("the deadline is in %v", time.Until(deadline))
		}
		if got, err := ended(child); got != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended after %v with %v, want the parent's end", got, err)
		}
		ctx, cancel = unhurried(t.Context(), time.Minute, clock)
		cancel()
		cancel()
		if got, err := ended(ctx); got != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("it ended after %v with %v, want it canceled", got, err)
		}
	})
}
