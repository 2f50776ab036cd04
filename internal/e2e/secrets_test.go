package e2e_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// The outputs of all processes of all tests are searched: see site.search. This test has them say as much as they can,
// while the endpoint repeats what it was told.
func TestNoSecretInAnyOutput(t *testing.T) {
	t.Parallel()
	const password, assertion = "redis-pass/9b1e", "assertion+7c2d"
	server := redistest.Start(t, "requirepass "+password)
	options := redistest.Options(server.Addr())
	options.Password = password
	redisURL := "redis://:" + url.QueryEscape(password) + "@" + server.Addr() + "/0"
	s := newSiteOn(t, server, redistest.NewClient(t, options), redisURL, nil)
	s.secrets = []string{password, assertion, "mistyped-6e0f", "query-secret-3a3a"}
	post := s.using(s.configure(map[string]settings{env: {
		"auth_method": "client_secret_post", "secret_params": "{client_assertion: " + assertion + "}", "token_url": s.url + "/token?key=query-secret-3a3a",
	}}))

	debug := func(l launcher, args ...string) result {
		t.Helper()
		r := l.run(append(args, "--log-level", "debug")...)
		if args[0] == "refresh" && !strings.Contains(r.stderr, "level=") {
			t.Errorf("%v logs nothing at debug level: %q", args, r.stderr)
		}
		return r
	}
	w := s.onetoken("watcher", "demo-worker", "--env", env, "--replica", "watcher", "--interval", "50ms", "--log-level", "debug")
	eventually(t, patience, "the watcher reports", func() bool { return w.stdout.String() != "" })
	for _, l := range []launcher{s.launcher, post} {
		for _, args := range [][]string{
			{"get", env},
			{"get", env, "--output", "json"},
			{"status"},
			{"status", "--output", "json"},
			{"refresh", env},
			{"refresh", env, "--output", "json"},
			{"invalidate", env},
			{"get", env},
		} {
			debug(l, args...).ends(0)
		}
	}

	// It fails, and says why in the words that it was asked with.
	basic := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(clientID) + ":" + url.QueryEscape(clientSecret)))
	words := []string{clientSecret, url.QueryEscape(clientSecret), "Basic " + basic, assertion, url.QueryEscape(assertion), "key=query-secret-3a3a"}
	echo := strings.Join(words, " ")
	for _, reply := range []mockendpoint.Reply{
		{Error: "invalid_client", ErrorDescription: echo},
		{Error: "server_error", ErrorDescription: echo, Status: 500},
		{Error: "invalid_request " + echo},
		{Body: &echo},
		{Body: &echo, Status: 503},
		{Redirect: s.url + "/elsewhere?" + url.QueryEscape(clientSecret)},
		{Error: "invalid_scope", ErrorDescription: echo, Status: 200},
	} {
		s.endpoint.Push(reply)
		debug(post, "refresh", env).ends(4)
	}
	for _, args := range [][]string{{"get", env}, {"status"}, {"status", "--output", "json"}} {
		debug(s.launcher, args...)
	}
	mistyped := s.launcher
	mistyped.secret = "mistyped-6e0f"
	debug(mistyped, "refresh", env).ends(4)

	// Redis refuses, and goes.
	stranger := s.launcher
	stranger.redisURL = "redis://:mistyped-6e0f@" + server.Addr() + "/0"
	debug(stranger, "get", env).ends(3)
	debug(stranger, "status").ends(3)
	for _, broken := range []string{"redis://:" + password + "@[", "redis://:" + password + "@" + server.Addr() + "/zero", "http://x:" + password + "@y"} {
		l := s.launcher
		l.redisURL = broken
		l.run("get", env).fails(2)
	}
	server.Stop()
	debug(s.launcher, "get", env).ends(3)

	// The endpoint as a command knows the secret, too.
	mock := s.with("ONETOKEN_MOCK_CLIENT_SECRET="+clientSecret).onetoken("mock", "mock", "--listen", "127.0.0.1:0", "--log-level", "debug")
	eventually(t, patience, "the mock endpoint listens", func() bool { return strings.HasSuffix(mock.stdout.String(), "\n") })
	server.Start(t)
	other := s.using(s.configure(map[string]settings{env: {"token_url": strings.TrimSpace(mock.stdout.String())}}))
	s.tokens = append(s.tokens, other.get().AccessToken)
	debug(other, "refresh", env).ends(0)
	for _, p := range []*process{mock, w} {
		p.signal(syscall.SIGTERM)
		p.wait().ends(0)
	}
	if !strings.Contains(mock.stderr.String(), "msg=call") || !strings.Contains(w.stderr.String(), "level=DEBUG") {
		t.Error("mock and worker log nothing at debug level")
	}
}

func TestTheSearchFindsSecrets(t *testing.T) {
	t.Parallel()
	basic := url.QueryEscape(clientID) + ":" + url.QueryEscape(clientSecret)
	for _, text := range []string{
		clientSecret, url.QueryEscape(clientSecret), url.PathEscape(clientSecret), `"` + clientSecret + `"`,
		"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(basic)),
		"hunter2%2f%2b%20%25secret-5f1d",
	} {
		if found := find("x"+text+"y", []string{"another", clientSecret}); len(found) == 0 {
			t.Errorf("not found in %q", text)
		}
	}
	if found := find("hunter2, and no secret-5f1d", []string{clientSecret}); len(found) > 0 {
		t.Errorf("%q found where there is nothing", found)
	}
}
