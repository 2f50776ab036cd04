package grpccreds

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A callError ends a call with a code that gRFC A54 lets credentials choose, and keeps what lies behind it.
type callError struct {
	code codes.Code
	err  error
}

func (e *callError) Error() string { return e.err.Error() }

func (e *callError) Unwrap() error { return e.err }

// GRPCStatus is for [status.FromError].
func (e *callError) GRPCStatus() *status.Status { return status.New(e.code, e.err.Error()) }

// codeOf is the code of a call that gets no token.
func codeOf(ctx context.Context, err error) codes.Code {
	if _, ok := errors.AsType[*manager.WaitError](err); ok {
		return status.FromContextError(ctx.Err()).Code() // not the cause's, which is whatever the caller gave
	}
	if errors.Is(err, manager.ErrClosed) {
		return codes.Canceled // as of a connection that is closed
	}
	if _, ok := errors.AsType[*manager.RedisError](err); ok {
		return codes.Unavailable
	}
	if failed, ok := errors.AsType[*manager.EndpointError](err); ok && !endpoint.IsRefusal(failed.Code) {
		return codes.Unavailable
	}
	return codes.Unauthenticated
}

// rejectsToken reports whether err, of the server, is that the token is no good: UNAUTHENTICATED, save with a Bearer
// challenge about something else, as in HTTP.
func rejectsToken(err error, metadata ...metadata.MD) bool {
	if status.Code(err) != codes.Unauthenticated {
		return false
	}
	resp := http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}}
	for _, md := range metadata {
		for _, challenge := range md.Get("www-authenticate") {
			resp.Header.Add("WWW-Authenticate", challenge)
		}
	}
	return manager.RejectsToken(&resp)
}
