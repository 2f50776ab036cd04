package manager

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/onetoken/onetoken/manager/endpoint"
)

// A Source fetches a token: once per call, from whatever gives it. It is called under the lease, by one replica at a time
// while leases hold. ctx ends with the environment's endpoint timeout, never with a caller.
//
// An *[endpoint.Error] in the error's chain says what is known of the failure; of any other error the fleet is told that
// the source failed, without its text, which may hold a secret. A connection that couldn't be made ([net.OpError] of
// a dial, [net.DNSError]) is taken for this replica's own trouble. A panic is an error, too.
type Source interface {
	Fetch(ctx context.Context) (*Reply, error)
}

// SourceFunc makes a function a [Source].
type SourceFunc func(ctx context.Context) (*Reply, error)

// Fetch implements [Source].
func (f SourceFunc) Fetch(ctx context.Context) (*Reply, error) { return f(ctx) }

// fetch calls the source and makes an *endpoint.Error of whatever goes wrong.
func fetch(ctx context.Context, s Source) (reply *Reply, failed *endpoint.Error) {
	defer func() {
		if p := recover(); p != nil {
			// Not the panic's value: it may hold a secret.
			reply, failed = nil, &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token source panicked",
				Err: fmt.Errorf("panic with a value of type %T", p)}
		}
	}()
	reply, err := s.Fetch(ctx)
	if err != nil {
		return nil, classify(ctx, err)
	}
	if err := checkReply(reply); err != nil {
		return nil, &endpoint.Error{Code: endpoint.CodeBadReply, Message: err.Error()}
	}
	return reply, nil
}

func classify(ctx context.Context, err error) *endpoint.Error {
	if failed := (*endpoint.Error)(nil); errors.As(err, &failed) {
		return failed
	}
	failed := &endpoint.Error{Code: endpoint.CodeBadReply, Message: "the token source failed", Err: err}
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns), errors.As(err, &op) && op.Op == "dial":
		failed.Code, failed.Message = endpoint.CodeUnreachable, "the token source could not connect"
	case ctx.Err() != nil:
		failed.Code, failed.Message = endpoint.CodeTimeout, "no answer in time"
	}
	return failed
}

// checkReply validates what a plugged-in source returns like an endpoint's answer.
func checkReply(r *Reply) error {
	if r == nil {
		return errors.New("the token source returned nothing")
	}
	return r.Check()
}
