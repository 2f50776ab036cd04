package login_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/manager/endpoint"
)

const redirects = "127.0.0.1"

// A visit is a page that the browser was shown.
type visit struct {
	*http.Response
	body string
}

func visits(t *testing.T, method, address string) visit {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return visit{resp, string(body)}
}

// A person is at the address that was shown.
type person struct {
	t        *testing.T
	redirect string
	state    string
}

func meets(t *testing.T, address string) person {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return person{t, u.Query().Get("redirect_uri"), u.Query().Get("state")}
}

// comesBack brings an answer, with the right state unless it has one.
func (p person) comesBack(answer url.Values) visit {
	p.t.Helper()
	if !answer.Has("state") {
		answer.Set("state", p.state)
	}
	return visits(p.t, http.MethodGet, p.redirect+"?"+answer.Encode())
}

// inBrowser logs in; act is what the person does.
func inBrowser(t *testing.T, c *client, b login.Browser, act func(person)) (*endpoint.Reply, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b.Client, b.Timeout = c, 30*time.Second
	b.Show = func(address string) { act(meets(t, address)) }
	return b.Run(ctx)
}

func TestALoginInTheBrowser(t *testing.T) {
	c := &client{}
	var first visit
	var p person
	c.exchange = func(code string) (*endpoint.Reply, error) {
		if again := p.comesBack(url.Values{"code": {"c0de"}}); again.StatusCode != http.StatusGone {
			t.Errorf("the answer once more: %s", again.Status)
		}
		return reply("of " + code), nil
	}
	r, err := inBrowser(t, c, login.Browser{Params: url.Values{"prompt": {"consent"}}}, func(q person) {
		p = q
		first = p.comesBack(url.Values{"code": {"c0de"}})
	})
	if err != nil || r.RefreshToken.Reveal() != "of c0de" {
		t.Fatalf("%v, %v", r, err)
	}
	if c.redirect != p.redirect || !strings.HasPrefix(p.redirect, "http://127.0.0.1:") || !strings.HasSuffix(p.redirect, "/callback") {
		t.Errorf("redirects to %q, exchanged with %q", p.redirect, c.redirect)
	}
	if got := len(c.verifier.Reveal()); got < 43 || !c.verifier.Equal(c.request.Verifier) {
		t.Errorf("a verifier of %d characters, the request's: %v; want 43 or more (RFC 7636 §4.1), and true", got, c.verifier.Equal(c.request.Verifier))
	}
	if len(p.state) < 22 || c.request.Params.Get("prompt") != "consent" {
		t.Errorf("state %q, parameters %v", p.state, c.request.Params)
	}
	if first.StatusCode != http.StatusOK || !strings.Contains(first.body, "You can close this window.") {
		t.Errorf("shown: %s %s", first.Status, first.body)
	}
	if _, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(p.redirect, "http://"), "/callback")); err == nil {
		t.Error("somebody listens after the login")
	}
}

func TestThePageSaysNothingThatItWasSent(t *testing.T) {
	const secret = "c0de-of-the-login"
	pages := map[string]visit{}
	_, err := inBrowser(t, &client{}, login.Browser{}, func(p person) {
		pages["elsewhere"] = visits(t, http.MethodGet, strings.Replace(p.redirect, "/callback", "/"+secret, 1))
		pages["a HEAD"] = visits(t, http.MethodHead, p.redirect+"?state="+p.state+"&code="+secret)
		pages["a POST"] = visits(t, http.MethodPost, p.redirect+"?state="+p.state+"&code="+secret)
		pages["another state"] = p.comesBack(url.Values{"code": {secret}, "state": {secret}})
		pages["no query"] = visits(t, http.MethodGet, p.redirect)
		pages["a broken query"] = visits(t, http.MethodGet, p.redirect+"?state="+p.state+"&code=%zz")
		pages["the answer"] = p.comesBack(url.Values{"error": {"<script>" + secret}, "error_description": {secret}})
	})
	if err == nil {
		t.Error("no error")
	}
	want := map[string]int{
		"elsewhere": 404, "a HEAD": 405, "a POST": 405, "another state": 400, "no query": 400, "a broken query": 400, "the answer": 200,
	}
	for name, v := range pages {
		if v.StatusCode != want[name] {
			t.Errorf("%s: status %d; want %d", name, v.StatusCode, want[name])
		}
		if strings.Contains(v.body, secret) || strings.Contains(v.body, "<script") || strings.Contains(v.body, "http") {
			t.Errorf("%s: it repeats what was sent, or loads something: %s", name, v.body)
		}
		for header, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			"Content-Type": "text/html; charset=utf-8",
		} {
			if got := v.Header.Get(header); got != want {
				t.Errorf("%s: %s: %q; want %q", name, header, got, want)
			}
		}
		if got := v.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
			t.Errorf("%s: Content-Security-Policy: %q", name, got)
		}
		if name != "a HEAD" && (!strings.Contains(v.body, `<html lang="en">`) || !strings.Contains(v.body, "<h1>") || !strings.Contains(v.body, "<title>")) {
			t.Errorf("%s: no language, title or heading: %s", name, v.body)
		}
	}
}

