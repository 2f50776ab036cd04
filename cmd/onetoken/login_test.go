package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// browserEnv is the variable that makes this program the browser of a person who says yes to everything. Its value is the
// file for the page that is shown in the end.
const browserEnv = "ONETOKEN_TEST_BROWSER"

// browse goes where it is sent.
func browse() int {
	resp, err := http.Get(os.Args[len(os.Args)-1])
	if err != nil {
		return 1
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || os.WriteFile(os.Getenv(browserEnv), page, 0o600) != nil {
		return 1
	}
	return 0
}

// A loginSite is a site whose environment prod uses refresh tokens, which rotate.
type loginSite struct {
	*site
	page string // what the browser was shown last
}

func newLoginSite(t testing.TB, rdb *redis.Client, mend func(*mockendpoint.Options)) *loginSite {
	t.Helper()
	o := mockendpoint.Options{
		ClientID: clientID, ClientSecret: clientSecret, Rotate: true,
		Grants:         []string{mockendpoint.AuthorizationCode, mockendpoint.DeviceCode, mockendpoint.RefreshToken, mockendpoint.ClientCredentials},
		DeviceInterval: time.Second, // the least that the wire has
	}
	if mend != nil {
		mend(&o)
	}
	s := &loginSite{site: &site{t: t, rdb: rdb, endpoint: mockendpoint.New(o)}, page: filepath.Join(t.TempDir(), "page")}
	server := httptest.NewServer(s.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(s.endpoint.Close)
	s.url = server.URL
	s.configure("issuer: " + server.URL)
	return s
}

// configure writes the file; where is the token endpoint, further are settings of prod.
func (s *loginSite) configure(where string, further ...string) {
	s.t.Helper()
	content := fmt.Sprintf(`redis: {url: "redis://%[1]s"}
environments:
  prod: {%[2]s, grant: refresh_token, client_id: %[3]s, client_secret: "${SITE_SECRET}", scopes: [campaigns.read]%[4]s}
  plain: {%[2]s, client_id: %[3]s, client_secret: "${SITE_SECRET}"}
`, s.rdb.Options().Addr, where, clientID, strings.Join(append([]string{""}, further...), ", "))
	path := filepath.Join(s.t.TempDir(), "onetoken.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.env = []string{"ONETOKEN_CONFIG=" + path, "SITE_SECRET=" + clientSecret, "BROWSER=" + self, browserEnv + "=" + s.page}
}

// withBrowser has the commands find another browser.
func (s *loginSite) withBrowser(command string) { s.env = append(s.env, "BROWSER="+command) }

// grant is the stored hash.
func (s *loginSite) grant() map[string]string {
	return s.rdb.HGetAll(s.t.Context(), "onetoken:{prod}:grant").Val()
}

// loggedIn has the site begin with a refresh token that isn't used yet, and returns it.
func (s *loginSite) loggedIn() string {
	s.t.Helper()
	token := s.endpoint.NewFamily()
	s.runWith(token, "grant", "import", "prod", "--no-refresh").succeeds(s.t)
	return token
}

// runWith runs onetoken with that on its standard input.
func (s *loginSite) runWith(input string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 60*time.Second)
	defer cancel()
	cmd := command(ctx, s.t, s.env, args...)
	cmd.Stdin = strings.NewReader(input)
	r := finish(s.t, cmd, nil)
	r.again = func() result { return s.runWith(input, args...) }
	return r
}

// secretive fails the test if the endpoint's or the client's secrets are in what r has left.
func (s *loginSite) secretive(r result) {
	s.t.Helper()
	hidden := append([]string{clientSecret, "mock-refresh-", "mock-code-", "mock-device-", "code_verifier"}, s.endpoint.Issued()...)
	for _, h := range hidden {
		if strings.Contains(r.stdout+r.stderr, h) {
			s.t.Errorf("%s is in the output: %s%s", h, r.stdout, r.stderr)
		}
	}
}

// ends checks the exit code, and returns what was told: what to do, where somebody was asked to log in, and the last line.
func (s *loginSite) ends(r result, code int) (asked, last string) {
	s.t.Helper()
	r = r.unless(s.t, code)
	s.secretive(r)
	lines := strings.SplitAfter(strings.TrimSuffix(r.stderr, "\n"), "\n")
	if r.code != code || code != 0 && r.stdout != "" {
		s.t.Fatalf("exit code %d, want %d; stdout %q, stderr %s", r.code, code, r.stdout, r.stderr)
	}
	switch {
	case code == 0:
		return r.stderr, r.stdout
	case len(lines) > 2:
		s.t.Errorf("more than two lines: %s", r.stderr)
	case len(lines) == 2:
		asked = lines[0]
	}
	return asked, lines[len(lines)-1]
}

// untouched fails the test if something is stored.
func (s *loginSite) untouched() {
	s.t.Helper()
	if keys := s.rdb.Keys(s.t.Context(), "*").Val(); len(keys) != 0 {
		s.t.Errorf("there is %v in Redis", keys)
	}
}

var refreshed = regexp.MustCompile(`^prod: version \d+, expires in 59m5\ds at \S+, refreshed by \S+\n$`)

func last[T any](list []T) T { return list[len(list)-1] }

func TestLogin(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newLoginSite(t, rdb, nil)
		if line := s.run("get", "prod").fails(t, 4); !strings.Contains(line, "a person must log in: there is no refresh token") {
			t.Errorf("before the login: %s", line)
		}
		asked, answer := s.ends(s.run("login", "prod"), 0)
		if !refreshed.MatchString(answer) || !strings.HasPrefix(asked, "onetoken: to log in to prod, go on in the browser that opens; if none does, open "+s.url+"/authorize?") {
			t.Errorf("asked %q, answered %q", asked, answer)
		}
		first := len(s.endpoint.Families()) // more than one where it was run again
		if f := s.endpoint.Families()[first-1]; f.Uses == 0 || f.Rotations != f.Uses || f.Reuses != 0 {
			t.Errorf("family %+v; want one whose refresh token was used", f)
		}
		if page, err := os.ReadFile(s.page); err != nil || !strings.Contains(string(page), "You can close this window.") {
			t.Errorf("the browser shows %s, %v", page, err)
		}
		if tok := s.run("get", "prod").succeeds(t); tok != last(s.endpoint.Issued())+"\n" { // one before came with the code
			t.Error("another token than that of the refresh")
		}
		if g := s.grant(); !s.endpoint.AcceptsRefreshToken(g["refresh_token"]) {
			t.Errorf("the stored refresh token isn't good: %v", g)
		}
		for _, r := range s.endpoint.Requests() {
			if r.Outcome != "200" || r.AuthMethod != mockendpoint.Basic {
				t.Errorf("%v", r)
			}
		}
		// Another person, in place of the first.
		s.ends(s.run("login", "prod", "--output", "json"), 0)
		if f := s.endpoint.Families(); len(f) <= first || last(f).Uses == 0 {
			t.Errorf("families %+v; want one more, and used", f)
		}
		if _, line := s.ends(s.run("refresh", "prod"), 0); !refreshed.MatchString(line) || last(s.endpoint.Families()).Uses < 2 {
			t.Errorf("%s; families %+v; want one more use of the second's", line, s.endpoint.Families())
		}
	})
}

