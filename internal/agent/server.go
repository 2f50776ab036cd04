package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of connections and requests. A request may wait for a token, so it takes longer than its parts.
const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	overhead      = 10 * time.Second // beside the wait for a token: to read a request, to write an answer
	maxHeader     = 32 << 10
	maxConns      = 1024

	stopGrace = 5 * time.Second // for waits under way, once the agent is to stop
	stopWrite = 2 * time.Second // and then for their answers
)

// Serve serves until ctx is done, which is no error: it then stops to accept, ends event streams, and finishes the requests
// under way. Those that still wait after five seconds are told that the agent stops. All listeners are closed in the end.
func (a *Agent) Serve(ctx context.Context, listeners ...*Listener) error {
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(errStopping)
	server := a.server(requests)
	places := make(chan struct{}, maxConns)
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		var accepting net.Listener = &limited{Listener: l, places: places}
		if l.tls != nil {
			accepting = tls.NewListener(accepting, l.tls)
		}
		go func() { ended <- server.Serve(accepting) }()
	}
	var err error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-ended:
		running--
	}
	a.stop(server, cut) //nolint:contextcheck // ctx is done
	for range running {
		if e := <-ended; err == nil && !errors.Is(e, http.ErrServerClosed) {
			err = e
		}
	}
	return err
}

func (a *Agent) server(requests context.Context) *http.Server {
	whole := a.options.MaxWait + overhead
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           a.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       whole, // shorter, it would end the context of a request that waits
		WriteTimeout:      whole,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         protocols,

		DisableGeneralOptionsHandler: true, // it would answer OPTIONS * past all rules
		ErrorLog:                     slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return requests },
	}
}

// stop ends the server gracefully, within a few seconds.
func (a *Agent) stop(server *http.Server, cut context.CancelCauseFunc) {
	a.log.Info("stopping", "outcome", "stopping")
	if a.options.Page != nil {
		a.options.Page.Close()
	}
	late := time.AfterFunc(stopGrace, func() { cut(errStopping) })
	defer late.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace+stopWrite)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

// limited accepts no more connections than there are places, which it may share with others. One too many is closed at
// once: a client that is told can go elsewhere, one that waits unseen can't.
type limited struct {
	net.Listener
	places chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &placed{Conn: conn, free: sync.OnceFunc(func() { <-l.places })}, nil
		default:
			_ = conn.Close()
		}
	}
}

// placed is a connection that frees its place when it is closed.
type placed struct {
	net.Conn
	free func()
}

func (c *placed) Close() error {
	defer c.free()
	return c.Conn.Close()
}
