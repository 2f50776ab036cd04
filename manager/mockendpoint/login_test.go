package mockendpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// forLogins are the options of an endpoint where people log in.
func forLogins() mockendpoint.Options {
	o := rotating()
	o.ClientID = "id"
	o.Grants = append(o.Grants, mockendpoint.AuthorizationCode, mockendpoint.DeviceCode)
	return o
}

// base is the origin of a token URL.
func base(target string) string { return strings.TrimSuffix(target, "/oauth2/v1/token") }

func clientOf(target string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: "id", RedirectURL: "http://127.0.0.1:49152/callback",
		Endpoint: oauth2.Endpoint{
			AuthURL: base(target) + "/authorize", DeviceAuthURL: base(target) + "/device_authorization", TokenURL: target, AuthStyle: oauth2.AuthStyleInParams,
		},
	}
}

// open is what a browser does with a URL: it returns where it is sent to.
func open(t *testing.T, target string) (*url.URL, answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := do(req)
	if err != nil {
		t.Fatal(err)
	}
	location, err := url.Parse(a.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return location, a
}

// errorCode is RFC 6749's of a client's error.
func errorCode(err error) string {
	if e := (*oauth2.RetrieveError)(nil); errors.As(err, &e) {
		return e.ErrorCode
	}
	return fmt.Sprint(err)
}

func TestOAuth2ClientLogsIn(t *testing.T) {
	e, target := start(t, forLogins())
	config, verifier := clientOf(target), oauth2.GenerateVerifier()
	location, a := open(t, config.AuthCodeURL("state-1", oauth2.S256ChallengeOption(verifier)))
	q := location.Query()
	if a.StatusCode != http.StatusFound || location.Host != "127.0.0.1:49152" || q.Get("state") != "state-1" || q.Get("iss") != base(target) {
		t.Fatalf("got %d to %v", a.StatusCode, location)
	}
	for wrong, err := range map[string]error{
		"verifier":     second(config.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier()))),
		"code":         second(config.Exchange(t.Context(), "x", oauth2.VerifierOption(verifier))),
		"redirect_uri": second(config.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(verifier), oauth2.SetAuthURLParam("redirect_uri", "http://127.0.0.1:1/callback"))),
	} {
		if errorCode(err) != "invalid_grant" {
			t.Errorf("a wrong %s: got %v, want invalid_grant", wrong, err)
		}
	}
	token, err := config.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	next, err := config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
	if err != nil || next.RefreshToken == token.RefreshToken || !e.Accepts(next.AccessToken) {
		t.Errorf("the refresh: %v", err)
	}
	if f := family(t, e); f.Uses != 1 || f.Revoked {
		t.Errorf("got %+v, want one use", f)
	}
	// A code that is used twice was stolen.
	if _, err := config.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(verifier)); errorCode(err) != "invalid_grant" {
		t.Errorf("the code again: got %v, want invalid_grant", err)
	}
	if f := family(t, e); !f.Revoked || f.RevokedBy.Form.Get("grant_type") != "authorization_code" || e.Accepts(token.AccessToken) || e.AcceptsRefreshToken(next.RefreshToken) {
		t.Errorf("after a code was used twice: got %+v, want it revoked", f)
	}
	for _, r := range append(e.Requests(), e.RequestsAt(mockendpoint.AuthorizePath)...) {
		if text := r.String(); strings.Contains(text, q.Get("code")) || strings.Contains(text, verifier) || strings.Contains(text, token.RefreshToken) {
			t.Errorf("a secret is in %s", text)
		}
	}
	if got := e.RequestsAt(mockendpoint.AuthorizePath); len(got) != 1 || got[0].Outcome != "302" || got[0].ClientID != "id" {
		t.Errorf("got %v at the authorization endpoint, want one", got)
	}
}

func second[T any](_ T, err error) error { return err }

func TestACodeExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mockendpoint.New(forLogins())
		verifier := oauth2.GenerateVerifier()
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, clientOf("http://as.test/oauth2/v1/token").AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), nil))
		location, err := w.Result().Location()
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		a := serve(t, e, url.Values{
			"grant_type": {"authorization_code"}, "client_id": {"id"}, "code": {location.Query().Get("code")},
			"code_verifier": {verifier}, "redirect_uri": {"http://127.0.0.1:49152/callback"},
		})
		if a.fields["error"] != "invalid_grant" || !strings.Contains(fmt.Sprint(a.fields), "expired") {
			t.Errorf("got %v, want invalid_grant: it has expired", a.fields)
		}
	})
}

func TestAuthorizationRequests(t *testing.T) {
	good := func() url.Values {
		return url.Values{
			"response_type": {"code"}, "client_id": {"id"}, "redirect_uri": {"http://127.0.0.1:49152/callback?x=1"}, "state": {"s"},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())}, "code_challenge_method": {"S256"},
		}
	}
	but := func(name, value string) url.Values {
		q := good()
		q.Set(name, value)
		if value == "" {
			q.Del(name)
		}
		return q
	}
	for name, c := range map[string]struct {
		query  url.Values
		status int
		code   string // the error
	}{
		"good":                 {good(), 302, ""},
		"IPv6":                 {but("redirect_uri", "http://[::1]:7/"), 302, ""},
		"localhost":            {but("redirect_uri", "http://localhost:7/"), 302, ""},
		"no state":             {but("state", ""), 302, ""},
		"another client":       {but("client_id", "x"), 400, "invalid_request"},
		"no redirect_uri":      {but("redirect_uri", ""), 400, "invalid_request"},
		"elsewhere":            {but("redirect_uri", "https://elsewhere.test/"), 400, "invalid_request"},
		"like loopback":        {but("redirect_uri", "http://127.0.0.1.elsewhere.test/"), 400, "invalid_request"},
		"fragment":             {but("redirect_uri", "http://127.0.0.1/#x"), 400, "invalid_request"},
		"implicit":             {but("response_type", "token"), 302, "unsupported_response_type"},
		"no challenge":         {but("code_challenge", ""), 302, "invalid_request"},
		"a plain challenge":    {but("code_challenge_method", "plain"), 302, "invalid_request"},
		"a short challenge":    {but("code_challenge", "x"), 302, "invalid_request"},
		"a parameter too much": {with(good(), "scope", "a", "scope", "b"), 302, "invalid_request"},
	} {
		e, target := start(t, forLogins())
		location, a := open(t, base(target)+"/authorize?"+c.query.Encode())
		q := location.Query()
		code := q.Get("error")
		if c.status != http.StatusFound {
			code, _ = a.fields["error"].(string)
		} else if q.Get("state") != c.query.Get("state") || q.Has("code") != (c.code == "") || q.Get("iss") != base(target) {
			t.Errorf("%s: got %v", name, location)
		}
		if a.StatusCode != c.status || code != c.code {
			t.Errorf("%s: got %d to %v, %v; want %d with error %q", name, a.StatusCode, location, a.fields, c.status, c.code)
		}
		if name == "good" && q.Get("x") != "1" {
			t.Errorf("got %v: the redirect_uri's own query is gone", location)
		}
		if e.Calls() != 0 {
			t.Error("it counts as a call of the token endpoint")
		}
	}
}

func TestRegisteredRedirectURIs(t *testing.T) {
	o := forLogins()
	o.RedirectURIs = []string{"http://127.0.0.1/callback", "https://app.test/cb"}
	_, target := start(t, o)
	for uri, status := range map[string]int{
		"http://127.0.0.1:50001/callback": 302, "http://127.0.0.1/callback": 302, "https://app.test/cb": 302,
		"https://app.test:8443/cb": 400, "http://127.0.0.1:50001/other": 400, "http://localhost:50001/callback": 400, "https://app.test/cb/x": 400,
	} {
		config := clientOf(target)
		config.RedirectURL = uri
		if _, a := open(t, config.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()))); a.StatusCode != status {
			t.Errorf("%s: got %d, want %d", uri, a.StatusCode, status)
		}
	}
}

