// Package endpoint asks an OAuth 2.0 token endpoint for an access token (RFC 6749 §3.2): with the client_credentials grant
// (§4.4), a refresh token (§6), a JWT as authorization grant (RFC 7523) or a token of somebody else's (RFC 8693).
//
// It makes the request itself rather than through golang.org/x/oauth2, whose errors repeat the reply's body, whose
// decoder refuses an expires_in of 3600.0, and which counts a token's life from after the reply.
package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/store"
)

// An AuthMethod is how a client authenticates (OpenID Connect Core §9 has the names, RFC 6749 §2.3.1 the rules).
type AuthMethod string

// The methods.
const (
	ClientSecretBasic AuthMethod = "client_secret_basic" // in a Basic header; the default
	ClientSecretPost  AuthMethod = "client_secret_post"  // in the form
	PrivateKeyJWT     AuthMethod = "private_key_jwt"     // a signed assertion (RFC 7523 §2.2)
	TLSClientAuth     AuthMethod = "tls_client_auth"     // a certificate (RFC 8705 §2)
	NoClientAuth      AuthMethod = "none"                // the client id alone: a public client
)

// A Grant is what a token is asked for with.
type Grant string

// The grants.
const (
	ClientCredentials Grant = "client_credentials" // RFC 6749 §4.4; the default
	RefreshToken      Grant = "refresh_token"      // RFC 6749 §6
	JWTBearer         Grant = "jwt_bearer"         // RFC 7523 §2.1
	TokenExchange     Grant = "token_exchange"     // RFC 8693 §2.1
)

// An Assertion is the JWT of the [JWTBearer] grant (RFC 7523 §3).
type Assertion struct {
	Issuer   string         // "iss"; default the client id
	Subject  string         // "sub"; default the client id
	Audience string         // "aud"; default the token endpoint's URL
	Life     time.Duration  // from "iat" to "exp"; default 5 min
	Claims   map[string]any // further claims
	File     string         // a JWT that somebody else keeps fresh, in place of one that is signed here
}

// A Reply is a token endpoint's successful answer (RFC 6749 §5.1).
type Reply struct {
	AccessToken secret.Secret
	TokenType   string        // "Bearer" where the endpoint gave none
	Scope       string        // "" where the endpoint gave none
	ExpiresIn   time.Duration // 0 or less where the endpoint gave none that means anything

	RefreshToken     secret.Secret // empty where the endpoint gave none: the one that was used stays good
	RefreshExpiresIn time.Duration // of the refresh token; 0 where the endpoint didn't say

	IssuedTokenType string // RFC 8693 §2.2.1; "" where the endpoint gave none
}

// An Error says why there was no token. Its text never contains the reply's body but its error code and a cleaned,
// shortened error_description (RFC 6749 §5.2).
type Error struct {
	// Code is an error code of RFC 6749 §5.2 where the endpoint refused the request; else "http_<status>", "timeout"
	// (after connecting), "unreachable" (the connection failed: dial, DNS, TLS) or "bad_reply" (no token in it).
	Code       string
	Status     int           // of the HTTP response; 0 where there was none
	Message    string        // one line for people
	RetryAfter time.Duration // as the endpoint asked (RFC 9110 §10.2.3); 0 where it didn't
	Err        error         // what lies behind it, for errors.Is; not printed

	// RefreshToken is what came with an access token that can't be used: the one that was sent may be spent, so it must
	// not be lost. Empty where none came; RefreshExpiresIn is as in [Reply].
	RefreshToken     secret.Secret
	RefreshExpiresIn time.Duration
}

// Codes that are not the endpoint's own.
const (
	CodeTimeout     = "timeout"
	CodeUnreachable = store.CodeUnreachable
	CodeBadReply    = "bad_reply"
)

func (e *Error) Error() string { return "token endpoint: " + e.Text() }

// Text is the error without a prefix: its code and message.
func (e *Error) Text() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Refused reports whether the endpoint refused the request itself: repeating it brings nothing until somebody mends
// the configuration.
func (e *Error) Refused() bool { return IsRefusal(e.Code) }

// IsRefusal reports whether code is one of RFC 6749 §5.2, or RFC 8707's invalid_target.
func IsRefusal(code string) bool { return slices.Contains(refusals, code) }

var refusals = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
	"invalid_scope", "invalid_target",
}

// A Client asks one endpoint for one kind of token. It is safe for concurrent use.
type Client struct {
	config Config
	claims map[string]json.RawMessage // the JWT bearer assertion's further ones
	issuer discovery
	*files
}

