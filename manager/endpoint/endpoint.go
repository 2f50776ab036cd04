// Package endpoint asks an OAuth 2.0 token endpoint for an access token (RFC 6749 §3.2) with the client_credentials
// grant (§4.4).
//
// It makes the request itself rather than through golang.org/x/oauth2, whose errors repeat the reply's body, whose
// decoder refuses an expires_in of 3600.0, and which counts a token's life from after the reply.
package endpoint

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
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

// Defaults of a [Config].
const (
	DefaultConnectTimeout = 3 * time.Second
	maxReply              = 1 << 20
)

// Config says which token is asked for, where and as whom.
type Config struct {
	TokenURL     string // https, or http on loopback
	AllowHTTP    bool   // http elsewhere, too
	ClientID     string
	ClientSecret secret.Secret
	AuthMethod   AuthMethod // default [ClientSecretBasic]
	Scopes       []string
	Params       url.Values               // further form parameters: audience, resource, …
	SecretParams map[string]secret.Secret // further form parameters whose values are secrets
	HTTPClient   *http.Client             // for a proxy or a CA; its redirect policy and cookie jar are not used

	// ConnectTimeout bounds the dial, and then the TLS handshake, where HTTPClient is nil; default
	// [DefaultConnectTimeout].
	ConnectTimeout time.Duration
}

// A Reply is a token endpoint's successful answer (RFC 6749 §5.1).
type Reply struct {
	AccessToken secret.Secret
	TokenType   string        // "Bearer" where the endpoint gave none
	Scope       string        // "" where the endpoint gave none
	ExpiresIn   time.Duration // 0 or less where the endpoint gave none that means anything

	RefreshToken     secret.Secret // empty where the endpoint gave none: the one that was used stays good
	RefreshExpiresIn time.Duration // of the refresh token; 0 where the endpoint didn't say
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

	// RefreshToken is that of a reply that has one, though its access token can't be used: not to be lost.
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
	http   *http.Client
	hide   *strings.Replacer // takes secrets out of foreign text
}

// New returns a Client, or an error that names the setting at fault. It does no I/O.
func New(c Config) (*Client, error) {
	c.AuthMethod = cmp.Or(c.AuthMethod, ClientSecretBasic)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultConnectTimeout)
	if err := CheckURL(c.TokenURL, c.AllowHTTP); err != nil {
		return nil, fmt.Errorf("token_url: %w", err)
	}
	switch {
	case c.ClientID == "":
		return nil, errors.New("client_id is missing")
	case c.ClientSecret.IsEmpty():
		return nil, errors.New("client_secret is missing")
	case c.AuthMethod != ClientSecretBasic && c.AuthMethod != ClientSecretPost:
		return nil, fmt.Errorf("auth_method %q is not one of %s, %s", c.AuthMethod, ClientSecretBasic, ClientSecretPost)
	}
	for _, s := range c.Scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return nil, fmt.Errorf("scopes: %q is no scope (RFC 6749 §3.3)", s)
		}
	}
	if err := checkNames(maps.Keys(c.Params)); err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	if err := checkNames(maps.Keys(c.SecretParams)); err != nil {
		return nil, fmt.Errorf("secret_params: %w", err)
	}
	return &Client{config: c, http: httpClient(c), hide: hider(c)}, nil
}

func checkNames(names iter.Seq[string]) error {
	for _, name := range slices.Sorted(names) {
		switch name {
		case "":
			return errors.New("a parameter without a name")
		case "grant_type", "client_id", "client_secret", "scope":
			return fmt.Errorf("%q has a setting of its own", name)
		}
	}
	return nil
}

