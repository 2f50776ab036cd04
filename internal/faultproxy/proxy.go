// Package faultproxy is a TCP proxy for tests, between a replica and its Redis or its token endpoint. It understands
// enough of RESP to recognise the steps of a refresh, in both directions: at any of them it can call the test, hold the
// frame, cut the connection, half-close it or let it fall silent. The program under test has no failpoints: what happens
// to it is what a network and a server can do.
package faultproxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Phase is where a frame is on its way.
type Phase int

// The phases.
const (
	Request Phase = iota // before it reaches the server
	Reply                // before it reaches the client
)

func (p Phase) String() string { return [...]string{"request", "reply"}[p] }

// An Action is what becomes of a frame.
type Action int

// The actions.
const (
	Pass      Action = iota // it goes on
	Cut                     // it doesn't, and both ends get a reset
	BlackHole               // it and all that follow it this way vanish; the connection stays open
	HalfClose               // it doesn't, nor does what follows it: whom it was for sees the end of the stream
)

func (a Action) String() string { return [...]string{"pass", "cut", "black hole", "half-close"}[a] }

// A Frame is one request, one reply or one message, on hold.
type Frame struct {
	Step   Step
	Phase  Phase
	Args   []string  // of the request, also for its reply; nil for a message and for what isn't RESP
	Reply  []string  // of a reply or message: its elements, "" for those that are lists; a scalar is one element
	Failed bool      // of a reply: it is an error
	Came   time.Time // when the request came, also for its reply: Redis can't have run it before; zero as Args are nil
}

// A Hook is called for every frame, which waits for its answer: a hook that blocks delays what follows in the same
// direction of the same connection, and nothing else. It is called by many goroutines at once.
type Hook func(Frame) Action

// Options configure a [Proxy].
type Options struct {
	// Raw, where it is set, is the step of all that passes: nothing is parsed, and a frame is what one read brings.
	Raw Step
	// Hook is asked about every frame; nil: all pass. It must return when the test wants to close the proxy.
	Hook Hook
}

// A Proxy listens on a port of 127.0.0.1. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	opts     Options
	listener net.Listener
	work     sync.WaitGroup
	done     chan struct{}
	accepted atomic.Int64

	mu    sync.Mutex // guards what follows
	conns map[*conn]struct{}
	held  chan struct{} // closed by Release; nil where nothing is held
	away  bool          // new connections are refused
	shut  bool
}

// New returns a proxy to target, which need not be there yet.
func New(target string, o Options) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it doesn't block
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, opts: o, listener: l, done: make(chan struct{}), conns: map[*conn]struct{}{}}
	p.work.Go(p.accept)
	return p, nil
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Accepted returns how many connections were accepted.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Hold stops all that would pass, on every connection and in both directions, as a network does that loses packets and
// sends them again: nothing is lost, and nothing arrives. New connections are accepted and held, too.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Release ends a Hold: what was held arrives.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Refuse has new connections reset, or lets them come again. Those that are there stay.
func (p *Proxy) Refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = yes
}

// CutAll resets every connection there is, and returns how many those were.
func (p *Proxy) CutAll() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.cut()
	}
	return len(p.conns)
}

// Close cuts all connections, and returns when nothing of the proxy is left.
func (p *Proxy) Close() {
	p.mu.Lock()
	if !p.shut {
		p.shut = true
		close(p.done)
	}
	for c := range p.conns {
		c.cut()
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.work.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.accepted.Add(1)
		p.work.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// wait returns once nothing is held; false where c has ended or the proxy is closed first.
func (p *Proxy) wait(gone <-chan struct{}) bool {
	for {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held == nil {
			return true
		}
		select {
		case <-held:
		case <-gone:
			return false
		case <-p.done:
			return false
		}
	}
}

// serve carries one connection to its end.
func (p *Proxy) serve(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	c := &conn{proxy: p, client: client, gone: make(chan struct{})}
	if !p.add(c) {
		_ = client.SetLinger(0)
		return
	}
	defer p.remove(c)
	if !p.wait(c.gone) {
		return
	}
	server, err := net.Dial("tcp", p.target) //nolint:noctx // to loopback: it doesn't block
	if err != nil {
		_ = client.SetLinger(0) // as refused as can be, once accepted
		return
	}
	defer func() { _ = server.Close() }()
	if !c.connected(server.(*net.TCPConn)) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.carry(c.client, c.server, Request) })
	both.Go(func() { c.carry(c.server, c.client, Reply) })
	both.Wait()
}

