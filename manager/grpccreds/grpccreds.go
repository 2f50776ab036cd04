// Package grpccreds sends the shared token of an environment with gRPC calls, and does about UNAUTHENTICATED what
// [manager.Manager.Client] does about a 401.
//
//	creds, err := grpccreds.New(m, "prod", grpccreds.Options{})
//	…
//	conn, err := grpc.NewClient("grpc.campaignflow.com.au:443", append(creds.DialOptions(),
//		grpc.WithTransportCredentials(credentials.NewTLS(nil)))...)
//
// Importing it brings google.golang.org/grpc; package manager doesn't.
package grpccreds

import (
	"context"
	"fmt"
	"net/url"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/onetoken/onetoken/manager"
)

// Options configure [New]. Zero fields mean the defaults.
type Options struct {
	// AllowInsecure permits connections without transport security: on loopback, and in tests. What can be read on the way
	// gets the token.
	AllowInsecure bool
}

// Credentials send an environment's token. They may be used by many connections, at the same time.
type Credentials struct {
	env      *manager.Env
	insecure bool
}

var _ credentials.PerRPCCredentials = (*Credentials)(nil)

// New returns credentials of an environment of m, which must outlive their use. The error is an
// *[manager.UnknownEnvironmentError].
func New(m *manager.Manager, env string, o Options) (*Credentials, error) {
	e, err := m.Env(env)
	if err != nil {
		return nil, err
	}
	return &Credentials{env: e, insecure: o.AllowInsecure}, nil
}

// DialOptions returns what a connection needs: the credentials and both interceptors, after those that it has.
func (c *Credentials) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithPerRPCCredentials(c),
		grpc.WithChainUnaryInterceptor(c.UnaryInterceptor()),
		grpc.WithChainStreamInterceptor(c.StreamInterceptor()),
	}
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials].
func (c *Credentials) RequireTransportSecurity() bool { return !c.insecure }

// GetRequestMetadata implements [credentials.PerRPCCredentials]: an "authorization" with the token. A call that brings
// one of its own in its outgoing metadata keeps that.
//
// The token goes to the environment's [manager.Environment.Origins] only (BaseURL's by default; any, where none is known):
// "https://" and the connection's authority, or "http://" on one without transport security. Where the API's gRPC is on
// another host than its BaseURL, Origins has to name it. A token that may not go there is an error of the call, and so is one
// whose type isn't Bearer.
//
// Without a token the call ends with UNAVAILABLE where that may pass by itself (the token endpoint fails or can't be reached,
// Redis can't be used), with UNAUTHENTICATED where somebody has to mend something (the endpoint refuses the client), and by
// ctx with DEADLINE_EXCEEDED or CANCELED, which a closed manager is, too. The manager's error is in the chain of the call's:
// errors.As finds an *[manager.EndpointError], which says when to try again.
func (c *Credentials) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	call := c.callOf(ctx)
	call.used.Store(nil)
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get("authorization")) > 0 {
		return nil, nil
	}
	if err := c.mayGoTo(ctx, uri); err != nil {
		return nil, &callError{codes.Unauthenticated, err}
	}
	tok, err := c.env.Token(ctx)
	if err != nil {
		return nil, &callError{codeOf(ctx, err), err}
	}
	if !tok.IsBearer() {
		return nil, &callError{codes.Unauthenticated, fmt.Errorf("onetoken: %s: a token of type %q can't be sent as a bearer token", c.env.Name(), tok.TokenType)}
	}
	call.used.Store(tok)
	return map[string]string{"authorization": tok.AuthHeader()}, nil
}

// mayGoTo returns an error unless the token may be sent to what gRPC names by "https://authority/service".
func (c *Credentials) mayGoTo(ctx context.Context, uri []string) error {
	info, _ := credentials.RequestInfoFromContext(ctx)
	secure := credentials.CheckSecurityLevel(info.AuthInfo, credentials.PrivacyAndIntegrity) == nil
	if !secure && !c.insecure {
		return fmt.Errorf("onetoken: %s: the connection has no transport security to send a token by", c.env.Name())
	}
	for _, raw := range uri {
		u, err := url.Parse(raw)
		if err != nil {
			return fmt.Errorf("onetoken: %s: the connection's authority is no host to send a token to", c.env.Name())
		}
		if !secure {
			u.Scheme = "http"
		}
		if !c.env.AllowsOrigin(u) {
			return fmt.Errorf("onetoken: %s: the token must not go to %s://%.256q: it isn't one of the environment's origins", c.env.Name(), u.Scheme, u.Host)
		}
	}
	return nil
}

// A call is what an interceptor knows of one that it watches.
type call struct {
	used atomic.Pointer[manager.Token] // the token that was sent last; nil where none was
}

// A callKey is the key of a call in a context: of these credentials, so that others on the way don't mix in.
type callKey struct{ *Credentials }

func (c *Credentials) watch(ctx context.Context) (context.Context, *call) {
	watched := &call{}
	return context.WithValue(ctx, callKey{c}, watched), watched
}

// callOf returns the call that an interceptor watches; one that nobody does where none is.
func (c *Credentials) callOf(ctx context.Context) *call {
	if watched, ok := ctx.Value(callKey{c}).(*call); ok {
		return watched
	}
	return &call{}
}
