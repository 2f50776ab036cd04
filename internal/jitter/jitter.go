// Package jitter spreads pauses, so that replicas don't go in step.
package jitter

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

var seeded atomic.Pointer[uint64] // nil: the runtime's own randomness

// N returns a random duration in [0, n), which must be above 0.
func N(n time.Duration) time.Duration {
	if seed := seeded.Load(); seed != nil {
		rng := rand.New(rand.NewPCG(*seed, uint64(time.Now().UnixNano()))) //nolint:gosec // no secret depends on it
		return time.Duration(rng.Int64N(int64(n)))
	}
	return rand.N(n)
}

// Shuffle puts s in a random order.
func Shuffle[E any](s []E) {
	for i := len(s) - 1; i > 0; i-- {
		j := int(N(time.Duration(i + 1)))
		s[i], s[j] = s[j], s[i]
	}
}

// Seed makes every N of the process depend on the seed and on the instant alone, and not on who draws first: for
// simulations, whose time is virtual. undo ends that.
func Seed(seed uint64) (undo func()) {
	seeded.Store(&seed)
	return func() { seeded.Store(nil) }
}
