package manager

import (
	"context"
	"sync"
	"time"

	"github.com/onetoken/onetoken/store"
)

const (
	maxLooks   = 2  // goroutines that read what nobody waits for, at most
	looksAtOne = 64 // environments that one of them reads in one round trip
	// calmPause is between two of those round trips where nothing was heard of the environments but that something may have
	// been missed: a Redis that is back is not to be buried under the reads of a fleet with thousands of them. So a replica
	// reads 640 a second.
	calmPause = 100 * time.Millisecond
)

// looks are the environments that are to be read again behind their callers: those that were heard of at once, the others
// (calm) in turn. There are as many goroutines as there is to do, and none at rest.
type looks struct {
	m *Manager

	mu      sync.Mutex // guards what follows
	heard   []*Env
	calm    []*Env
	readers int  // of those that were heard of
	pacing  bool // whether somebody reads the others
}

// add has an environment read, which isn't among them.
func (l *looks) add(e *Env, calm bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case calm:
		l.calm = append(l.calm, e)
		if !l.pacing {
			l.pacing = l.m.spawn(l.pace)
		}
	default:
		l.heard = append(l.heard, e)
		if l.readers < maxLooks && l.m.spawn(l.read) {
			l.readers++
		}
	}
}

// next takes the next few out of a queue.
func next(queue *[]*Env) []*Env {
	n := min(len(*queue), looksAtOne)
	some := (*queue)[:n:n]
	if *queue = (*queue)[n:]; len(*queue) == 0 {
		*queue = nil
	}
	return some
}

func (l *looks) read() {
	for {
		l.mu.Lock()
		some := next(&l.heard)
		if len(some) == 0 {
			l.readers--
		}
		l.mu.Unlock()
		if len(some) == 0 {
			return
		}
		l.m.readMany(some)
	}
}

func (l *looks) pace() {
	for {
		l.mu.Lock()
		some := next(&l.calm)
		l.pacing = len(some) > 0
		l.mu.Unlock()
		if len(some) == 0 {
			return
		}
		l.m.readMany(some)
		pause(l.m.ctx, calmPause)
	}
}

// readMany reads environments again, those once more that were asked for meanwhile.
func (m *Manager) readMany(envs []*Env) {
	select {
	case <-m.done:
		return
	default:
	}
	names := make([]string, len(envs))
	for i, e := range envs {
		names[i] = e.name
		e.mu.Lock()
		e.look.state = lookReading
		e.mu.Unlock()
	}
	m.store.ReadEach(context.WithoutCancel(m.ctx), names, func(i int, r *store.Record, sent time.Time, err error) {
		envs[i].looked(m.ctx, r, sent.Sub(m.base), err)
	})
}

// looked takes in a read behind the callers.
func (e *Env) looked(ctx context.Context, r *store.Record, sent time.Duration, err error) {
	if err != nil {
		e.storeFailed(ctx, err)
		e.reads.failed(e, sent, err)
	} else {
		e.noteRead(ctx, r)
		e.observe(r, sent)
	}
	e.mu.Lock()
	l := e.look
	e.look = look{}
	switch {
	case l.again || err == nil:
		e.failedLooks = 0
	case e.failedLooks < maxFailedLooks && e.m.subscribed.Load():
		e.failedLooks++
		l.again, l.calm = true, true
	}
	e.mu.Unlock()
	if l.again {
		e.lookAt(l.calm)
	}
}

// maxFailedLooks is how often a read that failed is tried again, while events arrive. Where they don't, all is read when
// they do.
const maxFailedLooks = 3

// A look is how far an environment is with a read behind its callers.
type look struct {
	state lookState
	again bool // it was asked for while it was being read
	calm  bool // of that which is waiting, or asked for again
}

type lookState int

const (
	lookNone lookState = iota
	lookWaiting
	lookReading
)

// lookAt reads the environment behind its callers: at once or, if calm, in turn. Asked for again meanwhile, it is read once
// more.
func (e *Env) lookAt(calm bool) {
	e.mu.Lock()
	l := &e.look
	switch l.state {
	case lookReading:
		l.calm = calm && (l.calm || !l.again)
		l.again = true
		e.mu.Unlock()
		return
	case lookWaiting:
		if calm || !l.calm {
			e.mu.Unlock()
			return
		}
	case lookNone:
	}
	// One that waits for its turn and must not is in both queues: it is read twice, which does no harm.
	*l = look{state: lookWaiting, calm: calm}
	e.mu.Unlock()
	e.m.looks.add(e, calm)
}
