package agent

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// In a bubble an hour is nothing: what takes time is tested there, over pipes.

// pipes is a listener whose connections stay in the bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// endless is a page whose stream ends with the page alone.
type endless struct{ closed chan struct{} }

func (e *endless) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		ticker := time.NewTicker(time.Minute)
		defer ticker.Stop()
		for {
			_, _ = io.WriteString(w, "event\n")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-e.closed:
				return
			case <-r.Context().Done():
				return
			}
		}
	})
}

func (e *endless) Close() { close(e.closed) }

// inBubble serves an agent over pipes; connect makes a connection to it.
func inBubble(t *testing.T, test func(t *testing.T, kit *managertest.Kit, connect func(request string) net.Conn, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		var environments map[string]manager.Environment
		kit := managertest.New(t, managertest.Options{
			InMemory: true, Config: func(_ int, c *manager.Config) { environments = c.Environments },
		})
		a, err := New(Options{
			Manager: kit.Manager, Overview: overview.New(kit.Store, kit.Manager).Cached(), Environments: environments,
			Page: &endless{make(chan struct{})},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := newPipes()
		ended := make(chan error, 1)
		go func() { ended <- a.Serve(ctx, &Listener{Listener: l}) }()
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if err := <-ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}()
		stop := func() { // no mutex: a bubble's time stands still while one is waited for
			cancel()
			<-gone
		}
		defer stop()
		test(t, kit, func(request string) net.Conn {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			_, _ = io.WriteString(ours, request)
			return ours
		}, stop)
	})
}

const tokenRequestText = "GET /v1/environments/test/token HTTP/1.1\r\nHost: localhost\r\n\r\n"

func TestAWaitIsCutByNoOtherDeadline(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, kit *managertest.Kit, connect func(string) net.Conn, _ func()) {
		kit.Endpoint.SetDefault(mockendpoint.Reply{Hang: true})
		begun := time.Now()
		conn := connect(tokenRequestText)
		defer func() { _ = conn.Close() }()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		defer func() { _ = resp.Body.Close() }()
		// The endpoint's timeout is 10 s: that is the answer, well before the agent's own end of waiting.
		if took := time.Since(begun); resp.StatusCode != 503 || took > 30*time.Second {
			t.Errorf("%d after %v", resp.StatusCode, took)
		}
	})
}

func TestAStreamOutlivesTheDeadlines(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *managertest.Kit, connect func(string) net.Conn, stop func()) {
		conn := connect("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
		defer func() { _ = conn.Close() }()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		lines := bufio.NewReader(resp.Body)
		for i := range 120 { // two hours
			if line, err := lines.ReadString('\n'); line != "event\n" {
				t.Fatalf("after %d minutes: %q, %v", i, line, err)
			}
		}
		go stop()
		if rest, err := io.ReadAll(lines); err != nil || strings.ReplaceAll(string(rest), "event\n", "") != "" {
			t.Errorf("the stream's end: %q, %v", rest, err)
		}
		stop()
	})
}

func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *managertest.Kit, connect func(string) net.Conn, _ func()) {
		for name, c := range map[string]struct {
			request string
			within  time.Duration
		}{
			"silence":             {"", headerTimeout},
			"a part of a header":  {"GET /healthz HTTP/1.1\r\nHost: local", headerTimeout},
			"a part of a body":    {"POST /v1/environments/test/oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant", 40 * time.Second},
			"a stream's body":     {"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", 40 * time.Second},
			"a body of a stream":  {"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", time.Minute}, // the next event's
			"nothing any more":    {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", idleTimeout},
			"an answer not taken": {tokenRequestText, 40 * time.Second},
		} {
			begun := time.Now()
			conn := connect(c.request)
			if name == "an answer not taken" {
				<-time.After(c.within + time.Second)
				if n, err := io.Copy(io.Discard, conn); n > 1<<10 || err != nil {
					t.Errorf("%s: %d bytes, %v", name, n, err)
				}
			} else {
				_, _ = io.Copy(io.Discard, conn) // until the server closes
			}
			if took := time.Since(begun); took > c.within+time.Second {
				t.Errorf("%s: it is cut off after %v, want about %v", name, took, c.within)
			}
			_ = conn.Close()
		}
	})
}

func TestAStopIsBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, kit *managertest.Kit, connect func(string) net.Conn, stop func()) {
		kit.Endpoint.SetDefault(mockendpoint.Reply{Hang: true})
		conn := connect(tokenRequestText) // which nobody will read the answer of
		defer func() { _ = conn.Close() }()
		if err := kit.Endpoint.Await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		stop()
		if took := time.Since(begun); took < stopGrace || took > stopGrace+stopWrite+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
