// Package jitter spreads pauses, so that replicas don't go in step.
package jitter

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

var seeded atomic.Pointer[source] // nil: the runtime's own randomness

type source struct {
	mu  sync.Mutex
	rng *rand.Rand
}

// N returns a random duration in [0, n), which must be above 0.
func N(n time.Duration) time.Duration {
	if s := seeded.Load(); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Duration(s.rng.Int64N(int64(n)))
	}
	return rand.N(n)
}

// Seed makes every N of the process repeatable from here on: for simulations. undo ends that.
func Seed(seed uint64) (undo func()) {
	seeded.Store(&source{rng: rand.New(rand.NewPCG(seed, seed))}) //nolint:gosec // no secret depends on it
	return func() { seeded.Store(nil) }
}
