// Package login gets an environment its first refresh token, by a person who logs in: with a browser on the same machine
// (the authorization code flow, RFC 6749 §4.1, with PKCE, RFC 7636, on a redirect to loopback, RFC 8252 §7.3), or on
// another device (RFC 8628). It stores nothing.
package login

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A Client asks the environment's endpoints; *[endpoint.Client] is one.
type Client interface {
	Metadata(context.Context) (endpoint.Metadata, error)
	AuthorizationURL(context.Context, endpoint.AuthorizationRequest) (string, error)
	Exchange(ctx context.Context, code secret.Secret, redirectURL string, verifier secret.Secret) (*endpoint.Reply, error)
	Device(context.Context, url.Values) (*endpoint.Device, error)
	ExchangeDevice(context.Context, secret.Secret) (*endpoint.Reply, error)
}

var _ Client = (*endpoint.Client)(nil)

// A WaitError says that the person didn't finish in time, or that the wait was ended. It wraps the context's cause, or
// [context.DeadlineExceeded] where it was the endpoint that gave up.
type WaitError struct {
	Waiting string // one phrase: "for the browser to come back"
	Err     error
}

func (e *WaitError) Error() string { return e.Err.Error() + " while waiting " + e.Waiting }
func (e *WaitError) Unwrap() error { return e.Err }

// A SettingError says which of the ways to log in that were asked for can't be gone.
type SettingError struct {
	Setting string
	Err     error
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }
func (e *SettingError) Unwrap() error { return e.Err }

// An EndpointError says which of the endpoints it was that refused or failed. It wraps the *[endpoint.Error].
type EndpointError struct {
	Endpoint string // "authorization", "token", …
	Err      *endpoint.Error
}

func (e *EndpointError) Error() string {
	what := "failed"
	switch {
	case e.Err.Code == endpoint.CodeUnreachable:
		what = "can't be reached"
	case e.Err.Refused(), e.Err.Code == endpoint.CodeDenied:
		what = "refused"
	}
	return fmt.Sprintf("the %s endpoint %s: %s", e.Endpoint, what, e.Err.Text())
}

func (e *EndpointError) Unwrap() error { return e.Err }

// ErrNoRefreshToken says what an endpoint did that wasn't asked for more than an access token.
var ErrNoRefreshToken = errors.New("the login succeeded, but the endpoint gave no refresh token, so there is nothing to store: ask for one by " +
	"the scope offline_access or, at Google, by --param access_type=offline --param prompt=consent")

// granted returns the reply if there is a refresh token in it.
func granted(r *endpoint.Reply) (*endpoint.Reply, error) {
	if r.RefreshToken.IsEmpty() {
		return nil, ErrNoRefreshToken
	}
	return r, nil
}

// Call bounds one request to the endpoint of that name, and has an error say which it was.
func Call[T any](ctx context.Context, name string, timeout time.Duration, f func(context.Context) (T, error)) (T, error) {
	bound, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t, err := f(bound)
	var failed *endpoint.Error
	switch {
	case err == nil:
	case ctx.Err() != nil: // it is the caller who has ended it
		err = &WaitError{"for the " + name + " endpoint", context.Cause(ctx)}
	case errors.As(err, &failed):
		err = &EndpointError{name, failed}
	}
	return t, err
}
