package mockendpoint_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// issue asks an endpoint without a server.
func issue(t *testing.T, e *mockendpoint.Endpoint) string {
	t.Helper()
	e.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), t, "/", grant(), nil))
	all := e.Issued()
	return all[len(all)-1]
}

func TestRevoke(t *testing.T) {
	e := mockendpoint.New(mockendpoint.Options{})
	first, second := issue(t, e), issue(t, e)
	if !e.Accepts(first) || !e.Accepts(second) || e.Accepts("made up") || e.Accepts("") {
		t.Error("not exactly the issued tokens are accepted")
	}
	e.Revoke(first)
	e.Revoke("made up")
	if e.Accepts(first) || !e.Accepts(second) {
		t.Error("Revoke: not exactly the revoked token is refused")
	}
	e.RevokeAll()
	if e.Accepts(second) {
		t.Error("RevokeAll: a token is accepted")
	}
	e.Push(mockendpoint.Reply{SameToken: true})
	if again := issue(t, e); again != second || e.Accepts(again) {
		t.Error("a revoked token that is given out again is accepted")
	}
	if !e.Accepts(issue(t, e)) {
		t.Error("a token issued after RevokeAll is refused")
	}
}

func TestTokensExpire(t *testing.T) {
	for _, c := range []struct {
		reply mockendpoint.Reply
		ends  bool
	}{
		{mockendpoint.Reply{}, true},
		{mockendpoint.Reply{ExpiresIn: 10}, true},
		{mockendpoint.Reply{ExpiresIn: "10.0"}, true},
		{mockendpoint.Reply{ExpiresIn: "soon"}, false},
		{mockendpoint.Reply{ExpiresIn: 0}, false},
		{mockendpoint.Reply{ExpiresIn: -1}, false},
		{mockendpoint.Reply{ExpiresIn: 1e300}, false},
		{mockendpoint.Reply{NoExpiresIn: true}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := mockendpoint.New(mockendpoint.Options{Life: 10 * time.Second, Default: c.reply})
			token := issue(t, e)
			<-time.After(10*time.Second - 1)
			if !e.Accepts(token) {
				t.Errorf("%v: refused within its life", c.reply.ExpiresIn)
			}
			<-time.After(1)
			if got := e.Accepts(token); got == c.ends {
				t.Errorf("%v: after 10s accepted: %t, want %t", c.reply.ExpiresIn, got, !c.ends)
			}
		})
	}
}

func TestATokenGivenOutAgainStartsANewLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mockendpoint.New(mockendpoint.Options{Life: 10 * time.Second})
		e.Push(mockendpoint.Reply{}, mockendpoint.Reply{SameToken: true})
		token := issue(t, e)
		<-time.After(8 * time.Second)
		issue(t, e)
		<-time.After(8 * time.Second)
		if !e.Accepts(token) {
			t.Error("refused 8s after it was given out again for 10s")
		}
	})
}

func TestProtect(t *testing.T) {
	e := mockendpoint.New(mockendpoint.Options{})
	api := e.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	good, revoked := issue(t, e), issue(t, e)
	e.Revoke(revoked)
	for _, c := range []struct {
		name, header string
		status       int
		challenge    string // part of it
	}{
		{"accepted", "Bearer " + good, 204, ""},
		{"scheme in lower case", "bearer " + good, 204, ""},
		{"revoked", "Bearer " + revoked, 401, `error="invalid_token"`},
		{"unknown", "Bearer x", 401, `error="invalid_token"`},
		{"empty", "Bearer", 401, `error="invalid_token"`},
		{"none", "", 401, "Bearer realm"},
		{"another scheme", "Basic " + good, 401, "Bearer realm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/campaigns", nil)
			r.Header.Set("Authorization", c.header)
			api.ServeHTTP(w, r)
			challenge := w.Header().Get("WWW-Authenticate")
			if w.Code != c.status || !strings.Contains(challenge, c.challenge) || (challenge == "") != (c.status == 204) {
				t.Errorf("got %d with challenge %q, want %d with %q", w.Code, challenge, c.status, c.challenge)
			}
		})
	}
}
