package manager

import (
	"context"
	"fmt"
	"io"
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
	e, err := m.Env(env)
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{env: e, base: base, err: err}
}

type transport struct {
	env  *Env
	base http.RoundTripper
	err  error
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.err != nil {
		closeBody(req)
		return nil, t.err
	}
	if !t.env.mayHaveToken(req) {
		return t.base.RoundTrip(req)
	}
	tok, err := t.env.bearer(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := t.base.RoundTrip(withToken(req, tok))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !rejectsToken(resp.Header) {
		return resp, err
	}
	again, ok := replay(req)
	if !ok { // the caller gets the answer as it is; the next request shall have a better token
		t.env.replaceBehind(tok)
		return resp, nil
	}
	newer := t.env.replace(req.Context(), tok)
	if newer == nil {
		closeBody(again)
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // a short answer drained lets the connection be used again
	_ = resp.Body.Close()
	return t.base.RoundTrip(withToken(again, newer))
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// withToken returns a copy of req with the token: a RoundTripper must not change what it was given.
func withToken(req *http.Request, tok *Token) *http.Request {
	c := *req
	c.Header = req.Header.Clone()
	if c.Header == nil {
		c.Header = http.Header{}
	}
	tok.SetAuthHeader(&c)
	return &c
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
func (e *Env) mayHaveToken(req *http.Request) bool {
	if e.origins == nil && req.Response == nil {
		return true
	}
	target := origin(req.URL)
	if e.origins != nil && !slices.Contains(e.origins, target) {
		return false
	}
	// http.Client links a redirected request to the response that caused it; it would not strip our header, which
	// it doesn't know.
	for resp := req.Response; resp != nil; resp = resp.Request.Response {
		if resp.Request == nil || origin(resp.Request.URL) != target {
			return false
		}
	}
	return true
}

// origin is scheme, host and port of u (RFC 6454 §4), without a default port.
func origin(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port := u.Port()
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// rejectsToken reports whether a 401's challenges (RFC 9110 §11.6.1) are about the token itself: a Bearer challenge
// with an error other than invalid_token (RFC 6750 §3.1) is about something that a new token doesn't mend.
func rejectsToken(h http.Header) bool {
	for _, line := range h.Values("WWW-Authenticate") {
		for _, code := range bearerErrors(line) {
			if code != "invalid_token" {
				return false
			}
		}
	}
	return true
}

// bearerErrors returns the error parameters of the Bearer challenges in a WWW-Authenticate field.
func bearerErrors(field string) []string {
	var codes []string
	scheme := ""
	for _, item := range splitQuoted(field) {
		if strings.TrimSpace(item) == "" {
			continue // RFC 9110 §5.6.1.2: empty elements of a list don't count
		}
		name, value, isParam := strings.Cut(item, "=")
		// The first parameter of a challenge comes after its scheme and a space: `Bearer realm="x"`.
		if before, after, ok := strings.Cut(strings.TrimSpace(name), " "); ok {
			scheme, name = before, strings.TrimSpace(after)
		} else if !isParam {
			scheme = before
		}
		if isParam && strings.EqualFold(scheme, "bearer") && strings.EqualFold(strings.TrimSpace(name), "error") {
			codes = append(codes, strings.Trim(strings.TrimSpace(value), `"`))
		}
	}
	return codes
}

// splitQuoted splits a list at the commas that are not in quotes.
func splitQuoted(s string) []string {
	var items []string
	quoted, escaped, start := false, false, 0
	for i := range len(s) {
		switch c := s[i]; {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			items = append(items, s[start:i])
			start = i + 1
		}
	}
	return append(items, s[start:])
}

// replaceableAge is how old a token must be before something other than its age, a 401 or a caller who needs it for longer,
// has it replaced: 30 s, or a tenth of its life if that is less.
func replaceableAge(life time.Duration) time.Duration { return min(30*time.Second, life/10) }

// replace returns a usable token above the one that a resource server rejected, or nil where there is none to be had now:
// the version is too young, was asked about before, or the endpoint fails. A backoff counts.
func (e *Env) replace(ctx context.Context, rejected *Token) *Token {
	e.mu.Lock()
	s := e.usableLocked(rejected.Version)
	ask, ok := e.rejectLocked(rejected)
	e.mu.Unlock()
	if s != nil {
		return s.token
	}
	if !ok {
		return nil
	}
	tok, err := e.join(ctx, ask)
	if err != nil || !tok.IsBearer() {
		return nil
	}
	return tok
}

// replaceBehind is replace for a request that can't be sent again.
func (e *Env) replaceBehind(rejected *Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ask, ok := e.rejectLocked(rejected)
	if !ok || e.flight != nil || e.closed || e.heldLocked() != nil || e.usableLocked(rejected.Version) != nil {
		return
	}
	ask.background = true
	e.startLocked(ask)
}

// rejectLocked decides whether a rejected token is to be replaced: once, which a flight notes when it asks the endpoint
// for that. While that flight lasts, others join it.
func (e *Env) rejectLocked(t *Token) (ask, bool) {
	a := ask{above: t.Version, rejected: true}
	s := e.snap.Load()
	if s == nil || s.token.Version != t.Version {
		return a, s == nil // gone or replaced meanwhile: any newer one will do
	}
	if e.m.now()-(s.expires-t.Life()) < replaceableAge(t.Life()) {
		return a, false
	}
	if e.rejected == t.Version && t.Version != 0 {
		return a, e.flight != nil && e.flight.above >= t.Version
	}
	return a, true
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