func TestAuthorizationIsScripted(t *testing.T) {
	o := forLogins()
	o.OnAuthorize = func(answer url.Values) { answer.Set("state", "another") }
	e, target := start(t, o)
	e.PushAt(mockendpoint.AuthorizePath, mockendpoint.Reply{Error: "access_denied", ErrorDescription: "no"}, mockendpoint.Reply{Status: 503})
	ask := func() (url.Values, answer) {
		location, a := open(t, clientOf(target).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
		return location.Query(), a
	}
	if q, _ := ask(); q.Get("error") != "access_denied" || q.Get("error_description") != "no" || q.Has("code") || q.Get("state") != "another" {
		t.Errorf("got %v, want it denied", q)
	}
	if _, a := ask(); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503", a.StatusCode)
	}
	if q, _ := ask(); !q.Has("code") {
		t.Errorf("got %v, want a code again", q)
	}
}

// deviceLogin is a login of a device by a client that nobody here wrote, in a bubble. decide is told of it.
func deviceLogin(t *testing.T, e *mockendpoint.Endpoint, decide func(*oauth2.DeviceAuthResponse)) (*oauth2.Token, error) {
	t.Helper()
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: handlerTransport{e}})
	config := clientOf("http://as.test/oauth2/v1/token")
	d, err := config.DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if decide != nil {
		decide(d)
	}
	return config.DeviceAccessToken(ctx, d)
}

// A handlerTransport sends requests to a handler.
type handlerTransport struct{ http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestOAuth2ClientLogsInADevice(t *testing.T) {
	approve := func(e *mockendpoint.Endpoint) func(*oauth2.DeviceAuthResponse) {
		return func(d *oauth2.DeviceAuthResponse) {
			time.AfterFunc(12*time.Second, func() { e.ApproveDevice(strings.ToLower(d.UserCode)) })
		}
	}
	visit := func(e *mockendpoint.Endpoint) func(*oauth2.DeviceAuthResponse) {
		return func(d *oauth2.DeviceAuthResponse) {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, d.VerificationURIComplete, nil))
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "approved") {
				t.Errorf("the page: %d %s", w.Code, w.Body)
			}
		}
	}
	deny := func(e *mockendpoint.Endpoint) func(*oauth2.DeviceAuthResponse) {
		return func(d *oauth2.DeviceAuthResponse) {
			if !e.DenyDevice(d.UserCode) || e.DenyDevice("XXXX-XXXX") {
				t.Error("not exactly the device that waits is known")
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*mockendpoint.Options)
		script []mockendpoint.Reply
		decide func(*mockendpoint.Endpoint) func(*oauth2.DeviceAuthResponse)
		took   time.Duration
		polls  int
		code   string
	}{
		"approved in between":  {decide: approve, took: 15 * time.Second, polls: 3},
		"approved on its page": {decide: visit, took: 5 * time.Second, polls: 1},
		"by itself":            {change: func(o *mockendpoint.Options) { o.ApproveAtPoll = 4; o.DeviceInterval = 2 * time.Second }, took: 8 * time.Second, polls: 4},
		"scripted": {
			change: func(o *mockendpoint.Options) { o.ApproveAtPoll = 1 },
			script: []mockendpoint.Reply{{Error: "authorization_pending"}, {Error: "slow_down"}, {Error: "authorization_pending"}},
			took:   30 * time.Second, polls: 4,
		},
		"denied":          {decide: deny, took: 5 * time.Second, polls: 1, code: "access_denied"},
		"scripted denial": {script: []mockendpoint.Reply{{Error: "access_denied"}}, took: 5 * time.Second, polls: 1, code: "access_denied"},
		"expired":         {script: []mockendpoint.Reply{{Error: "expired_token"}}, took: 5 * time.Second, polls: 1, code: "expired_token"},
		"never approved": {
			change: func(o *mockendpoint.Options) { o.DeviceLife = 22 * time.Second },
			took:   22 * time.Second, polls: 4, code: context.DeadlineExceeded.Error(),
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := forLogins()
			if c.change != nil {
				c.change(&o)
			}
			e := mockendpoint.New(o)
			e.Push(c.script...)
			var decide func(*oauth2.DeviceAuthResponse)
			if c.decide != nil {
				decide = c.decide(e)
			}
			begun := time.Now()
			token, err := deviceLogin(t, e, decide)
			if took := time.Since(begun); took != c.took || e.Calls() != c.polls {
				t.Errorf("%s: it took %v and %d polls, want %v and %d", name, took, e.Calls(), c.took, c.polls)
			}
			switch {
			case c.code != "" && errorCode(err) != c.code:
				t.Errorf("%s: got %v, want %s", name, err, c.code)
			case c.code == "" && (err != nil || !e.AcceptsRefreshToken(token.RefreshToken) || !e.Accepts(token.AccessToken)):
				t.Errorf("%s: got %v, want tokens that are good", name, err)
			}
		})
	}
}

func TestDevicesThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mockendpoint.New(forLogins())
		ask := func() answer {
			w := httptest.NewRecorder()
			e.ServeHTTP(w, newRequest(t.Context(), t, "/device_authorization", url.Values{"client_id": {"id"}}, nil))
			return read(t, w)
		}
		poll := func(d answer) any {
			code, _ := d.fields["device_code"].(string)
			return serve(t, e, url.Values{"grant_type": {mockendpoint.DeviceCode}, "device_code": {code}, "client_id": {"id"}}).fields["error"]
		}
		d := ask()
		userCode, _ := d.fields["user_code"].(string)
		if d.fields["interval"] != 5.0 || d.fields["expires_in"] != 600.0 || len(userCode) != len("WDJB-MJHT") || !strings.HasSuffix(fmt.Sprint(d.fields["verification_uri"]), "/device") {
			t.Errorf("got %v", d.fields)
		}
		for i, c := range []struct {
			wait time.Duration
			code any
		}{
			{0, "authorization_pending"},
			{4 * time.Second, "slow_down"}, // and the interval is 10 s
			{9500 * time.Millisecond, "authorization_pending"},
			{8 * time.Second, "slow_down"}, // 15 s
			{15 * time.Second, "authorization_pending"},
		} {
			<-time.After(c.wait)
			if got := poll(d); got != c.code {
				t.Errorf("poll %d: got %v, want %v", i+1, got, c.code)
			}
		}
		e.ApproveDevice(userCode)
		<-time.After(15 * time.Second)
		if got := poll(d); got != nil {
			t.Errorf("approved: got %v", got)
		}
		<-time.After(15 * time.Second)
		if got := poll(d); got != "invalid_grant" {
			t.Errorf("used: got %v, want invalid_grant", got)
		}
		if got := poll(answer{fields: map[string]any{"device_code": "x"}}); got != "invalid_grant" {
			t.Errorf("unknown: got %v, want invalid_grant", got)
		}
		late := ask()
		<-time.After(10 * time.Minute)
		if got := poll(late); got != "expired_token" {
			t.Errorf("late: got %v, want expired_token", got)
		}
		if userCode, _ = late.fields["user_code"].(string); e.ApproveDevice(userCode) {
			t.Error("a device that has expired is approved")
		}
	})
}

// A device code that isn't approved gives no token, also where the call takes effect on arrival.
func TestCommitApprovesNothing(t *testing.T) {
	e := mockendpoint.New(forLogins())
	e.SetDefault(mockendpoint.Reply{Commit: true})
	w := httptest.NewRecorder()
	e.ServeHTTP(w, newRequest(t.Context(), t, "/device_authorization", url.Values{"client_id": {"id"}}, nil))
	code, _ := read(t, w).fields["device_code"].(string)
	if a := serve(t, e, url.Values{"grant_type": {mockendpoint.DeviceCode}, "device_code": {code}, "client_id": {"id"}}); a.fields["error"] != "authorization_pending" {
		t.Errorf("got %v, want authorization_pending", a.fields)
	}
}

