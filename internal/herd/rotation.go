package herd

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// A RotationResult is what [Rotation] has measured.
type RotationResult struct {
	Replicas   int
	Lives      []Life        // one for each rotation
	Calls      int           // of Token, by all callers together
	Expired    int           // of them, those that got a token whose life was over
	Longest    time.Duration // the longest of them, what the machine was busy with included
	Failures   int           // of them, those that got an error
	FirstError error
}

// A Life is that of one token, from its issue to that of the next.
type Life struct {
	Lasted   time.Duration
	Calls    int // of the endpoint: 1, that for the next token
	Blocked  int // calls of Token that began in it and didn't return at once
	Requests Requests
}

const (
	callEvery    = 10 * time.Millisecond
	callsASecond = 20_000 // of all callers together, at most
)

// Rotation has callers use the token all the time while it is replaced, Options.Rotations times. Each calls every 10 ms;
// where that makes more than 20,000 calls a second, less often. Errors are as for [Cold].
func Rotation(ctx context.Context, o Options) (_ *RotationResult, err error) {
	h, err := open(ctx, o)
	defer func() { err = h.end(ctx, err) }()
	if err != nil {
		return nil, err
	}
	if err := h.startAll(ctx); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeoutCause(ctx, h.longest(), fmt.Errorf("herd: %d rotations didn't come within %v", h.Rotations, h.longest()))
	defer cancel()
	if cold := h.askAll(limited, h.askStarted); cold.FirstError != nil {
		return nil, cold.FirstError
	}
	h.waits.count()
	callers := h.startCallers(limited)
	err = h.awaitRotations(limited)
	h.settle(limited) // whoever waited for the last token has it
	callers.stop()
	if err != nil {
		return nil, err
	}
	result := callers.sum
	result.Replicas, result.Lives = h.Replicas, lives(h.waits.all(), h.Rotations)
	return &result, nil
}

// Blocked is how many calls didn't return at once, from the n-th rotation on, counted from 1.
func (r *RotationResult) Blocked(n int) (blocked int) {
	for _, l := range r.Lives[min(n-1, len(r.Lives)):] {
		blocked += l.Blocked
	}
	return blocked
}

// RequestsEach is how many requests a replica sent in a rotation, on average.
func (r *RotationResult) RequestsEach() float64 {
	sent := 0
	for _, l := range r.Lives {
		sent += l.Requests.Total()
	}
	return float64(sent) / float64(r.Replicas*len(r.Lives))
}

// awaitRotations returns when the endpoint has given the last token out.
func (h *herd) awaitRotations(ctx context.Context) error {
	for seen := 0; ; {
		tokens, came := h.waits.next()
		for ; seen < tokens; seen++ {
			if seen > 0 && seen <= h.Rotations { // the first is that of the cold herd
				h.step("rotations", h.Rotations)
			}
		}
		if seen > h.Rotations {
			return nil
		}
		select {
		case <-came:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lives are the first n between the tokens.
func lives(tokens []tokenLife, n int) []Life {
	all := make([]Life, n)
	for i := range all {
		t, next := tokens[i], tokens[i+1]
		all[i] = Life{
			Lasted: next.from.Sub(t.from), Calls: next.calls - t.calls, Blocked: t.blocked, Requests: next.requests.Since(t.requests),
		}
	}
	return all
}

// callers use the token.
type callers struct {
	herd *herd
	stop func() // returns when the last has left

	mu  sync.Mutex     // guards sum
	sum RotationResult // of those who have left
}

func (h *herd) startCallers(ctx context.Context) *callers {
	ctx, cancel := context.WithCancel(ctx)
	c := &callers{herd: h}
	var calling sync.WaitGroup
	c.stop = func() { cancel(); calling.Wait() }
	all := h.Replicas * h.Callers
	every := max(callEvery, time.Duration(all)*time.Second/callsASecond)
	for i := range all {
		e := h.replicas[i%h.Replicas].env
		calling.Go(func() {
			if pause(ctx, every*time.Duration(i)/time.Duration(all)) == nil { // they don't go in step
				c.add(c.run(ctx, e, every))
			}
		})
	}
	return c
}

// run is one caller.
func (c *callers) run(ctx context.Context, e *manager.Env, every time.Duration) (sum RotationResult) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		began := time.Now()
		t, err := e.Token(ctx)
		if ctx.Err() != nil {
			return sum
		}
		sum.Calls++
		sum.Longest = max(sum.Longest, time.Since(began))
		switch {
		case err != nil:
			sum.Failures++
			sum.FirstError = cmp.Or(sum.FirstError, err)
		case !c.herd.accepts(t):
			sum.Expired++
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return sum
		}
	}
}

func (c *callers) add(one RotationResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Calls += one.Calls
	c.sum.Expired += one.Expired
	c.sum.Longest = max(c.sum.Longest, one.Longest)
	c.sum.Failures += one.Failures
	c.sum.FirstError = cmp.Or(c.sum.FirstError, one.FirstError)
}
