package managertest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
)

// A server serves a handler on loopback or in memory.
type server struct {
	url    string
	client *http.Client // nil: any reaches it
	close  func()
}

func serve(h http.Handler, inMemory bool) *server {
	if !inMemory {
		s := httptest.NewServer(h)
		return &server{url: s.URL, close: s.Close}
	}
	pipes := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &http.Server{Handler: h} //nolint:gosec // no stranger reaches it
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(pipes) })
	transport := &http.Transport{DialContext: pipes.dial, DisableKeepAlives: true}
	return &server{
		url:    "http://127.0.0.1",
		client: &http.Client{Transport: transport},
		close: func() {
			_ = s.Close()
			serving.Wait()
		},
	}
}

// pipes is a listener whose connections never leave the process, nor a bubble of testing/synctest.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements [net.Listener].
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements [net.Listener].
func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