func (p *Proxy) add(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut || p.away {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) remove(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// A conn is a client's connection and the one to the server that belongs to it.
type conn struct {
	proxy  *Proxy
	client *net.TCPConn
	gone   chan struct{} // closed by cut
	once   sync.Once

	mu         sync.Mutex   // guards what follows
	server     *net.TCPConn // nil until it is connected
	pending    []Frame      // requests whose replies are to come
	subscribed bool
}

// connected notes the server's side, unless the connection was cut meanwhile.
func (c *conn) connected(server *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = server
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// cut resets both sides.
func (c *conn) cut() {
	c.once.Do(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.gone)
		for _, side := range []*net.TCPConn{c.client, c.server} {
			if side != nil {
				_ = side.SetLinger(0)
				_ = side.Close()
			}
		}
	})
}

// carry brings frames from one side to the other until there are no more. An end of the stream is passed on, any other
// error is a cut.
func (c *conn) carry(from, to *net.TCPConn, phase Phase) {
	next := c.frames(from, phase)
	for {
		raw, frame, err := next()
		if err != nil {
			if !c.proxy.wait(c.gone) {
				return
			}
			if errors.Is(err, io.EOF) && to.CloseWrite() == nil {
				return
			}
			c.cut()
			return
		}
		action := Pass
		if hook := c.proxy.opts.Hook; hook != nil {
			action = hook(frame)
		}
		if !c.proxy.wait(c.gone) {
			return
		}
		switch action {
		case Cut:
			c.cut()
			return
		case BlackHole:
			c.drain(from)
			return
		case HalfClose:
			_ = to.CloseWrite()
			c.drain(from)
			return
		case Pass:
		}
		if _, err := to.Write(raw); err != nil {
			c.cut()
			return
		}
	}
}

// drain reads what nobody gets. An end of the stream isn't passed on: it would have to get through.
func (c *conn) drain(from *net.TCPConn) {
	_, _ = io.Copy(io.Discard, from)
	if from == c.client {
		c.cut() // nobody is left to hear the server
	}
}

// frames returns what reads the next frame of a direction.
func (c *conn) frames(from *net.TCPConn, phase Phase) func() ([]byte, Frame, error) {
	if raw := c.proxy.opts.Raw; raw != "" {
		buffer := make([]byte, 64<<10)
		return func() ([]byte, Frame, error) {
			n, err := from.Read(buffer)
			return buffer[:n], Frame{Step: raw, Phase: phase}, err
		}
	}
	r := bufio.NewReaderSize(from, 64<<10)
	return func() ([]byte, Frame, error) {
		v, err := readValue(r)
		if err != nil {
			return nil, Frame{}, err
		}
		if phase == Request {
			return v.raw, c.request(v), nil
		}
		return v.raw, c.reply(v), nil
	}
}

func (c *conn) request(v value) Frame {
	f := Frame{Step: stepOf(v.elements), Phase: Request, Args: v.elements, Came: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Step == Subscribe {
		c.subscribed = true // its reply is a message
	} else {
		c.pending = append(c.pending, f)
	}
	return f
}

func (c *conn) reply(v value) Frame {
	f := Frame{Step: Other, Phase: Reply, Reply: v.elements, Failed: v.failed()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if step, ok := c.messageLocked(v); ok {
		f.Step = step
		return f
	}
	if len(c.pending) > 0 {
		asked := c.pending[0]
		c.pending = c.pending[1:]
		f.Step, f.Args, f.Came = asked.Step, asked.Args, asked.Came
	}
	return f
}

// messageLocked recognises what isn't the reply to a request: a push of RESP3, and what RESP2 has in its place.
func (c *conn) messageLocked(v value) (Step, bool) {
	push := v.kind == '>' || v.kind == '*' && c.subscribed
	if !push || len(v.elements) == 0 {
		return Other, false
	}
	switch v.elements[0] {
	case "subscribe":
		return Subscribe, true
	case "message":
		return Event, true
	}
	return Other, v.kind == '>'
}
