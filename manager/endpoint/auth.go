package endpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
)

// A request is one that is being made to the token endpoint.
type request struct {
	url     string
	form    url.Values
	header  http.Header
	secrets []string // what is in it that no error may repeat
}

// secret sets a form parameter that is secret.
func (r *request) secret(name, value string) {
	r.form.Set(name, value)
	r.secrets = append(r.secrets, value)
}

// newRequest returns a request with what the configuration adds to any.
func (c *Client) newRequest(to string) *request {
	r := &request{url: to, form: url.Values{}, header: http.Header{}}
	r.header.Set("User-Agent", "onetoken")
	for name, value := range c.config.Headers {
		r.header.Set(name, value)
	}
	for name, value := range c.config.SecretHeaders {
		r.header.Set(name, value.Reveal())
		r.secrets = append(r.secrets, value.Reveal())
	}
	r.header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.header.Set("Accept", "application/json")
	return r
}

// addTargets adds what says for whom and for what the token is, and the further parameters.
func (c *Client) addTargets(r *request) {
	if len(c.config.Scopes) > 0 {
		r.form.Set("scope", strings.Join(c.config.Scopes, " "))
	}
	if len(c.config.Audience) > 0 {
		r.form["audience"] = c.config.Audience
	}
	if len(c.config.Resource) > 0 {
		r.form["resource"] = c.config.Resource
	}
	maps.Copy(r.form, c.config.Params)
	for name, value := range c.config.SecretParams {
		r.secret(name, value.Reveal())
	}
}

// addGrant adds what the token is asked for with. A refresh token is the caller's.
func (c *Client) addGrant(r *request) error {
	const urn = "urn:ietf:params:oauth:grant-type:"
	switch c.config.Grant {
	case JWTBearer: // RFC 7523 §2.1
		assertion, err := c.assertion(r.url)
		if err != nil {
			return err
		}
		r.form.Set("grant_type", urn+"jwt-bearer")
		r.secret("assertion", assertion)
	case TokenExchange: // RFC 8693 §2.1
		r.form.Set("grant_type", urn+"token-exchange")
		r.secret("subject_token", current(c, c.subject))
		r.form.Set("subject_token_type", c.config.SubjectTokenType)
		if c.actor != nil {
			r.secret("actor_token", current(c, c.actor))
			r.form.Set("actor_token_type", c.config.ActorTokenType)
		}
		if t := c.config.RequestedTokenType; t != "" {
			r.form.Set("requested_token_type", t)
		}
	default:
		r.form.Set("grant_type", string(c.config.Grant))
	}
	return nil
}

// assertion is the JWT bearer grant's (RFC 7523 §3).
func (c *Client) assertion(tokenURL string) (string, error) {
	if c.asserted != nil {
		return current(c, c.asserted), nil
	}
	k, a := current(c, c.key), c.config.Assertion
	claims := map[string]any{}
	for name, value := range c.claims {
		claims[name] = value
	}
	claims["iss"], claims["sub"], claims["aud"] = c.config.ClientID, c.config.ClientID, tokenURL
	if k.account != "" { // https://developers.google.com/identity/protocols/oauth2/service-account
		claims["iss"] = k.account
		delete(claims, "sub") // there it means another user, whom the account stands for
		if _, set := claims["scope"]; !set && len(c.config.Scopes) > 0 {
			claims["scope"] = strings.Join(c.config.Scopes, " ")
		}
	}
	for name, value := range map[string]string{"iss": a.Issuer, "sub": a.Subject, "aud": a.Audience} {
		if value != "" {
			claims[name] = value
		}
	}
	return k.sign(stamp(claims, a.Life), nil)
}

// clientAssertionLife is short: an assertion is used at once.
const clientAssertionLife = time.Minute

// authenticate adds what says who the client is, to the header or the form.
func (c *Client) authenticate(r *request) error {
	id := c.config.ClientID
	switch c.config.AuthMethod {
	case ClientSecretBasic, ClientSecretPost:
		password := c.clientSecret()
		basic := basicAuth(id, password)
		r.secrets = append(r.secrets, password, basic) // the latter in either case: who repeats it may have it from elsewhere
		if c.config.AuthMethod == ClientSecretBasic {
			r.header.Set("Authorization", "Basic "+basic)
			return nil
		}
		r.form.Set("client_secret", password)
	case PrivateKeyJWT: // RFC 7523 §2.2
		assertion, err := c.clientAssertion(r.url)
		if err != nil {
			return err
		}
		r.form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		r.secret("client_assertion", assertion)
	case TLSClientAuth, NoClientAuth: // the id is all that the form has of it
	}
	if id != "" {
		r.form.Set("client_id", id)
	}
	return nil
}

func (c *Client) clientAssertion(tokenURL string) (string, error) {
	if c.clientAsserted != nil {
		return current(c, c.clientAsserted), nil
	}
	id := c.config.ClientID
	audience := c.config.ClientAssertionAudience
	if audience == "" {
		audience = tokenURL
	}
	var cert *certificate
	if c.cert != nil {
		cert = current(c, c.cert)
	}
	return current(c, c.key).sign(stamp(map[string]any{"iss": id, "sub": id, "aud": audience}, clientAssertionLife), cert)
}

func (c *Client) clientSecret() string {
	if c.secretFile != nil {
		return current(c, c.secretFile)
	}
	return c.config.ClientSecret.Reveal()
}

// Seed returns the refresh token that is configured, or is in the file that is configured for it, as it is now; empty where
// none is.
func (c *Client) Seed() secret.Secret {
	if c.seedFile != nil {
		return secret.New(current(c, c.seedFile))
	}
	return c.config.RefreshToken
}

// basicAuth returns the credentials of a Basic header. RFC 6749 §2.3.1: both are form-encoded first.
func basicAuth(id, password string) string {
	credentials := url.QueryEscape(id) + ":" + url.QueryEscape(password)
	return base64.StdEncoding.EncodeToString([]byte(credentials))
}

// maxRefreshToken is far above any: those that are a JWT, or sealed, have some thousand bytes.
const maxRefreshToken = 64 << 10

// checkRefreshToken returns an error unless s may be a refresh token (RFC 6749 Appendix A.17). It doesn't contain s.
func checkRefreshToken(s string) error {
	switch {
	case s == "":
		return errors.New("no refresh token")
	case len(s) > maxRefreshToken:
		return fmt.Errorf("the refresh token is longer than %d KiB", maxRefreshToken>>10)
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }):
		return errors.New("the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)")
	}
	return nil
}
