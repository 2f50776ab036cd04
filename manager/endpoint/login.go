package endpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
)

// Codes by which the token endpoint answers while a person is logging in on another device (RFC 8628 §3.5).
const (
	CodePending  = "authorization_pending" // nobody has entered the code yet
	CodeSlowDown = "slow_down"             // the same, and ask less often
	CodeDenied   = "access_denied"         // the person said no; of the authorization endpoint, too (RFC 6749 §4.1.2.1)
	CodeExpired  = "expired_token"         // nobody has entered it in time
)

// A MissingError says that what was asked for needs an endpoint that isn't known.
type MissingError struct{ Setting string }

func (e *MissingError) Error() string {
	return e.Setting + " is missing: it isn't set, and there is no issuer whose metadata has it"
}

// An AuthorizationRequest is what a person's browser takes to the authorization endpoint.
type AuthorizationRequest struct {
	RedirectURL string        // where the browser comes back to with the code
	State       string        // comes back with it, as it is
	Verifier    secret.Secret // RFC 7636 §4.1: 43 to 128 unreserved characters. Its S256 challenge is what the request has
	Params      url.Values    // further parameters
}

// own are the parameters of an authorization request that aren't the user's to set.
var own = []string{
	"response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method",
	"client_secret", "client_assertion", "client_assertion_type", "grant_type",
}

// CheckLoginParam returns an error if a request that begins a login has a parameter of that name by itself.
func CheckLoginParam(name string) error {
	switch {
	case name == "":
		return errors.New("a parameter without a name")
	case slices.Contains(own, name):
		return fmt.Errorf("%q isn't for you to set", name)
	}
	return nil
}

