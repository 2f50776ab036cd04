package faultproxy_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
)

// echo is a server that sends back what it gets, and tells how each of its connections ends.
func echo(t *testing.T) (addr string, ends <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := make(chan error, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, err := io.Copy(conn, conn)
				c <- err
			}()
		}
	}()
	return l.Addr().String(), c
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// exchange sends a request and reads the echo of it.
func exchange(t *testing.T, c *net.TCPConn, request string) error {
	t.Helper()
	if _, err := c.Write([]byte(request)); err != nil {
		return err
	}
	buffer := make([]byte, len(request))
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadFull(c, buffer)
	if err == nil && string(buffer) != request {
		t.Fatalf("%q comes back as %q", request, buffer)
	}
	return err
}

const (
	ping = "*1\r\n$4\r\nPING\r\n"
	lose = "*2\r\n$4\r\nPING\r\n$4\r\nlose\r\n"
)

// at does action to a frame with the argument "lose" in the phase.
func at(phase faultproxy.Phase, action faultproxy.Action) faultproxy.Hook {
	return func(f faultproxy.Frame) faultproxy.Action {
		if f.Phase == phase && len(f.Args) == 2 && f.Args[1] == "lose" {
			return action
		}
		return faultproxy.Pass
	}
}

func TestACutResetsBothSides(t *testing.T) {
	t.Parallel()
	for _, phase := range []faultproxy.Phase{faultproxy.Request, faultproxy.Reply} {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			addr, ends := echo(t)
			p := start(t, addr, faultproxy.Options{Hook: at(phase, faultproxy.Cut)})
			c, other := dial(t, p.Addr()), dial(t, p.Addr())
			if err := exchange(t, c, ping); err != nil {
				t.Fatal(err)
			}
			if err := exchange(t, c, lose); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client gets %v, want a reset", err)
			}
			if err := end(t, ends); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server gets %v, want a reset", err)
			}
			if err := exchange(t, other, ping); err != nil {
				t.Errorf("another connection: %v", err)
			}
		})
	}
}

func end(t *testing.T, ends <-chan error) error {
	t.Helper()
	select {
	case err := <-ends:
		return err
	case <-time.After(patience):
		t.Fatal("the server's connection doesn't end")
		return nil
	}
}

func TestHalfClosedEndsTheStreamForWhomTheFrameWasFor(t *testing.T) {
	t.Parallel()
	t.Run("request", func(t *testing.T) {
		t.Parallel()
		addr, ends := echo(t)
		p := start(t, addr, faultproxy.Options{Hook: at(faultproxy.Request, faultproxy.HalfClose)})
		c := dial(t, p.Addr())
		if err := exchange(t, c, lose); !errors.Is(err, io.EOF) {
			t.Errorf("the client gets %v, want the end of the stream: the server has closed", err)
		}
		if err := end(t, ends); err != nil {
			t.Errorf("the server gets %v, want the end of the stream", err)
		}
	})
	t.Run("reply", func(t *testing.T) {
		t.Parallel()
		addr, ends := echo(t)
		p := start(t, addr, faultproxy.Options{Hook: at(faultproxy.Reply, faultproxy.HalfClose)})
		c := dial(t, p.Addr())
		if err := exchange(t, c, lose); !errors.Is(err, io.EOF) {
			t.Errorf("the client gets %v, want the end of the stream", err)
		}
		select {
		case err := <-ends:
			t.Errorf("the server's connection has ended, too: %v", err)
		default:
		}
		_ = c.Close()
		if err := end(t, ends); err != nil {
			t.Errorf("then the server gets %v, want the end of the stream", err)
		}
	})
}

