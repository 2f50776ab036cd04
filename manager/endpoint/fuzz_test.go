package endpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// asked returns what a client of c makes of one response.
func asked(t *testing.T, c endpoint.Config, status int, header http.Header, body string) (*endpoint.Reply, *endpoint.Error) {
	t.Helper()
	return askedWith(t, c, "", status, header, body)
}

// askedWith is asked for the refresh_token grant, with a refresh token.
func askedWith(t *testing.T, c endpoint.Config, refreshToken string, status int, header http.Header, body string) (*endpoint.Reply, *endpoint.Error) {
	t.Helper()
	c.HTTPClient = &http.Client{Transport: stub(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: header, Request: req, Body: io.NopCloser(strings.NewReader(body))}, nil
	})}
	client, err := endpoint.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ask := client.Fetch
	if c.Grant == endpoint.RefreshToken {
		ask = func(ctx context.Context) (*endpoint.Reply, error) {
			return client.Refresh(ctx, secret.New(refreshToken))
		}
	}
	reply, err := ask(t.Context())
	if err == nil {
		return reply, nil
	}
	failed := (*endpoint.Error)(nil)
	if reply != nil || !errors.As(err, &failed) {
		t.Fatalf("%v, %T: %v; want an *endpoint.Error alone", reply, err, err)
	}
	return nil, failed
}

func FuzzReply(f *testing.F) {
	f.Add(200, "", goodReply)
	f.Add(200, "", `{"access_token":"a","expires_in":"1e400","token_type":null}`)
	f.Add(429, "99999999999", `{"error":"slow_down","error_description":"\u001b[31m"}`)
	f.Add(401, "Fri, 01 Jan 2027 12:00:00 GMT", `{"error":"invalid_client","error_description":"hunter2-hunter2"}`)
	f.Fuzz(func(t *testing.T, status int, after, body string) {
		if status < 100 || status > 999 || len(body) > 1<<21 {
			t.Skip()
		}
		header := http.Header{"Retry-After": {after}, "Content-Type": {after}}
		reply, failed := asked(t, config("https://auth.example/token"), status, header, body)
		if failed == nil {
			checkReply(t, reply, status, body)
			return
		}
		text := failed.Error()
		if len(text) > 300 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("an error of %d bytes: %q", len(text), text)
		}
		if strings.Contains(text, clientSecret) {
			t.Errorf("the secret is printed: %q", text)
		}
		if failed.Code == "" || failed.Status != status || failed.RetryAfter < 0 {
			t.Errorf("code %q, status %d, Retry-After %v", failed.Code, failed.Status, failed.RetryAfter)
		}
		if failed.Refused() && (status > 499 || status == http.StatusTooManyRequests || !strings.Contains(body, `"error"`) && !strings.Contains(body, `\u`)) {
			t.Errorf("status %d with %q is a refusal: %q", status, body, failed.Code)
		}
	})
}

// object reads a JSON object, with numbers of any size, and nothing behind it.
func object(body string) (members map[string]any, ok bool) {
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	err := d.Decode(&members)
	return members, err == nil && json.Valid([]byte(body))
}

// checkReply fails unless reply is the token that a plain reading of body finds.
func checkReply(t *testing.T, reply *endpoint.Reply, status int, body string) {
	t.Helper()
	const century = 100 * 365 * 24 * time.Hour
	if reply.ExpiresIn < 0 || reply.ExpiresIn > century {
		t.Errorf("expires in %v", reply.ExpiresIn)
	}
	if err := reply.Check(); err != nil {
		t.Errorf("the reply doesn't pass its own check: %v", err)
	}
	if status < 200 || status > 299 {
		t.Errorf("a token with status %d", status)
	}
	members, ok := object(body)
	if !ok {
		t.Fatal("a token in what is no JSON")
	}
	if want := members["access_token"]; want != reply.AccessToken.Reveal() {
		t.Errorf("the token is %q; want %q", reply.AccessToken.Reveal(), want)
	}
	if want, ok := members["token_type"].(string); ok && want != "" && reply.TokenType != want || reply.TokenType == "" {
		t.Errorf("the type is %q; want %q", reply.TokenType, want)
	}
	if code, _ := members["error"].(string); code != "" {
		t.Errorf("a token beside the error %q", code)
	}
	if strings.ContainsFunc(reply.Scope, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the scope is %q", reply.Scope)
	}
	// The RFC's own form of it, read as it was, is the same reply.
	again, err := json.Marshal(map[string]any{
		"access_token": reply.AccessToken.Reveal(), "token_type": reply.TokenType, "scope": reply.Scope,
		"expires_in": reply.ExpiresIn.Seconds(),
	})
	if err != nil {
		t.Fatal(err)
	}
	second, failed := asked(t, config("https://auth.example/token"), 200, http.Header{}, string(again))
	if failed != nil {
		t.Fatalf("written again, it is refused: %v", failed)
	}
	if !second.AccessToken.Equal(reply.AccessToken) || second.TokenType != reply.TokenType || second.Scope != reply.Scope ||
		(second.ExpiresIn-reply.ExpiresIn).Abs() > time.Millisecond {
		t.Errorf("%+v becomes %+v", reply, second)
	}
}