func TestRevokeEndpoint(t *testing.T) {
	o := rotating()
	o.ClientID, o.ClientSecret = "id", "secret"
	e, target := start(t, o)
	first := e.NewFamily()
	a := askWith(t, target, refreshForm(first), basic("id", "secret"))
	refreshToken, _ := a.fields["refresh_token"].(string)
	revoke := func(token, secret string) answer {
		return askWith(t, base(target)+"/revoke", url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}, basic("id", secret))
	}
	for token, want := range map[string]int{"unknown": 200, "": 400} {
		if got := revoke(token, "secret"); got.StatusCode != want || want == 200 && got.body != "" {
			t.Errorf("%q: got %d %s, want %d", token, got.StatusCode, got.body, want)
		}
	}
	e.PushAt(mockendpoint.RevokePath, mockendpoint.Reply{Status: 503}, mockendpoint.Reply{Error: "unsupported_token_type"}, mockendpoint.Reply{Drop: true})
	for _, want := range []int{503, 400} {
		if got := revoke(refreshToken, "secret"); got.StatusCode != want {
			t.Errorf("got %d, want the scripted %d", got.StatusCode, want)
		}
	}
	if _, err := do(newRequest(t.Context(), t, base(target)+"/revoke", url.Values{"token": {refreshToken}}, basic("id", "secret"))); err == nil {
		t.Error("got an answer, want a cut connection")
	}
	if got := revoke(refreshToken, "wrong"); got.StatusCode != http.StatusUnauthorized || got.fields["error"] != "invalid_client" {
		t.Errorf("a wrong secret: got %d %v", got.StatusCode, got.fields)
	}
	if !e.AcceptsRefreshToken(refreshToken) {
		t.Error("it is revoked although no answer said so")
	}
	if got := revoke(refreshToken, "secret"); got.StatusCode != http.StatusOK || e.AcceptsRefreshToken(refreshToken) || e.Accepts(a.token()) {
		t.Errorf("got %d, want the family revoked", got.StatusCode)
	}
	if f := family(t, e); f.RevokedBy == nil || f.RevokedBy.Path != "/revoke" || f.RevokedBy.Outcome != "200" || f.Reuses != 0 {
		t.Errorf("got %+v", f)
	}
	if got := e.RequestsAt(mockendpoint.RevokePath); len(got) != 7 || got[6].Family != 1 || strings.Contains(fmt.Sprint(got), refreshToken) || e.Calls() != 1 {
		t.Errorf("got %d visits and %d calls: %v", len(got), e.Calls(), got)
	}
	// An access token alone, and an answer that is lost after it took effect.
	access := askWith(t, target, grant(), basic("id", "secret")).token()
	revoke(access, "secret")
	if e.Accepts(access) {
		t.Error("a revoked access token is accepted")
	}
	refreshToken = e.NewFamily()
	e.PushAt(mockendpoint.RevokePath, mockendpoint.Reply{Status: 503, Commit: true})
	if got := revoke(refreshToken, "secret"); got.StatusCode != 503 || e.AcceptsRefreshToken(refreshToken) {
		t.Errorf("got %d, want 503 and the family revoked", got.StatusCode)
	}
}

func TestMetadata(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*mockendpoint.Options)
		path   string // of the page
		base   string // of the endpoints
		issuer string // "": the origin
	}{
		"by default":    {nil, "/.well-known/oauth-authorization-server", "", ""},
		"OpenID":        {nil, "/.well-known/openid-configuration", "", ""},
		"path":          {func(o *mockendpoint.Options) { o.Issuer = "https://as.test/realms/x" }, "/.well-known/oauth-authorization-server/realms/x", "/realms/x", "https://as.test/realms/x"},
		"OpenID's path": {func(o *mockendpoint.Options) { o.Issuer = "https://as.test/realms/x/" }, "/realms/x/.well-known/openid-configuration", "/realms/x", "https://as.test/realms/x/"},
	} {
		o := forLogins()
		if c.change != nil {
			c.change(&o)
		}
		o.Metadata = map[string]any{"revocation_endpoint": nil, "x": "y"}
		e, target := start(t, o)
		_, a := open(t, base(target)+c.path)
		if c.issuer == "" {
			c.issuer = base(target)
		}
		if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %d %s", name, a.StatusCode, a.body)
		}
		for member, want := range map[string]any{
			"issuer":                                c.issuer,
			"token_endpoint":                        base(target) + c.base + "/oauth2/v1/token",
			"authorization_endpoint":                base(target) + c.base + "/authorize",
			"device_authorization_endpoint":         base(target) + c.base + "/device_authorization",
			"revocation_endpoint":                   nil,
			"x":                                     "y",
			"grant_types_supported":                 []any{"client_credentials", "refresh_token", "authorization_code", mockendpoint.DeviceCode},
			"token_endpoint_auth_methods_supported": []any{"client_secret_basic", "client_secret_post", "none"},
		} {
			if got := a.fields[member]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, want %v", name, member, got, want)
			}
		}
		verifier := url.QueryEscape(oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier()))
		location, _ := open(t, fmt.Sprint(a.fields["authorization_endpoint"])+"?response_type=code&client_id=id&redirect_uri=http://127.0.0.1/&code_challenge_method=S256&code_challenge="+verifier)
		if got := location.Query(); !got.Has("code") || got.Get("iss") != c.issuer {
			t.Errorf("%s: its authorization endpoint answers %v", name, location)
		}
		if a := askWith(t, fmt.Sprint(a.fields["token_endpoint"]), with(grant(), "client_id", "id"), nil); a.token() == "" {
			t.Errorf("%s: its token endpoint answers %v", name, a.fields)
		}
		e.PushAt(strings.Replace(strings.Replace(c.path, "/realms/x", "", 1), "//", "/", 1), mockendpoint.Reply{Status: 404})
		if _, a := open(t, base(target)+c.path); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d, want the scripted 404", name, a.StatusCode)
		}
	}
}

