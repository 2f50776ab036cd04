package herd

import (
	"context"
	"time"
)

// A RestResult is what [Rest] has measured.
type RestResult struct {
	Replicas int
	Lasted   time.Duration
	Requests Requests // sent by all replicas together
}

// Rest has replicas that have a token, which nobody asks for any more, do nothing for a while. Errors are as for [Cold].
func Rest(ctx context.Context, o Options, d time.Duration) (_ *RestResult, err error) {
	h, err := open(ctx, o)
	defer func() { err = h.end(ctx, err) }()
	if err != nil {
		return nil, err
	}
	if err := h.startAll(ctx); err != nil {
		return nil, err
	}
	if cold := h.askAll(ctx, h.askStarted); cold.FirstError != nil {
		return nil, cold.FirstError
	}
	h.settle(ctx)
	before, began := h.counter.Requests(), time.Now()
	if err := pause(ctx, d); err != nil {
		return nil, err
	}
	return &RestResult{Replicas: h.Replicas, Lasted: time.Since(began), Requests: h.counter.Requests().Since(before)}, nil
}

// PerMinute is how many requests a replica sent in a minute, on average, and how many of them were the PINGs of its
// subscription.
func (r *RestResult) PerMinute() (all, pings float64) {
	each := float64(r.Replicas) * r.Lasted.Minutes()
	return float64(r.Requests.Total()) / each, float64(r.Requests["ping"]) / each
}
