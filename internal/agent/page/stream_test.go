package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// patience is for what must happen, on a machine that may be busy.
const patience = 30 * time.Second

// never is a pace at which a test sees only what it asks for.
const never = time.Hour

// A fakeSource has the rows that a test gives it, and says what was read.
type fakeSource struct {
	mu    sync.Mutex
	rows  map[string]manager.Status
	err   error
	reads [][]string // the names of each read
}

func newSource(names ...string) *fakeSource {
	f := &fakeSource{rows: map[string]manager.Status{}}
	for _, name := range names {
		f.set(name, 1)
	}
	return f
}

func (f *fakeSource) set(name string, version manager.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows[name] = manager.Status{Environment: name, State: manager.StateFresh, Usable: true, Version: &version}
}

func (f *fakeSource) remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.rows, name)
}

func (f *fakeSource) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// took returns what was read so far, and forgets it.
func (f *fakeSource) took() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	took := f.reads
	f.reads = nil
	return took
}

func (f *fakeSource) Names(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		f.reads = append(f.reads, nil)
	}
	names := []string{}
	for name := range f.rows {
		names = append(names, name)
	}
	return names, f.err
}

func (f *fakeSource) Rows(_ context.Context, names []string) ([]manager.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = append(f.reads, names)
	list := []manager.Status{}
	for _, name := range names {
		row, ok := f.rows[name]
		if !ok {
			row = manager.Status{Environment: name, State: manager.StateMissing}
		}
		list = append(list, row)
	}
	return list, f.err
}

// A served page is one over a fakeSource, whose events the test sends.
type served struct {
	*httptest.Server
	t      *testing.T
	page   *page.Page
	source *fakeSource
	events chan store.Event // unbuffered: sent is heard, but for the last
}

func serve(t *testing.T, source *fakeSource, pace page.Pace) *served {
	t.Helper()
	s := &served{t: t, source: source, events: make(chan store.Event)}
	s.page = page.NewAt(page.Options{Overview: source, CSRFToken: "csrf", Watch: func(ctx context.Context, w store.Watcher) error {
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case e := <-s.events:
				w.Event(e)
			}
		}
	}}, pace)
	mux := http.NewServeMux()
	s.page.Register(mux)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.page.Close()
		s.Close()
	})
	return s
}

// tell sends an event, once the watch listens.
func (s *served) tell(env string, version store.Version) {
	s.t.Helper()
	select {
	case s.events <- store.Event{Env: env, Kind: store.EventStored, Version: version}:
	case <-time.After(patience):
		s.t.Fatal("nobody listens to events")
	}
}

// A frame is what the tests look at of a stream's events.
type frame struct {
	event string
	raw   string

	Now  int64
	Boot string
	Rows []struct {
		Environment string
		Version     int64
		TTL         int64 `json:"ttl_ms"`
	}
	Removed []string
	Heard   []struct {
		Env, Kind string
		Version   int64
		At        time.Time
	}
	Away *struct {
		Message string
		Since   int64
	}
	Read bool
}

func (f frame) names() []string {
	names := []string{}
	for _, row := range f.Rows {
		names = append(names, row.Environment)
	}
	return names
}

// A reader reads a stream.
type reader struct {
	t     *testing.T
	body  io.ReadCloser
	in    *bufio.Reader
	beats bool // whether it tells of beats, too: they come when a machine is slow
}

func open(t *testing.T, url string) *reader {
	t.Helper()
	resp := get(t, url+"/v1/events")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the stream is answered with %s", resp.Status)
	}
	r := &reader{t: t, body: resp.Body, in: bufio.NewReader(resp.Body)}
	if f := r.next(); f.event != "hello" || f.Boot == "" {
		t.Fatalf("it begins with %q", f.raw)
	}
	return r
}

// get sends a request that ends with the test.
func get(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// next returns the next event of the stream, or one without a name at its end.
func (r *reader) next() frame {
	r.t.Helper()
	f := r.read()
	for f.event == "beat" && !r.beats {
		f = r.read()
	}
	return f
}

func (r *reader) read() frame {
	r.t.Helper()
	late := time.AfterFunc(patience, func() { _ = r.body.Close() })
	defer late.Stop()
	var f frame
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return frame{raw: err.Error()}
		}
		f.raw += line
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			f.event = strings.TrimSpace(name)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &f); err != nil {
				r.t.Errorf("the data are no JSON: %v: %s", err, data)
			}
		}
		if line == "\n" {
			return f
		}
	}
}

