// Package top shows the environments of a namespace live: in a terminal, or line by line for programs and pipes.
package top

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// Options say what a [Reader] reads, and how often. Names and Rows are needed.
type Options struct {
	Names    func(context.Context) ([]string, error)                             // of all environments; called in the background
	Rows     func(ctx context.Context, names []string) ([]manager.Status, error) // in the order of names, in few round trips
	Watch    func(context.Context, store.Watcher) error                          // tells of events until the context is done; nil: none are heard
	Interval time.Duration                                                       // between two rounds of reading, default 1 s
	Rescan   time.Duration                                                       // between two calls of Names, default 30 s
	Turn     int                                                                 // how many rows out of sight are read in a round, in turn; default 500 a second
	Now      func() time.Time                                                    // default time.Now
}

const (
	minEvents  = 200 * time.Millisecond // between two reads because of events
	maxPending = 500                    // environments that events have told of and that weren't read yet; a turn finds the others
	atOnce     = 1000                   // rows that are read before what is there is shown
)

// A Snapshot is what is known.
type Snapshot struct {
	Rows     []*Row    // by name; without those that weren't read yet
	Complete bool      // the names are known, and every one was read
	Problem  error     // what the last read failed with, nil if it didn't
	Since    time.Time // when reading began to fail
}

// A Reader reads rows again and again: one read at a time.
type Reader struct {
	o Options

	mu      sync.Mutex // guards what follows
	sight   []string
	paused  bool
	all     bool
	pending map[string]bool // from events

	wake     chan struct{} // something is pending; has room for one
	panicked chan any      // out of a goroutine of Run's; has room for each

	// Of Run's goroutine alone.
	names    []string // sorted
	known    bool     // names were found
	rows     map[string]*Row
	turn     int // of names, where the next turn begins
	readErr  error
	namesErr error
	since    time.Time
}

// NewReader returns a Reader. It does nothing before Run.
func NewReader(o Options) *Reader {
	o.Interval = cmp.Or(o.Interval, time.Second)
	o.Rescan = cmp.Or(o.Rescan, 30*time.Second)
	o.Turn = cmp.Or(o.Turn, max(int(500*o.Interval.Seconds()), 100))
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reader{o: o, pending: map[string]bool{}, rows: map[string]*Row{}, wake: make(chan struct{}, 1), panicked: make(chan any, 2)}
}

// Look says which rows are in sight: they are read in every round.
func (r *Reader) Look(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sight = names
}

// Pause stops reading, or goes on with it.
func (r *Reader) Pause(paused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused && !paused {
		r.wakeUp()
	}
	r.paused = paused
}

// Subscribed implements [store.Watcher]: events may have been lost until now.
func (r *Reader) Subscribed(now bool) {
	if !now {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = true
	r.wakeUp()
}

// Event implements [store.Watcher].
func (r *Reader) Event(e store.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) < maxPending {
		r.pending[e.Env] = true
	}
	r.wakeUp()
}

func (r *Reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// found is what Names has returned.
type found struct {
	names []string
	err   error
}

// Run reads until ctx is done, and tells after each read, from this goroutine. It is called once. What panics in a
// goroutine of its own panics here.
func (r *Reader) Run(ctx context.Context, tell func(Snapshot)) {
	var others sync.WaitGroup
	defer others.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also when tell panics
	names := make(chan found)
	start := func(f func()) {
		others.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					r.panicked <- fmt.Sprintf("%v\n\n%s", v, debug.Stack())
				}
			}()
			f()
		})
	}
	start(func() { r.findNames(ctx, names) })
	if r.o.Watch != nil {
		start(func() { _ = r.o.Watch(ctx, r) }) // ends with ctx
	}
	tick := time.NewTicker(r.o.Interval)
	defer tick.Stop()
	calm := time.NewTimer(0) // runs out when events may be followed again
	defer calm.Stop()
	for woken, ready := false, false; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case v := <-r.panicked:
			panic(v)
		case f := <-names:
			r.read(ctx, r.take(f), tell)
		case <-tick.C:
			r.read(ctx, r.round(), tell)
		case <-r.wake:
			woken = true
		case <-calm.C:
			ready = true
		}
		if woken && ready {
			woken, ready = false, false
			calm.Reset(minEvents)
			r.read(ctx, r.told(), tell)
		}
	}
}