// What isn't this login's answer doesn't end it.
func TestStrangersDontEndALogin(t *testing.T) {
	r, err := inBrowser(t, &client{}, login.Browser{}, func(p person) {
		p.comesBack(url.Values{"code": {"evil"}, "state": {"wrong"}})
		p.comesBack(url.Values{"error": {"access_denied"}, "state": {""}})
		visits(t, http.MethodHead, p.redirect+"?code=evil&state="+p.state)
		p.comesBack(url.Values{"code": {"good"}})
	})
	if err != nil || r.RefreshToken.Reveal() != "of good" {
		t.Errorf("%v, %v; want the tokens of the good code", r, err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	const issuer = "https://auth.example"
	for _, c := range []struct {
		name     string
		metadata endpoint.Metadata
		answer   url.Values
		want     string // "": it is good
	}{
		{
			"denied",
			endpoint.Metadata{},
			url.Values{"error": {"access_denied"}, "error_description": {"the person\r\nsaid no"}},
			"the authorization endpoint refused: access_denied: the person said no",
		},
		{"failed", endpoint.Metadata{}, url.Values{"error": {"server_error"}}, "the authorization endpoint failed: server_error"},
		{"nothing", endpoint.Metadata{}, url.Values{}, "the authorization endpoint failed: bad_reply: its answer has neither a code nor an error"},
		{"two codes", endpoint.Metadata{}, url.Values{"code": {"a", "b"}}, `the authorization endpoint failed: bad_reply: its answer has "code" more than once`},
		{"an issuer that nobody knows", endpoint.Metadata{}, url.Values{"code": {"a"}, "iss": {issuer}}, ""},
		{"the issuer", endpoint.Metadata{Issuer: issuer, NamesIssuer: true}, url.Values{"code": {"a"}, "iss": {issuer}}, ""},
		{"it needn't say", endpoint.Metadata{Issuer: issuer}, url.Values{"code": {"a"}}, ""},
		{
			"another issuer",
			endpoint.Metadata{Issuer: issuer},
			url.Values{"code": {"a"}, "iss": {"https://evil.example"}},
			`the authorization endpoint failed: bad_reply: its answer is of the issuer "https://evil.example", want "https://auth.example": somebody may have mixed two up (RFC 9207)`,
		},
		{
			"it must say",
			endpoint.Metadata{Issuer: issuer, NamesIssuer: true},
			url.Values{"code": {"a"}},
			`the authorization endpoint failed: bad_reply: its answer is of the issuer "", want "https://auth.example": somebody may have mixed two up (RFC 9207)`,
		},
		{
			"another issuer's error",
			endpoint.Metadata{Issuer: issuer},
			url.Values{"error": {"x"}, "iss": {"https://evil.example"}},
			`the authorization endpoint failed: bad_reply: its answer is of the issuer "https://evil.example", want "https://auth.example": somebody may have mixed two up (RFC 9207)`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := inBrowser(t, &client{metadata: c.metadata}, login.Browser{}, func(p person) { p.comesBack(c.answer) })
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("%q; want %q", got, c.want)
			}
			if failed := (*endpoint.Error)(nil); err != nil && !errors.As(err, &failed) {
				t.Errorf("%v is no *endpoint.Error", err)
			}
		})
	}
}

func TestALoginNeedsARefreshToken(t *testing.T) {
	c := &client{exchange: func(string) (*endpoint.Reply, error) { return reply(""), nil }}
	_, err := inBrowser(t, c, login.Browser{}, func(p person) { p.comesBack(url.Values{"code": {"a"}}) })
	if !errors.Is(err, login.ErrNoRefreshToken) {
		t.Errorf("%v; want %v", err, login.ErrNoRefreshToken)
	}
}

func TestACodeThatIsRefused(t *testing.T) {
	c := &client{exchange: func(string) (*endpoint.Reply, error) {
		return nil, &endpoint.Error{Code: "invalid_grant", Status: 400, Message: "it was used before"}
	}}
	_, err := inBrowser(t, c, login.Browser{}, func(p person) { p.comesBack(url.Values{"code": {"a"}}) })
	if want := "the token endpoint refused: invalid_grant: it was used before"; err == nil || err.Error() != want {
		t.Errorf("%v; want %s", err, want)
	}
}

