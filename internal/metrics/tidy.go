package metrics

import (
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

const (
	large     = 64 << 10    // bytes of an answer, compressed as a rule, which a thousand environments exceed
	tidyEvery = time.Second // at most
)

// tidied gives the system back what a large answer took, right after it: an agent stands beside the program that matters, and
// what it needs for a moment in every quarter of a minute would be its size for good.
func tidied(next http.Handler) http.Handler {
	var mu sync.Mutex
	var last time.Time
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted := &counter{ResponseWriter: w}
		next.ServeHTTP(counted, r)
		if counted.written < large || !mu.TryLock() {
			return
		}
		defer mu.Unlock()
		if time.Since(last) > tidyEvery {
			debug.FreeOSMemory()
			last = time.Now()
		}
	})
}

// A counter counts what is written.
type counter struct {
	http.ResponseWriter
	written int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.written += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
