package manager

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// Client returns an HTTP client whose requests carry the token of env: see [Manager.Transport]. An unknown environment is
// the error of its every request.
func (m *Manager) Client(env string) *http.Client {
	return &http.Client{Transport: m.Transport(env, nil)}
}

// Transport returns a RoundTripper that adds the token of env to requests and sends them by base, or by
// [http.DefaultTransport] where base is nil.
//
// It adds a token for the environment's origins only (BaseURL's by default; any, where none is known), and never to a
// request that a redirect has led to another origin; other requests pass as they are. A 401 that rejects the token
// (RFC 6750 §3.1) has it replaced, once per version and not while it is young, and the request is sent once more where
// its body can be. Meanwhile, and if that fails, others are served the old token: it may have been a stray answer. A
// token whose type isn't Bearer is an error.
func (m *Manager) Transport(env string, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{m: m, name: env, base: base}
}

type transport struct {
	m    *Manager
	name string
	base http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	env, tok, err := t.tokenFor(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if tok == nil {
		return t.base.RoundTrip(req)
	}
	resp, err := t.base.RoundTrip(withToken(req, tok))
	if err != nil || !RejectsToken(resp) {
		return resp, err
	}
	again, ok := replay(req)
	if !ok { // the caller gets the answer as it is; the next request shall have a better token
		env.Reject(tok)
		return resp, nil
	}
	newer, ok := env.Replace(req.Context(), tok)
	if !ok || !newer.IsBearer() || newer.Config != tok.Config {
		closeBody(again)
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // a short answer drained lets the connection be used again
	_ = resp.Body.Close()
	return t.base.RoundTrip(withToken(again, newer))
}

// tokenFor returns the token that goes with req, nil where none may. The environment may be changed while its token is waited
// for: a token of other settings than those that allow the origin doesn't go there.
func (t *transport) tokenFor(req *http.Request) (*Env, *Token, error) {
	for {
		env, err := t.m.lookup(req.Context(), t.name)
		if err != nil {
			return nil, nil, err
		}
		conf := env.conf()
		if !conf.mayHaveToken(req) {
			return env, nil, nil
		}
		tok, err := env.bearer(req.Context())
		if err != nil || tok.Config == conf.fingerprint {
			return env, tok, err
		}
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// withToken returns a copy of req with the token: a RoundTripper must not change what it was given. The fields' values are
// shared, which binds base to the same; it may set and add fields.
func withToken(req *http.Request, tok *Token) *http.Request {
	var c struct { // one allocation
		http.Request
		authorization [1]string // of its own: who writes into it, against the rule, spoils no other request
	}
	c.Request, c.authorization[0] = *req, tok.AuthHeader()
	if c.Header = maps.Clone(req.Header); c.Header == nil {
		c.Header = make(http.Header)
	}
	for name, values := range c.Header {
		if cap(values) > len(values) {
			c.Header[name] = slices.Clip(values) // what is appended goes elsewhere
		}
	}
	c.Header["Authorization"] = c.authorization[:]
	return &c.Request
}

// replay returns req with its body from the start, if it has none or it can be had again.
func replay(req *http.Request) (*http.Request, bool) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, true
	}
	if req.GetBody == nil {
		return nil, false
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	c := *req
	c.Body = body
	return &c, true
}

// bearer is Token for a header of the Bearer scheme.
func (e *Env) bearer(ctx context.Context) (*Token, error) {
	tok, err := e.Token(ctx)
	if err == nil && !tok.IsBearer() {
		return nil, fmt.Errorf("onetoken: %s: a token of type %q can't be sent as a bearer token", e.name, tok.TokenType)
	}
	return tok, err
}

// mayHaveToken reports whether the token may go where req goes, by the way that redirects have led it.
func (r *resolved) mayHaveToken(req *http.Request) bool {
	if !r.allowsOrigin(req.URL) {
		return false
	}
	// http.Client links a redirected request to the response that caused it; it would not strip our header, which
	// it doesn't know.
	for resp := req.Response; resp != nil; resp = resp.Request.Response {
		if resp.Request == nil || originOf(resp.Request.URL) != originOf(req.URL) {
			return false
		}
	}
	return true
}

// AllowsOrigin reports whether the environment's token may be sent to u, by [Environment.Origins]: for those who send it
// themselves. What a redirect has led to must be asked about again.
func (e *Env) AllowsOrigin(u *url.URL) bool {
	return e.present().conf().allowsOrigin(u)
}

func (r *resolved) allowsOrigin(u *url.URL) bool {
	return r.origins == nil || slices.Contains(r.origins, origin{u.Scheme, u.Host}) || slices.Contains(r.origins, originOf(u))
}

// An origin is scheme, host and port of a URL (RFC 6454 §4), in lower case, and without a default port. A URL that is spelt like
// that has the origin of its scheme and its host as they are.
type origin struct{ scheme, host string }

// originOf allocates nothing where u is in lower case.
func originOf(u *url.URL) origin {
	o := origin{strings.ToLower(u.Scheme), strings.ToLower(u.Host)}
	switch o.scheme {
	case "https":
		o.host = strings.TrimSuffix(o.host, ":443")
	case "http":
		o.host = strings.TrimSuffix(o.host, ":80")
	}
	o.host = strings.TrimSuffix(o.host, ":")
	return o
}

// TokenSource returns a [oauth2.TokenSource] for clients of golang.org/x/oauth2; ctx bounds its every call. It is cheap
// to ask and must not be wrapped in [oauth2.ReuseTokenSource], which would keep a token that was replaced. The token's
// Expiry is by the local clock.
func (m *Manager) TokenSource(ctx context.Context, env string) oauth2.TokenSource {
	return &tokenSource{ctx: ctx, m: m, env: env}
}

type tokenSource struct {
	ctx context.Context //nolint:containedctx // oauth2.TokenSource takes none
	m   *Manager
	env string
}

// Token implements [oauth2.TokenSource]. An *[EndpointError] is in the chain of its error where that is the reason.
func (s *tokenSource) Token() (*oauth2.Token, error) {
	t, err := s.m.Token(s.ctx, s.env)
	if err != nil {
		return nil, err
	}
	left := s.m.ExpiresIn(s.env, t)
	tok := &oauth2.Token{
		AccessToken: t.AccessToken.Reveal(),
		TokenType:   t.TokenType,
		Expiry:      s.m.wall().Add(left),
		ExpiresIn:   int64(left / time.Second),
	}
	if t.Scope != "" {
		return tok.WithExtra(map[string]any{"scope": t.Scope}), nil
	}
	return tok, nil
}