func TestLoginJSON(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	_, answer := s.ends(s.run("login", "prod", "--output=json"), 0)
	var got struct {
		Environment  string `json:"environment"`
		GrantVersion int64  `json:"grant_version"`
		Token        struct {
			Version   int64 `json:"version"`
			ExpiresIn int   `json:"expires_in"`
		} `json:"token"`
	}
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatal(err)
	}
	if got.Environment != "prod" || got.GrantVersion == 0 || got.Token.Version <= got.GrantVersion || got.Token.ExpiresIn < 3500 {
		t.Errorf("%s", answer)
	}
}

// What a person doesn't, or what comes of it isn't good: nothing is stored, and one line says why.
func TestLoginFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for _, c := range []struct {
		name    string
		mend    func(*mockendpoint.Options)
		script  func(*loginSite)
		args    string
		code    int
		want    string // the last line's end
		unasked bool   // nobody was told to log in
	}{
		{"denied", nil, func(s *loginSite) {
			s.endpoint.PushAt(mockendpoint.AuthorizePath, mockendpoint.Reply{Error: "access_denied", ErrorDescription: "the person said no"})
		}, "", 4, "prod: the authorization endpoint refused: access_denied: the person said no", false},
		{"the code is refused", nil, func(s *loginSite) {
			s.endpoint.Push(mockendpoint.Reply{Error: "invalid_grant", ErrorDescription: "it was used before"})
		}, "", 4, "prod: the token endpoint refused: invalid_grant: it was used before", false},
		{"the endpoint is away when the code is there", nil, func(s *loginSite) {
			s.endpoint.Push(mockendpoint.Reply{Status: 503})
		}, "", 4, "prod: the token endpoint failed: http_503: Service Unavailable", false},
		{"no refresh token", nil, func(s *loginSite) {
			s.endpoint.Push(mockendpoint.Reply{OmitRefreshToken: true})
		}, "", 4, "the scope offline_access or, at Google, by --param access_type=offline --param prompt=consent", false},
		{"another issuer", func(o *mockendpoint.Options) {
			o.OnAuthorize = func(answer url.Values) { answer.Set("iss", "https://evil.example") }
		}, nil, "", 4, `want "URL": somebody may have mixed two up (RFC 9207)`, false},
		{"no issuer", func(o *mockendpoint.Options) {
			o.OnAuthorize = func(answer url.Values) { answer.Del("iss") }
		}, nil, "", 4, `its answer is of the issuer "", want "URL": somebody may have mixed two up (RFC 9207)`, false},
		{"nobody comes back", nil, func(s *loginSite) {
			s.configure("token_url: "+s.url+"/token", "authorization_url: "+s.url+"/authorize")
			s.withBrowser("true")
		}, "--timeout 1s", 5, "prod: timed out after 1s while waiting for the browser to come back", false},
		{"the port is taken", nil, nil, "--listen " + taken.Addr().String(), 1, "bind: address already in use", true},
		{
			"no authorization endpoint", nil, func(s *loginSite) { s.configure("token_url: " + s.url + "/token") },
			"", 2, "onetoken: environments.prod.authorization_url is missing: it isn't set, and there is no issuer whose metadata has it", true,
		},
		{
			"no device authorization endpoint", nil, func(s *loginSite) { s.configure("token_url: " + s.url + "/token") },
			"--device", 2, "onetoken: environments.prod.device_authorization_url is missing: it isn't set, and there is no issuer whose metadata has it", true,
		},
		{
			"the issuer is away", nil, func(s *loginSite) { s.configure("issuer: http://" + closedPort(t)) },
			"", 4, "connect: connection refused", true,
		},
		{"a parameter of ours", nil, nil, "--param state=x", 2, `onetoken: --param: "state" isn't for you to set`, true},
		{"a parameter without a value", nil, nil, "--param prompt", 2, `onetoken: --param: "prompt" has no "="`, true},
		{
			"a redirect to nowhere", nil, nil, "--redirect-url https://login.example/x", 2,
			"onetoken: --redirect-url: doesn't say where to listen, as http://127.0.0.1:8400/callback does: --listen must", true,
		},
		{"a device with a browser", nil, nil, "--device --listen 127.0.0.1:0", 2, "onetoken: --device: no browser comes back to --listen or --redirect-url", true},
		{"no time", nil, nil, "--timeout 0s", 2, "onetoken: --timeout: 0s is not above 0", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newLoginSite(t, redistest.Mini(t), c.mend)
			if c.script != nil {
				c.script(s)
			}
			asked, last := s.ends(s.run(append([]string{"login", "prod"}, strings.Fields(c.args)...)...), c.code)
			if want := strings.ReplaceAll(c.want, "URL", s.url); !strings.HasSuffix(last, want) || !strings.HasPrefix(last, "onetoken: ") {
				t.Errorf("%s; want …%s", last, want)
			}
			if (asked == "") != c.unasked {
				t.Errorf("asked %q; want nobody asked: %v", asked, c.unasked)
			}
			s.untouched()
		})
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestLoginIsForRefreshTokens(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	for _, args := range []string{"login", "login --device", "logout", "grant import"} {
		_, line := s.ends(s.run(append(strings.Fields(args), "plain")...), 2)
		if want := "onetoken: environments.plain.grant is client_credentials: nobody logs in to it, as with grant: refresh_token"; line != want {
			t.Errorf("%s: %s; want %s", args, line, want)
		}
		_, line = s.ends(s.run(append(strings.Fields(args), "elsewhere")...), 2)
		if want := `onetoken: unknown environment "elsewhere"; configured: plain, prod`; line != want {
			t.Errorf("%s: %s; want %s", args, line, want)
		}
	}
	s.untouched()
}

