package manager

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// String is the origin as RFC 6454 §6.2 writes it.
func (o origin) String() string { return o.scheme + "://" + o.host }

func TestOrigin(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"https://app.example", "https://app.example"},
		{"https://app.example/", "https://app.example"},
		{"https://app.example/api/v2?q=1#f", "https://app.example"},
		{"https://app.example:443", "https://app.example"},
		{"https://app.example:", "https://app.example"},
		{"https://app.example:8443", "https://app.example:8443"},
		{"https://app.example:80", "https://app.example:80"},
		{"http://app.example:80", "http://app.example"},
		{"http://app.example:443", "http://app.example:443"},
		{"HTTPS://App.EXAMPLE:443/API", "https://app.example"},
		{"https://me:secret@app.example", "https://app.example"},
		{"https://[2001:DB8::1]", "https://[2001:db8::1]"},
		{"https://[2001:db8::1]:443", "https://[2001:db8::1]"},
		{"http://[::1]:8080", "http://[::1]:8080"},
		{"https://app.example.evil.example", "https://app.example.evil.example"},
		{"https://app.example@evil.example", "https://evil.example"},
		{"https://evil.example#@app.example", "https://evil.example"},
		{"https://evil.example?@app.example", "https://evil.example"},
	} {
		u, err := url.Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := originOf(u).String(); got != c.want {
			t.Errorf("%s: %s; want %s", c.in, got, c.want)
		}
	}
}

