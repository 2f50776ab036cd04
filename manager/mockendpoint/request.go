package mockendpoint

import (
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// A Request is one call as it was received, without its secrets: it may be printed.
type Request struct {
	At          time.Time // of arrival
	Method      string
	Path        string // without the query
	ContentType string
	AuthMethod  string     // [Basic], [Post], [PrivateKeyJWT], [TLSClientAuth] or [NoAuth]
	ClientID    string     // decoded
	Form        url.Values // values that are secret are "[redacted]": see [Options.SecretParams]

	// Outcome is the status of the answer ("200"), or "hang", "drop", "gone" (the client left before it was answered) or
	// "closed" (the endpoint was, before it had answered); "" while the call is in flight.
	Outcome string

	// Token is the ordinal of the access token that was the answer, from 1; a token that is given out again has the
	// ordinal that it got first. 0: none.
	Token int

	Family int // the ordinal of the [Family] whose refresh token was presented, or that was started; 0: none
}

// String describes the request on one line, without secrets.
func (r Request) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s auth=%s client=%q", r.At.Format("15:04:05.000"), printable.Line(r.Method, 40), printable.Line(r.Path, 200), r.AuthMethod, r.ClientID)
	for _, name := range slices.Sorted(maps.Keys(r.Form)) {
		if name != "client_id" {
			fmt.Fprintf(&b, " %s=%q", printable.Line(name, 100), r.Form[name])
		}
	}
	if r.Outcome == "" {
		b.WriteString(": in flight")
	} else {
		fmt.Fprintf(&b, ": %s", r.Outcome)
	}
	if r.Token > 0 {
		fmt.Fprintf(&b, ", token %d", r.Token)
	}
	if r.Family > 0 {
		fmt.Fprintf(&b, ", family %d", r.Family)
	}
	return b.String()
}

// clone returns a copy that shares nothing with r.
func (r Request) clone() Request {
	c := r
	c.Form = make(url.Values, len(r.Form))
	for name, values := range r.Form {
		c.Form[name] = slices.Clone(values)
	}
	return c
}

func cloneAll(requests []*Request) []Request {
	list := make([]Request, len(requests))
	for i, r := range requests {
		list[i] = r.clone()
	}
	return list
}

const redacted = "[redacted]"

// telltales are parts of the names of parameters that are secret: client_secret, client_assertion, refresh_token, …
var telltales = []string{"secret", "password", "assertion", "token", "code", "key"}

// redact returns a copy of form without its secrets.
func redact(form url.Values, secretParams []string) url.Values {
	clean := make(url.Values, len(form))
	for name, values := range form {
		clean[name] = slices.Clone(values)
		telltale := slices.ContainsFunc(telltales, func(part string) bool {
			return strings.Contains(strings.ToLower(name), part)
		})
		if telltale || slices.Contains(secretParams, name) {
			for i := range values {
				clean[name][i] = redacted
			}
		}
	}
	return clean
}

// once are the parameters that may be there once. Of resource (RFC 8707 §2) and audience (RFC 8693 §2.1) there may be more.
var once = []string{
	"grant_type", "client_id", "client_secret", "scope", "refresh_token", "assertion", "client_assertion",
	"client_assertion_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type",
	"requested_token_type", "code", "code_verifier", "redirect_uri", "device_code", "token", "token_type_hint",
}

// checkForm returns a refusal of a request that is no token request at all, whoever sends it.
func checkForm(r *http.Request, parseErr error) (refusal Reply, refused bool) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case r.Method != http.MethodPost:
		refusal, refused = refuseRequest("this is asked for with POST")
		refusal.Status, refusal.Header = http.StatusMethodNotAllowed, http.Header{"Allow": {http.MethodPost}}
		return refusal, refused
	case media != "application/x-www-form-urlencoded":
		return refuseRequest("the Content-Type must be application/x-www-form-urlencoded")
	case parseErr != nil:
		return refuseRequest("the form can't be read")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 && slices.Contains(once, name) {
			return refuseRequest(name + " is there twice") // RFC 6749 §3.2
		}
	}
	if ways(r) > 1 {
		return refuseRequest("the client authenticates in two ways") // RFC 6749 §2.3
	}
	return Reply{}, false
}
