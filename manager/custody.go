package manager

import (
	"sync"
	"time"
)

// A custody is what this process knows of the use of refresh tokens, by environment, though Redis may not. It isn't the
// environment's own: one that is taken out and comes back must not use what has been spent.
type custody struct {
	mu   sync.Mutex // guards what follows
	kept map[string]*inHand
}

type inHand struct {
	takenOver string        // lock value of an attempt that is over, though Redis may not know
	until     time.Duration // when what that has taken is free for all

	unwritten      int           // writes under way of a refresh token that nobody else has
	unwrittenSince time.Duration // when the first of them began
	unwrittenErr   error         // why the last one wasn't written at once
}

func (c *custody) of(env string) inHand {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.kept[env]; h != nil {
		return *h
	}
	return inHand{}
}

func (c *custody) change(env string, change func(*inHand)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.kept[env]
	if h == nil {
		h = &inHand{}
		c.kept[env] = h
	}
	change(h)
}

// forget drops what says nothing any more of environments that aren't there.
func (c *custody) forget(now time.Duration, isThere func(env string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for env, h := range c.kept {
		if h.unwritten == 0 && now >= h.until && !isThere(env) {
			delete(c.kept, env)
		}
	}
}
