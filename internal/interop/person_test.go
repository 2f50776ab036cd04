package interop_test

import (
	"crypto/rand"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

// callbackPath is of the redirect URI that clients have registered, on whatever port of loopback (RFC 8252 §7.3).
const callbackPath = "/callback"

// browser returns a person's browser: a client with cookies, that goes wherever it is sent.
func (a *authority) browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: a.client.Transport, Jar: jar}
}

var (
	form   = regexp.MustCompile(`<form [^>]*action="([^"]*)"`)
	hidden = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
)

// visit opens a page, and submits each form that it is shown as it is, until there is none. It returns the last page.
func visit(t *testing.T, browser *http.Client, target string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		resp, err := browser.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		page := string(b)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d, %v\n%s", resp.Request.URL, resp.StatusCode, err, page)
		}
		action := form.FindStringSubmatch(page)
		if action == nil {
			return page
		}
		fields := url.Values{}
		for _, f := range hidden.FindAllStringSubmatch(page, -1) {
			fields.Set(html.UnescapeString(f[1]), html.UnescapeString(f[2]))
		}
		if req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, html.UnescapeString(action[1]), strings.NewReader(fields.Encode())); err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	t.Fatal("the forms have no end")
	return ""
}

// login gets tokens by hand for a client that a person logs in to: by authorization code and PKCE. settings are further
// parameters of the authorization request.
func (a *authority) login(t *testing.T, c registration, settings url.Values) said {
	t.Helper()
	const back = "http://127.0.0.1:1" + callbackPath
	verifier, state := oauth2.GenerateVerifier(), rand.Text()
	query := url.Values{
		"response_type": {"code"}, "client_id": {c.id}, "redirect_uri": {back}, "state": {state},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"},
	}
	maps.Copy(query, settings)
	browser := a.browser(t)
	browser.CheckRedirect = func(req *http.Request, _ []*http.Request) error {
		if req.URL.Path == callbackPath {
			return http.ErrUseLastResponse
		}
		return nil
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.metadata.AuthorizationURL+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := browser.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	answer, err := resp.Location()
	if err != nil {
		t.Fatalf("the login ends at %s with status %d\n%s", resp.Request.URL, resp.StatusCode, page)
	}
	if answer.Query().Get("state") != state || answer.Query().Get("code") == "" {
		t.Fatalf("the login brings the error %q: %s", answer.Query().Get("error"), answer.Query().Get("error_description"))
	}
	return c.ask(t, a, url.Values{
		"grant_type": {"authorization_code"}, "code": {answer.Query().Get("code")}, "redirect_uri": {back}, "code_verifier": {verifier},
	})
}

// grant is login, for a refresh token.
func (a *authority) grant(t *testing.T, c registration, settings url.Values) string {
	t.Helper()
	s := a.login(t, c, settings)
	if s.text("refresh_token") == "" {
		t.Fatalf("a login brings no refresh token: %d, %q: %s", s.status, s.text("error"), s.text("error_description"))
	}
	return s.text("refresh_token")
}

// refresh uses a refresh token by hand.
func (a *authority) refresh(t *testing.T, c registration, refreshToken string) said {
	t.Helper()
	return c.ask(t, a, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}})
}
