package agent

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestParseBasic(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]credentials{
		"id:secret":           {{"id", digestOf("secret"), true}},
		"a%20b:c%2Bd":         {{"a b", digestOf("c+d"), true}, {"a%20b", digestOf("c%2Bd"), true}},
		"a+b:c":               {{"a b", digestOf("c"), true}, {"a+b", digestOf("c"), true}},
		"id:100%":             {{"id", digestOf("100%"), true}},
		"id:with:colons":      {{"id", digestOf("with:colons"), true}},
		":":                   {{"", digestOf(""), true}},
		"id:0123456789%61bcd": {{"id", digestOf("0123456789abcd"), true}, {"id", digestOf("0123456789%61bcd"), false}},
		"no colon":            nil,
	} {
		got := parseBasic("Basic " + base64.StdEncoding.EncodeToString([]byte(in)))
		if !slices.Equal(got, want) {
			t.Errorf("%q: %d readings", in, len(got))
		}
	}
	for _, header := range []string{"", "Basic", "Basic ", "Basic x", "Bearer aWQ6c2VjcmV0", "Basicaaaa"} {
		if got := parseBasic(header); got != nil {
			t.Errorf("%q has credentials", header)
		}
	}
}

func TestCredentialsDontPrint(t *testing.T) {
	t.Parallel()
	l := login{readings: []credentials{newCredentials("id", "hunter2")}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, l); strings.Contains(got, "hunter2") {
			t.Errorf("%s: %s", verb, got)
		}
	}
}

func TestDescribable(t *testing.T) {
	t.Parallel()
	if got := describable("a \"b\" \\ é\n§ 5"); got != "a 'b' / ? section  5" {
		t.Errorf("got %q", got)
	}
}

// Whatever is sent, a request is refused with a whole answer, or has a grant, one login, and no parameter twice.
func FuzzTokenRequest(f *testing.F) {
	f.Add("grant_type=client_credentials", "Basic aWQ6c2VjcmV0", "application/x-www-form-urlencoded", "")
	f.Add("grant_type=client_credentials&client_id=a&client_secret=b&scope=x+y", "", "application/x-www-form-urlencoded; charset=utf-8", "min_ttl=5")
	f.Add("grant_type=password&resource=a&resource=b", "Bearer x", "text/plain", "client_secret=x")
	f.Add("a=%zz&&;=", "Basic !!", "", "%")
	f.Fuzz(func(t *testing.T, body, authorization, contentType, query string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", contentType)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		q, wrong := readTokenRequest(r)
		if wrong != nil {
			checkRefusal(t, wrong)
			return
		}
		if q.form.Get("grant_type") != "client_credentials" {
			t.Errorf("grant_type %q", q.form.Get("grant_type"))
		}
		if len(q.login.readings) == 0 || q.login.basic != (authorization != "") {
			t.Errorf("%d readings", len(q.login.readings))
		}
		for name, values := range q.form {
			if len(values) == 0 || slices.Contains(values, "") || len(values) > 1 && name != "resource" && name != "audience" {
				t.Errorf("%q: %q", name, values)
			}
		}
		if _, wrong := q.requestedScope(); wrong != nil {
			checkRefusal(t, wrong)
		}
	})
}

func checkRefusal(t *testing.T, wrong *oauth2Error) {
	t.Helper()
	w := httptest.NewRecorder()
	wrong.send(w)
	var body oauth2Body
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error == "" || w.Code < 400 || w.Code > 499 {
		t.Errorf("%v: %d %s", err, w.Code, w.Body)
	}
	if strings.ContainsFunc(body.Description, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		t.Errorf("error_description %q", body.Description)
	}
}

// Whatever the Host, only loopback and what is configured pass.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"localhost", "127.0.0.1:80", "[::1]:80", "evil.example", "::1", "[fe80::1%lo]", "agent.example:1", "0", "[::ffff:127.0.0.1]"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		a := &Agent{hosts: map[string]bool{"agent.example": true}}
		if !a.isOwnHost(hostOf(host)) {
			return
		}
		name, _, _ := strings.Cut(strings.ToLower(host), ":")
		own := name == "localhost" || name == "agent.example" || strings.HasPrefix(name, "127.") || strings.HasPrefix(host, "[")
		if !own {
			t.Errorf("%q passes", host)
		}
	})
}
