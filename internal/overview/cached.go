package overview

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	searchEvery   = 30 * time.Second // at most
	searchTimeout = 10 * time.Second
	searchRetry   = time.Second // after one that failed
)

// Cached is an [Overview] for many who ask: all of Redis's keys are walked through once in 30 seconds at most, however
// many ask, by one of them for all. Rows are read anew for each. It is safe for concurrent use.
type Cached struct {
	*Overview

	mu     sync.Mutex // guards what follows; never held across I/O
	found  []string   // in Redis
	err    error
	until  time.Time     // found and err are the answer before it
	search chan struct{} // closed when the search under way has ended; nil where none is
}

// Cached returns o with its search for names bounded.
func (o *Overview) Cached() *Cached { return &Cached{Overview: o} }

// Names is [Overview.Names], with what is in Redis as of at most half a minute ago. A caller's end is its own, not the search's. The error wraps
// ctx's cause where that was it.
func (c *Cached) Names(ctx context.Context) ([]string, error) {
	for {
		c.mu.Lock()
		if time.Now().Before(c.until) {
			found, err := c.found, c.err
			c.mu.Unlock()
			if err != nil {
				return nil, err
			}
			return c.withConfigured(found), nil
		}
		if c.search == nil {
			c.search = make(chan struct{})
			go c.find(context.WithoutCancel(ctx), c.search)
		}
		search := c.search
		c.mu.Unlock()
		select {
		case <-search:
		case <-ctx.Done():
			return nil, fmt.Errorf("onetoken: %w while waiting for the names in Redis", context.Cause(ctx))
		}
	}
}

// find searches for all, and tells those who wait by closing done.
func (c *Cached) find(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	found, err := c.store.Environments(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found, c.err = found, err
	c.until = time.Now().Add(searchEvery)
	if err != nil {
		c.until = time.Now().Add(searchRetry)
	}
	c.search = nil
	close(done)
}

// Known reports whether env is configured or in Redis, as of at most half a minute ago. Errors are those of Names.
func (c *Cached) Known(ctx context.Context, env string) (bool, error) {
	if c.Configured(env) {
		return true, nil
	}
	names, err := c.Names(ctx)
	_, found := slices.BinarySearch(names, env)
	return found, err
}
