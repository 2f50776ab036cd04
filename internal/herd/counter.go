package herd

import (
	"bytes"
	"context"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Requests are how often each command was sent, by its name in lower case. A script is one "evalsha" or "eval", whatever
// it does in Redis.
type Requests map[string]int

// handshake are the commands that a client sends once for each connection, or to learn of a Cluster's nodes.
var handshake = map[string]bool{
	"hello": true, "auth": true, "client": true, "select": true, "readonly": true, "cluster": true, "command": true,
}

// Total is how many there were, those of handshakes left aside. A subscription's SUBSCRIBE and PING count.
func (r Requests) Total() (n int) {
	for name, sent := range r {
		if !handshake[name] {
			n += sent
		}
	}
	return n
}

// Handshakes is how many the connections began with.
func (r Requests) Handshakes() (n int) {
	for name := range handshake {
		n += r[name]
	}
	return n
}

// Since is what came after before, of the same [Counter].
func (r Requests) Since(before Requests) Requests {
	d := Requests{}
	for name, n := range r {
		if n > before[name] {
			d[name] = n - before[name]
		}
	}
	return d
}

// A Counter counts what clients send to Redis, as it goes over their connections: also what no hook of the client sees, such
// as a subscription's commands and what is tried again. It is safe for concurrent use; the zero Counter is ready.
type Counter struct {
	mu          sync.Mutex // guards what follows
	sent        Requests
	connections int
}

// Requests returns what was sent until now.
func (c *Counter) Requests() Requests {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sent)
}

// Connections returns how many connections were made until now.
func (c *Counter) Connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connections
}

// Watch counts what rdb sends from here on. It must not have connected yet.
func (c *Counter) Watch(rdb redis.UniversalClient) {
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(dials{c}) })
		return
	}
	rdb.AddHook(dials{c})
}

// dials is a hook that has connections counted.
type dials struct{ counter *Counter }

var _ redis.Hook = dials{}

// DialHook implements [redis.Hook].
func (d dials) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return d.counter.Conn(conn), nil
	}
}

// ProcessHook implements [redis.Hook].
func (d dials) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (d dials) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Conn returns conn, a new connection to Redis, with what is written to it counted.
func (c *Counter) Conn(conn net.Conn) net.Conn {
	c.mu.Lock()
	c.connections++
	c.mu.Unlock()
	counted := &countedConn{Conn: conn, parser: parser{found: c.count}}
	if sys, ok := conn.(syscall.Conn); ok {
		return &sysConn{counted, sys} // go-redis looks whether an idle one is still good
	}
	return counted
}

func (c *Counter) count(name []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent == nil {
		c.sent = Requests{}
	}
	c.sent[strings.ToLower(string(name))]++
}

type countedConn struct {
	net.Conn
	parser parser // of what is written, by one goroutine at a time
}

type sysConn struct {
	*countedConn
	syscall.Conn
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.parser.feed(p)
	return c.Conn.Write(p)
}

// A parser finds the requests in what a client sends: arrays of bulk strings (RESP), of which the first is the name.
type parser struct {
	found func(name []byte)

	line  []byte // of a header, as far as it was written
	args  int    // bulk strings that the request still has
	name  []byte // as far as it was written
	first bool   // the next bulk string is the name
	skip  int    // bytes of a bulk string, and its end, that are still to come
}

func (p *parser) feed(b []byte) {
	for len(b) > 0 {
		if p.skip > 0 {
			b = p.body(b)
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			p.line = append(p.line, b...)
			return
		}
		p.line = append(p.line, b[:end]...)
		p.header(p.line)
		p.line, b = p.line[:0], b[end+1:]
	}
}

// header reads "*3\r" or "$5\r".
func (p *parser) header(line []byte) {
	if len(line) < 2 {
		return
	}
	n, err := strconv.Atoi(string(line[1 : len(line)-1]))
	switch {
	case err != nil || n < 0:
	case line[0] == '*':
		p.args, p.first = n, true
	case line[0] == '$':
		p.skip = n + len("\r\n")
	}
}

// body takes what b has of a bulk string, and returns the rest.
func (p *parser) body(b []byte) []byte {
	n := min(p.skip, len(b))
	if p.first {
		p.name = append(p.name, b[:n]...)
	}
	if p.skip -= n; p.skip > 0 {
		return nil
	}
	if p.first {
		p.found(bytes.TrimSuffix(p.name, []byte("\r\n")))
		p.name, p.first = p.name[:0], false
	}
	p.args--
	return b[n:]
}