// Nobody is asked to log in for nothing.
func TestLoginWithoutRedis(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	for _, args := range []string{"login prod", "login prod --device", "logout prod"} {
		line := s.run(append(strings.Fields(args), "--redis-url=redis://"+closedPort(t))...).fails(t, 3)
		if !strings.Contains(line, "Redis can't be used") {
			t.Errorf("%s: %s", args, line)
		}
	}
}

// What is stored stays where it turns out not to work.
func TestLoginWhoseRefreshFails(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	s.endpoint.Push(mockendpoint.Reply{}, mockendpoint.Reply{Status: 503})
	_, line := s.ends(s.run("login", "prod"), 4)
	want := regexp.MustCompile(`^onetoken: prod: the refresh token is stored as version \d+, but using it failed: the token endpoint failed: http_503`)
	if !want.MatchString(line) {
		t.Errorf("%s", line)
	}
	if g := s.grant(); !s.endpoint.AcceptsRefreshToken(g["refresh_token"]) {
		t.Errorf("the refresh token isn't stored: %v", g)
	}
}

// A waiting login goes on until the person has finished.
type waiting struct {
	line    string // what the person is told
	process *os.Process
	end     func() result
}

func (s *loginSite) start(args ...string) waiting {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	s.t.Cleanup(cancel)
	cmd := command(ctx, s.t, s.env, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	var stdout strings.Builder
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	line, err := lines.ReadString('\n')
	if err != nil {
		s.t.Fatalf("it doesn't wait: %s, %v", line, err)
	}
	return waiting{strings.TrimSuffix(line, "\n"), cmd.Process, func() result {
		rest, _ := io.ReadAll(lines)
		_ = cmd.Wait()
		return result{stdout: stdout.String(), stderr: string(rest), code: cmd.ProcessState.ExitCode()}
	}}
}

func TestLoginWithoutABrowserHere(t *testing.T) {
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	w := s.start("login", "prod", "--no-browser", "--redirect-url", "http://localhost:0/back", "--param", "prompt=consent", "--param", "resource=a", "--param", "resource=b")
	address, ok := strings.CutPrefix(w.line, "onetoken: to log in to prod, open this address in a browser on this machine: ")
	u, err := url.Parse(address)
	if !ok || err != nil {
		t.Fatalf("%s: %v", w.line, err)
	}
	q := u.Query()
	if q.Get("prompt") != "consent" || len(q["resource"]) != 2 || q.Get("scope") != "campaigns.read" || q.Get("code_challenge_method") != "S256" ||
		!regexp.MustCompile(`^http://localhost:\d{4,5}/back$`).MatchString(q.Get("redirect_uri")) {
		t.Errorf("%v", q)
	}
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if r := w.end(); r.code != 0 || r.stderr != "" || !refreshed.MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
}

func TestLoginIsInterrupted(t *testing.T) {
	needSignals(t)
	t.Parallel()
	for _, args := range []string{"--no-browser", "--device"} {
		s := newLoginSite(t, redistest.Mini(t), nil)
		w := s.start("login", "prod", args)
		if err := w.process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_, line := s.ends(w.end(), 1)
		if !strings.HasPrefix(line, "onetoken: prod: interrupt signal received while waiting for ") {
			t.Errorf("%s: %s", args, line)
		}
		s.untouched()
	}
}

// What comes with another login's state isn't this one's answer.
func TestLoginWithAnotherState(t *testing.T) {
	needSignals(t)
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), func(o *mockendpoint.Options) {
		o.OnAuthorize = func(answer url.Values) { answer.Set("state", "guessed") }
	})
	w := s.start("login", "prod")
	for begun := time.Now(); ; <-time.After(10 * time.Millisecond) {
		if page, err := os.ReadFile(s.page); err == nil && len(page) > 0 {
			if !strings.Contains(string(page), "This is the answer to another login") {
				t.Errorf("the browser shows %s", page)
			}
			break
		}
		if time.Since(begun) > soon {
			t.Fatal("the browser shows nothing")
		}
	}
	if err := w.process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_, line := s.ends(w.end(), 1)
	want := "onetoken: prod: interrupt signal received while waiting for the browser to come back (1 of its answers had another login's state)"
	if line != want {
		t.Errorf("%s; want %s", line, want)
	}
	s.untouched()
}

