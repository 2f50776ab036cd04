package page

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
)

// A pace is how often Redis is asked, and what is kept.
type pace struct {
	least  time.Duration // between two reads, whatever happens
	all    time.Duration // between two reads of all rows
	names  time.Duration // between two looks for environments that nobody has told of: that walks through all of Redis's keys
	beat   time.Duration // between two signs of life on a stream
	stuck  time.Duration // a browser that takes nothing for so long is given up
	lookup time.Duration // one read may take so long

	streams int // at once
	queue   int // frames that wait for a slow browser, before it is sent everything anew instead
	heard   int // events kept
}

var defaultPace = pace{
	least: 200 * time.Millisecond, all: 2 * time.Second, names: 5 * time.Second, beat: 10 * time.Second,
	stuck: 10 * time.Second, lookup: 10 * time.Second, streams: 64, queue: 16, heard: 50,
}

// share is how many times longer than a read has taken the next of its kind is waited for, so that a large Redis isn't kept
// busy by those who look at it.
const share = 10

// A hub reads for all streams. Its reader starts with the first stream and rests while there is none.
type hub struct {
	source Source
	here   func(env string) bool
	log    *slog.Logger
	pace   pace
	began  time.Time     // the frames' clock counts from here
	wake   chan struct{} // there is something to read
	closed chan struct{}
	start  func() // once
	close  func() // once

	mu      sync.Mutex // guards what follows; never held over I/O
	streams map[*stream]struct{}
	session int  // counts the times that the last stream has left
	known   rows // nil before the first read since somebody looks
	away    *away
	heard   []heard         // the last events, the newest last
	untold  int             // how many of them are in no frame yet
	named   map[string]bool // environments to be read because an event named them
	suspect bool            // all are to be read: events may have been lost
	ended   bool
}

// An away is why Redis can't be read.
type away struct {
	Message string `json:"message"`
	Since   int64  `json:"since"` // by the frames' clock
}

// A heard is an event and when it was heard.
type heard struct {
	store.Event
	At time.Time `json:"at"` // by this machine's clock
}

func newHub(o Options, p pace) *hub {
	h := &hub{
		source: o.Overview, here: func(string) bool { return true }, log: o.Log, pace: p, began: time.Now(),
		wake: make(chan struct{}, 1), closed: make(chan struct{}),
		streams: map[*stream]struct{}{}, named: map[string]bool{},
	}
	if c, ok := o.Overview.(interface{ Configured(env string) bool }); ok {
		h.here = c.Configured
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	h.start = sync.OnceFunc(func() {
		running.Go(func() { h.run(ctx) })
		running.Go(func() { _ = o.Watch(ctx, h) }) // it ends with ctx alone
	})
	h.close = sync.OnceFunc(func() {
		h.mu.Lock()
		h.ended = true
		h.mu.Unlock()
		close(h.closed)
		cancel()
		running.Wait()
	})
	return h
}

// now is the frames' clock: milliseconds since the hub was made.
func (h *hub) now() int64 { return time.Since(h.began).Milliseconds() }

// Subscribed implements [store.Watcher].
func (h *hub) Subscribed(bool) {
	h.mu.Lock()
	h.suspect = true
	h.mu.Unlock()
	h.look()
}

// Event implements [store.Watcher].
func (h *hub) Event(e store.Event) {
	h.mu.Lock()
	h.heard = append(h.heard, heard{e, time.Now().UTC()})
	if over := len(h.heard) - h.pace.heard; over > 0 {
		h.heard = slices.Delete(h.heard, 0, over)
	}
	h.untold = min(h.untold+1, len(h.heard))
	if len(h.named) < 256 {
		h.named[e.Env] = true
	} else {
		h.suspect = true
	}
	h.mu.Unlock()
	h.look()
}

// look wakes the reader.
func (h *hub) look() { signal(h.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake already
	}
}

// run reads while somebody looks, until ctx is done.
func (h *hub) run(ctx context.Context) {
	r := reader{hub: h}
	for ctx.Err() == nil {
		t := h.due()
		if t.nobody {
			wait(ctx, h.wake, nil)
			continue
		}
		r.read(ctx, t)
		wait(ctx, nil, time.After(h.pace.least))
		wait(ctx, h.wake, time.After(time.Until(r.nextAll)))
	}
}

// wait waits until ctx is done, or woken, or it is late, whichever comes first.
func wait(ctx context.Context, wake <-chan struct{}, late <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-wake:
	case <-late:
	}
}

