package top_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A source stands for Redis: it counts what is asked of it.
type source struct {
	mu      sync.Mutex
	names   []string
	err     error
	scans   int
	reads   [][]string // the names of each read
	reading int
	most    int           // reads at once
	slow    time.Duration // of a read
	state   manager.State
}

func newSource(n int) *source {
	s := &source{state: manager.StateFresh}
	for i := range n {
		s.names = append(s.names, fmt.Sprintf("env-%04d", i))
	}
	return s
}

func (s *source) options() top.Options { return top.Options{Names: s.Names, Rows: s.Rows} }

func (s *source) Names(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scans++
	return slices.Clone(s.names), s.err
}

func (s *source) Rows(_ context.Context, names []string) ([]manager.Status, error) {
	s.mu.Lock()
	s.reads = append(s.reads, slices.Clone(names))
	s.reading++
	s.most = max(s.most, s.reading)
	slow, err, state := s.slow, s.err, s.state
	s.mu.Unlock()
	if slow > 0 {
		<-time.After(slow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading--
	if err != nil {
		return nil, err
	}
	rows := make([]manager.Status, len(names))
	for i, name := range names {
		rows[i] = manager.Status{Environment: name, State: state, Usable: true, TTL: manager.Milliseconds(time.Minute), ReadAt: time.Now()}
	}
	return rows, nil
}

func (s *source) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// took returns what was read since the last call.
func (s *source) took() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads := s.reads
	s.reads = nil
	return reads
}

// screen keeps the last snapshot.
type screen struct {
	mu   sync.Mutex
	last top.Snapshot
}

func (s *screen) show(n top.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = n
}

func (s *screen) now() top.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// reading runs a Reader in a bubble of synctest until the test's end.
func reading(t *testing.T, o top.Options) (*top.Reader, *screen) {
	r, s := top.NewReader(o), &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx, s.show) }()
	t.Cleanup(func() { cancel(); <-ended })
	return r, s
}

// after lets a bubble's time pass until everything waits.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestReadsEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(3)
		_, screen := reading(t, s.options())
		after(10 * time.Millisecond)
		if last := screen.now(); !last.Complete || len(last.Rows) != 3 || last.Problem != nil || last.Rows[1].Environment != "env-0001" {
			t.Errorf("at once: %+v", last)
		}
		after(5 * time.Second)
		if reads := s.took(); len(reads) != 6 || len(reads[5]) != 3 {
			t.Errorf("%d reads: %v", len(reads), reads)
		}
		after(56 * time.Second)
		if s.scans != 3 {
			t.Errorf("%d scans in a minute, want 3", s.scans)
		}
	})
}

// Of thousands, what is in sight and what changes soon is read in each round, and the others in turn.
func TestReadsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(5000)
		r, screen := reading(t, s.options())
		r.Look([]string{"env-4711", "env-0815", "gone"})
		after(10 * time.Millisecond)
		if last := screen.now(); !last.Complete || len(last.Rows) != 5000 {
			t.Errorf("%d rows at first", len(last.Rows))
		}
		if reads := s.took(); len(reads) != 5 {
			t.Errorf("%d reads at first, want 5 of 1000", len(reads))
		}
		seen := map[string]int{}
		after(10 * time.Second)
		for _, read := range s.took() {
			if len(read) > 502 {
				t.Errorf("%d rows in a round", len(read))
			}
			for _, name := range read {
				seen[name]++
			}
		}
		if len(seen) != 5000 || seen["env-4711"] != 10 || seen["env-0815"] != 10 || seen["env-0003"] != 1 {
			t.Errorf("%d rows in a turn, those in sight %d times", len(seen), seen["env-4711"])
		}
		s.set(func() { s.state = manager.StateRefreshing }) // those of one round
		after(time.Second)
		s.set(func() { s.state = manager.StateFresh })
		s.took()
		after(time.Second)
		if reads := s.took(); len(slices.Concat(reads...)) < 1000 {
			t.Errorf("%d rows after 500 were being refreshed, want these and 500 others", len(slices.Concat(reads...)))
		}
	})
}

