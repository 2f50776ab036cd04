package page_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/store"
)

// A bubble is a page in a bubble of testing/synctest, where time is the test's, and nothing waits for a machine.
type bubble struct {
	t      *testing.T
	source *fakeSource
	watch  chan store.Event
	page   *page.Page
	mux    *http.ServeMux
}

func inBubble(t *testing.T, test func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, source: newSource("a", "b"), watch: make(chan store.Event), mux: http.NewServeMux()}
		b.page = page.New(page.Options{Overview: b.source, Watch: func(ctx context.Context, w store.Watcher) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-b.watch:
					w.Event(e)
				}
			}
		}})
		b.page.Register(b.mux)
		defer b.page.Close()
		test(b)
	})
}

// look opens a stream that lasts until it is told to end.
func (b *bubble) look() (end func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		b.mux.ServeHTTP(&discard{ResponseWriter: httptest.NewRecorder()}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/events", nil))
	})
	synctest.Wait()
	return func() {
		cancel()
		running.Wait()
		synctest.Wait()
	}
}

type discard struct{ http.ResponseWriter }

func (discard) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (discard) Flush()                      {}

// pass lets time pass and returns what was read meanwhile.
func (b *bubble) pass(d time.Duration) [][]string {
	b.source.took()
	<-time.After(d)
	synctest.Wait()
	return b.source.took()
}

func TestNothingIsReadForNobody(t *testing.T) {
	inBubble(t, func(b *bubble) {
		if got := b.pass(time.Hour); len(got) != 0 {
			t.Errorf("before anybody looked %d reads", len(got))
		}
		first, second := b.look(), b.look()
		first()
		if got := b.pass(10 * time.Second); len(got) == 0 {
			t.Error("one still looks, and nothing is read")
		}
		second()
		b.watch <- store.Event{Env: "a", Kind: store.EventStored, Version: 2}
		if got := b.pass(time.Hour); len(got) != 0 {
			t.Errorf("when all had gone, %d reads", len(got))
		}
		end := b.look()
		defer end()
		if got := b.source.took(); len(got) != 1 || len(got[0]) != 2 {
			t.Errorf("for the next who looks %v is read at once; want all", got)
		}
	})
}

func TestWithoutEventsAllIsReadEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		defer b.look()() // many who look are one
		if got := b.pass(time.Minute); len(got) < 29 || len(got) > 31 {
			t.Errorf("%d reads in a minute", len(got))
		}
	})
}

func TestAFloodOfEventsIsReadFiveTimesASecond(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		b.pass(time.Second)
		for i := range 1000 { // a second's
			b.watch <- store.Event{Env: fmt.Sprintf("env-%d", i%3), Kind: store.EventStored, Version: 2}
			<-time.After(time.Millisecond)
		}
		synctest.Wait()
		got := b.source.took()
		if len(got) < 4 || len(got) > 6 {
			t.Errorf("%d reads in a second", len(got))
		}
		if !slices.ContainsFunc(got, func(names []string) bool { return slices.Equal(names, []string{"env-0", "env-1", "env-2"}) }) {
			t.Errorf("events in a row are not read together: %v", got)
		}
	})
}

func TestARedisThatIsAwayIsAskedEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		b.pass(time.Second)
		b.source.fail(io.ErrUnexpectedEOF)
		if got := b.pass(time.Minute); len(got) < 15 || len(got) > 31 {
			t.Errorf("%d reads in a minute", len(got))
		}
	})
}

// connect opens a stream over a connection that holds nothing back, to a server whose own limits are short.
func (b *bubble) connect() (browser net.Conn, end func()) {
	browser, conn := net.Pipe()
	listener := &oneConn{conn: conn, closed: make(chan struct{})}
	server := &http.Server{Handler: b.mux, ReadTimeout: time.Second, WriteTimeout: time.Second}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	if _, err := io.WriteString(browser, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		b.t.Fatal(err)
	}
	return browser, func() {
		_ = browser.Close()
		_ = server.Close()
		running.Wait()
	}
}

// A browser that takes nothing stops nobody and is given up.
func TestABrowserThatTakesNothing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		_, end := b.connect()
		defer end()
		b.pass(7 * time.Second)
		if got := b.pass(2500 * time.Millisecond); len(got) == 0 {
			t.Error("before its ten seconds are over nothing is read for it: was it given up?")
		}
		other := b.look()
		if got := b.pass(9 * time.Second); len(got) < 4 {
			t.Errorf("beside it another one looks, and in 9 s there are %d reads", len(got))
		}
		other()
		if got := b.pass(time.Minute); len(got) != 0 {
			t.Errorf("long after it was given up there are %d reads", len(got))
		}
	})
}

func TestAStreamOutlivesTheServersLimits(t *testing.T) {
	inBubble(t, func(b *bubble) {
		browser, end := b.connect()
		var running sync.WaitGroup
		defer running.Wait()
		defer end()
		beats := make(chan struct{}, 1000)
		running.Go(func() {
			for in := bufio.NewScanner(browser); in.Scan(); {
				if in.Text() == "event: beat" {
					beats <- struct{}{}
				}
			}
		})
		b.pass(time.Hour)
		if got := len(beats); got < 350 || got > 360 {
			t.Errorf("%d signs of life in an hour; want one every 10 s", got)
		}
	})
}

// A oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