// A todo is what the reader has to read, beside what its own clock says.
type todo struct {
	session int  // that it is for: what is read for an earlier one is of no use
	nobody  bool // looks: nothing
	anew    bool // nothing is known yet
	all     bool
	named   []string
}

// due takes what is to be read.
func (h *hub) due() todo {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) == 0 {
		return todo{nobody: true}
	}
	t := todo{session: h.session, anew: h.known == nil, all: h.suspect, named: slices.Sorted(maps.Keys(h.named))}
	h.suspect = false
	clear(h.named)
	return t
}

// A reader is the state of the one goroutine that reads.
type reader struct {
	hub       *hub
	names     map[string]bool
	nextNames time.Time
	nextAll   time.Time
}

// read reads what is due and tells the streams.
func (r *reader) read(ctx context.Context, t todo) {
	h := r.hub
	found, err := r.find(ctx, t)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.nextAll = time.Now().Add(h.pace.all)
	}
	h.tell(t.session, found, r.names, err)
}

// find reads the names, if it is time, and the rows that are due.
func (r *reader) find(ctx context.Context, t todo) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, r.hub.pace.lookup)
	defer cancel()
	now := time.Now()
	if t.anew || !now.Before(r.nextNames) {
		names, err := r.hub.source.Names(ctx)
		if err != nil {
			return nil, err
		}
		r.names = make(map[string]bool, len(names))
		for _, name := range names {
			r.names[name] = true
		}
		r.nextNames = next(now, r.hub.pace.names)
	}
	for _, name := range t.named {
		r.names[name] = true // an event told of it: no need to search for it
	}
	if !t.anew && !t.all && now.Before(r.nextAll) {
		return r.rows(ctx, t.named)
	}
	now = time.Now()
	found, err := r.rows(ctx, slices.Sorted(maps.Keys(r.names)))
	r.nextAll = next(now, r.hub.pace.all)
	return found, err
}

// next is when something that began then and ends now is to be done again.
func next(began time.Time, every time.Duration) time.Time {
	return began.Add(max(every, share*time.Since(began)))
}

func (r *reader) rows(ctx context.Context, names []string) ([]row, error) {
	read := time.Now()
	found, err := r.hub.source.Rows(ctx, names)
	if err != nil {
		return nil, err
	}
	list := make([]row, len(found))
	for i, status := range found {
		list[i] = newRow(status, r.hub.here(status.Environment), read)
	}
	return list, nil
}

// tell takes what was read, or why it wasn't, and has the streams send what is new of it.
func (h *hub) tell(session int, read []row, names map[string]bool, failed error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if session != h.session {
		return // all have gone meanwhile, and what was known with them
	}
	news := h.noteLocked(failed)
	f := frame{Away: h.away}
	if failed == nil {
		if h.known == nil {
			h.known = rows{}
		}
		f.Rows, f.Removed = h.known.take(read), h.known.keep(names)
	}
	f.Read = h.known != nil
	f.Heard = slices.Clone(h.heard[len(h.heard)-h.untold:])
	h.untold = 0
	h.publishLocked(f, news || len(f.Rows)+len(f.Removed)+len(f.Heard) > 0)
}

// noteLocked notes whether Redis is away, and reports whether that is news.
func (h *hub) noteLocked(failed error) bool {
	switch was := h.away; {
	case failed == nil:
		h.away = nil
		if was != nil {
			h.log.Info("the page reads Redis again", "outcome", "page_back")
		}
		return was != nil
	case was == nil:
		h.away = &away{Message: printable.Line(failed.Error(), 300), Since: h.now()}
		h.log.Warn("the page can't read Redis", "outcome", "page_away", "error", h.away.Message)
		return true
	default:
		h.away = &away{Message: printable.Line(failed.Error(), 300), Since: was.Since}
		return *h.away != *was
	}
}
