package agent_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/agent"
)

func TestBrowserRules(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: func(o *agent.Options) {
		o.Hosts, o.CSRFToken = []string{"Agent.Example"}, "the-csrf-token"
	}})
	own := strings.TrimPrefix(s.server.URL, "http://")
	csrf := header("X-Onetoken-CSRF", "the-csrf-token")
	site := func(values ...string) change { return header("Sec-Fetch-Site", values...) }
	origin := func(values ...string) change { return header("Origin", values...) }
	for _, c := range []struct {
		name    string
		method  string
		changes []change
		code    string // "" where it passes
	}{
		{"a program", "GET", nil, ""},
		{"a program posts", "POST", nil, ""},
		{"localhost", "GET", []change{host("localhost")}, ""},
		{"LOCALHOST with a port", "GET", []change{host("LOCALHOST:1234")}, ""},
		{"another loopback address", "GET", []change{host("127.8.9.1:80")}, ""},
		{"IPv6", "GET", []change{host("[::1]:8085")}, ""},
		{"IPv6 without a port", "GET", []change{host("[::1]")}, ""},
		{"a configured host", "GET", []change{host("agent.example:443")}, ""},
		{"another host", "GET", []change{host("evil.example")}, "foreign_host"},
		{"another host that begins well", "GET", []change{host("localhost.evil.example")}, "foreign_host"},
		{"a host below a configured one", "GET", []change{host("x.agent.example")}, "foreign_host"},
		{"an address", "GET", []change{host("192.0.2.1:8085")}, "foreign_host"},
		{"all addresses", "GET", []change{host("0.0.0.0:8085")}, "foreign_host"},
		{"a number", "GET", []change{host("2130706433")}, "foreign_host"},
		{"brackets around a name", "GET", []change{host("[localhost]")}, "foreign_host"},

		{"its own page", "GET", []change{origin("http://" + own), site("same-origin")}, ""},
		{"its own page by name", "GET", []change{host("localhost:99"), origin("http://localhost:99")}, ""},
		{"typed by a person", "GET", []change{site("none")}, ""},
		{"its own page behind a proxy", "GET", []change{host("agent.example"), origin("https://agent.example")}, ""},
		{"https where there is none", "GET", []change{origin("https://" + own)}, "foreign_origin"},
		{"another port", "GET", []change{origin("http://127.0.0.1:1")}, "foreign_origin"},
		{"another name of the same", "GET", []change{origin("http://localhost")}, "foreign_origin"},
		{"another origin", "GET", []change{origin("http://evil.example")}, "foreign_origin"},
		{"a sandbox", "GET", []change{origin("null")}, "foreign_origin"},
		{"an empty origin", "GET", []change{origin("")}, "foreign_origin"},
		{"two origins", "GET", []change{origin("http://"+own, "http://"+own)}, "foreign_origin"},
		{"another site", "GET", []change{site("cross-site")}, "foreign_site"},
		{"a neighbour", "GET", []change{site("same-site")}, "foreign_site"},
		{"nonsense", "GET", []change{site("Same-Origin")}, "foreign_site"},
		{"two sites", "GET", []change{site("same-origin", "cross-site")}, "foreign_site"},

		{"its own page posts", "POST", []change{origin("http://" + own), site("same-origin"), csrf}, ""},
		{"without the token", "POST", []change{origin("http://" + own), site("same-origin")}, "no_csrf_token"},
		{"without the token and Origin", "POST", []change{site("same-origin")}, "no_csrf_token"},
		{"with another token", "POST", []change{site("same-origin"), header("X-Onetoken-CSRF", "other")}, "no_csrf_token"},
		{"with two tokens", "POST", []change{site("same-origin"), header("X-Onetoken-CSRF", "the-csrf-token", "x")}, "no_csrf_token"},
		{"another site with the token", "POST", []change{origin("http://evil.example"), csrf}, "foreign_origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := prod + "/token"
			if c.method == "POST" {
				path = prod + "/invalidate"
			}
			a := s.do(c.method, path, "", c.changes...)
			a.t = t
			if c.code != "" {
				a.isProblem(403, c.code)
			} else if a.status >= 300 {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", endpointPath, "/nothing"} {
		s.get(path, host("evil.example")).isProblem(403, "foreign_host")
	}
}

func TestEachProcessHasACSRFTokenOfItsOwn(t *testing.T) {
	t.Parallel()
	a, b := newSite(t, options{}).agent.CSRFToken(), newSite(t, options{}).agent.CSRFToken()
	if len(a) < 20 || a == b {
		t.Errorf("%q and %q", a, b)
	}
}

// dialer returns a client whose connections all go to one address.
func dialer(t *testing.T, network, address string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// What no Host can be would allow nothing, and nobody would know why.
func TestHostsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	for _, host := range []string{"", "agent.example:8443", "https://agent.example", "agent.example/", "[::1]", "*.example", "a b"} {
		_, err := agent.New(agent.Options{Manager: s.kit.Manager, Overview: overviewOf(s), Hosts: []string{"fine.example", host}})
		var wrong *agent.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != "hosts" {
			t.Errorf("%q: %v", host, err)
		}
	}
	if _, err := agent.New(agent.Options{Manager: s.kit.Manager, Overview: overviewOf(s), Hosts: []string{"a.example", "10.0.0.5", "2001:db8::1"}}); err != nil {
		t.Error(err)
	}
}
