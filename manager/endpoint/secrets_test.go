package endpoint_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// An echo is a configuration with secrets of every kind, and what an endpoint could make of them in its answer.
type echo struct {
	config endpoint.Config
	forms  map[string]string // of what must not be printed, by the name of the form
	parts  []string          // of them: a replacement must leave none
}

func newEcho(tokenURL string) echo {
	const (
		text  = "p4ss:w%rd+1 é/?"
		param = "s3cret-k3y"
	)
	c := config(tokenURL + "?sig=do-not-print")
	c.ClientSecret = secret.New(text)
	// One secret is the beginning of another: the longer one must not show its end.
	c.SecretParams = map[string]secret.Secret{"api_key": secret.New(param), "api_key_2": secret.New(param + "-and-its-3nd")}
	basic := url.QueryEscape(c.ClientID) + ":" + url.QueryEscape(text)
	return echo{config: c, forms: map[string]string{
		"plain":                     text,
		"form-encoded":              url.QueryEscape(text),
		"form-encoded, lower case":  lowerEscapes(url.QueryEscape(text)),
		"path-encoded":              url.PathEscape(text),
		"the Basic header":          base64.StdEncoding.EncodeToString([]byte(basic)),
		"a secret parameter":        param,
		"a longer secret parameter": param + "-and-its-3nd",
		"the URL":                   tokenURL + "?sig=do-not-print",
		"the URL's query":           "sig=do-not-print",
	}, parts: []string{"3nd", "do-not-print", "3cret", "p4ss"}}
}

// lowerEscapes writes the hexadecimal digits of %XX in lower case.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '%' {
			copy(b[i+1:i+3], strings.ToLower(s[i+1:i+3]))
		}
	}
	return string(b)
}

// mustHide checks all the ways in which an error is printed.
func (e echo) mustHide(t *testing.T, err error) {
	t.Helper()
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Error("failed", "error", err)
	slog.New(slog.NewJSONHandler(&logged, nil)).Error("failed", "error", err)
	out := fmt.Sprintf("%v\n%+v\n%#v\n%q\n%s", err, err, err, err, logged.String())
	for name, text := range e.forms {
		if strings.Contains(out, text) {
			t.Errorf("%s is printed: %s", name, out)
		}
	}
	for _, text := range e.parts {
		if strings.Contains(out, text) {
			t.Errorf("%q, a part of a secret, is printed: %s", text, out)
		}
	}
}

func TestAnEchoedSecretIsNotRepeated(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 429, 500} {
		for _, code := range []string{"invalid_client", "server_error"} {
			var description string
			tokenURL := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := json.Marshal(map[string]string{"error": code, "error_description": description})
				if err != nil {
					t.Error(err)
				}
				answers(status, string(body))(w, r)
			})
			e := newEcho(tokenURL)
			for name, text := range e.forms {
				description = "got " + text + ", sorry"
				reply, err := fetch(t, e.config)
				failed := (*endpoint.Error)(nil)
				if !errors.As(err, &failed) || reply != nil {
					t.Fatalf("%d, %s: %v, %v; want an error", status, name, reply, err)
				}
				e.mustHide(t, err)
				if !strings.Contains(failed.Message, "got ") || !strings.Contains(failed.Message, ", sorry") {
					t.Errorf("%d, %s: the rest of the description is lost: %q", status, name, failed.Message)
				}
			}
		}
	}
}

func TestASecretInTheErrorCodeOrContentTypeIsNotRepeated(t *testing.T) {
	for _, c := range []struct{ name, body, contentType string }{
		{"the code", `{"error":"s3cret-k3y"}`, "application/json"},
		{"the content type", "", "text/s3cret-k3y"},
	} {
		for _, status := range []int{200, 400, 503} {
			e := newEcho(serve(t, answers(status, c.body, "Content-Type", c.contentType)))
			_, err := fetch(t, e.config)
			if err == nil {
				t.Fatalf("%s, %d: no error", c.name, status)
			}
			e.mustHide(t, err)
		}
	}
}

// A secret must not come out by halves where the description is cut off.
func TestASecretAtTheEndOfALongDescriptionIsNotRepeated(t *testing.T) {
	for pad := 150; pad < 230; pad++ {
		body := `{"error":"invalid_client","error_description":"` + strings.Repeat("x", pad) + clientSecret + `"}`
		failed := mustFail(t, answers(401, body))
		if strings.Contains(failed.Message, clientSecret[:5]) {
			t.Errorf("a part of the secret is printed: %q", failed.Message)
		}
	}
}

func TestDescriptionsAreCleanedAndShortened(t *testing.T) {
	for _, c := range []struct{ name, description, want string }{
		{"a line break", `no such client\r\nSet-Cookie: x=1`, "no such client Set-Cookie: x=1"},
		{"a terminal's escapes", `\u001b[31mred\u001b[0m`, "[31mred [0m"},
		{"a separator of lines", `a\u2028b`, "a b"},
		{"a change of direction", `a\u202eb`, "a b"},
		{"white space", `\t a  b \n`, "a b"},
		{"long", strings.Repeat("é", 4000), strings.Repeat("é", 98) + "…"},
	} {
		failed := mustFail(t, answers(400, `{"error":"invalid_client","error_description":"`+c.description+`"}`))
		if failed.Message != c.want {
			t.Errorf("%s: %q; want %q", c.name, failed.Message, c.want)
		}
	}
}

