package herd

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"
)

// A ColdResult is what [Cold] has measured.
type ColdResult struct {
	Replicas    int
	Calls       int           // of the endpoint
	Wait        Waits         // beyond the endpoint's latency, of the replicas that got a token
	Asked       time.Duration // of that wait, what had passed when the endpoint was called first; 0 where it wasn't
	Took        time.Duration // until the last replica had its token, or an error
	Requests    Requests      // sent to Redis by all replicas together, until all was quiet again
	Connections int           // made meanwhile: none where the replicas had enough
	Failures    int           // replicas that got an error
	FirstError  error         // of them; nil where there is none
}

// Cold has all replicas ask for a token at once, where there is none. They are connected, or, with Options.Deploy, are made
// in that moment. The error is ctx's cause, or says why it couldn't be measured; a replica's is in the result.
func Cold(ctx context.Context, o Options) (_ *ColdResult, err error) {
	h, err := open(ctx, o)
	defer func() { err = h.end(ctx, err) }()
	if err != nil {
		return nil, err
	}
	ask := h.askStarted
	if h.Deploy {
		ask = h.startAndAsk
	} else if err := h.startAll(ctx); err != nil {
		return nil, err
	}
	h.settle(ctx)
	before, connections := h.counter.Requests(), h.counter.Connections()
	result := h.askAll(ctx, ask)
	h.settle(ctx)
	result.Replicas, result.Calls = h.Replicas, h.endpoint.Calls()
	result.Requests, result.Connections = h.counter.Requests().Since(before), h.counter.Connections()-connections
	return result, nil
}

// askStarted has a replica ask for a token that has been started.
func (h *herd) askStarted(ctx context.Context, number int) error {
	return h.ask(ctx, h.replicas[number])
}

// startAndAsk is askStarted for one that hasn't.
func (h *herd) startAndAsk(ctx context.Context, number int) error {
	r, err := h.start(number) //nolint:contextcheck // a manager outlives who makes it
	if err != nil {
		return err
	}
	return h.ask(ctx, r)
}

// askAll has all replicas ask for a token at the same moment.
func (h *herd) askAll(ctx context.Context, ask func(ctx context.Context, number int) error) *ColdResult {
	ctx, cancel := context.WithTimeout(ctx, h.Latency+time.Minute)
	defer cancel()
	waits, errs := make([]time.Duration, h.Replicas), make([]error, h.Replicas)
	var asking, ready sync.WaitGroup
	var began time.Time
	begin := make(chan struct{})
	ready.Add(h.Replicas)
	for i := range h.Replicas {
		asking.Go(func() {
			ready.Done()
			<-begin
			errs[i] = ask(ctx, i)
			waits[i] = time.Since(began) - h.Latency
			h.step("tokens", h.Replicas)
		})
	}
	ready.Wait()
	began = time.Now()
	close(begin)
	asking.Wait()
	r := &ColdResult{Took: time.Since(began), FirstError: cmp.Or(errs...)}
	if calls := h.endpoint.Requests(); len(calls) > 0 {
		r.Asked = calls[0].At.Sub(began)
	}
	got := waits[:0]
	for i, err := range errs {
		if err != nil {
			r.Failures++
			continue
		}
		got = append(got, waits[i])
	}
	r.Wait = sumUp(got)
	return r
}

// ask has the replica ask for a token, which the endpoint must accept.
func (h *herd) ask(ctx context.Context, r *replica) error {
	t, err := r.env.Token(ctx)
	if err != nil {
		return err
	}
	if !h.accepts(t) {
		return fmt.Errorf("herd: the endpoint doesn't know the token %v", t.Version)
	}
	return nil
}
