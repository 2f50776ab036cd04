package endpoint_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// An authority is an endpoint's other URLs, each of which records the request and answers with what is set.
type authority struct {
	url    string
	status int
	reply  string
	header http.Header
	asked  []sent
}

func newAuthority(t *testing.T, status int, reply string) *authority {
	t.Helper()
	a := &authority{status: status, reply: reply, header: http.Header{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		a.asked = append(a.asked, sent{method: r.Method, target: r.RequestURI, header: r.Header.Clone(), form: r.PostForm})
		maps.Copy(w.Header(), a.header)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.reply))
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// client returns a client of the authority's endpoints.
func (a *authority) client(t *testing.T, mend func(*endpoint.Config)) *endpoint.Client {
	t.Helper()
	c := config(a.url + "/token")
	c.AuthorizationURL, c.DeviceAuthorizationURL, c.RevocationURL = a.url+"/authorize?p=kept", a.url+"/device", a.url+"/revoke"
	c.Grant, c.Scopes = endpoint.RefreshToken, []string{"campaigns.read", "offline_access"}
	if mend != nil {
		mend(&c)
	}
	client, err := endpoint.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (a *authority) last(t *testing.T) sent {
	t.Helper()
	if len(a.asked) != 1 {
		t.Fatalf("%d requests; want 1", len(a.asked))
	}
	return a.asked[0]
}

// RFC 7636 Appendix B has a verifier and its challenge.
const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

func TestAuthorizationURL(t *testing.T) {
	a := newAuthority(t, 200, "")
	got, err := a.client(t, nil).AuthorizationURL(t.Context(), endpoint.AuthorizationRequest{
		RedirectURL: "http://127.0.0.1:1/callback", State: "st&te", Verifier: secret.New(verifier),
		Params: url.Values{"prompt": {"consent"}, "resource": {"a", "b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {"http://127.0.0.1:1/callback"}, "state": {"st&te"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "scope": {"campaigns.read offline_access"},
		"prompt": {"consent"}, "resource": {"a", "b"}, "p": {"kept"},
	}
	if u.Query().Encode() != want.Encode() || !strings.HasPrefix(got, a.url+"/authorize?") {
		t.Errorf("%s; want the query %v", got, want)
	}
	if strings.Contains(got, clientSecret) || strings.Contains(got, verifier) || len(a.asked) != 0 {
		t.Errorf("%s has a secret in it, or somebody was asked (%d)", got, len(a.asked))
	}
}

func TestACodeIsExchanged(t *testing.T) {
	a := newAuthority(t, 200, `{"access_token":"at","refresh_token":"rt","expires_in":60}`)
	r, err := a.client(t, nil).Exchange(t.Context(), secret.New("c0de"), "http://127.0.0.1:1/callback", secret.New(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if r.RefreshToken.Reveal() != "rt" || r.AccessToken.Reveal() != "at" || r.ExpiresIn != time.Minute {
		t.Errorf("refresh token %q, access token %q, %v", r.RefreshToken.Reveal(), r.AccessToken.Reveal(), r.ExpiresIn)
	}
	asked := a.last(t)
	want := url.Values{
		"grant_type": {"authorization_code"}, "code": {"c0de"}, "redirect_uri": {"http://127.0.0.1:1/callback"}, "code_verifier": {verifier},
	}
	if asked.form.Encode() != want.Encode() || asked.target != "/token" || asked.method != http.MethodPost {
		t.Errorf("%s %s %v; want POST /token %v", asked.method, asked.target, asked.form, want)
	}
	if !strings.HasPrefix(asked.header.Get("Authorization"), "Basic ") {
		t.Error("the client doesn't authenticate")
	}
}

func TestALoginOnADeviceBegins(t *testing.T) {
	a := newAuthority(t, 200, `{"device_code":"dev1ce","user_code":"WDJB-MJHT","verification_uri":"https://a.example/device",
		"verification_uri_complete":"https://a.example/device?user_code=WDJB-MJHT","expires_in":1800,"interval":"7"}`)
	d, err := a.client(t, nil).Device(t.Context(), url.Values{"audience": {"campaigns"}})
	if err != nil {
		t.Fatal(err)
	}
	if d.Code.Reveal() != "dev1ce" || d.UserCode != "WDJB-MJHT" || d.URL != "https://a.example/device" ||
		d.CompleteURL != "https://a.example/device?user_code=WDJB-MJHT" || d.ExpiresIn != 30*time.Minute || d.Interval != 7*time.Second {
		t.Errorf("%+v", d)
	}
	asked := a.last(t)
	want := url.Values{"client_id": {clientID}, "scope": {"campaigns.read offline_access"}, "audience": {"campaigns"}}
	if asked.form.Encode() != want.Encode() || asked.target != "/device" || asked.header.Get("Authorization") == "" {
		t.Errorf("%s %v; want /device %v, with credentials", asked.target, asked.form, want)
	}
}

func TestWhatADeviceIsToldIsChecked(t *testing.T) {
	for _, c := range []struct {
		reply string
		want  string // the URL; "": an error
	}{
		{`{"device_code":"d","user_code":"U","verification_url":"https://www.google.com/device"}`, "https://www.google.com/device"},
		{`{"device_code":"d","user_code":"U","verification_uri":"http://192.0.2.1/device"}`, "http://192.0.2.1/device"},
		{`{"device_code":"d","user_code":"U","verification_uri":"https://a.example/\u001b[31m"}`, ""},
		{`{"device_code":"d","user_code":"U","verification_uri":"javascript:alert(1)"}`, ""},
		{`{"device_code":"d","user_code":"U","verification_uri":"https://www.bank.example@evil.example/"}`, ""},
		{`{"device_code":"d","user_code":"U"}`, ""},
		{`{"device_code":"d","verification_uri":"https://a.example/"}`, ""},
		{`{"user_code":"U","verification_uri":"https://a.example/"}`, ""},
		{`[]`, ""},
	} {
		d, err := newAuthority(t, 200, c.reply).client(t, nil).Device(t.Context(), nil)
		failed := (*endpoint.Error)(nil)
		switch {
		case c.want != "" && (err != nil || d.URL != c.want || d.Interval != 5*time.Second || d.ExpiresIn != 0):
			t.Errorf("%s: %+v, %v; want %s, and 5s", c.reply, d, err, c.want)
		case c.want == "" && (!errors.As(err, &failed) || failed.Code != endpoint.CodeBadReply):
			t.Errorf("%s: %+v, %v; want %s", c.reply, d, err, endpoint.CodeBadReply)
		}
	}
}

func TestADeviceAsksForItsTokens(t *testing.T) {
	a := newAuthority(t, 200, `{"access_token":"at","refresh_token":"rt"}`)
	client := a.client(t, nil)
	if r, err := client.ExchangeDevice(t.Context(), secret.New("dev1ce")); err != nil || r.RefreshToken.Reveal() != "rt" {
		t.Fatalf("%v, %v", r, err)
	}
	want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {"dev1ce"}}
	if asked := a.last(t); asked.form.Encode() != want.Encode() {
		t.Errorf("%v; want %v", asked.form, want)
	}
	for _, c := range []struct {
		status     int
		code, want string
	}{
		{400, "authorization_pending", endpoint.CodePending},
		{400, "slow_down", endpoint.CodeSlowDown},
		{403, "access_denied", endpoint.CodeDenied},
		{428, "authorization_pending", endpoint.CodePending}, // Google's status
		{400, "expired_token", endpoint.CodeExpired},
		{400, "invalid_grant", "invalid_grant"},
		{500, "authorization_pending", "http_500"},
		{429, "slow_down", endpoint.CodeSlowDown}, // Google's, too
		{404, "odd", "http_404"},
	} {
		a.status, a.reply = c.status, fmt.Sprintf(`{"error":%q,"error_description":"of the dev1ce"}`, c.code)
		_, err := client.ExchangeDevice(t.Context(), secret.New("dev1ce"))
		failed := (*endpoint.Error)(nil)
		if !errors.As(err, &failed) || failed.Code != c.want || failed.Status != c.status {
			t.Errorf("%d %s: %v; want the code %s", c.status, c.code, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "dev1ce") {
			t.Errorf("the device code is printed: %v", err)
		}
	}
}

func TestARefreshTokenIsRevoked(t *testing.T) {
	a := newAuthority(t, 200, "")
	if err := a.client(t, nil).Revoke(t.Context(), secret.New("r3fresh")); err != nil {
		t.Fatal(err)
	}
	asked := a.last(t)
	want := url.Values{"token": {"r3fresh"}, "token_type_hint": {"refresh_token"}}
	if asked.form.Encode() != want.Encode() || asked.target != "/revoke" || asked.header.Get("Authorization") == "" {
		t.Errorf("%s %v; want /revoke %v, with credentials", asked.target, asked.form, want)
	}
	for _, c := range []struct {
		status      int
		reply, want string
	}{
		{503, `{"error":"server_error","error_description":"r3fresh isn't gone"}`, "http_503: server_error [redacted] isn't gone"},
		{503, "", "http_503: Service Unavailable"},
		{302, "", "http_302: Found"},
		{400, `{"error":"unsupported_token_type"}`, "http_400: unsupported_token_type"},
		{401, `{"error":"invalid_client"}`, "invalid_client"},
	} {
		a.status, a.reply = c.status, c.reply
		a.header.Set("Retry-After", "7")
		a.header.Set("Location", a.url+"/elsewhere?token=r3fresh")
		err := a.client(t, nil).Revoke(t.Context(), secret.New("r3fresh"))
		failed := (*endpoint.Error)(nil)
		if !errors.As(err, &failed) || failed.Text() != c.want || failed.RetryAfter != 7*time.Second {
			t.Errorf("%d %s: %v; want %s, and to wait 7s", c.status, c.reply, err, c.want)
		}
	}
	for _, r := range a.asked {
		if r.target != "/revoke" {
			t.Errorf("it was sent on to %s", r.target)
		}
	}
}

func TestALoginHasTheEndpointsThatItNeeds(t *testing.T) {
	client := newAuthority(t, 200, "{}").client(t, func(c *endpoint.Config) {
		c.AuthorizationURL, c.DeviceAuthorizationURL, c.RevocationURL = "", "", ""
	})
	_, authorize := client.AuthorizationURL(t.Context(), endpoint.AuthorizationRequest{})
	_, device := client.Device(t.Context(), nil)
	revoke := client.Revoke(t.Context(), secret.New("r"))
	for setting, err := range map[string]error{"authorization_url": authorize, "device_authorization_url": device, "revocation_url": revoke} {
		missing := (*endpoint.MissingError)(nil)
		if !errors.As(err, &missing) || missing.Setting != setting || !strings.HasPrefix(err.Error(), setting+" is missing") {
			t.Errorf("%v; want that %s is missing", err, setting)
		}
	}
}

func TestSecretsOfALoginAreNotRepeated(t *testing.T) {
	const code = "c0de/of+login"
	for _, text := range []string{code, url.QueryEscape(code), verifier, clientSecret} {
		a := newAuthority(t, 400, fmt.Sprintf(`{"error":"invalid_grant","error_description":"no %s here"}`, text))
		_, err := a.client(t, nil).Exchange(t.Context(), secret.New(code), "http://127.0.0.1:1/", secret.New(verifier))
		if failed := (*endpoint.Error)(nil); !errors.As(err, &failed) || failed.Message != "no [redacted] here" {
			t.Errorf("%v; want that %q isn't repeated", err, text)
		}
	}
}

func TestCheckLoginParam(t *testing.T) {
	for _, name := range []string{"prompt", "access_type", "audience", "resource", "login_hint"} {
		if err := endpoint.CheckLoginParam(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "state", "client_id", "redirect_uri", "scope", "code_challenge", "client_secret"} {
		if endpoint.CheckLoginParam(name) == nil {
			t.Errorf("%q may be set", name)
		}
	}
}
