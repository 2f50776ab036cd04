package mockendpoint

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// codeLife is how long an authorization code is good (RFC 6749 §4.1.2 recommends at most ten minutes).
const codeLife = time.Minute

// An authorization is a code that was given out.
type authorization struct {
	client, redirect, challenge string
	expires                     time.Time
	used                        bool
	family                      *family // once it is used
}

// authorize is the authorization endpoint (RFC 6749 §4.1.1), where a person approves of everything at once.
func (e *Endpoint) authorize(c *call, r *http.Request) Reply {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return notAllowed(http.MethodGet)
	}
	q := r.Form
	redirect, err := url.Parse(q.Get("redirect_uri"))
	switch { // these aren't told to the redirect_uri (§4.1.2.1)
	case e.options.ClientID != "" && q.Get("client_id") != e.options.ClientID:
		return Reply{Error: "invalid_request", ErrorDescription: "unknown client"}
	case err != nil || !e.mayRedirect(redirect):
		return Reply{Error: "invalid_request", ErrorDescription: "the redirect_uri isn't registered"}
	}
	answer := e.authorization(c, q)
	answer.Set("iss", e.issuer(r)) // RFC 9207
	if q.Has("state") {
		answer.Set("state", q.Get("state"))
	}
	if e.options.OnAuthorize != nil {
		e.options.OnAuthorize(answer)
	}
	query := redirect.Query()
	maps.Copy(query, answer)
	redirect.RawQuery = query.Encode()
	return Reply{Redirect: redirect.String()}
}

// authorization returns the members of the answer that say yes or no.
func (e *Endpoint) authorization(c *call, q url.Values) url.Values {
	no := func(code, description string) url.Values {
		return url.Values{"error": {code}, "error_description": {description}}
	}
	for name, values := range q {
		if len(values) > 1 && name != "resource" {
			return no("invalid_request", "a parameter is there twice")
		}
	}
	switch {
	case c.reply.Error != "":
		return no(c.reply.Error, c.reply.ErrorDescription)
	case !slices.Contains(e.options.Grants, AuthorizationCode):
		return no("unauthorized_client", "authorization codes aren't accepted here")
	case q.Get("response_type") != "code":
		return no("unsupported_response_type", "only code is known here")
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != base64.RawURLEncoding.EncodedLen(sha256.Size):
		return no("invalid_request", "a code_challenge by S256 is required")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	code := "mock-code-" + rand.Text()
	e.codes.add(code, &authorization{
		client: q.Get("client_id"), redirect: q.Get("redirect_uri"), challenge: q.Get("code_challenge"), expires: time.Now().Add(codeLife),
	})
	return url.Values{"code": {code}}
}

// mayRedirect reports whether an answer may be sent to u. On loopback any port is good (RFC 8252 §7.3).
func (e *Endpoint) mayRedirect(u *url.URL) bool {
	local := isLoopback(u)
	switch {
	case u.Fragment != "" || u.User != nil:
		return false
	case len(e.options.RedirectURIs) == 0:
		return local
	}
	return slices.ContainsFunc(e.options.RedirectURIs, func(registered string) bool {
		if u.String() == registered {
			return true
		}
		known, err := url.Parse(registered)
		return err == nil && local && isLoopback(known) &&
			known.Hostname() == u.Hostname() && known.Path == u.Path && known.RawQuery == u.RawQuery
	})
}

func isLoopback(u *url.URL) bool {
	return u.Scheme == "http" && slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname())
}

// checkCodeLocked is RFC 6749 §4.1.3. A code that is used again ends what it was used for (§4.1.2).
func (e *Endpoint) checkCodeLocked(c *call, form url.Values, client string) (refusal Reply, refused bool) {
	a := e.codes.find(form.Get("code"))
	verifier := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case a == nil || a.client != client:
		return refuseGrant("the code is unknown")
	case !time.Now().Before(a.expires):
		return refuseGrant("the code has expired")
	case form.Get("redirect_uri") != a.redirect:
		return refuseGrant("the redirect_uri is another one")
	case base64.RawURLEncoding.EncodeToString(verifier[:]) != a.challenge:
		return refuseGrant("the code_verifier is wrong")
	case a.used:
		c.Family = a.family.Ordinal
		a.family.revoke(c.Request)
		return refuseGrant("the code was used before")
	}
	c.redeem = func(r Reply) (given, Reply, bool) {
		if a.used {
			c.Family = a.family.Ordinal
			a.family.revoke(c.Request)
			refusal, refused := refuseGrant("the code was used before")
			return given{}, refusal, refused
		}
		g := e.loginLocked(c, client, r)
		a.used, a.family = true, g.family
		return g, Reply{}, false
	}
	return Reply{}, false
}

// loginLocked starts the family of a login.
func (e *Endpoint) loginLocked(c *call, client string, r Reply) given {
	g := given{family: e.refresh.start(client)}
	c.Family = g.family.Ordinal
	if slices.Contains(e.options.Grants, RefreshToken) && !r.OmitRefreshToken {
		g.refresh = e.refresh.add(g.family, "")
	}
	return g
}