// findNames asks for the names, again and again, sooner where that failed.
func (r *Reader) findNames(ctx context.Context, to chan<- found) {
	retry := time.Second
	for {
		pause := r.o.Rescan
		if !r.isPaused() {
			var f found
			if f.names, f.err = r.o.Names(ctx); f.err != nil {
				pause = min(retry, pause)
				retry = min(2*retry, r.o.Rescan)
			} else {
				retry = time.Second
			}
			select {
			case to <- f:
			case <-ctx.Done():
				return
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (r *Reader) isPaused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paused
}

// take takes names in and returns those that are new. Rows of names that are gone go with them.
func (r *Reader) take(f found) (due []string) {
	if r.namesErr = f.err; f.err != nil {
		return nil
	}
	r.known = true
	r.names = slices.Compact(slices.Sorted(slices.Values(f.names)))
	rows := make(map[string]*Row, len(r.names))
	for _, name := range r.names {
		if row := r.rows[name]; row != nil {
			rows[name] = row
		} else {
			due = append(due, name)
		}
	}
	r.rows = rows
	return due
}

// round returns what is to be read now: what is in sight, what changes soon, and of the others those whose turn it is.
func (r *Reader) round() []string {
	if r.isPaused() {
		return nil
	}
	if len(r.names) <= r.o.Turn {
		return r.names
	}
	r.mu.Lock()
	due := slices.Clone(r.sight)
	r.mu.Unlock()
	for _, name := range r.names {
		if row := r.rows[name]; row == nil || row.State == manager.StateRefreshing {
			due = append(due, name)
		}
	}
	r.turn %= len(r.names)
	end := min(r.turn+r.o.Turn, len(r.names))
	due = append(due, r.names[r.turn:end]...)
	r.turn = end
	return r.ours(due)
}

// told returns the environments that events have told of.
func (r *Reader) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paused {
		return nil
	}
	if r.all {
		r.all = false
		clear(r.pending)
		return r.names
	}
	due := make([]string, 0, len(r.pending))
	for name := range r.pending {
		due = append(due, name)
	}
	clear(r.pending)
	return r.ours(due)
}

// ours sorts names, without those that are none of ours: an event can be forged, and a new name is found in its time.
func (r *Reader) ours(names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool {
		_, there := slices.BinarySearch(r.names, name)
		return !there
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// read reads rows and tells, a thousand at a time, and at least once.
func (r *Reader) read(ctx context.Context, due []string, tell func(Snapshot)) {
	for {
		some := due[:min(atOnce, len(due))]
		due = due[len(some):]
		if len(some) > 0 {
			r.readErr = r.readSome(ctx, some)
		}
		if ctx.Err() != nil {
			return
		}
		tell(r.snapshot())
		if len(due) == 0 || r.readErr != nil {
			return
		}
	}
}

func (r *Reader) readSome(ctx context.Context, names []string) error {
	begun := r.o.Now()
	rows, err := r.o.Rows(ctx, names)
	if err != nil {
		return err
	}
	for _, s := range rows {
		r.rows[s.Environment] = &Row{Status: s, Read: begun}
	}
	return nil
}

func (r *Reader) snapshot() Snapshot {
	s := Snapshot{Rows: make([]*Row, 0, len(r.rows)), Problem: cmp.Or(r.readErr, r.namesErr)}
	for _, name := range r.names {
		if row := r.rows[name]; row != nil {
			s.Rows = append(s.Rows, row)
		}
	}
	s.Complete = r.known && len(s.Rows) == len(r.names)
	switch {
	case s.Problem == nil:
		r.since = time.Time{}
	case r.since.IsZero():
		r.since = r.o.Now()
	}
	s.Since = r.since
	return s
}
