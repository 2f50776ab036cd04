package mockendpoint_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// Whatever is sent: an answer that an OAuth client can read, a token for the right secret and what a grant wants alone, a
// redirect to loopback alone, and a record without secrets.
func FuzzRequest(f *testing.F) {
	const id, secret, refreshToken, subject = "client-1", "hunter2-hunter2", "hunter2-refresh", "hunter2-subject"
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	f.Add("POST", "/oauth2/v1/token", basic, formType, "grant_type=client_credentials")
	f.Add("POST", "/token", "", formType+"; charset=utf-8", "grant_type=client_credentials&client_id=client-1&client_secret=hunter2-hunter2")
	f.Add("POST", "/token", basic, formType, "grant_type=client_credentials&client_secret=hunter2-hunter2")
	f.Add("POST", "/token", "Basic Og==", formType, "grant_type=password&password=hunter2-hunter2&scope=a&scope=b")
	f.Add("POST", "/token", "Basic JTo=", "text/plain; =", "%zz;&=&a")
	f.Add("POST", "/token", "Bearer x", formType, "x=client_secret%3dhunter2-hunter2")
	f.Add("GET", "/", "", "", "")
	f.Add("POST", "/token", basic, formType, "grant_type=refresh_token&refresh_token=hunter2-refresh")
	f.Add("POST", "/token", "", formType, "grant_type=refresh_token&refresh_token=hunter2-refresh&client_id=client-1&client_assertion_type="+
		url.QueryEscape(assertionType)+"&client_assertion=eyJhbGciOiJub25lIn0.eyJzdWIiOiJjbGllbnQtMSJ9.")
	f.Add("POST", "/token", basic, formType, "subject_token=hunter2-subject&subject_token_type=x&grant_type="+url.QueryEscape(mockendpoint.TokenExchange))
	f.Add("POST", "/token", basic, formType, "assertion=eyJhbGciOiJFUzI1NiJ9.e30.AAAA&grant_type="+url.QueryEscape(mockendpoint.JWTBearer))
	f.Add("POST", "/token", basic, formType, "grant_type=authorization_code&code=hunter2&code_verifier=hunter2&redirect_uri=x")
	f.Add("POST", "/token", basic, formType, "device_code=hunter2&grant_type="+url.QueryEscape(mockendpoint.DeviceCode))
	f.Add("GET", "/authorize", "", "", "response_type=code&client_id=client-1&redirect_uri=http://[::1]:1/%0ax?a=b&state=%0a&code_challenge_method=S256&code_challenge="+strings.Repeat("A", 43))
	f.Add("GET", "/device", "", "", "user_code=<BCDF-GHJK>")
	f.Add("POST", "/device_authorization", basic, formType, "client_id=client-1")
	f.Add("POST", "/revoke", basic, formType, "token=hunter2-refresh")
	f.Add("GET", "/.well-known/openid-configuration", "", "", "")
	grants := []string{
		mockendpoint.ClientCredentials, mockendpoint.RefreshToken, mockendpoint.AuthorizationCode, mockendpoint.DeviceCode, mockendpoint.JWTBearer,
		mockendpoint.TokenExchange,
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	keys := []crypto.PublicKey{stranger.Public()}
	f.Fuzz(func(t *testing.T, method, path, authorization, contentType, body string) {
		if len(body) > 4096 || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || method == "" || path == "" || path[0] != '/' {
			t.Skip()
		}
		e := mockendpoint.New(mockendpoint.Options{
			ClientID: id, ClientSecret: secret, Grants: grants, Rotate: true, ClientKeys: keys, AssertionKeys: keys, SubjectTokens: []string{subject},
		})
		defer e.Close()
		e.AddRefreshToken(refreshToken)
		req := httptest.NewRequest(method, "/", strings.NewReader(body))
		req.URL.Path = path
		if method == http.MethodGet {
			req.URL.RawQuery = body
		}
		req.Header.Set("Authorization", authorization)
		req.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, req)
		form, _ := url.ParseQuery(body)
		user, password, ok := req.BasicAuth()
		if ok {
			user, _ = url.QueryUnescape(user)
			password, _ = url.QueryUnescape(password)
		} else {
			user, password = form.Get("client_id"), form.Get("client_secret")
		}
		known := method == http.MethodPost && user == id && password == secret
		good := known && map[string]bool{
			mockendpoint.ClientCredentials: true,
			mockendpoint.RefreshToken:      form.Get("refresh_token") == refreshToken,
			mockendpoint.TokenExchange:     form.Get("subject_token") == subject,
		}[form.Get("grant_type")]
		if len(e.Issued()) > 0 != strings.Contains(w.Body.String(), "access_token\":") || len(e.Issued()) > 0 && !good {
			t.Errorf("a token for %s %q, %q", method, authorization, body)
		}
		if e.Families()[0].Revoked && (!known || form.Get("token") != refreshToken) {
			t.Errorf("a family is revoked by %s %q, %q", method, authorization, body)
		}
		if w.Code < 200 || w.Code > 499 {
			t.Errorf("status %d", w.Code)
		}
		if location, err := w.Result().Location(); err == nil && !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, location.Hostname()) {
			t.Errorf("it redirects to %v", location)
		}
		requests := e.Requests()
		for _, page := range []string{
			mockendpoint.MetadataPath, mockendpoint.OpenIDConfigurationPath, mockendpoint.AuthorizePath, mockendpoint.DeviceAuthorizationPath,
			mockendpoint.DevicePath, mockendpoint.RevokePath,
		} {
			requests = append(requests, e.RequestsAt(page)...)
		}
		if len(requests) != 1 || requests[0].Outcome != strconv.Itoa(w.Code) {
			t.Errorf("got status %d, recorded %v", w.Code, requests)
		}
		for _, r := range requests {
			text := r.String()
			if strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("the record is no line: %q", text)
			}
			for name, values := range r.Form {
				for _, part := range []string{"secret", "password", "assertion", "token", "code", "key"} {
					if strings.Contains(strings.ToLower(name), part) && slices.ContainsFunc(values, func(v string) bool { return v != "[redacted]" }) {
						t.Errorf("%q is recorded: %q", name, text)
					}
				}
			}
		}
	})
}
