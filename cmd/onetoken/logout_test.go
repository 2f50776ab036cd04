package main_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestGrantImport(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newLoginSite(t, rdb, nil)
		for _, lineBreak := range []string{"", "\n", "\r\n"} {
			token := s.endpoint.NewFamily()
			_, line := s.ends(s.runWith(token+lineBreak, "grant", "import", "prod"), 0)
			if !refreshed.MatchString(line) {
				t.Errorf("%q: %s", lineBreak, line)
			}
			if s.endpoint.AcceptsRefreshToken(token) || !s.endpoint.AcceptsRefreshToken(s.grant()["refresh_token"]) {
				t.Errorf("%q: the refresh token wasn't used, or the next isn't stored", lineBreak)
			}
		}
		if got, want := s.run("get", "prod").succeeds(t), last(s.endpoint.Issued())+"\n"; got != want {
			t.Errorf("the token is %q; want that of the last import, %q", got, want)
		}
	})
}

func TestGrantImportWithoutARefresh(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	s.runWith(s.endpoint.NewFamily(), "grant", "import", "prod").succeeds(t)
	calls, token := s.endpoint.Calls(), s.endpoint.NewFamily()
	_, line := s.ends(s.runWith(token, "grant", "import", "prod", "--no-refresh", "--expires-in", "720h"), 0)
	if !regexp.MustCompile(`^prod: the refresh token is stored as version \d+\n$`).MatchString(line) || s.endpoint.Calls() != calls {
		t.Errorf("%s; %d calls, want %d", line, s.endpoint.Calls(), calls)
	}
	if got := s.grant()["refresh_token"]; got != token {
		t.Error("another refresh token is stored")
	}
	if ttl := s.rdb.TTL(t.Context(), "onetoken:{prod}:grant").Val(); ttl < 719*time.Hour || ttl > 720*time.Hour {
		t.Errorf("it is good for %v; want 720h", ttl)
	}
	if n := s.rdb.Exists(t.Context(), "onetoken:{prod}:token").Val(); n != 0 && s.read().Token.Version > s.read().Mark.Dropped {
		t.Error("the token of the old one is still there")
	}
	_, answer := s.ends(s.runWith(s.endpoint.NewFamily(), "grant", "import", "prod", "--no-refresh", "--output=json"), 0)
	want := fmt.Sprintf("{\n  \"environment\": \"prod\",\n  \"grant_version\": %s,\n  \"token\": null\n}\n", s.grant()["version"])
	if answer != want {
		t.Errorf("%s; want %s", answer, want)
	}
}

func TestGrantImportOfWhatIsNone(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	const text = "mock-refresh-1-of-somebody"
	for _, c := range []struct {
		input, args string
		code        int
		want        string
	}{
		{"", "", 2, "onetoken: standard input: there is no refresh token"},
		{"\n", "", 2, "onetoken: standard input: there is no refresh token"},
		{text + "\n" + text, "", 2, "onetoken: standard input: there is more than one line, a refresh token has one"},
		{text + "\n\n", "", 2, "onetoken: standard input: there is more than one line, a refresh token has one"},
		{"Bearer " + text, "", 2, "onetoken: standard input: that is no refresh token: it has a space, or a character that isn't ASCII"},
		{text + "é", "", 2, "onetoken: standard input: that is no refresh token: it has a space, or a character that isn't ASCII"},
		{"\xef\xbb\xbf" + text, "", 2, "onetoken: standard input: that is no refresh token: it has a space, or a character that isn't ASCII"},
		{strings.Repeat("x", 64<<10+1), "", 2, "onetoken: standard input: that is longer than a refresh token is (64 KiB)"},
		{text, "--expires-in -1h", 2, "onetoken: --expires-in: -1h0m0s is below 0"},
	} {
		args := append([]string{"grant", "import", "prod"}, strings.Fields(c.args)...)
		if _, line := s.ends(s.runWith(c.input, args...), c.code); line != c.want {
			t.Errorf("%.20q: %s; want %s", c.input, line, c.want)
		}
	}
	// Never as an argument.
	if line := s.run("grant", "import", "prod", "the-token").fails(t, 2); line != "onetoken: import takes one environment, not 2: onetoken grant import ENV [flags]" {
		t.Errorf("%s", line)
	}
	s.untouched()
	// One that the endpoint doesn't take is stored, and said to be no good.
	_, line := s.ends(s.runWith("of-somebody-else", "grant", "import", "prod"), 4)
	if !strings.Contains(line, "the refresh token is stored as version ") || !strings.Contains(line, "but using it failed: a person must log in: ") {
		t.Errorf("%s", line)
	}
}