func TestABlackHoleIsSilentAndStaysOpen(t *testing.T) {
	t.Parallel()
	for _, phase := range []faultproxy.Phase{faultproxy.Request, faultproxy.Reply} {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			addr, ends := echo(t)
			p := start(t, addr, faultproxy.Options{Hook: at(phase, faultproxy.BlackHole)})
			c := dial(t, p.Addr())
			if _, err := c.Write([]byte(lose + ping)); err != nil {
				t.Fatal(err)
			}
			if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
				t.Errorf("%d bytes and %v come back, want silence", n, err)
			}
			select {
			case err := <-ends:
				t.Errorf("the server's connection has ended: %v", err)
			default:
			}
			_ = c.Close()
			_ = end(t, ends) // nothing is left of it when its client has gone
		})
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func TestAHookDelaysItsOwnConnectionOnly(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	reached, goOn := make(chan struct{}), make(chan struct{})
	p := start(t, addr, faultproxy.Options{Hook: func(f faultproxy.Frame) faultproxy.Action {
		if f.Phase == faultproxy.Request && len(f.Args) == 2 {
			close(reached)
			<-goOn
		}
		return faultproxy.Pass
	}})
	slow, quick := dial(t, p.Addr()), dial(t, p.Addr())
	answer := make(chan error, 1)
	go func() { answer <- exchange(t, slow, lose) }()
	<-reached
	if err := exchange(t, quick, ping); err != nil {
		t.Errorf("another connection: %v", err)
	}
	select {
	case err := <-answer:
		t.Errorf("the held request is answered: %v", err)
	default:
	}
	close(goOn)
	if err := <-answer; err != nil {
		t.Errorf("after the hook: %v", err)
	}
}

func TestWhatIsHeldArrivesAfterwards(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := start(t, addr, faultproxy.Options{})
	old := dial(t, p.Addr())
	if err := exchange(t, old, ping); err != nil {
		t.Fatal(err)
	}
	p.Hold()
	fresh := dial(t, p.Addr())
	for _, c := range []*net.TCPConn{old, fresh} {
		if _, err := c.Write([]byte(ping)); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("while it is held: %v, want silence", err)
		}
	}
	p.Release()
	for _, c := range []*net.TCPConn{old, fresh} {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len(ping))); err != nil {
			t.Errorf("after the hold: %v", err)
		}
	}
}

func TestCutAllAndARefusingServer(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := start(t, addr, faultproxy.Options{Raw: "call"})
	c := dial(t, p.Addr())
	if err := exchange(t, c, "anything"); err != nil {
		t.Fatal(err)
	}
	if n := p.CutAll(); n != 1 {
		t.Errorf("%d connections were cut, want 1", n)
	}
	if err := exchange(t, c, "anything"); err == nil {
		t.Error("the connection lives on")
	}
	if p.Accepted() != 1 {
		t.Errorf("%d connections were accepted, want 1", p.Accepted())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	refused, err := net.Dial("tcp", start(t, nobody, faultproxy.Options{Raw: "call"}).Addr())
	if err == nil { // else it was reset at once
		defer func() { _ = refused.Close() }()
		err = exchange(t, refused.(*net.TCPConn), "anything")
	}
	if err == nil {
		t.Error("there is an answer, though nobody listens")
	}
}

func TestWhatIsNoRESPIsCut(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p := start(t, addr, faultproxy.Options{})
	if err := exchange(t, dial(t, p.Addr()), "GET / HTTP/1.1\r\n\r\n"); err == nil {
		t.Error("it went through")
	}
}

func TestNewConnectionsAreRefused(t *testing.T) {
	t.Parallel()
	addr, _ := echo(t)
	p, err := faultproxy.New(addr, faultproxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	old := dial(t, p.Addr())
	if err := exchange(t, old, ping); err != nil {
		t.Fatal(err)
	}
	p.Refuse(true)
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer func() { _ = c.Close() }()
		err = exchange(t, c.(*net.TCPConn), ping)
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.EOF) {
		t.Errorf("a new connection: %v, want a reset", err)
	}
	if err := exchange(t, old, ping); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	p.Refuse(false)
	if err := exchange(t, dial(t, p.Addr()), ping); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
