package peers

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// A Counter counts the requests that clients write to Redis: what is inside a script is Redis's own, and a pipeline or a
// transaction counts as many as it has. It counts any client alike, as it reads what passes on the connections that it
// dials.
type Counter struct {
	requests, setup atomic.Int64
}

// Requests returns how many requests were sent but those of [Counter.Setup].
func (c *Counter) Requests() int { return int(c.requests.Load()) }

// Setup returns how many requests were sent to set a connection up: HELLO, AUTH, SELECT, and CLIENT but for CLIENT CACHING,
// which is a part of reading.
func (c *Counter) Setup() int { return int(c.setup.Load()) }

// Dial dials a connection whose requests are counted.
func (c *Counter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn, parser: parser{request: c.count}}, nil
}

func (c *Counter) count(command, sub string) {
	switch strings.ToUpper(command) {
	case "HELLO", "AUTH", "SELECT":
		c.setup.Add(1)
	case "CLIENT":
		if strings.EqualFold(sub, "CACHING") {
			c.requests.Add(1)
		} else {
			c.setup.Add(1)
		}
	default:
		c.requests.Add(1)
	}
}

type countedConn struct {
	net.Conn
	parser parser // clients write to a connection from one goroutine at a time
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.parser.write(p[:n])
	return n, err
}

// A parser reads RESP as clients write it, arrays of bulk strings, however it is cut into writes.
type parser struct {
	request func(command, sub string) // called once per request; sub is its second word, "" where it has none

	line  []byte    // what has arrived of a line
	args  int       // bulk strings of the request
	nth   int       // the one of them that arrives, from 1
	left  int       // bytes of it, with its line break, that are still to arrive
	words [2][]byte // the first two
}

func (p *parser) write(b []byte) {
	for len(b) > 0 {
		if p.left > 0 {
			b = p.bulk(b)
			continue
		}
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		p.line = append(p.line, line...)
		if b = rest; whole {
			p.header(bytes.TrimSuffix(p.line, []byte("\r")))
			p.line = p.line[:0]
		}
	}
}

// header takes a line: "*3" begins a request of three bulk strings, "$5" a bulk string of five bytes.
func (p *parser) header(line []byte) {
	n, _ := strconv.Atoi(string(line[1:]))
	if line[0] == '*' {
		p.args, p.nth, p.words = n, 0, [2][]byte{}
		return
	}
	p.nth++
	p.left = n + len("\r\n")
}

// bulk takes what b has of the bulk string that arrives, and returns the rest.
func (p *parser) bulk(b []byte) []byte {
	n := min(p.left, len(b))
	if p.nth <= len(p.words) {
		p.words[p.nth-1] = append(p.words[p.nth-1], b[:n]...)
	}
	p.left -= n
	if p.left == 0 && p.nth == p.args {
		p.request(string(bytes.TrimSpace(p.words[0])), string(bytes.TrimSpace(p.words[1])))
	}
	return b[n:]
}