func TestLogout(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newLoginSite(t, rdb, nil)
		s.loggedIn()
		token := strings.TrimSpace(s.run("get", "prod").succeeds(t))
		refreshToken := s.grant()["refresh_token"]
		_, line := s.ends(s.run("logout", "prod"), 0)
		if want := "prod: logged out: the refresh token is revoked and forgotten\n"; line != want {
			t.Errorf("%q; want %q", line, want)
		}
		if s.endpoint.AcceptsRefreshToken(refreshToken) || s.endpoint.Accepts(token) {
			t.Error("the refresh token, or what came of it, is still good")
		}
		if got := s.grant()["refresh_token"]; got != "" {
			t.Errorf("the refresh token is still stored")
		}
		if line := s.run("get", "prod").fails(t, 4); !strings.Contains(line, "a person must log in: somebody has logged out") {
			t.Errorf("%s", line)
		}
		for _, args := range []string{"", "--no-revoke"} {
			_, line = s.ends(s.run(append([]string{"logout", "prod"}, strings.Fields(args)...)...), 0)
			if want := "prod: nobody is logged in: nothing is stored\n"; line != want {
				t.Errorf("once more: %q; want %q", line, want)
			}
		}
		if got := s.endpoint.RequestsAt(mockendpoint.RevokePath); len(got) == 0 || got[0].AuthMethod != mockendpoint.Basic {
			t.Errorf("revoked by %v; want an authenticated request", got)
		}
		s.ends(s.run("login", "prod"), 0) // and in again
	})
}

func TestLogoutJSON(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	s.loggedIn()
	for _, c := range []struct{ flag, found, revoked string }{{"", "true", "true"}, {"", "false", "false"}} {
		_, answer := s.ends(s.run("logout", "prod", "--output=json"), 0)
		if want := "{\n  \"environment\": \"prod\",\n  \"found\": " + c.found + ",\n  \"revoked\": " + c.revoked + "\n}\n"; answer != want {
			t.Errorf("%s; want %s", answer, want)
		}
	}
}

// What isn't revoked isn't forgotten, unless that is wanted.
func TestLogoutThatFails(t *testing.T) {
	t.Parallel()
	const hint = "; nothing is forgotten, which --no-revoke does without asking"
	for _, c := range []struct {
		name   string
		before func(*loginSite) // the login: a refresh token stays with the endpoint that it is from
		script func(*loginSite)
		code   int
		want   string
	}{
		{"the endpoint fails", nil, func(s *loginSite) {
			s.endpoint.PushAt(mockendpoint.RevokePath, mockendpoint.Reply{Status: 503})
		}, 4, "onetoken: prod: the revocation endpoint failed: http_503: Service Unavailable" + hint},
		{"the endpoint refuses", nil, func(s *loginSite) {
			s.endpoint.PushAt(mockendpoint.RevokePath, mockendpoint.Reply{Error: "unauthorized_client"})
		}, 4, "onetoken: prod: the revocation endpoint refused: unauthorized_client" + hint},
		{"the answer breaks off", nil, func(s *loginSite) {
			s.endpoint.PushAt(mockendpoint.RevokePath, mockendpoint.Reply{Drop: true})
		}, 4, "onetoken: prod: the revocation endpoint failed: bad_reply: the connection broke before the answer was complete" + hint},
		{
			"there is none", func(s *loginSite) { s.configure("token_url: " + s.url + "/token") }, nil,
			2, "onetoken: environments.prod.revocation_url is missing: it isn't set, and there is no issuer whose metadata has it" + hint,
		},
		{"it can't be reached", func(s *loginSite) {
			s.configure("token_url: "+s.url+"/token", "revocation_url: http://"+closedPort(t)+"/revoke")
		}, nil, 4, "connect: connection refused" + hint},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newLoginSite(t, redistest.Mini(t), nil)
			if c.before != nil {
				c.before(s)
			}
			token := s.loggedIn()
			if c.script != nil {
				c.script(s)
			}
			if _, line := s.ends(s.run("logout", "prod"), c.code); !strings.HasPrefix(line, "onetoken: ") || !strings.HasSuffix(line, c.want) {
				t.Errorf("%s; want %s", line, c.want)
			}
			if s.grant()["refresh_token"] != token {
				t.Error("the refresh token is forgotten")
			}
			s.run("get", "prod").succeeds(t)
			_, line := s.ends(s.run("logout", "prod", "--no-revoke"), 0)
			if want := "prod: logged out: the refresh token is forgotten, not revoked\n"; line != want {
				t.Errorf("%q; want %q", line, want)
			}
			if got := s.grant()["refresh_token"]; got != "" || len(s.endpoint.Families()) == 0 || s.endpoint.Families()[0].Revoked {
				t.Errorf("the refresh token is still stored, or is revoked")
			}
		})
	}
}