// Events are followed at once, at most five times a second; what they tell of others than ours is nothing.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(2000)
		r, _ := reading(t, s.options())
		after(500 * time.Millisecond)
		s.took()
		r.Event(store.Event{Env: "env-1999"})
		synctest.Wait()
		if reads := s.took(); len(reads) != 1 || strings.Join(reads[0], " ") != "env-1999" {
			t.Errorf("an event: %v", reads)
		}
		for i := range 1000 { // in 100 ms
			r.Event(store.Event{Env: fmt.Sprintf("env-%04d", i%3)})
			r.Event(store.Event{Env: fmt.Sprintf("forged-%d", i)})
			after(100 * time.Microsecond)
		}
		if reads := s.took(); len(reads) != 0 {
			t.Errorf("within 200 ms of the last: %v", reads)
		}
		after(150 * time.Millisecond)
		if reads := s.took(); len(reads) != 1 || strings.Join(reads[0], " ") != "env-0000 env-0001 env-0002" {
			t.Errorf("a storm: %v", reads)
		}
	})
}

// A new subscription means that all must be read.
func TestResubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(1500)
		r, _ := reading(t, s.options())
		after(500 * time.Millisecond)
		s.took()
		r.Subscribed(false)
		synctest.Wait()
		if reads := s.took(); len(reads) != 0 {
			t.Errorf("lost: %d reads", len(reads))
		}
		r.Subscribed(true)
		synctest.Wait()
		if reads := s.took(); len(reads) != 2 || len(reads[0])+len(reads[1]) != 1500 {
			t.Errorf("there again: %d reads", len(reads))
		}
	})
}

func TestPausedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(3)
		r, _ := reading(t, s.options())
		after(500 * time.Millisecond)
		r.Pause(true)
		s.took()
		r.Event(store.Event{Env: "env-0001"})
		after(10 * time.Minute)
		if reads := s.took(); len(reads) != 0 || s.scans != 1 {
			t.Errorf("%d reads and %d scans while paused", len(reads), s.scans)
		}
		r.Pause(false)
		synctest.Wait()
		if reads := s.took(); len(reads) != 1 || strings.Join(reads[0], " ") != "env-0001" {
			t.Errorf("after it: %v", reads)
		}
	})
}

// Only one read is under way, however slow Redis is.
func TestOneReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(3)
		s.slow = 3 * time.Second
		r, _ := reading(t, s.options())
		for range 100 {
			r.Event(store.Event{Env: "env-0001"})
			after(300 * time.Millisecond)
		}
		if s.most != 1 || len(s.took()) < 5 {
			t.Errorf("%d reads at once", s.most)
		}
	})
}

// Redis away: the rows stay, with the problem and its beginning, and it passes by itself.
func TestAwayAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(1500)
		_, screen := reading(t, s.options())
		after(500 * time.Millisecond)
		broken := errors.New("broken")
		s.set(func() { s.err = broken })
		begun := time.Now().Add(500 * time.Millisecond)
		after(3 * time.Second)
		if last := screen.now(); last.Problem != broken || len(last.Rows) != 1500 || !last.Since.Equal(begun) { //nolint:errorlint // this very one
			t.Errorf("away: %v since %v, %d rows; want since %v", last.Problem, last.Since, len(last.Rows), begun)
		}
		s.set(func() { s.err = nil })
		after(time.Second)
		if last := screen.now(); last.Problem != nil || !last.Since.IsZero() {
			t.Errorf("back: %v since %v", last.Problem, last.Since)
		}
	})
}

// Names that can't be found at first are asked for again, less and less often.
func TestNamesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(3)
		s.err = errors.New("broken")
		_, screen := reading(t, s.options())
		after(2 * time.Minute)
		if last := screen.now(); last.Problem == nil || last.Complete || len(last.Rows) != 0 {
			t.Errorf("away: %+v", last)
		}
		if s.scans < 6 || s.scans > 10 {
			t.Errorf("%d scans in two minutes", s.scans)
		}
		s.set(func() { s.err = nil })
		after(31 * time.Second)
		if last := screen.now(); last.Problem != nil || !last.Complete || len(last.Rows) != 3 {
			t.Errorf("back: %+v", last)
		}
		s.set(func() { s.names = []string{"env-0002", "new"} })
		after(31 * time.Second)
		if last := screen.now(); len(last.Rows) != 2 || last.Rows[1].Environment != "new" {
			t.Errorf("other names: %+v", last)
		}
	})
}

