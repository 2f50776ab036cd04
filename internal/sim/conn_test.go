package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A conn is a connection of a subscription, as Redis sees it. What is sent on it stops at the gate like a command.
type conn struct {
	p          *process
	pipe       net.Conn
	out        chan string // to the client
	gone       chan struct{}
	cut        func()
	subscribed bool // the scheduler's
}

// dial connects a subscription. Commands need no connection: they are caught by a hook. The client holds a mutex while it
// dials, which a bubble doesn't take for waiting: so a connection is made, or refused, at once, and what then is sent on it
// arrives or doesn't.
func (p *process) dial(context.Context, string, string) (net.Conn, error) {
	w := p.r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if isClosed(p.died) || p.r.toRedis.refused || w.down == downRefusing {
		return nil, errRefused
	}
	ours, theirs := net.Pipe()
	c := &conn{p: p, pipe: ours, out: make(chan string, 4096), gone: make(chan struct{})}
	c.cut = sync.OnceFunc(func() { close(c.gone); _ = ours.Close() })
	p.conns = append(p.conns, c)
	go c.read()
	go c.write()
	return theirs, nil
}

// open returns the connections that there are.
func (p *process) open() []*conn {
	p.r.w.mu.Lock()
	defer p.r.w.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool { return isClosed(c.gone) })
	return slices.Clone(p.conns)
}

// send puts data on the way to the client, unless nobody reads there any more.
func (c *conn) send(data string) {
	select {
	case c.out <- data:
	case <-c.gone:
	default:
		c.cut()
	}
}

func (c *conn) write() {
	for {
		select {
		case data := <-c.out:
			if _, err := io.WriteString(c.pipe, data); err != nil {
				c.cut()
				return
			}
		case <-c.gone:
			return
		}
	}
}

// read brings what the client sends to the gate.
func (c *conn) read() {
	defer c.cut()
	in := bufio.NewReader(c.pipe)
	for {
		args, err := readCommand(in)
		if err != nil {
			return
		}
		o := c.p.newOp(strings.ToLower(args[0]), "", "")
		o.args, o.conn = args, c
		c.p.r.w.arrive(o)
	}
}

// readCommand reads an array of bulk strings.
func readCommand(in *bufio.Reader) ([]string, error) {
	n, err := readNumber(in, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readNumber(in, '$')
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size+2)
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, err
		}
		args[i] = string(buf[:size])
	}
	return args, nil
}

func readNumber(in *bufio.Reader, kind byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q where %q was expected", line[0], kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// bulks is an array of bulk strings as Redis sends it.
func bulks(list ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(list))
	for _, s := range list {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(s), s)
	}
	return b.String()
}

// reply is Redis's answer to what was sent on the connection.
func (c *conn) reply(args []string) string {
	switch strings.ToLower(args[0]) {
	case "subscribe":
		c.subscribed = true
		return fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n", len(args[1]), args[1])
	case "ping":
		if c.subscribed {
			return bulks("pong", "")
		}
		return "+PONG\r\n"
	}
	return "-ERR unknown command\r\n"
}