// New returns a Client, or an error that names the setting at fault, and the file. It reads the files that c names, and
// does no other I/O.
func New(c Config) (*Client, error) {
	err := c.setDefaults()
	if err == nil {
		err = checkTransport(c)
	}
	if err != nil {
		return nil, err
	}
	client := &Client{config: c}
	if client.claims, err = encodeClaims(c.Assertion.Claims); err != nil {
		return nil, err
	}
	client.config.Assertion.Claims = nil // the caller's
	if client.files, err = open(c); err != nil {
		return nil, err
	}
	return client, nil
}

// Fetch asks for a token, once, with the configured grant. ctx bounds the whole exchange, and that with the issuer if its
// metadata is not known. The error is an *[Error]. With the [RefreshToken] grant it is one, too: see [Client.Refresh].
func (c *Client) Fetch(ctx context.Context) (*Reply, error) {
	if c.config.Grant == RefreshToken {
		return nil, &Error{Code: codeUnsupportedGrant, Message: "grant refresh_token: nothing is fetched without a refresh token"}
	}
	return c.exchange(ctx, c.addGrant)
}

// Refresh is Fetch for the [RefreshToken] grant (RFC 6749 §6). Where refresh tokens rotate, the one that is given is spent
// by it, and the reply, or the error, has the next.
func (c *Client) Refresh(ctx context.Context, refreshToken secret.Secret) (*Reply, error) {
	if c.config.Grant != RefreshToken {
		return nil, &Error{Code: codeUnsupportedGrant, Message: "grant " + string(c.config.Grant) + ": it uses no refresh token"}
	}
	if refreshToken.IsEmpty() {
		return nil, &Error{Code: "invalid_grant", Message: "there is no refresh token"}
	}
	return c.exchange(ctx, func(r *request) error {
		r.secret("refresh_token", refreshToken.Reveal())
		return c.addGrant(r)
	})
}

const codeUnsupportedGrant = "unsupported_grant_type"

// exchange asks the token endpoint with what grant adds to a request.
func (c *Client) exchange(ctx context.Context, grant func(*request) error) (*Reply, error) {
	to, failed := c.tokenURL(ctx)
	if failed != nil {
		return nil, failed
	}
	r := c.newRequest(to)
	c.addTargets(r)
	if err := errors.Join(grant(r), c.authenticate(r)); err != nil {
		return nil, &Error{Code: CodeUnreachable, Message: "the request can't be signed", Err: err}
	}
	a, failed := c.post(ctx, r)
	if failed == nil {
		var reply *Reply
		if reply, failed = r.read(a, c.config.Grant == RefreshToken); failed == nil {
			return reply, nil
		}
	}
	if !failed.Refused() {
		c.issuer.doubt() // it may have moved
	}
	return nil, failed
}

// An answer is a response that was read.
type answer struct {
	status int
	header http.Header
	body   []byte // a byte more than maxReply at most
}

// post sends a request and reads the answer.
func (c *Client) post(ctx context.Context, r *request) (*answer, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, strings.NewReader(r.form.Encode()))
	if err != nil {
		panic(err) // CheckURL has parsed the URL
	}
	req.Header = r.header
	return c.do(req, r.clean)
}

// do sends a request. clean makes a line of foreign text.
func (c *Client) do(req *http.Request, clean func(string) string) (*answer, *Error) {
	var connected atomic.Bool // a user's RoundTripper may go on in a goroutine of its own
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { connected.Store(false) }, // once more where a kept connection turns out to be dead
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := c.client().Do(req.WithContext(ctx))
	if err != nil {
		return nil, transportError(err, connected.Load(), clean)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, transportError(err, true, clean)
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// transportError tells a failed connection, which is this replica's own, from one that broke after the request was sent.
func transportError(err error, connected bool, clean func(string) string) *Error {
	cause := err
	if u := (*url.Error)(nil); errors.As(err, &u) {
		cause = u.Err // the outer one repeats the URL
	}
	e := &Error{Err: err}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		connected = false // a TLS alert: in TLS 1.3 a client learns only after its handshake that it was refused
	}
	var timeout net.Error
	switch timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout(); {
	case !connected && timedOut:
		e.Code, e.Message = CodeUnreachable, "no connection in time"
	case !connected:
		e.Code, e.Message = CodeUnreachable, clean(cause.Error())
	case timedOut:
		e.Code, e.Message = CodeTimeout, "no answer in time"
	default:
		e.Code, e.Message = CodeBadReply, "the connection broke before the answer was complete"
	}
	return e
}