func TestGrantsThatAreNotAccepted(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	location, _ := open(t, clientOf(target).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
	if got := location.Query().Get("error"); got != "unauthorized_client" {
		t.Errorf("authorize: got %v, want unauthorized_client", location)
	}
	if _, err := clientOf(target).DeviceAuth(t.Context()); errorCode(err) != "unauthorized_client" {
		t.Errorf("device_authorization: got %v, want unauthorized_client", err)
	}
	_, a := open(t, base(target)+"/.well-known/oauth-authorization-server")
	if a.fields["authorization_endpoint"] != nil || a.fields["device_authorization_endpoint"] != nil {
		t.Errorf("the metadata names what isn't there: %v", a.fields)
	}
	for what, do := range map[string]func(){
		"grant":  func() { mockendpoint.New(mockendpoint.Options{Grants: []string{"password"}}) },
		"method": func() { mockendpoint.New(mockendpoint.Options{AuthMethods: []string{"client_secret_basic"}}) },
		"issuer": func() { mockendpoint.New(mockendpoint.Options{Issuer: "http://%zz"}) },
		"path":   func() { e.PushAt("/token", mockendpoint.Reply{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("an unknown %s: got no panic", what)
				}
			}()
			do()
		}()
	}
}

// Two exchanges of one code are under way at once: whoever is answered second ends the login.
func TestTwoExchangesOfOneCode(t *testing.T) {
	e, target := start(t, forLogins())
	config, verifier := clientOf(target), oauth2.GenerateVerifier()
	location, _ := open(t, config.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)))
	gate := make(chan struct{})
	e.Push(mockendpoint.Reply{Gate: gate})
	ended := hold(t, e, newRequest(t.Context(), t, target, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"id"}, "code": {location.Query().Get("code")}, "code_verifier": {verifier},
		"redirect_uri": {config.RedirectURL},
	}, nil))
	token, err := config.Exchange(t.Context(), location.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if r := e.Requests()[0]; r.Outcome != "400" || !family(t, e).Revoked || e.Accepts(token.AccessToken) {
		t.Errorf("got %v and %+v, want it refused and the family revoked", r, family(t, e))
	}
}

func TestPagesThatAreAskedWrongly(t *testing.T) {
	_, target := start(t, forLogins())
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/device", 200}, // asks for the code
		{http.MethodGet, "/device?user_code=XXXX-XXXX", 404},
		{http.MethodPost, "/device", 405},
		{http.MethodPost, "/.well-known/oauth-authorization-server", 405},
		{http.MethodPut, "/authorize", 405},
		{http.MethodGet, "/revoke", 405},
		{http.MethodGet, "/device_authorization", 405},
		{http.MethodPost, "/device_authorization", 401}, // nobody
	} {
		a := askWith(t, base(target)+c.path, url.Values{}, func(r *http.Request) { r.Method = c.method })
		if a.StatusCode != c.status {
			t.Errorf("%s %s: got %d, want %d", c.method, c.path, a.StatusCode, c.status)
		}
	}
}
