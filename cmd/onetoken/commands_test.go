package main_test

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestRefresh(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	old := s.read().Token.Version
	out := s.run("refresh", "prod").succeeds(t)
	tok := s.read().Token
	want := fmt.Sprintf(`^prod: version %d, expires in 59m5\ds at %s, refreshed by %s\n$`,
		tok.Version, regexp.QuoteMeta(tok.ExpiresAt.Format(time.RFC3339)), regexp.QuoteMeta(tok.RefreshedBy))
	if !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got %q, want %s", out, want)
	}
	if tok.Version <= old || s.endpoint.Calls() != 2 {
		t.Errorf("version %d after %d, %d calls", tok.Version, old, s.endpoint.Calls())
	}
	out = s.run("refresh", "prod", "--output", "json").succeeds(t)
	tok = s.read().Token
	want = fmt.Sprintf(`^{
  "environment": "prod",
  "expires_in": 359\d,
  "expires_at": %q,
  "version": %d,
  "refreshed_by": %q
}
$`, tok.ExpiresAt.Format(time.RFC3339Nano), tok.Version, tok.RefreshedBy)
	if !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got %s, want %s", out, want)
	}
}

func TestInvalidate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.run("get", "prod").succeeds(t)
	version := s.read().Token.Version
	want := fmt.Sprintf("prod: version %d and all before it are dropped\n", version)
	if got := s.run("invalidate", "prod", "--version", version.String()).succeeds(t); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if second := s.run("get", "prod").succeeds(t); second == first {
		t.Error("the dropped token is still there")
	}
	// Without a file, and all there is.
	out := run(t, nil, "invalidate", "prod", s.redisURL(), "--output=json").succeeds(t)
	want = fmt.Sprintf("{\n  \"environment\": \"prod\",\n  \"version\": %d\n}\n", s.read().Mark.Dropped)
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if s.read().Token != nil && s.read().Token.Version > s.read().Mark.Dropped {
		t.Error("the second token isn't dropped")
	}
	if got := run(t, nil, "invalidate", "a:b", s.redisURL()).fails(t, 2); !strings.Contains(got, `"a:b"`) {
		t.Errorf("got %s", got)
	}
}

// Flags of all commands stand before or after the command.
func TestFlagsStandAnywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	for _, args := range [][]string{
		{"--config", path, "--namespace", "n", "--output", "json", "--log-level", "error", s.redisURL(), "get", "prod"},
		{"get", "prod", "--config", path, "--namespace", "n", "--output", "json", "--log-level", "error", s.redisURL()},
		{"--config=" + path, "get", "--namespace=n", "prod", "--output=json"},
	} {
		if out := run(t, s.env[1:], args...).succeeds(t); !strings.HasPrefix(out, "{\n") {
			t.Errorf("%v: got %q", args, out)
		}
	}
	if s.endpoint.Calls() != 1 {
		t.Errorf("%d calls, want 1", s.endpoint.Calls())
	}
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	want := regexp.MustCompile(`^onetoken \S+ ` + regexp.QuoteMeta(runtime.Version()) + ` ` + runtime.GOOS + `/` + runtime.GOARCH + "\n$")
	if got := run(t, nil, "version").succeeds(t); !want.MatchString(got) {
		t.Errorf("got %q, want %v", got, want)
	}
	if got := run(t, nil, "version", "--output", "json").succeeds(t); !strings.Contains(got, `"go": "`+runtime.Version()+`"`) {
		t.Errorf("got %s", got)
	}
	help := run(t, nil).succeeds(t)
	for _, name := range []string{"get", "status", "refresh", "invalidate", "mock", "demo", "exec", "doctor", "config", "login", "logout", "grant", "bench", "version", "completion"} {
		if !strings.Contains(help, "\n  "+name+" ") {
			t.Errorf("%s isn't in the help", name)
		}
	}
	if strings.Contains(help, "demo-worker") {
		t.Error("the hidden command is in the help")
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := run(t, nil, "completion", shell).succeeds(t); !strings.Contains(got, "onetoken") {
			t.Errorf("no completion for %s", shell)
		}
	}
}

// Whatever happens, neither a client secret nor an access token shows, but what get is there to print; at debug level, too.
func TestNoSecretInAnyOutput(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var seen strings.Builder
	do := func(args ...string) {
		r := s.run(append([]string{"--log-level", "debug"}, args...)...)
		seen.WriteString(r.stderr)
		if args[0] != "get" {
			seen.WriteString(r.stdout)
		}
	}
	do("get", "prod")
	do("get", "prod", "--output", "json")
	do("status")
	do("status", "--output", "json")
	do("refresh", "prod")
	do("refresh", "prod", "--output", "json")
	do("invalidate", "prod")
	s.endpoint.Push(
		mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "the secret " + clientSecret + " is wrong"},
		mockendpoint.Reply{Status: 500, Body: new("your secret is " + clientSecret)},
		mockendpoint.Reply{Redirect: "https://elsewhere.example/?s=" + clientSecret},
		mockendpoint.Reply{Body: new(`{"access_token": "bad\n` + clientSecret + `"}`)},
	)
	for range 4 {
		do("refresh", "prod")
		do("status")
	}
	do("get", "prod", "--timeout", "100ms")
	do("get", "prod", "--redis-url", "redis://:"+clientSecret+"@127.0.0.1:1")
	do("get", "prod", "--redis-url", "redis://:"+clientSecret+"@127.0.0.1:x")
	if !strings.Contains(seen.String(), "level=INFO") || !strings.Contains(seen.String(), "level=WARN") {
		t.Errorf("nothing was logged:\n%s", seen.String())
	}
	for _, hidden := range append(s.endpoint.Issued(), clientSecret) {
		if strings.Contains(seen.String(), hidden) {
			t.Errorf("%s is in the output:\n%s", hidden, seen.String())
		}
	}
}