var decimal = regexp.MustCompile(`^[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?$`)

// A life is what the number says, as a number or in a string, with or without a fraction: by rational numbers.
func FuzzExpiresIn(f *testing.F) {
	for _, raw := range []string{
		"3600", `"3600"`, "3600.0", `"3599.5"`, "3.6e3", "0", "-1", `" 3600 "`, "0.4", "1e400", "-1e400", "1e-400", "null", "true",
		`""`, `"soon"`, `"1h"`, `"NaN"`, `"0x10"`, `"1_000"`, "[3600]", `{"seconds":3600}`, "9223372036854775807",
		"18446744073709551616", `"3600\u0000"`, `"٣"`, `"2026-07-01T12:00:00Z"`, "3153600000", "3153600001",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		body := `{"access_token":"a","expires_in":` + raw + `}`
		var members map[string]any
		if len(raw) > 100 || json.Unmarshal([]byte(body), &members) != nil || len(members) != 2 {
			t.Skip()
		}
		text, ok := members["expires_in"].(string)
		if _, number := members["expires_in"].(float64); number {
			text, ok = strings.TrimSpace(raw), true
		}
		text = strings.TrimSpace(text)
		reply, failed := asked(t, config("https://auth.example/token"), 200, http.Header{}, body)
		if failed != nil {
			if strings.Contains(raw, ":") {
				t.Skip() // another access_token
			}
			t.Fatal(failed)
		}
		if !ok {
			if reply.ExpiresIn != 0 {
				t.Errorf("%s is %v", raw, reply.ExpiresIn)
			}
			return
		}
		if !decimal.MatchString(text) {
			return
		}
		r, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%q is no number", text)
		}
		seconds, _ := r.Float64()
		const most = 100 * 365 * 24 * 3600
		want := time.Duration(max(min(seconds, most), 0) * float64(time.Second))
		if (reply.ExpiresIn - want).Abs() > want/1e9+time.Nanosecond {
			t.Errorf("%s is %v; want %v", raw, reply.ExpiresIn, want)
		}
	})
}

// A pause is never negative, one that is too long to count isn't short, and dates count from the endpoint's own clock.
func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "", int64(0))
	f.Add("-1", "Fri, 31 Dec 1999 23:59:59 GMT", int64(0))
	f.Add("99999999999999999999", "x", int64(3600))
	f.Add("Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 1999 23:59:00 GMT", int64(-5))
	f.Add("Friday, 31-Dec-99 23:59:59 GMT", "Fri Dec 31 23:59:59 1999", int64(1<<33))
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", int64(1e9))
	f.Add("1.5", "1e3", int64(60))
	f.Add("+5", " 5", int64(0))
	f.Fuzz(func(t *testing.T, after, date string, seconds int64) {
		wait := func(after, date string) time.Duration {
			_, failed := asked(t, config("https://auth.example/token"), 503, http.Header{"Retry-After": {after}, "Date": {date}}, "")
			if failed == nil {
				t.Fatal("no error")
			}
			if failed.RetryAfter < 0 {
				t.Errorf("Retry-After %q, Date %q: %v", after, date, failed.RetryAfter)
			}
			return failed.RetryAfter
		}
		got := wait(after, date)
		if digits := strings.Trim(after, "0123456789") == "" && after != ""; digits {
			n, _ := new(big.Int).SetString(after, 10)
			if want := min(n.Uint64(), 1<<31-1); n.IsUint64() && uint64(got/time.Second) != want || !n.IsUint64() && got < 60*365*24*time.Hour {
				t.Errorf("Retry-After %s: %v", after, got)
			}
		}
		// A date that is so far ahead of the endpoint's own clock, whatever ours is.
		start := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
		ahead := seconds % (200 * 365 * 24 * 3600)
		at := start.Add(time.Duration(ahead) * time.Second)
		want := time.Duration(max(ahead, 0)) * time.Second
		if got := wait(at.Format(http.TimeFormat), start.Format(http.TimeFormat)); got != want {
			t.Errorf("a date %d s ahead of the response: %v; want %v", ahead, got, want)
		}
	})
}