var userCode = regexp.MustCompile(`^onetoken: to log in to prod, open (\S+) and enter the code (\S+) within \S+, or open (\S+)$`)

func TestLoginOnAnotherDevice(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newLoginSite(t, rdb, nil)
		w := s.start("login", "prod", "--device")
		told := userCode.FindStringSubmatch(w.line)
		if told == nil || told[1] != s.url+"/device" || told[3] != s.url+"/device?user_code="+told[2] {
			t.Fatalf("%s", w.line)
		}
		if !s.endpoint.ApproveDevice(told[2]) {
			t.Fatalf("the code %q is unknown", told[2])
		}
		r := w.end()
		s.secretive(r)
		if r.code != 0 || r.stderr != "" || !refreshed.MatchString(r.stdout) {
			t.Errorf("%+v", r)
		}
		s.run("get", "prod").succeeds(t)
	})
}

func TestLoginOnAnotherDeviceFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		life time.Duration
		deny bool
		code int
		want string
	}{
		{"denied", 0, true, 4, "onetoken: prod: the token endpoint refused: access_denied"},
		{"nobody enters it", 2 * time.Second, false, 5, "onetoken: prod: the code has expired while waiting for somebody to enter the code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newLoginSite(t, redistest.Mini(t), func(o *mockendpoint.Options) { o.DeviceLife = c.life })
			w := s.start("login", "prod", "--device")
			if told := userCode.FindStringSubmatch(w.line); c.deny && (told == nil || !s.endpoint.DenyDevice(told[2])) {
				t.Fatalf("%s", w.line)
			}
			if _, line := s.ends(w.end(), c.code); line != c.want {
				t.Errorf("%s; want %s", line, c.want)
			}
			s.untouched()
		})
	}
}

// The browser isn't given what the login is made with.
func TestTheBrowserDoesntGetTheSecrets(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a script for sh")
	}
	t.Parallel()
	s := newLoginSite(t, redistest.Mini(t), nil)
	script := filepath.Join(t.TempDir(), "browser")
	seen := script + ".seen"
	if err := os.WriteFile(script, []byte("#!/bin/sh\n(env; echo \"$@\") > "+seen+".new; mv "+seen+".new "+seen+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.withBrowser(script)
	w := s.start("login", "prod")
	for begun := time.Now(); ; <-time.After(10 * time.Millisecond) {
		if content, err := os.ReadFile(seen); err == nil {
			if !strings.Contains(string(content), "/authorize?") || strings.Contains(string(content), clientSecret) {
				t.Errorf("the browser gets %s", content)
			}
			break
		}
		if time.Since(begun) > soon {
			t.Fatal("no browser was opened")
		}
	}
	_ = w.process.Signal(syscall.SIGTERM)
	s.ends(w.end(), 1)
}
