package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A frame is the data of one event of the stream. The first that has rows has all of them.
type frame struct {
	Now     int64    `json:"now"` // milliseconds, by a clock that is the process's own
	Rows    []row    `json:"rows"`
	Removed []string `json:"removed"`
	Heard   []heard  `json:"heard"`
	Away    *away    `json:"away"` // null while Redis can be read
	Read    bool     `json:"read"` // whether the rows are known: not so where Redis has been away from the start
}

// The events of a stream, by name.
const (
	eventHello  = "hello"  // who speaks
	eventState  = "state"  // a frame with everything
	eventChange = "change" // a frame with what is new
	eventBeat   = "beat"   // nothing new: the stream is alive
)

// encode returns an event as it is sent. JSON has no line break in it.
func encode(event string, data any) []byte {
	text, err := json.Marshal(data)
	if err != nil {
		panic(err) // our own types: cannot fail
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", event, text)
}

// A stream is one browser's. Its queue is bounded: a browser that doesn't keep up is sent everything anew.
type stream struct {
	wake chan struct{} // there is something to send

	// Guarded by the hub's mu.
	queue  [][]byte // shared with the other streams
	resend bool     // everything is to be sent, instead of a queue
}

// join adds a stream. It returns nil where there are too many, or the hub is closed.
func (h *hub) join() *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || len(h.streams) >= h.pace.streams {
		return nil
	}
	s := &stream{wake: make(chan struct{}, 1), resend: true}
	h.streams[s] = struct{}{}
	signal(s.wake)
	h.look()
	h.start()
	return s
}

// leave removes a stream. With the last one goes what is known: nobody keeps it up to date.
func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
	if len(h.streams) == 0 {
		h.known, h.away = nil, nil
		h.session++
	}
}

// publishLocked queues a frame for all streams, if it is news. Those that are to be sent everything anew are woken in any case:
// now there may be something.
func (h *hub) publishLocked(f frame, news bool) {
	var text []byte
	for s := range h.streams {
		switch {
		case s.resend:
		case !news:
			continue
		case len(s.queue) >= h.pace.queue:
			s.queue, s.resend = nil, true
		default:
			if text == nil {
				text = encode(eventChange, h.timed(f))
			}
			s.queue = append(s.queue, text)
		}
		signal(s.wake)
	}
}

// timed returns the frame as of now, with lists instead of nulls.
func (h *hub) timed(f frame) frame {
	now := time.Now()
	f.Now = now.Sub(h.began).Milliseconds()
	told := make([]row, len(f.Rows))
	for i, r := range f.Rows {
		told[i] = r.at(now)
	}
	f.Rows = told
	f.Removed, f.Heard = orEmpty(f.Removed), orEmpty(f.Heard)
	return f
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// take returns what is to be sent to s: at first everything, as soon as it is known.
func (h *hub) take(s *stream) [][]byte {
	h.mu.Lock()
	queue, resend := s.queue, s.resend
	s.queue = nil
	if !resend || h.known == nil && h.away == nil {
		h.mu.Unlock()
		return queue
	}
	s.resend = false
	f := frame{Away: h.away, Read: h.known != nil, Heard: slices.Clone(h.heard[:len(h.heard)-h.untold])}
	for _, r := range h.known {
		f.Rows = append(f.Rows, r)
	}
	h.mu.Unlock()
	slices.SortFunc(f.Rows, func(a, b row) int { return strings.Compare(a.Environment, b.Environment) })
	return [][]byte{encode(eventState, h.timed(f))}
}

// serveEvents is one stream, until the browser goes, stops taking, or the page is closed.
func (p *Page) serveEvents(w http.ResponseWriter, r *http.Request) {
	guard(w.Header())
	s := p.hub.join()
	if s == nil {
		busy(w)
		return
	}
	defer p.hub.leave(s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it until it ends
	if r.Method == http.MethodHead {
		return
	}
	out := sender{w: w, c: http.NewResponseController(w), stuck: p.hub.pace.stuck}
	hello := encode(eventHello, struct {
		Now  int64  `json:"now"`
		Boot string `json:"boot"`
	}{p.hub.now(), p.boot})
	if out.send(slices.Concat([]byte("retry: 2000\n"), hello)) != nil {
		return
	}
	p.pump(out, s, r.Context().Done())
}

// pump sends what the hub has for s, and a sign of life now and then.
func (p *Page) pump(out sender, s *stream, gone <-chan struct{}) {
	beat := time.NewTicker(p.hub.pace.beat)
	defer beat.Stop()
	for {
		var frames [][]byte
		select {
		case <-gone:
			return
		case <-p.hub.closed:
			return
		case <-beat.C:
			frames = [][]byte{encode(eventBeat, struct {
				Now int64 `json:"now"`
			}{p.hub.now()})}
		case <-s.wake:
			frames = p.hub.take(s)
		}
		for _, f := range frames {
			if out.send(f) != nil {
				return
			}
		}
	}
}

// busy refuses a stream: the browser comes again.
func busy(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "10")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write([]byte(`{"title":"Too many streams","status":503,"detail":"As many pages are open as the agent serves, or it is stopping: close one, or try again."}` + "\n"))
}

// A sender writes to a browser that may take it slowly, but not stop.
type sender struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	stuck time.Duration
}

// piece is how much must be taken within the limit.
const piece = 16 << 10

func (s sender) send(text []byte) error {
	for part := range slices.Chunk(text, piece) {
		if err := s.c.SetWriteDeadline(time.Now().Add(s.stuck)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := s.w.Write(part); err != nil {
			return err
		}
	}
	return s.c.Flush()
}