// An endpoint that repeats what it was sent, a proxy that shows the request: the secret isn't in the error, as it is or
// as it stood in the request.
func FuzzEchoedSecret(f *testing.F) {
	f.Add("hunter2-hunter2", "bad secret ", "", 401)
	f.Add("p@ss word/+%&=", `client_secret=`, "&grant_type=client_credentials", 400)
	f.Add("pässwörd-ßß-\u2028-x", "", "\x00", 500)
	f.Add("12345678", "0123456", "8", 200)
	f.Add("a\"b\\c<d>&e", "<pre>", "</pre>", 403)
	f.Fuzz(func(t *testing.T, text, before, after string, status int) {
		const template = "token endpoint: http_status bad_reply [redacted] status with an error: "
		if len(text) < 6 || len(text) > 60 || !utf8.ValidString(text) || strings.Contains(template, text) || status < 200 || status > 599 ||
			strings.Contains(http.StatusText(status), text) || strings.Contains(before+after, text) {
			t.Skip()
		}
		// What stands in a secret's place may be its beginning or end, and white space that is left out may make it one.
		if strings.ContainsAny(text, "[]") || strings.Contains(printable.Line(before, 1<<20)+" "+printable.Line(after, 1<<20), text) {
			t.Skip()
		}
		c := config("https://auth.example/token?key=" + url.QueryEscape(text))
		c.ClientSecret, c.SecretParams = secret.New(text), map[string]secret.Secret{"assertion": secret.New(text + "-2")}
		for _, form := range []string{text, text + "-2", url.QueryEscape(text), url.PathEscape(text), c.TokenURL} {
			for _, code := range []string{"invalid_client", "server_error"} {
				body, err := json.Marshal(map[string]string{"error": code, "error_description": before + form + after})
				if err != nil {
					t.Fatal(err)
				}
				if _, failed := asked(t, c, status, http.Header{}, string(body)); failed != nil && strings.Contains(failed.Error(), form) {
					t.Errorf("%q is in the error: %q", form, failed.Error())
				}
				refreshing := config("https://auth.example/token")
				refreshing.Grant = endpoint.RefreshToken
				if form == text || form == url.QueryEscape(text) || form == url.PathEscape(text) {
					_, failed := askedWith(t, refreshing, text, status, http.Header{}, string(body))
					if failed != nil && strings.Contains(failed.Error(), form) {
						t.Errorf("%q, a refresh token, is in the error: %q", form, failed.Error())
					}
				}
			}
			header := http.Header{"Content-Type": {before + form + after}, "Retry-After": {form}}
			if _, failed := asked(t, c, status, header, before+form+after); failed != nil && strings.Contains(failed.Error(), form) {
				t.Errorf("%q is in the error: %q", form, failed.Error())
			}
		}
	})
}

// A URL that passes is one that a request can be sent to, and not over plain http but to this machine. One that doesn't
// pass isn't repeated: there may be a secret in it.
func FuzzCheckURL(f *testing.F) {
	for _, raw := range []string{
		"https://auth.example/token", "http://localhost:8080/token", "http://[::1]/", "http://127.1/", "http://127.0.0.1.evil.example/",
		"https://user:hunter2@auth.example/", "https://auth.example/#x", "https://auth.example?key=hunter2", "//auth.example",
		"HTTPS://AUTH.EXAMPLE:443/x", "https://[fe80::1%25eth0]/", "https://bücher.example/", "https:auth.example", "https://host:99999/",
		"https://a b/", "http://localhost.:80/", "http://LOCALHOST", "http://0x7f.1/", "https://h/%zz", "https://h\x00/", "https://h/\n",
	} {
		f.Add(raw, false)
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw string, allowHTTP bool) {
		err := endpoint.CheckURL(raw, allowHTTP)
		if err != nil {
			text := err.Error()
			if len(text) > 300 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q: %q", raw, text)
			}
			if u, parseErr := url.Parse(raw); len(raw) > 12 && strings.Contains(text, raw) && (parseErr != nil || u.Hostname() != raw) {
				t.Errorf("%q is repeated: %v", raw, err)
			}
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, raw, http.NoBody)
		if err != nil {
			t.Fatalf("%q passes, and no request can be made of it: %v", raw, err)
		}
		u := req.URL
		if u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
			t.Errorf("%q passes", raw)
		}
		local := regexp.MustCompile(`(?i)^(localhost|127(\.[0-9]{1,3}){3}|::1|0*(:0*){1,7}:0*1|(0*:)+(ffff:)?(127(\.[0-9]+){3}|7f[0-9a-f]{2}:[0-9a-f]{1,4}))$`)
		if u.Scheme == "http" && !allowHTTP && !local.MatchString(u.Hostname()) {
			t.Errorf("%q passes: plain http to %q", raw, u.Hostname())
		}
	})
}

