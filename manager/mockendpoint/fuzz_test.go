package mockendpoint_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// Whatever is sent: an answer that an OAuth client can read, a token for the right secret alone, and a record without it.
func FuzzRequest(f *testing.F) {
	const id, secret = "client-1", "hunter2-hunter2"
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	f.Add("POST", "/oauth2/v1/token", basic, formType, "grant_type=client_credentials")
	f.Add("POST", "/token", "", formType+"; charset=utf-8", "grant_type=client_credentials&client_id=client-1&client_secret=hunter2-hunter2")
	f.Add("POST", "/token", basic, formType, "grant_type=client_credentials&client_secret=hunter2-hunter2")
	f.Add("POST", "/token", "Basic Og==", formType, "grant_type=password&password=hunter2-hunter2&scope=a&scope=b")
	f.Add("POST", "/token", "Basic JTo=", "text/plain; =", "%zz;&=&a")
	f.Add("POST", "/token", "Bearer x", formType, "x=client_secret%3dhunter2-hunter2")
	f.Add("GET", "/", "", "", "")
	f.Fuzz(func(t *testing.T, method, path, authorization, contentType, body string) {
		if len(body) > 4096 || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || method == "" || path == "" || path[0] != '/' {
			t.Skip()
		}
		e := mockendpoint.New(mockendpoint.Options{ClientID: id, ClientSecret: secret})
		defer e.Close()
		req := httptest.NewRequest(method, "/", strings.NewReader(body))
		req.URL.Path = path
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
		if w.Code == http.StatusOK && (method != http.MethodPost || form.Get("grant_type") != "client_credentials" || user != id || password != secret) {
			t.Errorf("a token for %s %q, %q", method, authorization, body)
		}
		if w.Code < 200 || w.Code > 499 {
			t.Errorf("status %d", w.Code)
		}
		for _, r := range e.Requests() {
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