func TestOriginsThatDiffer(t *testing.T) {
	for _, c := range [][2]string{
		{"https://app.example", "http://app.example"},
		{"https://app.example:443", "http://app.example:443"},
		{"https://app.example", "https://app.example:8443"},
		{"https://app.example", "https://api.app.example"},
		{"https://app.example", "https://app.example."},
		{"https://[::1]:80", "https://[::1:80]"},
	} {
		a, errA := url.Parse(c[0])
		b, errB := url.Parse(c[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if originOf(a) == originOf(b) {
			t.Errorf("%s and %s have one origin: %s", c[0], c[1], originOf(a))
		}
	}
}

// Challenges as RFC 9110 §11.6.1 and RFC 6750 §3 have them.
func TestBearerErrors(t *testing.T) {
	for _, c := range []struct {
		name, field string
		want        []string
	}{
		{"empty", "", nil},
		{"a scheme alone", `Bearer`, nil},
		{"a realm alone", `Bearer realm="api"`, nil},
		{"an error", `Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"an error after others", `Bearer realm="api", scope="a b", error="insufficient_scope", error_description="more"`, []string{"insufficient_scope"}},
		{"without spaces", `Bearer realm="api",error="invalid_token",error_description="x"`, []string{"invalid_token"}},
		{"with more spaces", `  Bearer   error  =  "invalid_token"  ,  realm = "x"`, []string{"invalid_token"}},
		{"a tab after a comma", "Bearer realm=\"x\",\terror=\"invalid_token\"", []string{"invalid_token"}},
		{"not in quotes", `Bearer error=invalid_token`, []string{"invalid_token"}},
		{"in any case", `bEARER Error="invalid_token"`, []string{"invalid_token"}},
		{"a description alone", `Bearer error_description="error=x", error_uri="https://x/?error=y"`, nil},
		{"another scheme", `Basic realm="api", error="invalid_token"`, nil},
		{"another scheme whose name begins alike", `BearerX error="invalid_token"`, nil},
		{"after another scheme", `Basic realm="api", Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"before another scheme", `Bearer error="invalid_token", Basic realm="api", error="x"`, []string{"invalid_token"}},
		{"before another scheme alone", `Bearer error="invalid_token", Negotiate, NTLM`, []string{"invalid_token"}},
		{"after a scheme alone", `Negotiate, Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"after a scheme alone, a parameter further", `Negotiate, Bearer realm="x", error="invalid_token"`, []string{"invalid_token"}},
		{"a parameter after a scheme alone isn't Bearer's", `Bearer realm="x", Negotiate, DPoP algs="ES256", error="use_dpop_nonce"`, nil},
		{"after a token68", `Negotiate YWJj, Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"after a padded token68", `Negotiate YWJjZA==, Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"twice", `Bearer error="invalid_token", Bearer realm="b", error="insufficient_scope"`, []string{"invalid_token", "insufficient_scope"}},
		{"a comma in quotes", `Bearer realm="a, error=\"x\", b", error="invalid_token"`, []string{"invalid_token"}},
		{"a challenge in quotes", `Basic realm="x, Bearer error=insufficient_scope"`, nil},
		{"an equals sign in quotes", `Bearer realm="error=x", error="invalid_token"`, []string{"invalid_token"}},
		{"an escaped quote", `Bearer realm="a\", error=\"x", error="invalid_token"`, []string{"invalid_token"}},
		{"an escaped backslash", `Bearer realm="a\\", error="invalid_token"`, []string{"invalid_token"}},
		{"a quote without end", `Bearer realm="a, error="invalid_token"`, nil},
		{"an empty element first", `, Bearer error="invalid_token"`, []string{"invalid_token"}},
		{"an empty element last", `Bearer error="invalid_token",`, []string{"invalid_token"}},
		// RFC 9110 §5.6.1.2: a recipient ignores empty elements.
		{"an empty element between", `Bearer realm="api", , error="insufficient_scope"`, []string{"insufficient_scope"}},
	} {
		if got := bearerErrors(c.field); !slices.Equal(got, c.want) {
			t.Errorf("%s: %s: %q; want %q", c.name, c.field, got, c.want)
		}
	}
}

func TestRejectsToken(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  bool
	}{
		{"no challenge", nil, true},
		{"an empty challenge", []string{""}, true},
		{"no reason", []string{`Bearer realm="api"`}, true},
		{"another scheme", []string{`Basic realm="api"`}, true},
		{"an invalid token", []string{`Bearer error="invalid_token", error_description="The access token expired"`}, true},
		{"an invalid token, for each of two schemes", []string{`DPoP error="invalid_token"`, `Bearer error="invalid_token"`}, true},
		{"too little scope", []string{`Bearer error="insufficient_scope", scope="campaigns.write"`}, false},
		{"an invalid request", []string{`Bearer error="invalid_request"`}, false},
		{"in a second line", []string{`Basic realm="api"`, `Bearer error="insufficient_scope"`}, false},
		{"in a second challenge", []string{`Basic realm="api", Bearer error="insufficient_scope"`}, false},
		{"beside an invalid token", []string{`Bearer error="invalid_token"`, `Bearer error="insufficient_scope"`}, false},
		{"another scheme's error", []string{`DPoP error="use_dpop_nonce"`}, true},
	} {
		h := http.Header{}
		for _, line := range c.lines {
			h.Add("WWW-Authenticate", line)
		}
		if got := rejectsToken(h); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestSplitQuoted(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{``, []string{``}},
		{`a`, []string{`a`}},
		{`a,b, c`, []string{`a`, `b`, ` c`}},
		{`,`, []string{``, ``}},
		{`"a,b",c`, []string{`"a,b"`, `c`}},
		{`"a\",b",c`, []string{`"a\",b"`, `c`}},
		{`"a\\",b`, []string{`"a\\"`, `b`}},
		{`a\,b`, []string{`a\`, `b`}},
		{`"a,b`, []string{`"a,b`}},
		{`"a\`, []string{`"a\`}},
		{`é,"ü,"`, []string{`é`, `"ü,"`}},
	} {
		if got := splitQuoted(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q; want %q", c.in, got, c.want)
		}
	}
}

func FuzzBearerErrors(f *testing.F) {
	f.Add(`Bearer realm="a\", error=\"x", error="invalid_token", Basic YWJj==`)
	f.Add(`Bearer error=", ,"`)
	f.Fuzz(func(t *testing.T, field string) {
		if got := strings.Join(splitQuoted(field), ","); got != field {
			t.Errorf("%q became %q", field, got)
		}
		for _, code := range bearerErrors(field) {
			if !strings.Contains(field, code) {
				t.Errorf("%q has no error %q", field, code)
			}
		}
	})
}
