package mockendpoint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Reply is one scripted answer. The zero Reply is a fresh Bearer token at once, with status 200 and the endpoint's
// default expires_in. The first of Hang, Drop, Redirect, Body, BodyFunc and Error that is set decides what is sent; with
// none of them a Status of 2xx (but 204 and 205) sends a token, and any other just the status.
type Reply struct {
	// When: after Delay, and once Gate is closed or has delivered a value. Both end early when the client goes away or
	// the endpoint is closed; then there is no answer, and no token is issued.
	Delay time.Duration
	Gate  <-chan struct{}

	Hang bool // never answer, until the client goes away or the endpoint is closed
	Drop bool // cut the connection instead of answering

	// Commit has the call take effect when it arrives, before Delay, Gate, Hang and Drop, whatever is answered in the end:
	// its refresh token is spent, and the next one exists, although the client may never hear of it. By default a call
	// takes effect right before it is answered with a token, and only then: an error leaves the refresh token good.
	Commit bool

	Status     int           // 0: 200, or what goes with Error or Redirect
	Header     http.Header   // further headers; they win over the endpoint's own
	RetryAfter time.Duration // > 0: a Retry-After header, in whole seconds, rounded up
	Redirect   string        // a Location; Status 302 by default

	Body     *string         // the whole body, in place of JSON
	BodyFunc func(io.Writer) // writes the body, for huge ones; its writes fail once the client is gone

	// Error is an RFC 6749 §5.2 error code. Its Status is 400 by default, 401 for invalid_client.
	Error            string
	ErrorDescription string

	// The token. AccessToken "" is a fresh one that was never given out before.
	AccessToken string
	SameToken   bool   // the last token again, as an endpoint that caches gives it; a fresh one where there is none
	TokenType   string // "": Bearer
	NoTokenType bool   // leaves token_type out
	ExpiresIn   any    // anything that marshals to JSON: 3600, "3600", json.Number("3600.0"); nil: the endpoint's default
	NoExpiresIn bool   // leaves expires_in out
	Scope       string // "": left out

	// OmitRefreshToken leaves refresh_token out, and the one that was used good (RFC 6749 §6).
	OmitRefreshToken bool

	members map[string]any // of the endpoint's own, besides those of a token
	object  map[string]any // of the endpoint's own, in place of a token
}

// check panics on a reply that can't be sent: at the line of a test that scripts it, rather than in the server.
func (r Reply) check() {
	if r.Status != 0 && (r.Status < 200 || r.Status > 999) {
		panic(fmt.Sprintf("mockendpoint: status %d can't be sent", r.Status))
	}
	if _, err := json.Marshal(r.ExpiresIn); err != nil {
		panic(fmt.Sprintf("mockendpoint: ExpiresIn: %v", err))
	}
}

// status returns the status that is sent.
func (r Reply) status() int {
	switch {
	case r.Redirect != "":
		return cmp.Or(r.Status, http.StatusFound)
	case r.Error == "invalid_client":
		return cmp.Or(r.Status, http.StatusUnauthorized)
	case r.Error != "":
		return cmp.Or(r.Status, http.StatusBadRequest)
	}
	return cmp.Or(r.Status, http.StatusOK)
}

// givesToken reports whether the answer is a token.
func (r Reply) givesToken() bool {
	status := r.status()
	return r.Redirect == "" && r.Body == nil && r.BodyFunc == nil && r.Error == "" && r.object == nil &&
		status >= 200 && status <= 299 && !bodiless(status)
}

// bodiless reports whether an answer with this status has no content (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
func bodiless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusResetContent || status == http.StatusNotModified
}

// send writes the answer; token is the one in it, if the reply gives one.
func (r Reply) send(w http.ResponseWriter, token string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store") // RFC 6749 §5.1
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", r.contentType())
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatFloat(math.Ceil(r.RetryAfter.Seconds()), 'f', 0, 64))
	}
	if r.Redirect != "" {
		h.Set("Location", r.Redirect)
	}
	for name, values := range r.Header {
		h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	w.WriteHeader(r.status())
	r.writeBody(w, token)
}

func (r Reply) contentType() string {
	if r.Error != "" || r.givesToken() || r.Body != nil || r.BodyFunc != nil || r.object != nil {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// writeBody ignores what goes wrong in writing: the client is gone, or the status has no body.
func (r Reply) writeBody(w io.Writer, token string) {
	switch {
	case r.Redirect != "":
	case r.Body != nil:
		_, _ = io.WriteString(w, *r.Body)
	case r.BodyFunc != nil:
		r.BodyFunc(w)
	case r.Error != "":
		writeJSON(w, r.errorMembers())
	case r.object != nil:
		writeJSON(w, r.object)
	case r.givesToken():
		writeJSON(w, r.tokenMembers(token))
	case !bodiless(r.status()):
		_, _ = fmt.Fprintln(w, r.status(), http.StatusText(r.status()))
	}
}

// errorMembers are those of RFC 6749 §5.2.
func (r Reply) errorMembers() map[string]any {
	members := map[string]any{"error": r.Error}
	if r.ErrorDescription != "" {
		members["error_description"] = r.ErrorDescription
	}
	return members
}

// tokenMembers are those of RFC 6749 §5.1.
func (r Reply) tokenMembers(token string) map[string]any {
	members := map[string]any{"access_token": token}
	if !r.NoTokenType {
		members["token_type"] = cmp.Or(r.TokenType, "Bearer")
	}
	if !r.NoExpiresIn {
		members["expires_in"] = r.ExpiresIn
	}
	if r.Scope != "" {
		members["scope"] = r.Scope
	}
	maps.Copy(members, r.members)
	return members
}

func writeJSON(w io.Writer, members map[string]any) { _ = json.NewEncoder(w).Encode(members) }

// life is how long the token of the answer is good for; 0 where expires_in doesn't say so.
func (r Reply) life() time.Duration {
	raw, err := json.Marshal(r.ExpiresIn)
	if err != nil || r.NoExpiresIn {
		return 0
	}
	seconds, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, math.MaxInt32) * float64(time.Second))
}

// expiresIn is a life as expires_in has it: a number of seconds, with a fraction only where the life has one.
func expiresIn(life time.Duration) any {
	if life%time.Second == 0 {
		return int64(life / time.Second)
	}
	return life.Seconds()
}