// until returns the first event that is as wanted.
func (r *reader) until(what string, wanted func(frame) bool) frame {
	r.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		f := r.next()
		if f.event == "" {
			r.t.Fatalf("waiting for %s: the stream has ended: %s", what, f.raw)
		}
		if wanted(f) {
			return f
		}
	}
	r.t.Fatalf("%s didn't come", what)
	return frame{}
}

func state(f frame) bool { return f.event == "state" }

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestAStreamBeginsWithEverything(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("b", "a", "c"), page.Pace{All: never, Names: never})
	for range 2 {
		f := open(t, s.URL).next()
		if !state(f) || !slices.Equal(f.names(), []string{"a", "b", "c"}) || !f.Read || f.Away != nil {
			t.Errorf("after hello comes %q", f.raw)
		}
	}
	for _, list := range []string{`"removed":[]`, `"heard":[]`} {
		if f := open(t, s.URL).next(); !strings.Contains(f.raw, list) {
			t.Errorf("it has no %s: %s", list, f.raw)
		}
	}
}

func TestWithoutEnvironmentsThereIsAState(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource(), page.Pace{})
	if f := open(t, s.URL).next(); !state(f) || !f.Read || !strings.Contains(f.raw, `"rows":[]`) {
		t.Errorf("after hello comes %q", f.raw)
	}
}

func TestAnEventHasItsEnvironmentReadAlone(t *testing.T) {
	t.Parallel()
	source := newSource("a", "b")
	s := serve(t, source, page.Pace{All: never, Names: never})
	r := open(t, s.URL)
	r.next()
	source.took()
	source.set("b", 2)
	before := time.Now()
	s.tell("b", 2)
	f := r.next()
	if f.event != "change" || !slices.Equal(f.names(), []string{"b"}) || f.Rows[0].Version != 2 {
		t.Fatalf("got %q, want the change of b", f.raw)
	}
	if len(f.Heard) != 1 || f.Heard[0].Env != "b" || f.Heard[0].Kind != "stored" || f.Heard[0].Version != 2 || f.Heard[0].At.Before(before.Add(-time.Second)) {
		t.Errorf("heard: %+v", f.Heard)
	}
	if got := source.took(); len(got) != 1 || !slices.Equal(got[0], []string{"b"}) {
		t.Errorf("read were %v, want b alone", got)
	}
	if later := open(t, s.URL).next(); len(later.Heard) != 1 {
		t.Errorf("who comes later hears of %d events, want 1", len(later.Heard))
	}
}

// An environment that nobody knew appears with its first event, without a walk through Redis.
func TestAnEventTellsOfANewEnvironment(t *testing.T) {
	t.Parallel()
	source := newSource("a")
	s := serve(t, source, page.Pace{All: never, Names: never})
	r := open(t, s.URL)
	r.next()
	source.set("new", 5)
	s.tell("new", 5)
	if f := r.next(); !slices.Equal(f.names(), []string{"new"}) {
		t.Errorf("got %q", f.raw)
	}
}

func TestWhatNoEventToldOfIsSeen(t *testing.T) {
	t.Parallel()
	source := newSource("a", "b")
	s := serve(t, source, page.Pace{All: 10 * time.Millisecond, Names: 10 * time.Millisecond})
	r := open(t, s.URL)
	r.next()
	source.set("a", 2)
	source.remove("b")
	source.set("c", 1)
	r.until("the change of a", func(f frame) bool { return slices.Contains(f.names(), "a") })
	source.remove("a")
	r.until("the end of a", func(f frame) bool { return slices.Contains(f.Removed, "a") })
	if f := open(t, s.URL).next(); !slices.Equal(f.names(), []string{"c"}) {
		t.Errorf("what is left: %q", f.raw)
	}
}

func TestRedisAwayAndBack(t *testing.T) {
	t.Parallel()
	source := newSource("a")
	s := serve(t, source, page.Pace{All: 10 * time.Millisecond})
	r := open(t, s.URL)
	r.next()
	source.fail(errors.New("no route\nto host"))
	f := r.until("that Redis is away", func(f frame) bool { return f.Away != nil })
	if f.Away.Message != "no route to host" || f.Away.Since > f.Now || !f.Read {
		t.Errorf("got %q", f.raw)
	}
	if late := open(t, s.URL).next(); !state(late) || late.Away == nil || len(late.Rows) != 1 {
		t.Errorf("who comes meanwhile gets %q", late.raw)
	}
	source.fail(nil)
	r.until("that Redis is back", func(f frame) bool { return f.Away == nil })
}

