package managertest

import (
	"net"
	"sync"
	"time"
)

// A bufferedConn is one end of a [net.Pipe] whose writes don't wait for the other end to read, as a socket's don't: a client
// that sends a pipeline would wait for ever for a server that answers its first command.
type bufferedConn struct {
	net.Conn
	wake chan struct{} // there is something to write, or it is closed

	mu     sync.Mutex // guards what follows
	unsent []byte
	err    error
}

func buffered(conn net.Conn) *bufferedConn {
	c := &bufferedConn{Conn: conn, wake: make(chan struct{}, 1)}
	go c.send() // until it is closed, by either end
	return c
}

func (c *bufferedConn) send() {
	for range c.wake {
		c.mu.Lock()
		p := c.unsent
		c.unsent = nil
		c.mu.Unlock()
		_, err := c.Conn.Write(p)
		c.mu.Lock()
		ended := err != nil || c.err != nil
		if c.err == nil {
			c.err = err
		}
		c.mu.Unlock()
		if ended {
			return
		}
	}
}

// Write implements [net.Conn].
func (c *bufferedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.unsent = append(c.unsent, p...)
	c.poke()
	return len(p), nil
}

func (c *bufferedConn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Close implements [net.Conn].
func (c *bufferedConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	c.poke()
	return err
}

// SetDeadline implements [net.Conn].
func (c *bufferedConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements [net.Conn]: no write waits.
func (c *bufferedConn) SetWriteDeadline(time.Time) error { return nil }
