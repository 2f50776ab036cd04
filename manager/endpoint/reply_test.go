package endpoint_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

const century = 100 * 365 * 24 * time.Hour

func TestReply(t *testing.T) {
	for _, c := range []struct {
		name, body             string
		token, tokenType, scop string
		expiresIn              time.Duration
	}{
		{"all there is", `{"access_token":"abc","token_type":"Bearer","expires_in":60,"scope":"a b"}`, "abc", "Bearer", "a b", time.Minute},
		{"a token alone", `{"access_token":"abc"}`, "abc", "Bearer", "", 0},
		{"lower-case type", `{"access_token":"abc","token_type":"bearer"}`, "abc", "bearer", "", 0},
		{"another type", `{"access_token":"abc","token_type":"DPoP"}`, "abc", "DPoP", "", 0},
		{"null type", `{"access_token":"abc","token_type":null}`, "abc", "Bearer", "", 0},
		{"empty type", `{"access_token":"abc","token_type":""}`, "abc", "Bearer", "", 0},
		{"a type that is no string", `{"access_token":"abc","token_type":5}`, "abc", "Bearer", "", 0},
		{"unknown members", `{"access_token":"abc","refresh_token":"r","id_token":{"a":[1]},"error_description":"x"}`, "abc", "Bearer", "", 0},
		{"an error that is null or empty", `{"access_token":"abc","error":null}`, "abc", "Bearer", "", 0},
		{"white space around", "\r\n " + `{"access_token":"abc"}` + "\n", "abc", "Bearer", "", 0},
		{
			"every character of VSCHAR", `{"access_token":"!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_` + "`" + `az{|}~"}`,
			`!"#$%&'()*+,-./09:;<=>?@AZ[\]^_` + "`" + `az{|}~`, "Bearer", "", 0,
		},
		{"a line break in the scope", `{"access_token":"abc","scope":"a\nb"}`, "abc", "Bearer", "a b", 0},
		{"a scope that is no string", `{"access_token":"abc","scope":["a"]}`, "abc", "Bearer", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := fetch(t, config(serve(t, answers(200, c.body, "Content-Type", "application/json"))))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.AccessToken.Reveal(); got != c.token {
				t.Errorf("access token %q; want %q", got, c.token)
			}
			if r.TokenType != c.tokenType || r.Scope != c.scop || r.ExpiresIn != c.expiresIn {
				t.Errorf("type %q, scope %q, expires in %v; want %q, %q, %v",
					r.TokenType, r.Scope, r.ExpiresIn, c.tokenType, c.scop, c.expiresIn)
			}
			if err := r.Check(); err != nil {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

func TestReplyWithAnyStatusOfSuccessAndAnyContentType(t *testing.T) {
	for _, status := range []int{200, 201, 202, 203} {
		if _, err := fetch(t, config(serve(t, answers(status, goodReply, "Content-Type", "text/html; charset=utf-8")))); err != nil {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestExpiresIn(t *testing.T) {
	for _, c := range []struct {
		name, json string
		want       time.Duration
	}{
		{"an integer", `3600`, time.Hour},
		{"a float", `3600.0`, time.Hour},
		{"a fraction", `0.5`, 500 * time.Millisecond},
		{"an exponent", `1e3`, 1000 * time.Second},
		{"a string", `"3600"`, time.Hour},
		{"a string with white space", `" 3600 "`, time.Hour},
		{"a string of a float", `"3600.5"`, time.Hour + 500*time.Millisecond},
		{"null", `null`, 0},
		{"zero", `0`, 0},
		{"minus zero", `-0`, 0},
		{"negative", `-1`, 0},
		{"a negative string", `"-3600"`, 0},
		{"three thousand years", `99999999999`, century},
		{"beyond a duration", `9223372036854775807`, century},
		{"beyond an integer", `99999999999999999999999`, century},
		{"beyond a float", `1e400`, century},
		{"below minus a float", `-1e400`, 0},
		{"smaller than a float", `1e-400`, 0},
		{"text", `"soon"`, 0},
		{"not a number", `"NaN"`, 0},
		{"infinite", `"Inf"`, century},
		{"minus infinite", `"-Inf"`, 0},
		{"an empty string", `""`, 0},
		{"a string of quotes", `"\"\""`, 0},
		{"true", `true`, 0},
		{"an object", `{"seconds":3600}`, 0},
		{"an array", `[3600]`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := fetch(t, config(serve(t, answers(200, `{"access_token":"abc","expires_in":`+c.json+`}`))))
			if err != nil {
				t.Fatal(err)
			}
			if r.ExpiresIn != c.want {
				t.Errorf("%s: expires in %v; want %v", c.json, r.ExpiresIn, c.want)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		r, err := fetch(t, config(serve(t, answers(200, `{"access_token":"abc"}`))))
		if err != nil || r.ExpiresIn != 0 {
			t.Errorf("%v, %v; want 0", r, err)
		}
	})
}

func TestOddReplies(t *testing.T) {
	const html = "<!DOCTYPE html><title>Log in</title><p>body-of-the-reply"
	long := strings.Repeat("x", 2<<20)
	for _, c := range []struct {
		name        string
		status      int
		contentType string
		body        string
		want        string // of Message
	}{
		{"HTML", 200, "text/html; charset=utf-8", html, "the reply is no JSON object but text/html"},
		{"HTML that says it is JSON", 200, "application/json", html, "the reply is no JSON object but application/json"},
		{"HTML of an odd type", 200, ";;;", html, "the reply is no JSON object"},
		{"empty", 200, "application/json", "", "the reply is no JSON object but application/json"},
		{"no content", 204, "", "", "the reply is no JSON object"},
		{"null", 200, "", "null", "the reply is no JSON object"},
		{"an array", 200, "", `[{"access_token":"abc"}]`, "the reply is no JSON object"},
		{"a string", 200, "", `"access_token=abc"`, "the reply is no JSON object"},
		{"a number", 200, "", `5`, "the reply is no JSON object"},
		{"a form", 200, "application/x-www-form-urlencoded", "access_token=abc&expires_in=60", "the reply is no JSON object but application/x-www-form-urlencoded"},
		{"half an object", 200, "", `{"access_token":"abc"`, "the reply is no JSON object"},
		{"two objects", 200, "", `{"access_token":"abc"}{"access_token":"def"}`, "the reply is no JSON object"},
		{"deeply nested", 200, "", `{"access_token":"abc","x":` + strings.Repeat("[", 20_000), "the reply is no JSON object"},
		{"no token", 200, "", `{"token_type":"Bearer","expires_in":60}`, "in the reply: no access token"},
		{"another member's case", 200, "", `{"Access_Token":"abc"}`, "in the reply: no access token"},
		{"an empty token", 200, "", `{"access_token":""}`, "in the reply: no access token"},
		{"a null token", 200, "", `{"access_token":null}`, "in the reply: no access token"},
		{"a number as token", 200, "", `{"access_token":12345}`, "in the reply: no access token"},
		{"an object as token", 200, "", `{"access_token":{"value":"abc"}}`, "in the reply: no access token"},
		{"a line break in the token", 200, "", `{"access_token":"abc\r\nX-Evil: 1"}`, "in the reply: the access token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"a control character in the token", 200, "", `{"access_token":"abc\u0007"}`, "in the reply: the access token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"DEL in the token", 200, "", `{"access_token":"abc\u007f"}`, "in the reply: the access token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"a letter beyond ASCII in the token", 200, "", `{"access_token":"abcé"}`, "in the reply: the access token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"bytes that are no text in the token", 200, "", "{\"access_token\":\"abc\xff\"}", "in the reply: the access token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"a line break in the type", 200, "", `{"access_token":"abc","token_type":"Bearer\r\nX-Evil: 1"}`, "in the reply: the token type is no name of a scheme"},
		{"a space in the type", 200, "", `{"access_token":"abc","token_type":"Bearer x"}`, "in the reply: the token type is no name of a scheme"},
		{"a type as long as a page", 200, "", `{"access_token":"abc","token_type":"` + long[:1000] + `"}`, "in the reply: the token type is no name of a scheme"},
		{"an error with a token", 200, "", `{"access_token":"abc","error":"temporarily_unavailable","error_description":"try later"}`, "status 200 with an error: temporarily_unavailable try later"},
		{"an error with another status of success", 202, "", `{"error":"authorization_pending"}`, "status 202 with an error: authorization_pending"},
		{"longer than 1 MiB", 200, "", `{"access_token":"abc","x":"` + long + `"}`, "the reply is longer than 1 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := mustFail(t, answers(c.status, c.body, "Content-Type", c.contentType))
			if failed.Code != endpoint.CodeBadReply || failed.Status != c.status || failed.Message != c.want {
				t.Errorf("code %q, status %d, message %q; want %q, %d, %q",
					failed.Code, failed.Status, failed.Message, endpoint.CodeBadReply, c.status, c.want)
			}
			if failed.Refused() {
				t.Error("it counts as a refusal")
			}
			if strings.Contains(failed.Error(), "body-of-the-reply") || strings.Contains(failed.Error(), "abc") {
				t.Errorf("the error repeats the body: %v", failed)
			}
		})
	}
}

func TestAReplyOfExactlyOneMiBIsRead(t *testing.T) {
	start, end := `{"access_token":"abc","x":"`, `"}`
	body := start + strings.Repeat("x", 1<<20-len(start)-len(end)) + end
	if _, err := fetch(t, config(serve(t, answers(200, body)))); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
	failed := mustFail(t, answers(200, body+" "))
	if want := "the reply is longer than 1 MiB"; failed.Message != want {
		t.Errorf("1 MiB and a byte: %q; want %q", failed.Message, want)
	}
}

func TestAnEndlessReplyIsGivenUpAfterOneMiB(t *testing.T) {
	const all = 64 << 20
	var written atomic.Int64
	ended := make(chan struct{})
	failed := mustFail(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for written.Load() < all {
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	<-ended
	if failed.Code != endpoint.CodeBadReply {
		t.Errorf("code %q; want %q", failed.Code, endpoint.CodeBadReply)
	}
	if got := written.Load(); got > all/4 { // what lies in the buffers between the two is written, too
		t.Errorf("the endpoint could write %d MiB; want it stopped soon after 1 MiB", got>>20)
	}
}

// An endless is a body without end that counts what is read of it.
type endless struct {
	read   int
	closed bool
}

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func (e *endless) Close() error {
	e.closed = true
	return nil
}

func TestNoMoreThanOneMiBIsReadAndTheBodyIsClosed(t *testing.T) {
	for _, status := range []int{200, 302, 400, 503} {
		body := &endless{}
		c := config("https://auth.example/token")
		c.HTTPClient = &http.Client{Transport: stub(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: body, Request: req}, nil
		})}
		reply, err := fetch(t, c)
		failure(t, reply, err)
		if body.read > 1<<20+1 || !body.closed {
			t.Errorf("status %d: %d bytes read, closed: %v; want at most 1 MiB and a byte, and true", status, body.read, body.closed)
		}
	}
}

func TestACompressedReplyIsBoundedByItsRealLength(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.CopyN(z, &endless{}, 4<<20)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	failed := mustFail(t, answers(200, packed.String(), "Content-Encoding", "gzip"))
	if want := "the reply is longer than 1 MiB"; failed.Message != want {
		t.Errorf("message %q; want %q", failed.Message, want)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, token, tokenType string
		ok                     bool
	}{
		{"a token", "abc", "Bearer", true},
		{"no type means Bearer", "abc", "", true},
		{"no token", "", "Bearer", false},
		{"a line break in the token", "a\nb", "Bearer", false},
		{"a line break in the type", "abc", "Bearer\n", false},
	} {
		r := endpoint.Reply{AccessToken: secret.New(c.token), TokenType: c.tokenType}
		if err := r.Check(); (err == nil) != c.ok {
			t.Errorf("%s: %v; want valid: %v", c.name, err, c.ok)
		}
	}
}