// A panic of what it calls is a panic of Run, wherever it was: who shows a view can give the terminal back.
func TestPanics(t *testing.T) {
	for name, o := range map[string]top.Options{
		"names": {Names: func(context.Context) ([]string, error) { panic("ouch") }, Rows: newSource(1).Rows},
		"rows":  {Names: newSource(1).Names, Rows: func(context.Context, []string) ([]manager.Status, error) { panic("ouch") }},
	} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); !strings.HasPrefix(v, "ouch") {
					t.Errorf("%s: got %s", name, v)
				}
			}()
			top.NewReader(o).Run(t.Context(), func(top.Snapshot) {})
			t.Errorf("%s: no panic", name)
		}()
	}
}

// Thousands of environments on a real Redis: rows, states and events; SCAN, and never KEYS.
func TestThousands(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		patient := redistest.Options(rdb.Options().Addr)
		patient.ReadTimeout, patient.WriteTimeout, patient.DialTimeout = 20*time.Second, 20*time.Second, 20*time.Second
		rdb = redistest.NewClient(t, patient)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		real := rdb.ConfigResetStat(ctx).Err() == nil // miniredis has no statistics, and is slow
		n := 150
		if real {
			n = 3000
		}
		plantAll(t, rdb, n)
		st, err := store.New(rdb, store.Options{Timeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		view := overview.New(st, nil)
		r := top.NewReader(top.Options{Names: view.Names, Rows: view.Rows, Watch: st.Watch, Interval: 200 * time.Millisecond})
		snapshots := make(chan top.Snapshot)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.Run(ctx, func(s top.Snapshot) {
				select {
				case snapshots <- s:
				case <-ctx.Done():
				}
			})
		}()
		await := func(what string, met func(top.Snapshot) bool) top.Snapshot {
			t.Helper()
			late := time.After(2 * time.Minute)
			for {
				select {
				case s := <-snapshots:
					if met(s) {
						return s
					}
				case <-late:
					t.Fatalf("not within two minutes: %s", what)
				}
			}
		}
		s := await("all rows", func(s top.Snapshot) bool { return s.Complete })
		counts := map[manager.State]int{}
		for _, row := range s.Rows {
			counts[row.State]++
		}
		if len(s.Rows) != n || counts[manager.StateFresh] != n-n/30 || counts[manager.StateMissing] != n/150 || counts[manager.StateFailing] != n/75 ||
			counts[manager.StateRefreshing] != n/150 || counts[manager.StateStale] != n/150 {
			t.Errorf("%d rows: %v", len(s.Rows), counts)
		}
		if row := s.Rows[1]; row.Life < 59*time.Minute || row.Life > 61*time.Minute {
			t.Errorf("a life of %v, want an hour", row.Life)
		}
		if _, err := st.Invalidate(ctx, s.Rows[n-1].Environment, 0); err != nil {
			t.Fatal(err)
		}
		await("the invalidation", func(s top.Snapshot) bool { return s.Rows[n-1].State == manager.StateMissing })
		cancel()
		<-ended
		if real {
			stats := rdb.Info(t.Context(), "commandstats").Val()
			if strings.Contains(stats, "cmdstat_keys:") || !strings.Contains(stats, "cmdstat_scan:") {
				t.Errorf("commands: %s", stats)
			}
		}
	})
}

// plantAll writes n environments, a thirtieth of which aren't fresh: of each kind alike.
func plantAll(t *testing.T, rdb *redis.Client, n int) {
	t.Helper()
	kinds := []string{"missing", "failing", "failing-usable", "refreshing", "stale"}
	now := time.Now()
	for chunk := range slices.Chunk(slices.Collect(upTo(n)), 100) {
		p := rdb.Pipeline()
		for _, i := range chunk {
			kind := "fresh"
			if i%30 == 0 {
				kind = kinds[i/30%len(kinds)]
			}
			plant(t.Context(), p, fmt.Sprintf("env-%04d", i), kind, now)
		}
		if _, err := p.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func upTo(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}
