package mockendpoint

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// tokens are the access tokens that were given out.
type tokens struct {
	count  int
	byText map[string]*token
	order  []*token // the latest, oldest first
	last   *token   // given out last; nil before the first
}

type token struct {
	text    string
	ordinal int
	expires time.Time // zero: never
	revoked bool
	family  *family // nil: none
}

// issue gives out the token that r asks for: a new one, or one that there is already, whose life starts again.
func (ts *tokens) issue(r Reply) *token {
	text := r.AccessToken
	switch {
	case text == "" && r.SameToken && ts.last != nil:
		text = ts.last.text
	case text == "":
		text = fmt.Sprintf("mock-%d-%s", ts.count+1, rand.Text())
	}
	t := ts.byText[text]
	if t == nil {
		t = ts.add(text)
	}
	ts.last = t
	t.expires = time.Time{}
	if life := r.life(); life > 0 {
		t.expires = time.Now().Add(life)
	}
	return t
}

func (ts *tokens) add(text string) *token {
	ts.count++
	t := &token{text: text, ordinal: ts.count}
	if ts.byText == nil {
		ts.byText = map[string]*token{}
	}
	ts.byText[text] = t
	all := append(ts.order, t)
	ts.order = latest(all)
	for _, old := range all[:len(all)-len(ts.order)] {
		delete(ts.byText, old.text)
	}
	return t
}

// Issued returns the access tokens that were given out, oldest first and each once: the latest 10,000 at least.
func (e *Endpoint) Issued() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]string, len(e.tokens.order))
	for i, t := range e.tokens.order {
		list[i] = t.text
	}
	return list
}

// Accepts reports whether a resource server should take an access token: it was issued, neither it nor its [Family] was
// revoked, and the expires_in that it came with is not over. A token whose expires_in was left out, or wasn't a positive
// number, stays good.
func (e *Endpoint) Accepts(accessToken string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tokens.byText[accessToken]
	return t != nil && !t.revoked && (t.family == nil || !t.family.Revoked) && (t.expires.IsZero() || time.Now().Before(t.expires))
}

// Revoke makes [Endpoint.Accepts] say no to an access token for good, even if it is given out again.
func (e *Endpoint) Revoke(accessToken string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tokens.byText[accessToken]; t != nil {
		t.revoked = true
	}
}

// RevokeAll revokes every access token that was given out so far.
func (e *Endpoint) RevokeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tokens.order {
		t.revoked = true
	}
}

// Protect makes a resource server of next: requests without an access token that [Endpoint.Accepts] takes get a 401 with
// the challenge of RFC 6750 §3 (with error="invalid_token" where there was a token).
func (e *Endpoint) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		switch {
		case !strings.EqualFold(scheme, "Bearer"):
			w.Header().Set("WWW-Authenticate", `Bearer realm="mockendpoint"`)
		case !e.Accepts(text):
			w.Header().Set("WWW-Authenticate", `Bearer realm="mockendpoint", error="invalid_token"`)
		default:
			next.ServeHTTP(w, r)
			return
		}
		http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
	})
}