// CheckURL returns an error, to stand behind a setting's name, unless raw is an absolute https URL (or http, on loopback
// or where allowed) without credentials and fragment. The error doesn't repeat raw, which may hold a secret.
func CheckURL(raw string, allowHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("is missing")
	case err != nil:
		return errors.New("is no URL") // the parser's error repeats it, with what may be in its query
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return errors.New("is no absolute http or https URL")
	case u.User != nil:
		return errors.New("must not hold credentials")
	case u.Fragment != "":
		return errors.New("must not have a fragment (RFC 6749 §3.2)")
	case u.Scheme == "http" && !allowHTTP && !isLoopback(u.Hostname()):
		return fmt.Errorf("plain http to %s would show the client secret to the network: use https, or set allow_http",
			printable.Line(u.Hostname(), 100))
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// httpClient returns a client that follows no redirect (credentials would travel) and keeps no cookie.
func httpClient(c Config) *http.Client {
	client := &http.Client{}
	if c.HTTPClient != nil {
		*client = *c.HTTPClient
	} else {
		dialer := &net.Dialer{Timeout: c.ConnectTimeout}
		client.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    c.ConnectTimeout,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // asked once in a token's life: a kept connection would be a dead one
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// Fetch asks for a token, once. ctx bounds the whole exchange. The error is an *[Error].
func (c *Client) Fetch(ctx context.Context) (*Reply, error) {
	var connected atomic.Bool // a user's RoundTripper may go on in a goroutine of its own
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { connected.Store(false) }, // once more where a kept connection turns out to be dead
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := c.http.Do(c.request(ctx))
	if err != nil {
		return nil, c.transportError(err, connected.Load())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, c.transportError(err, true)
	}
	return c.read(resp, body)
}

func (c *Client) request(ctx context.Context) *http.Request {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(c.config.Scopes) > 0 {
		form.Set("scope", strings.Join(c.config.Scopes, " "))
	}
	maps.Copy(form, c.config.Params)
	for name, value := range c.config.SecretParams {
		form.Set(name, value.Reveal())
	}
	if c.config.AuthMethod == ClientSecretPost {
		form.Set("client_id", c.config.ClientID)
		form.Set("client_secret", c.config.ClientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		panic(err) // New has parsed the URL
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "onetoken")
	if c.config.AuthMethod == ClientSecretBasic {
		req.Header.Set("Authorization", "Basic "+basicAuth(c.config))
	}
	return req
}

// basicAuth returns the credentials of a Basic header. RFC 6749 §2.3.1: both are form-encoded first.
func basicAuth(c Config) string {
	credentials := url.QueryEscape(c.ClientID) + ":" + url.QueryEscape(c.ClientSecret.Reveal())
	return base64.StdEncoding.EncodeToString([]byte(credentials))
}

// transportError tells a failed connection, which is this replica's own, from one that broke after the request was sent.
func (c *Client) transportError(err error, connected bool) *Error {
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
		e.Code, e.Message = CodeUnreachable, c.clean(cause.Error())
	case timedOut:
		e.Code, e.Message = CodeTimeout, "no answer in time"
	default:
		e.Code, e.Message = CodeBadReply, "the connection broke before the answer was complete"
	}
	return e
}

// read turns a response into a reply or an error.
func (c *Client) read(resp *http.Response, body []byte) (*Reply, error) {
	tooLong := len(body) > maxReply
	var members map[string]json.RawMessage
	isObject := !tooLong && json.Unmarshal(body, &members) == nil && members != nil
	code, description := str(members["error"]), str(members["error_description"])
	failed := &Error{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now())}
	refused := IsRefusal(code)
	switch {
	case refused && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
		failed.Code, failed.Message = code, c.clean(description)
		return nil, failed
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		failed.Code = "http_" + strconv.Itoa(resp.StatusCode)
		failed.Message = http.StatusText(resp.StatusCode)
		if code != "" {
			failed.Message = c.clean(code + " " + description)
		}
		return nil, failed
	}
	failed.Code = CodeBadReply
	switch {
	case tooLong:
		failed.Message = "the reply is longer than 1 MiB"
	case !isObject:
		failed.Message = c.clean("the reply is no JSON object" + contentType(resp))
	case code != "":
		failed.Message = c.clean(fmt.Sprintf("status %d with an error: %s %s", resp.StatusCode, code, description))
	default:
		reply, err := parse(members)
		if err == nil {
			return reply, nil
		}
		failed.Message = err.Error()
	}
	return nil, failed
}

func contentType(resp *http.Response) string {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return " but " + media
}

// clean makes one short line of foreign text.
func (c *Client) clean(s string) string { return printable.Line(c.hide.Replace(s), 200) }

// hider replaces the secrets of c, in the forms that a request has them in, and the token URL, whose query may be one.
func hider(c Config) *strings.Replacer {
	hidden := []string{c.TokenURL, basicAuth(c)}
	if _, query, ok := strings.Cut(c.TokenURL, "?"); ok {
		hidden = append(hidden, query)
	}
	for _, s := range append(slices.Collect(maps.Values(c.SecretParams)), c.ClientSecret) {
		text := s.Reveal()
		hidden = append(hidden, text)
		for _, escaped := range []string{url.QueryEscape(text), url.PathEscape(text)} {
			hidden = append(hidden, escaped, escapes.ReplaceAllStringFunc(escaped, strings.ToLower))
		}
	}
	// The longest first: one may be the beginning of another.
	slices.SortFunc(hidden, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, text := range hidden {
		if text != "" {
			pairs = append(pairs, text, c.ClientSecret.String())
		}
	}
	return strings.NewReplacer(pairs...)
}

var escapes = regexp.MustCompile(`%[0-9A-F]{2}`)

// str returns a JSON string's text, "" for anything else.
func str(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func parse(members map[string]json.RawMessage) (*Reply, error) {
	token := str(members["access_token"])
	r := &Reply{
		AccessToken: secret.New(token),
		TokenType:   cmp.Or(str(members["token_type"]), "Bearer"),
		Scope:       printable.Line(str(members["scope"]), 4096),
		ExpiresIn:   expiresIn(members["expires_in"]),
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}

// Check returns an error unless the access token and its type may be put in a header. An empty type passes: it means
// Bearer.
func (r *Reply) Check() error {
	err := store.CheckAccessToken(r.AccessToken.Reveal())
	if err == nil && r.TokenType != "" {
		err = store.CheckTokenType(r.TokenType)
	}
	if err != nil {
		return fmt.Errorf("in the reply: %w", err)
	}
	return nil
}

// expiresIn reads a number of seconds: an integer, a float, or a string of either; 0 for anything else.
func expiresIn(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(cmp.Or(str(raw), string(raw))), 64)
	if err != nil && !math.IsInf(seconds, 1) || math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	const most = 100 * 365 * 24 * 3600 // in a Duration's range
	return time.Duration(min(seconds, most) * float64(time.Second))
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds, or a date, which counts from the response's own Date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second // of a number that is out of range: the most there is
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0)
}
