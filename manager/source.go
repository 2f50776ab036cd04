package manager

import (
	"cmp"
	"context"
	"errors"
	"net"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A Source fetches a token: once per call, from whatever gives it. It is called under the lease, by one replica at a time
// while leases hold. ctx ends with the environment's endpoint timeout, never with a caller.
//
// An *[endpoint.Error] in the error's chain says what is known of the failure; of any other error the fleet is told that
// the source failed, without its text, which may hold a secret. A connection that couldn't be made ([net.OpError] of
// a dial, [net.DNSError]) is taken for this replica's own trouble. A panic is an error, too, and so is a Source that hasn't
// returned a second after ctx ended: its goroutine is left to itself.
type Source interface {
	Fetch(ctx context.Context) (*Reply, error)
}

// SourceFunc makes a function a [Source].
type SourceFunc func(ctx context.Context) (*Reply, error)

// Fetch implements [Source].
func (f SourceFunc) Fetch(ctx context.Context) (*Reply, error) { return f(ctx) }

// fetch calls the source and makes an *endpoint.Error of whatever goes wrong. One that ignores its context, or ends its
// goroutine, must not keep the lease from the fleet.
func fetch(ctx context.Context, s Source) (*Reply, *endpoint.Error) {
	reply, err := guarded(ctx, func(ctx context.Context) (*Reply, error) {
		reply, err := s.Fetch(ctx)
		if err == nil {
			err = checkReply(reply)
		}
		if err != nil {
			return nil, classify(ctx, err)
		}
		return reply, nil
	}, func() {})
	switch err := err.(type) { //nolint:errorlint // it is one of these, and no other's
	case *endpoint.Error:
		return nil, err
	case *strayError:
		failed := &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token source " + err.how, Err: err.err}
		if err.how == strayIgnores {
			failed.Code = endpoint.CodeTimeout
		}
		return nil, failed
	}
	return reply, nil
}

// classify makes an *endpoint.Error, fit to be shared, of a source's error.
func classify(ctx context.Context, err error) *endpoint.Error {
	if failed, ok := errors.AsType[*endpoint.Error](err); ok && failed != nil {
		c := *failed
		c.Code, c.Message = cmp.Or(printable.Line(c.Code, 64), endpoint.CodeBadReply), printable.Line(c.Message, 200)
		return &c
	}
	failed := &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token source failed", Err: err}
	_, isDNS := errors.AsType[*net.DNSError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case isDNS, isOp && op.Op == "dial":
		failed.Code, failed.Message = endpoint.CodeUnreachable, "the token source could not connect"
	case ctx.Err() != nil:
		failed.Code, failed.Message = endpoint.CodeTimeout, "no answer in time"
	}
	return failed
}

// checkReply validates what a plugged-in source returns like an endpoint's answer.
func checkReply(r *Reply) error {
	failed := &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token source returned nothing"}
	if r != nil {
		err := r.Check()
		if err == nil {
			return nil
		}
		failed.Message = err.Error()
	}
	return failed
}
