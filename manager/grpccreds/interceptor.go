package grpccreds

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/onetoken/onetoken/manager"
)

// UnaryInterceptor returns an interceptor for connections with these credentials. It adds no token itself. A call that the
// server ends with UNAUTHENTICATED has the token replaced by the rules of [manager.Env.Replace], and is made once more with the
// new one; where there is none to be had, its error is the server's. A "www-authenticate" in the server's metadata that
// has a Bearer error other than invalid_token is no rejection.
//
// The call is repeated whatever it does: UNAUTHENTICATED says that the server has done nothing. An option that the caller
// has given, [grpc.Header] say, gets what the last one brings.
func (c *Credentials) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		watching, watched := c.watch(ctx)
		var header, trailer metadata.MD
		err := invoker(watching, method, req, reply, cc, append(slices.Clip(opts), grpc.Header(&header), grpc.Trailer(&trailer))...)
		used := watched.used.Load()
		if used == nil || !rejectsToken(err, header, trailer) {
			return err
		}
		if _, ok := c.env.Replace(ctx, used); !ok {
			return err
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// StreamInterceptor is [Credentials.UnaryInterceptor] for streams. One is begun anew only where nobody can tell: before the
// first message was received and the header was looked at, and if the client has sent nothing yet, or by the kind of the
// stream sends a single message, which is then sent again. Else the error is the server's, and the token is replaced behind
// it, for the streams to come.
func (c *Credentials) StreamInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		watching, watched := c.watch(ctx)
		first, err := streamer(watching, desc, cc, method, opts...)
		if err != nil {
			return nil, err // of the credentials, or the connection: servers answer later
		}
		return &stream{
			creds: c, ctx: ctx, call: watched, single: !desc.ClientStreams, current: first,
			again: func() (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, opts...) },
		}, nil
	}
}

// A stream is one that may be begun anew, once, while nobody can tell.
type stream struct {
	creds  *Credentials
	ctx    context.Context //nolint:containedctx // of the call, which the stream is
	call   *call
	single bool // the client sends one message
	again  func() (grpc.ClientStream, error)

	mu       sync.Mutex // guards what follows; never held across I/O
	current  grpc.ClientStream
	settled  bool          // it stays what it is
	sent     bool          // the client has sent something
	request  any           // what it sent, where that is a single message, until settled
	closed   bool          // the client has said that it sends no more
	changing chan struct{} // closed when it is decided which stream goes on; nil where it isn't asked
}

// stay settles what the stream is: the client has seen something of it.
func (s *stream) stay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
}

func (s *stream) settleLocked() { s.settled, s.request = true, nil }

func (s *stream) now() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Header implements [grpc.ClientStream].
func (s *stream) Header() (metadata.MD, error) {
	md, err := s.now().Header()
	if md != nil {
		s.stay()
	}
	return md, err
}

// Trailer implements [grpc.ClientStream].
func (s *stream) Trailer() metadata.MD { return s.now().Trailer() }

// Context implements [grpc.ClientStream].
func (s *stream) Context() context.Context { return s.now().Context() }

// SendMsg implements [grpc.ClientStream].
func (s *stream) SendMsg(m any) error {
	return s.sending(func() {
		if s.sent = true; s.single && !s.settled {
			s.request = m
		}
	}).SendMsg(m)
}

// CloseSend implements [grpc.ClientStream].
func (s *stream) CloseSend() error {
	return s.sending(func() { s.closed = true }).CloseSend()
}

// sending notes that something is sent, and returns the stream to send it by. While it is open which one that is, it waits.
func (s *stream) sending(note func()) grpc.ClientStream {
	s.mu.Lock()
	for s.changing != nil {
		changing := s.changing
		s.mu.Unlock()
		<-changing
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	note()
	return s.current
}

// RecvMsg implements [grpc.ClientStream].
func (s *stream) RecvMsg(m any) error {
	s.mu.Lock()
	current, settled := s.current, s.settled
	s.mu.Unlock()
	err := current.RecvMsg(m)
	if settled {
		return err
	}
	if !s.rejected(current, err) {
		s.stay()
		return err
	}
	next := s.restart()
	if next == nil {
		return err
	}
	return next.RecvMsg(m)
}

func (s *stream) rejected(current grpc.ClientStream, err error) bool {
	if err == nil || s.call.used.Load() == nil {
		return false
	}
	header, _ := current.Header() // it has ended: this doesn't wait
	return rejectsToken(err, header, current.Trailer())
}

// restart begins the stream anew with a newer token and returns it, nil where that can't be.
func (s *stream) restart() grpc.ClientStream {
	used := s.call.used.Load()
	s.mu.Lock()
	possible, request, closed := !s.settled && (!s.sent || s.single), s.request, s.closed
	s.settleLocked()
	if !possible {
		s.mu.Unlock()
		s.creds.env.Reject(used)
		return nil
	}
	s.changing = make(chan struct{})
	s.mu.Unlock()

	next := s.begin(used, request, closed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if next != nil {
		s.current = next
	}
	close(s.changing)
	s.changing = nil
	return next
}

func (s *stream) begin(used *manager.Token, request any, closed bool) grpc.ClientStream {
	if _, ok := s.creds.env.Replace(s.ctx, used); !ok {
		return nil
	}
	next, err := s.again()
	if err != nil {
		return nil
	}
	if request != nil {
		if err := next.SendMsg(request); err != nil {
			return nil // which has ended it
		}
	}
	if closed {
		_ = next.CloseSend() // always nil
	}
	return next
}