// AuthorizationURL returns the URL that a person's browser is sent to for a code (RFC 6749 §4.1.1, with PKCE, RFC 7636).
// The query of the configured URL is kept (RFC 6749 §3.1). The error is a *[MissingError] or of [Client.Metadata].
func (c *Client) AuthorizationURL(ctx context.Context, r AuthorizationRequest) (string, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return "", err
	}
	if m.AuthorizationEndpoint == "" {
		return "", &MissingError{"authorization_url"}
	}
	u, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil {
		return "", errors.New("authorization_url: is no URL") // CheckURL has parsed it
	}
	q := u.Query()
	maps.Copy(q, c.wanted(r.Params))
	for name, value := range map[string]string{
		"response_type":         "code",
		"client_id":             c.config.ClientID,
		"redirect_uri":          r.RedirectURL,
		"state":                 r.State,
		"code_challenge":        oauth2.S256ChallengeFromVerifier(r.Verifier.Reveal()),
		"code_challenge_method": "S256",
	} {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// wanted are the parameters that say what a login is for. What the token endpoint alone is told isn't among them: a browser
// shows it.
func (c *Client) wanted(params url.Values) url.Values {
	form := url.Values{}
	if len(c.config.Scopes) > 0 {
		form.Set("scope", strings.Join(c.config.Scopes, " "))
	}
	if len(c.config.Audience) > 0 {
		form["audience"] = c.config.Audience
	}
	if len(c.config.Resource) > 0 {
		form["resource"] = c.config.Resource
	}
	maps.Copy(form, params)
	return form
}

// Exchange asks for the tokens that a code stands for (RFC 6749 §4.1.3), once. ctx bounds the whole exchange. The error is
// an *[Error].
func (c *Client) Exchange(ctx context.Context, code secret.Secret, redirectURL string, verifier secret.Secret) (*Reply, error) {
	return c.exchange(ctx, func(r *request) error {
		r.form.Del("scope") // the code has it
		r.form.Set("grant_type", "authorization_code")
		r.secret("code", code.Reveal())
		r.form.Set("redirect_uri", redirectURL)
		r.secret("code_verifier", verifier.Reveal())
		return nil
	})
}

// A Device is the answer to the beginning of a device's login (RFC 8628 §3.2).
type Device struct {
	Code     secret.Secret // the device's, for [Client.ExchangeDevice]
	UserCode string        // what a person enters
	URL      string        // where

	CompleteURL string        // URL with the code in it; "" where the endpoint gave none
	ExpiresIn   time.Duration // 0 where the endpoint didn't say, though it must
	Interval    time.Duration // least pause between two questions
}

// defaultInterval is what RFC 8628 §3.2 has where the endpoint gives none.
const defaultInterval = 5 * time.Second

// Device begins a login on another device (RFC 8628 §3.1). The error is an *[Error] or a *[MissingError].
func (c *Client) Device(ctx context.Context, params url.Values) (*Device, error) {
	m, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	if m.DeviceAuthorizationEndpoint == "" {
		return nil, &MissingError{"device_authorization_url"}
	}
	members, err := c.ask(ctx, m.DeviceAuthorizationEndpoint, func(r *request) {
		r.form = c.wanted(params)
		r.form.Set("client_id", c.config.ClientID) // many want it beside a Basic header, too
	})
	if err != nil {
		return nil, err
	}
	d := &Device{
		Code:        secret.New(str(members["device_code"])),
		UserCode:    printable.Line(str(members["user_code"]), 100),
		URL:         page(members, "verification_uri", "verification_url"), // the latter is Google's
		CompleteURL: page(members, "verification_uri_complete", "verification_url_complete"),
		ExpiresIn:   expiresIn(members["expires_in"]),
		Interval:    cmp.Or(expiresIn(members["interval"]), defaultInterval),
	}
	if d.Code.IsEmpty() || d.UserCode == "" || d.URL == "" {
		return nil, &Error{Code: CodeBadReply, Status: http.StatusOK, Message: "no device_code, user_code or verification_uri in the reply"}
	}
	return d, nil
}

// page returns the first of some members that is a URL which a person may be told to open, "" where none is.
func page(members map[string]json.RawMessage, names ...string) string {
	for _, name := range names {
		text := str(members[name])
		u, err := url.Parse(text)
		if err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && text == printable.Line(text, 2000) {
			return text
		}
	}
	return ""
}

// ExchangeDevice asks, once, whether a person has entered the code by now, and for the tokens (RFC 8628 §3.4). The error is
// an *[Error]; its code is [CodePending] or [CodeSlowDown] while nobody has.
func (c *Client) ExchangeDevice(ctx context.Context, device secret.Secret) (*Reply, error) {
	reply, err := c.exchange(ctx, func(r *request) error {
		r.form.Del("scope")
		r.form.Set("grant_type", "urn:ietf:params:oauth:grant-type:device_code")
		r.secret("device_code", device.Reveal())
		return nil
	})
	var failed *Error
	if errors.As(err, &failed) && failed.Status >= 400 && failed.Status < 500 {
		// These aren't codes of a token request otherwise, so they stand at the message's beginning.
		code, description, _ := strings.Cut(failed.Message, " ")
		if slices.Contains([]string{CodePending, CodeSlowDown, CodeDenied, CodeExpired}, code) {
			failed.Code, failed.Message = code, description
		}
	}
	return reply, err
}

// Revoke ends a refresh token, and what was got with it (RFC 7009). A token that the endpoint doesn't know counts as ended.
// The error is an *[Error] or a *[MissingError].
func (c *Client) Revoke(ctx context.Context, refreshToken secret.Secret) error {
	m, err := c.Metadata(ctx)
	if err != nil {
		return err
	}
	if m.RevocationEndpoint == "" {
		return &MissingError{"revocation_url"}
	}
	_, err = c.ask(ctx, m.RevocationEndpoint, func(r *request) {
		r.secret("token", refreshToken.Reveal())
		r.form.Set("token_type_hint", "refresh_token")
	})
	return err
}

// ask sends one of the other endpoints what add puts into the form, and returns its answer's members. A client assertion is
// for the same audience as ever. The error is an *[Error].
func (c *Client) ask(ctx context.Context, to string, add func(*request)) (map[string]json.RawMessage, error) {
	at, failed := c.tokenURL(ctx)
	if failed != nil {
		return nil, failed
	}
	r := c.newRequest(at)
	add(r)
	if err := c.authenticate(r); err != nil {
		return nil, &Error{Code: CodeUnreachable, Message: "the request can't be signed", Err: err}
	}
	r.url = to
	a, failed := c.post(ctx, r)
	if failed != nil {
		return nil, failed
	}
	if a.status < 200 || a.status > 299 {
		_, failed := r.read(a, false)
		return nil, failed
	}
	var members map[string]json.RawMessage
	_ = json.Unmarshal(a.body, &members) // none where it is no object, or too long
	return members, nil
}