func TestABrowserThatDoesntComeBack(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	var address string
	_, err := login.Browser{Client: &client{}, Timeout: 30 * time.Second, Show: func(shown string) {
		p := meets(t, shown)
		address = p.redirect
		p.comesBack(url.Values{"state": {"wrong"}})
		cancel(cause)
	}}.Run(ctx)
	var waiting *login.WaitError
	want := "enough while waiting for the browser to come back (1 of its answers had another login's state)"
	if !errors.As(err, &waiting) || !errors.Is(err, cause) || err.Error() != want {
		t.Errorf("%v; want %s", err, want)
	}
	if _, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/callback")); err == nil {
		t.Error("somebody listens after the login")
	}
}

func TestWhereTheBrowserComesBackTo(t *testing.T) {
	for _, c := range []struct {
		listen, redirect string
		want             string // "*" is a port
	}{
		{"", "", "http://127.0.0.1:*/callback"},
		{"127.0.0.1:0", "", "http://127.0.0.1:*/callback"},
		{"", "http://127.0.0.1:0/auth/back", "http://127.0.0.1:*/auth/back"},
		{"", "http://localhost:0/back", "http://localhost:*/back"},
		{"", "http://localhost:0", "http://localhost:*"},
	} {
		var p person
		_, err := inBrowser(t, &client{}, login.Browser{Listen: c.listen, RedirectURL: c.redirect}, func(q person) {
			p = q
			p.comesBack(url.Values{"code": {"a"}})
		})
		u, _ := url.Parse(p.redirect)
		if got := strings.Replace(p.redirect, ":"+u.Port(), ":*", 1); err != nil || got != c.want || u.Port() == "0" {
			t.Errorf("%q, %q: %q, %v; want %q", c.listen, c.redirect, p.redirect, err, c.want)
		}
	}
}

// Where something else takes what the endpoint sends, it isn't where somebody listens.
func TestTheBrowserComesBackByWayOfSomethingElse(t *testing.T) {
	taken, err := net.Listen("tcp", redirects+":0")
	if err != nil {
		t.Fatal(err)
	}
	free := taken.Addr().String()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = inBrowser(t, &client{}, login.Browser{Listen: free, RedirectURL: "https://login.example/back"}, func(p person) {
		if p.redirect != "https://login.example/back" {
			t.Errorf("redirects to %s", p.redirect)
		}
		p.redirect = "http://" + free + "/back"
		p.comesBack(url.Values{"code": {"a"}})
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhereNobodyCanListen(t *testing.T) {
	taken, err := net.Listen("tcp", redirects+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		listen, redirect string
		want             string // the beginning
		setting          bool
	}{
		{taken.Addr().String(), "", "can't wait for the browser to come back: listen tcp " + taken.Addr().String() + ": ", false},
		{"", "http://" + taken.Addr().String() + "/x", "can't wait for the browser to come back: listen tcp " + taken.Addr().String() + ": ", false},
		{"nonsense", "", `--listen: "nonsense" is no address such as 127.0.0.1:8400`, true},
		{"0.0.0.0:0", "", `--listen: "0.0.0.0" isn't an address of loopback: --redirect-url must say`, true},
		{":0", "", `--listen: "" isn't an address of loopback`, true},
		{"", "https://login.example/back", "--redirect-url: doesn't say where to listen", true},
		{"", "http://login.example:80/back", "--redirect-url: doesn't say where to listen", true},
		{"", "http://localhost/back", "--redirect-url: doesn't say where to listen", true},
		{"", "https://localhost:8400/back", "--redirect-url: doesn't say where to listen", true},
		{"", "http://localhost:0/back?x=1", "--redirect-url: is no http or https URL without query and fragment", true},
		{"", "http://me:secret@localhost:0/", "--redirect-url: is no http or https URL without query and fragment", true},
		{"", "app:/back", "--redirect-url: is no http or https URL without query and fragment", true},
	} {
		_, err := inBrowser(t, &client{}, login.Browser{Listen: c.listen, RedirectURL: c.redirect}, func(person) {
			t.Error("somebody was told to log in")
		})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q, %q: %v; want %s…", c.listen, c.redirect, err, c.want)
		}
		if setting := (*login.SettingError)(nil); errors.As(err, &setting) != c.setting {
			t.Errorf("%v is about a setting: %v; want %v", err, !c.setting, c.setting)
		}
	}
}
