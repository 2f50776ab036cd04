package endpoint_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/manager/endpoint"
)

func FuzzReply(f *testing.F) {
	f.Add(200, "", goodReply)
	f.Add(200, "", `{"access_token":"a","expires_in":"1e400","token_type":null}`)
	f.Add(429, "99999999999", `{"error":"slow_down","error_description":"\u001b[31m"}`)
	f.Add(401, "Fri, 01 Jan 2027 12:00:00 GMT", `{"error":"invalid_client","error_description":"hunter2-hunter2"}`)
	f.Fuzz(func(t *testing.T, status int, after, body string) {
		if status < 100 || status > 999 || len(body) > 1<<21 {
			t.Skip()
		}
		c := config("https://auth.example/token")
		c.HTTPClient = &http.Client{Transport: stub(func(req *http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: status, Header: http.Header{"Retry-After": {after}}, Request: req,
				Body: io.NopCloser(strings.NewReader(body)),
			}, nil
		})}
		client, err := endpoint.New(c)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := client.Fetch(t.Context())
		if err == nil {
			if reply.ExpiresIn < 0 {
				t.Errorf("expires in %v", reply.ExpiresIn)
			}
			if err := reply.Check(); err != nil {
				t.Errorf("the reply doesn't pass its own check: %v", err)
			}
			if status < 200 || status > 299 {
				t.Errorf("a token with status %d", status)
			}
			return
		}
		failed := (*endpoint.Error)(nil)
		if reply != nil || !errors.As(err, &failed) {
			t.Fatalf("%v, %T: %v; want an *endpoint.Error alone", reply, err, err)
		}
		text := failed.Error()
		if len(text) > 300 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("an error of %d bytes: %q", len(text), text)
		}
		if strings.Contains(text, clientSecret) {
			t.Errorf("the secret is printed: %q", text)
		}
		if failed.Code == "" || failed.Status != status || failed.RetryAfter < 0 {
			t.Errorf("code %q, status %d, Retry-After %v", failed.Code, failed.Status, failed.RetryAfter)
		}
	})
}
