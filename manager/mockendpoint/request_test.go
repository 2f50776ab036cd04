package mockendpoint_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func basic(id, secret string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) }
}

func with(form url.Values, pairs ...string) url.Values {
	for i := 0; i < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	return form
}

// broken replaces the form by one that can't be decoded.
func broken(r *http.Request) {
	const form = "grant_type=%zz"
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
}

func TestBadRequestsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		form   url.Values
		mend   func(*http.Request)
		status int
		code   string
	}{
		{"GET", nil, func(r *http.Request) { r.Method = http.MethodGet }, 405, "invalid_request"},
		{"no form", grant(), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "invalid_request"},
		{"no content type", grant(), func(r *http.Request) { r.Header.Del("Content-Type") }, 400, "invalid_request"},
		{"broken form", grant(), broken, 400, "invalid_request"},
		{"no grant_type", url.Values{}, nil, 400, "invalid_request"},
		{"another grant", url.Values{"grant_type": {"password"}}, nil, 400, "unsupported_grant_type"},
		{"grant_type twice", with(grant(), "grant_type", "client_credentials"), nil, 400, "invalid_request"},
		{"two ways to authenticate", with(grant(), "client_secret", "s"), basic("id", "s"), 400, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, target := start(t, mockendpoint.Options{})
			e.Push(mockendpoint.Reply{Status: 503})
			a := askWith(t, target, c.form, c.mend)
			if a.StatusCode != c.status || a.fields["error"] != c.code {
				t.Errorf("got %d %v, want %d %s", a.StatusCode, a.fields, c.status, c.code)
			}
			if a.Header.Get("Cache-Control") != "no-store" {
				t.Error("the refusal may be cached")
			}
			if got := last(t, e).Outcome; e.Calls() != 1 || got != fmt.Sprint(c.status) {
				t.Errorf("got %d calls, the last with outcome %q; want 1 with %d", e.Calls(), got, c.status)
			}
			if a := ask(t, target); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("the next good call got %d, want the scripted 503: a refusal takes no reply", a.StatusCode)
			}
		})
	}
}

func TestClients(t *testing.T) {
	const id, secret = "id:with space", "s%ü+cret"
	post := func(id, secret string) url.Values { return with(grant(), "client_id", id, "client_secret", secret) }
	for _, c := range []struct {
		name    string
		options mockendpoint.Options
		form    url.Values
		mend    func(*http.Request)
		ok      bool
		method  string
		id      string
	}{
		{"basic", mockendpoint.Options{ClientID: id, ClientSecret: secret}, grant(), basic(id, secret), true, "basic", id},
		{"post", mockendpoint.Options{ClientID: id, ClientSecret: secret}, post(id, secret), nil, true, "post", id},
		{"basic with a wrong secret", mockendpoint.Options{ClientID: id, ClientSecret: secret}, grant(), basic(id, "no"), false, "basic", id},
		{"basic that isn't form-encoded", mockendpoint.Options{}, grant(), func(r *http.Request) { r.SetBasicAuth("id", "%zz") }, false, "basic", "id"},
		{"post with a wrong secret", mockendpoint.Options{ClientID: id, ClientSecret: secret}, post(id, "no"), nil, false, "post", id},
		{"another client", mockendpoint.Options{ClientID: id}, grant(), basic("other", secret), false, "basic", "other"},
		{"any secret", mockendpoint.Options{ClientID: id}, grant(), basic(id, "whatever"), true, "basic", id},
		{"any client with the secret", mockendpoint.Options{ClientSecret: secret}, grant(), basic("whoever", secret), true, "basic", "whoever"},
		{"no secret where one is due", mockendpoint.Options{ClientID: id, ClientSecret: secret}, with(grant(), "client_id", id), nil, false, "none", id},
		{"nobody", mockendpoint.Options{}, grant(), nil, true, "none", ""},
		{"credentials in the query", mockendpoint.Options{ClientID: id, ClientSecret: secret}, grant(), func(r *http.Request) { r.URL.RawQuery = post(id, secret).Encode() }, false, "none", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, target := start(t, c.options)
			a := askWith(t, target, c.form, c.mend)
			switch {
			case c.ok && a.StatusCode != http.StatusOK:
				t.Errorf("got %d %v, want a token", a.StatusCode, a.fields)
			case !c.ok && (a.StatusCode != http.StatusUnauthorized || a.fields["error"] != "invalid_client"):
				t.Errorf("got %d %v, want 401 invalid_client", a.StatusCode, a.fields)
			}
			challenge := strings.HasPrefix(a.Header.Get("Www-Authenticate"), "Basic ")
			if want := !c.ok && c.method == "basic"; challenge != want {
				t.Errorf("got a Basic challenge: %t, want %t", challenge, want)
			}
			if r := last(t, e); r.AuthMethod != c.method || r.ClientID != c.id {
				t.Errorf("recorded %s %q, want %s %q", r.AuthMethod, r.ClientID, c.method, c.id)
			}
		})
	}
}

