package herd

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// waits are the calls of Token that got none at once, in terms of the tokens: the manager's own histogram counts them.
type waits struct {
	mu       sync.Mutex // guards what follows
	tokens   []tokenLife
	came     chan struct{} // closed with the next token; nil where nobody waits
	counting bool          // the cold herd, which waits by design, is over
}

// A tokenLife is that of one token, from its issue to that of the next.
type tokenLife struct {
	from     time.Time
	requests Requests // sent until then
	calls    int      // of the endpoint until then
	blocked  int      // calls that began to wait in it
}

// issued notes that the endpoint answers with a new token.
func (w *waits) issued(sent Requests, calls int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens = append(w.tokens, tokenLife{from: time.Now(), requests: sent, calls: calls})
	if w.came != nil {
		close(w.came)
		w.came = nil
	}
}

// next returns how many tokens there were, and what is closed with the next one.
func (w *waits) next() (tokens int, came <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.came == nil {
		w.came = make(chan struct{})
	}
	return len(w.tokens), w.came
}

// all returns a copy of what is known.
func (w *waits) all() []tokenLife {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.tokens)
}

// count has waits noted from here on.
func (w *waits) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counting = true
}

// waited notes a wait that is over now, with the token in whose life it began.
func (w *waits) waited(d time.Duration) {
	began := time.Now().Add(-d)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.counting {
		return
	}
	for i := len(w.tokens) - 1; i >= 0; i-- {
		if !began.Before(w.tokens[i].from) {
			w.tokens[i].blocked++
			return
		}
	}
}

// meters is a provider whose instruments do nothing, but for the one histogram of waits.
type meters struct {
	noop.MeterProvider
	waits *waits
}

// Meter implements [metric.MeterProvider].
func (m meters) Meter(string, ...metric.MeterOption) metric.Meter { return meter{waits: m.waits} }

type meter struct {
	noop.Meter
	waits *waits
}

// Float64Histogram implements [metric.Meter].
func (m meter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	if name == "onetoken.wait.duration" {
		return histogram{waits: m.waits}, nil
	}
	return noop.Float64Histogram{}, nil
}

type histogram struct {
	noop.Float64Histogram
	waits *waits
}

// Record implements [metric.Float64Histogram].
func (h histogram) Record(_ context.Context, seconds float64, _ ...metric.RecordOption) {
	h.waits.waited(time.Duration(seconds * float64(time.Second)))
}

// Enabled implements [metric.Float64Histogram].
func (h histogram) Enabled(context.Context) bool { return true }

// hearing is a log that waits for one line: that events arrive.
type hearing struct{ once func() }

// Enabled implements [slog.Handler].
func (h *hearing) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h *hearing) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "outcome" && a.Value.String() == "subscribed" {
			h.once()
		}
		return true
	})
	return nil
}

// WithAttrs implements [slog.Handler].
func (h *hearing) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements [slog.Handler].
func (h *hearing) WithGroup(string) slog.Handler { return h }