// A refresh token comes back as it stands in the reply, and is not lost, or there is none. The one that was sent isn't
// repeated.
func FuzzRefreshToken(f *testing.F) {
	f.Add(200, `{"access_token":"a","refresh_token":"next","refresh_expires_in":"1e3"}`)
	f.Add(200, `{"refresh_token":"next","refresh_token_expires_in":-1}`)
	f.Add(200, `{"access_token":"a","refresh_token":"\u00e9"}`)
	f.Add(200, `{"access_token":"a","refresh_token":null,"refresh_expires_in":{}}`)
	f.Add(400, `{"error":"invalid_grant","error_description":"hunter2-refresh is spent","refresh_token":"next"}`)
	f.Add(201, `{"error":"hunter2-refresh","error_description":"hunter2\u002drefresh","refresh_token":"next"}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 100 || status > 999 || len(body) > 1<<17 {
			t.Skip()
		}
		c := config("https://auth.example/token")
		c.Grant = endpoint.RefreshToken
		reply, failed := askedWith(t, c, "hunter2-refresh", status, http.Header{}, body)
		members, isJSON := object(body)
		want, _ := members["refresh_token"].(string)
		usable := isJSON && len(want) <= 64<<10 && strings.Trim(want, vschars) == ""
		var got secret.Secret
		var life time.Duration
		if failed == nil {
			if got, life = reply.RefreshToken, reply.RefreshExpiresIn; !usable {
				t.Errorf("a reply with the refresh token %q", want)
			}
		} else {
			got, life = failed.RefreshToken, failed.RefreshExpiresIn
			if strings.Contains(failed.Error(), "hunter2-refresh") {
				t.Errorf("the refresh token is printed: %q", failed.Error())
			}
			if status < 200 || status > 299 || !usable {
				want = ""
			}
		}
		if got.Reveal() != want {
			t.Errorf("refresh token %q; want %q", got.Reveal(), want)
		}
		if life < 0 || life > century || got.IsEmpty() && life != 0 {
			t.Errorf("a life of %v with the refresh token %q", life, got.Reveal())
		}
	})
}

// vschars are the characters of RFC 6749 Appendix A.17.
const vschars = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"

// Whatever is at the issuer's, nothing is believed but what names the issuer and endpoints that requests may go to.
func FuzzMetadata(f *testing.F) {
	f.Add(`{"issuer":"https://auth.example/t","token_endpoint":"https://auth.example/token"}`)
	f.Add(`{"issuer":"https://auth.example/t/","token_endpoint":"https://auth.example/token"}`)
	f.Add(`{"issuer":"https://auth.example/t","token_endpoint":"http://auth.example/token"}`)
	f.Add(`{"issuer":"https://auth.example/t","token_endpoint":"https://a/","revocation_endpoint":"javascript:x","mtls_endpoint_aliases":{"token_endpoint":5}}`)
	f.Add(`{"issuer":"https://auth.example/t","token_endpoint":"https://a/","token_endpoint_auth_methods_supported":{"a":"b"}}`)
	f.Add(`{"issuer":"https://evil.example/\u202e","token_endpoint":"https://a/"}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, body string) {
		if len(body) > 1<<17 {
			t.Skip()
		}
		c := endpoint.Config{
			Issuer: "https://auth.example/t", ClientID: clientID, AuthMethod: endpoint.TLSClientAuth,
			HTTPClient: &http.Client{Transport: stub(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Request: req, Body: io.NopCloser(strings.NewReader(body))}, nil
			})},
		}
		client, err := endpoint.New(c)
		if err != nil {
			t.Fatal(err)
		}
		m, err := client.Metadata(t.Context())
		if err != nil {
			text := err.Error()
			if len(text) > 400 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("an error of %d bytes: %q", len(text), text)
			}
			if m != (endpoint.Metadata{}) {
				t.Errorf("%+v beside the error %v", m, err)
			}
			return
		}
		if members, ok := object(body); !ok || members["issuer"] != "https://auth.example/t" || m.Issuer != c.Issuer {
			t.Errorf("%q is the metadata of %q", body, m.Issuer)
		}
		for name, u := range map[string]string{
			"token": m.TokenEndpoint, "authorization": m.AuthorizationEndpoint, "device": m.DeviceAuthorizationEndpoint, "revocation": m.RevocationEndpoint,
		} {
			if err := endpoint.CheckURL(u, false); err != nil && (u != "" || name == "token") {
				t.Errorf("%s endpoint %q: %v", name, u, err)
			}
		}
	})
}