func TestSetSecret(t *testing.T) {
	e, target := start(t, mockendpoint.Options{ClientID: "id", ClientSecret: "old"})
	e.SetSecret("new")
	for secret, want := range map[string]int{"old": 401, "new": 200} {
		if a := askWith(t, target, grant(), basic("id", secret)); a.StatusCode != want {
			t.Errorf("secret %s: got %d, want %d", secret, a.StatusCode, want)
		}
	}
}

func TestRequestsAreRecordedWithoutSecrets(t *testing.T) {
	e, target := start(t, mockendpoint.Options{ClientSecret: "hunter2", SecretParams: []string{"pin"}})
	form := with(grant(), "client_id", "worker", "client_secret", "hunter2", "refresh_token", "hunter3", "pin", "hunter4",
		"client_assertion", "hunter5", "scope", "a b", "resource", "r1", "resource", "r2")
	ask := askWith(t, target+"?x=hunter6", form, nil)
	r := last(t, e)
	for _, text := range []string{r.String(), fmt.Sprintf("%+v", e.Requests()), fmt.Sprintf("%#v", r), fmt.Sprintf("%+v", e)} {
		if strings.Contains(text, "hunter") || strings.Contains(text, ask.token()) {
			t.Errorf("a secret is in %s", text)
		}
	}
	if r.Method != http.MethodPost || r.Path != "/oauth2/v1/token" || r.ContentType != formType || r.At.IsZero() {
		t.Errorf("got %+v", r)
	}
	if r.Form.Get("scope") != "a b" || len(r.Form["resource"]) != 2 || r.Form.Get("client_secret") != "[redacted]" {
		t.Errorf("got form %v, want all of it but the secrets", r.Form)
	}
	const want = `POST /oauth2/v1/token auth=post client="worker"`
	if got := r.String(); !strings.Contains(got, want) || !strings.HasSuffix(got, ": 200, token 1") {
		t.Errorf("String() = %s, want %s … : 200, token 1", got, want)
	}
}

func TestRequestsAreTheCallersOwn(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	ask(t, target)
	e.Requests()[0].Form.Set("grant_type", "changed")
	if got := last(t, e).Form.Get("grant_type"); got != "client_credentials" {
		t.Errorf("got grant_type %q: a caller could change what was recorded", got)
	}
}

func TestRequestInFlight(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	e.Push(mockendpoint.Reply{Hang: true})
	ended := hold(t, e, newRequest(t.Context(), t, target, grant(), nil))
	if r := last(t, e); r.Outcome != "" || !strings.HasSuffix(r.String(), ": in flight") {
		t.Errorf("got %v, want it in flight", r)
	}
	e.Close()
	if err := <-ended; err == nil {
		t.Error("got an answer, want a cut connection")
	}
}