func TestRedisAwayFromTheStart(t *testing.T) {
	t.Parallel()
	source := newSource("a")
	source.fail(errors.New("refused"))
	s := serve(t, source, page.Pace{All: 10 * time.Millisecond})
	r := open(t, s.URL)
	if f := r.next(); !state(f) || f.Away == nil || f.Read || len(f.Rows) != 0 {
		t.Fatalf("got %q", f.raw)
	}
	source.fail(nil)
	f := r.until("the rows", func(f frame) bool { return f.Away == nil })
	if !f.Read || !slices.Equal(f.names(), []string{"a"}) {
		t.Errorf("got %q", f.raw)
	}
}

func TestTooManyStreams(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("a"), page.Pace{Streams: 3})
	var streams []*reader
	for range 3 {
		streams = append(streams, open(t, s.URL))
	}
	resp := get(t, s.URL+"/v1/events")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" ||
		resp.Header.Get("Content-Type") != "application/problem+json" || !json.Valid(body) {
		t.Errorf("the fourth gets %s, %v, %s", resp.Status, resp.Header, body)
	}
	_ = streams[0].body.Close()
	eventually(t, "there is room again", func() bool {
		resp := get(t, s.URL+"/v1/events")
		return resp.StatusCode == http.StatusOK
	})
}

func TestAStreamShowsThatItLives(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("a"), page.Pace{Beat: time.Millisecond, All: never})
	r := open(t, s.URL)
	r.beats = true
	first := r.until("a beat", func(f frame) bool { return f.event == "beat" })
	r.until("a later beat", func(f frame) bool { return f.event == "beat" && f.Now > first.Now })
}

func TestCloseEndsAllStreams(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("a"), page.Pace{})
	streams := []*reader{open(t, s.URL), open(t, s.URL)}
	for _, r := range streams {
		r.next()
	}
	s.page.Close()
	s.page.Close() // once more is nothing
	for _, r := range streams {
		for f := r.next(); f.event != ""; f = r.next() {
		}
	}
	if resp := get(t, s.URL+"/v1/events"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a new stream gets %s", resp.Status)
	}
}

func TestAPageThatNobodySawCloses(t *testing.T) {
	page.New(page.Options{Overview: newSource()}).Close()
}

// A stream that lags is sent the state instead of all that it has missed, and the last one is right.
func TestASlowBrowserGetsTheStateAnew(t *testing.T) {
	t.Parallel()
	source := newSource("a")
	s := serve(t, source, page.Pace{All: never, Names: never, Queue: 1})
	gate := make(chan struct{})
	w := &gatedWriter{header: http.Header{}, gate: gate, out: make(chan string, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/events", nil))
	}()
	defer func() { cancel(); <-done }()
	follower := open(t, s.URL)
	follower.next()
	for v := range manager.Version(6) {
		source.set("a", v+2)
		s.tell("a", v+2)
		follower.until("a change", func(f frame) bool { return len(f.Rows) == 1 && f.Rows[0].Version == int64(v+2) })
	}
	close(gate)
	states := 0
	for deadline := time.After(patience); ; {
		select {
		case text := <-w.out:
			if strings.Contains(text, "event: state") {
				states++
			}
			if strings.Contains(text, `"version":7`) {
				if states == 0 || w.writes() > 3 {
					t.Errorf("%d writes, %d states of them, until it knew the last version", w.writes(), states)
				}
				return
			}
		case <-deadline:
			t.Fatal("the last version never came")
		}
	}
}

// A gatedWriter takes nothing until its gate opens.
type gatedWriter struct {
	header http.Header
	gate   chan struct{}
	out    chan string

	mu sync.Mutex
	n  int
}

func (w *gatedWriter) Header() http.Header { return w.header }
func (w *gatedWriter) WriteHeader(int)     {}
func (w *gatedWriter) Flush()              {}

func (w *gatedWriter) Write(b []byte) (int, error) {
	<-w.gate
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
	w.out <- string(b)
	return len(b), nil
}

func (w *gatedWriter) writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

// On a real store: what a worker stores is on the stream by its event alone, and its token isn't.
func TestAWorkersTokenIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, page.Pace{All: never, Names: never, Beat: 500 * time.Millisecond})
	r := open(t, s.URL)
	if first := r.next(); !slices.Equal(first.names(), configured) {
		t.Errorf("at first there are %v", first.names())
	}
	r.beats = true
	// The watch subscribes behind the first read, so that the first event may be lost; a beat is then what comes next.
	eventually(t, "the event is heard", func() bool {
		s.do("/put?env=found&by=worker-7")
		f := r.next()
		if strings.Contains(f.raw, secretText) {
			t.Errorf("a token is in %q", f.raw)
		}
		return slices.Contains(f.names(), "found") && len(f.Heard) > 0
	})
}