// The errors of a user's transport may have anything in them.
func TestAFailedConnectionsTextIsCleaned(t *testing.T) {
	e := newEcho("https://auth.example/token")
	for name, text := range e.forms {
		for _, cause := range []error{
			fmt.Errorf("POST %s\ngiving up after 3 attempts", text),
			&net.OpError{Op: "dial", Net: "tcp", Err: errors.New(text)},
		} {
			e.config.HTTPClient = &http.Client{Transport: stub(func(*http.Request) (*http.Response, error) { return nil, cause })}
			_, err := fetch(t, e.config)
			failed := (*endpoint.Error)(nil)
			if !errors.As(err, &failed) || failed.Code != endpoint.CodeUnreachable || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v; want one line, %s", name, err, endpoint.CodeUnreachable)
			}
			if !errors.Is(err, cause) {
				t.Errorf("%s: the cause is not in the chain of %v", name, err)
			}
			e.mustHide(t, err)
		}
	}
}

func TestAClientAndAReplyDontPrintTheirSecrets(t *testing.T) {
	e := newEcho(serve(t, answers(200, `{"access_token":"t0ken-text"}`)))
	client, err := endpoint.New(e.config)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	marshaled, err := json.Marshal(reply)
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %v %+v %#v %s", client, client, client, reply, reply, reply, marshaled)
	for _, never := range []string{"t0ken-text", "p4ss", "3cret"} {
		if strings.Contains(out, never) {
			t.Errorf("%q is printed: %s", never, out)
		}
	}
}

// What is secret in one request alone isn't repeated either: the endpoint has it, and may answer with it in any form.
func TestTheSecretsOfARequestAreNotRepeated(t *testing.T) {
	const odd = `r3fresh "t0ken"/<1>&+%\2`
	for _, c := range []struct {
		name, parameter string
		mend            func(*endpoint.Config)
	}{
		{"a refresh token", "refresh_token", func(c *endpoint.Config) { c.Grant = endpoint.RefreshToken }},
		{"a client assertion", "client_assertion", func(c *endpoint.Config) { withKey(c, file(t, pkcs8(edKey()))) }},
		{"a client assertion of a file", "client_assertion", func(c *endpoint.Config) {
			withKey(c, "")
			c.ClientAssertionFile = file(t, odd)
		}},
		{"an assertion", "assertion", func(c *endpoint.Config) {
			c.Grant, c.PrivateKeyFile = endpoint.JWTBearer, file(t, pkcs8(edKey()))
		}},
		{"an assertion of a file", "assertion", func(c *endpoint.Config) { c.Grant, c.Assertion.File = endpoint.JWTBearer, file(t, odd) }},
		{"a subject token", "subject_token", func(c *endpoint.Config) { c.Grant, c.SubjectTokenFile = endpoint.TokenExchange, file(t, odd) }},
		{"an actor token", "actor_token", func(c *endpoint.Config) {
			c.Grant, c.SubjectTokenFile, c.ActorTokenFile = endpoint.TokenExchange, file(t, "subject"), file(t, odd)
		}},
		{"a secret of a file", "client_secret", func(c *endpoint.Config) {
			c.AuthMethod, c.ClientSecret, c.ClientSecretFile = endpoint.ClientSecretPost, secret.Secret{}, file(t, odd)
		}},
		{"a secret header", "X-Key", func(c *endpoint.Config) {
			c.SecretHeaders = map[string]secret.Secret{"X-Key": secret.New(odd)}
		}},
	} {
		for _, status := range []int{200, 400, 503} {
			for _, form := range []func(string) string{
				func(s string) string { return s },
				url.QueryEscape,
				url.PathEscape,
				func(s string) string { return lowerEscapes(url.QueryEscape(s)) },
				html.EscapeString,
				func(s string) string { q := string(must(json.Marshal(s))); return q[1 : len(q)-1] },
				strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace,
				strings.NewReplacer(`\`, `\\`, `"`, `\"`, `/`, `\/`).Replace,
			} {
				var sent, shown string
				conf := config(serve(t, func(w http.ResponseWriter, r *http.Request) {
					if sent = r.PostFormValue(c.parameter); sent == "" {
						sent = r.Header.Get(c.parameter)
					}
					shown = form(sent)
					body := must(json.Marshal(map[string]string{
						"error": "invalid_grant", "error_description": "got " + shown + ", sorry",
					}))
					answers(status, string(body))(w, r)
				}))
				c.mend(&conf)
				client := must(endpoint.New(conf))
				reply, err := client.Fetch(t.Context())
				if conf.Grant == endpoint.RefreshToken {
					reply, err = client.Refresh(t.Context(), secret.New(odd))
				}
				failed := failure(t, reply, err)
				if sent == "" {
					t.Fatalf("%s: not sent", c.name)
				}
				if !strings.Contains(failed.Message, "got [redacted], sorry") {
					t.Errorf("%s, %d: %q has it as %q", c.name, status, failed.Message, shown)
				}
			}
		}
	}
}

func TestTheTokensOfAReplyAreNotRepeatedInItsError(t *testing.T) {
	for _, name := range []string{"access_token", "refresh_token", "id_token"} {
		for _, status := range []int{200, 400, 500} {
			failed := mustFail(t, answers(status, `{"error":"server_error","error_description":"for t0ken-text","`+name+`":"t0ken-text"}`))
			if strings.Contains(failed.Error(), "t0ken") || !strings.Contains(failed.Message, "for [redacted]") {
				t.Errorf("%s, %d: %v", name, status, failed)
			}
			out := fmt.Sprintf("%v %+v %#v", *failed, *failed, *failed)
			if strings.Contains(out, "t0ken") {
				t.Errorf("%s, %d: the error's fields print it: %s", name, status, out)
			}
		}
	}
}
