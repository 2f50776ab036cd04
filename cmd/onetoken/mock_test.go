package main_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// A mock is a running onetoken mock.
type mock struct {
	t        *testing.T
	tokenURL string
	lines    *bufio.Reader // what else it prints
	end      func() result // sends SIGTERM, and waits
}

func startMock(t *testing.T, env []string, args ...string) *mock {
	t.Helper()
	needSignals(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := command(ctx, t, env, append([]string{"mock", "--listen", "127.0.0.1:0"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("no URL: %v; %s", err, stderr.String())
	}
	return &mock{t: t, tokenURL: strings.TrimSpace(line), lines: lines, end: func() result {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		rest, _ := io.ReadAll(lines)
		_ = cmd.Wait()
		return result{stdout: string(rest), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
	}}
}

// ask asks for a token and returns status, header and body's fields.
func (m *mock) ask(id, secret string) (int, http.Header, map[string]any) {
	m.t.Helper()
	req := m.post(m.tokenURL, url.Values{"grant_type": {"client_credentials"}})
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return m.do(req)
}

func (m *mock) post(target string, form url.Values) *http.Request {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

func (m *mock) do(req *http.Request) (int, http.Header, map[string]any) {
	m.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var fields map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&fields) // nil where it is no JSON
	return resp.StatusCode, resp.Header, fields
}

func TestMockGivesTokensAndAnAPI(t *testing.T) {
	t.Parallel()
	m := startMock(t, []string{"ONETOKEN_MOCK_CLIENT_SECRET=" + clientSecret}, "--client-id", "me", "--life", "10m", "--log-level", "info")
	if !strings.HasPrefix(m.tokenURL, "http://127.0.0.1:") || !strings.HasSuffix(m.tokenURL, "/oauth2/v1/token") {
		t.Errorf("the URL is %q", m.tokenURL)
	}
	status, _, fields := m.ask("me", clientSecret)
	token, _ := fields["access_token"].(string)
	if status != 200 || token == "" || fields["expires_in"] != 600.0 {
		t.Fatalf("got %d %v", status, fields)
	}
	if status, _, _ := m.ask("me", "wrong"); status != 401 {
		t.Errorf("a wrong secret: %d", status)
	}
	for authorization, want := range map[string]int{"": 401, "Bearer x": 401, "Bearer " + token: 200} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(m.tokenURL, "/oauth2/v1/token", "/api/v2/campaigns", 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", authorization)
		if status, _, fields := m.do(req); status != want || want == 200 && fields["path"] != "/api/v2/campaigns" {
			t.Errorf("the API with %q: %d %v", authorization, status, fields)
		}
	}
	r := m.end()
	if r.code != 0 || r.stdout != "" || strings.Count(r.stderr, "msg=call") != 2 {
		t.Errorf("exit code %d, stdout %q, stderr %s", r.code, r.stdout, r.stderr)
	}
	if strings.Contains(r.stderr, clientSecret) || strings.Contains(r.stderr, token) {
		t.Errorf("a secret was logged: %s", r.stderr)
	}
}

func TestMockFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args       string
		statuses   []int // of calls, one after the other
		retryAfter string
		code       any // of the first answer
	}{
		{"", []int{200, 200}, "", nil},
		{"--status 503", []int{503, 503, 503}, "", nil},
		{"--error invalid_client", []int{401, 401}, "", "invalid_client"},
		{"--error invalid_scope --fail-first 1", []int{400, 200}, "", "invalid_scope"},
		{"--fail-first 2 --retry-after 3s", []int{503, 503, 200}, "3", nil},
		{"--fail-first 1 --status 429 --retry-after 1500ms", []int{429, 200}, "2", nil},
		{"--fail-for 1h", []int{503, 503}, "", nil},
	} {
		t.Run(c.args, func(t *testing.T) {
			m := startMock(t, nil, strings.Fields(c.args)...)
			for i, want := range c.statuses {
				status, header, fields := m.ask("anyone", "any")
				if status != want {
					t.Errorf("call %d: status %d, want %d", i+1, status, want)
				}
				if i == 0 && (header.Get("Retry-After") != c.retryAfter || fields["error"] != c.code) {
					t.Errorf("Retry-After %q, error %v", header.Get("Retry-After"), fields["error"])
				}
			}
			if r := m.end(); r.code != 0 || r.stderr != "" {
				t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
			}
		})
	}
}

func TestMockRecovers(t *testing.T) {
	t.Parallel()
	m := startMock(t, nil, "--fail-for", "300ms")
	for begun := time.Now(); ; {
		if status, _, _ := m.ask("x", "y"); status == 200 {
			break
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatal("it didn't recover")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestMockSameTokenAndLatency(t *testing.T) {
	t.Parallel()
	m := startMock(t, nil, "--same-token", "--latency", "100ms")
	begun := time.Now()
	_, _, first := m.ask("x", "y")
	_, _, second := m.ask("x", "y")
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("two calls took %v", took)
	}
	if first["access_token"] == nil || first["access_token"] != second["access_token"] {
		t.Error("two different tokens")
	}
}

// A call that is still waiting doesn't hold the end up.
func TestMockEndsWithACallUnderWay(t *testing.T) {
	t.Parallel()
	m := startMock(t, nil, "--latency", "1h")
	ended := make(chan error, 1)
	sent := make(chan struct{})
	go func() {
		body, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "grant_type=client_credentials")
			close(sent)
			_ = w.Close()
		}()
		resp, err := http.Post(m.tokenURL, "application/x-www-form-urlencoded", body)
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	<-sent
	begun := time.Now()
	if r := m.end(); r.code != 0 || time.Since(begun) > 10*time.Second {
		t.Errorf("exit code %d after %v", r.code, time.Since(begun))
	}
	if err := <-ended; err == nil {
		t.Error("the call was answered")
	}
}

func TestMockJSON(t *testing.T) {
	t.Parallel()
	m := startMock(t, nil, "--output", "json")
	if rest := m.end().stdout; !strings.Contains(rest, `"base_url": "http://127.0.0.1:`) || !strings.Contains(rest, `"token_url": "http://127.0.0.1:`) {
		t.Errorf("got %s", rest)
	}
}

func TestMockUsage(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--life 0s":                                "--life: 0s is not above 0",
		"--latency -1s":                            "--latency, --retry-after, --fail-for, --fail-first: below 0",
		"--status 99":                              "--status: 99 is not between 200 and 599",
		"--retry-after 3s":                         "--retry-after needs one of --status, --error, --fail-first, --fail-for",
		"--fail-first x":                           `invalid argument "x" for "--fail-first" flag: strconv.ParseInt: parsing "x": invalid syntax`,
		"extra":                                    `unknown command "extra" for "onetoken mock"`,
		"--client-secret-file not-there":           "--client-secret-file: open not-there: no such file or directory",
		"--client-secret-file " + empty:            "--client-secret-file: " + empty + " is empty",
		"--grant password":                         `--grant: "password" is none of authorization_code, client_credentials, device_code, jwt_bearer, refresh_token, token_exchange`,
		"--auth-method tls_client_auth":            `--auth-method: "tls_client_auth" is none of client_secret_basic, client_secret_post, none, private_key_jwt`,
		"--auth-method private_key_jwt":            "--auth-method private_key_jwt needs --client-key-file",
		"--client-key-file " + empty:               "--client-key-file: " + empty + " is no PEM file",
		"--rotate":                                 "--rotate, --reuse-interval, --refresh-life and --refresh-token-file need --grant refresh_token",
		"--grant refresh_token --refresh-life -1s": "--reuse-interval, --refresh-life: below 0",
		"--grant refresh_token --refresh-token-file " + empty: "--refresh-token-file: " + empty + " is empty",
	} {
		if got := run(t, nil, append([]string{"mock"}, strings.Fields(args)...)...).fails(t, 2); got != "onetoken: "+want {
			t.Errorf("%s: got %s", args, got)
		}
	}
	if got := run(t, nil, "mock", "--listen", "256.0.0.1:1").fails(t, 1); !strings.HasPrefix(got, "onetoken: --listen: ") {
		t.Errorf("got %s", got)
	}
}

func TestMockSecretFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(clientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := startMock(t, nil, "--client-secret-file", path)
	for secret, want := range map[string]int{clientSecret: 200, "wrong": 401} {
		if status, _, _ := m.ask("anyone", secret); status != want {
			t.Errorf("%s: %d, want %d", secret, status, want)
		}
	}
}

func TestMockRefreshTokens(t *testing.T) {
	t.Parallel()
	const seed = "hunter2-refresh"
	m := startMock(t, []string{"ONETOKEN_MOCK_REFRESH_TOKEN=" + seed}, "--grant", "refresh_token", "--rotate", "--refresh-life", "1h", "--log-level", "info")
	refresh := func(token any) (int, map[string]any) {
		text, _ := token.(string)
		status, _, fields := m.do(m.post(m.tokenURL, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {text}}))
		return status, fields
	}
	status, fields := refresh(seed)
	if status != 200 || fields["refresh_token"] == nil || fields["refresh_token"] == seed || fields["refresh_expires_in"] != 3600.0 {
		t.Errorf("got %d %v, want a new refresh token for an hour", status, fields)
	}
	if status, _, _ := m.ask("me", "any"); status != 400 {
		t.Errorf("client_credentials: got %d, want 400: it isn't among the grants", status)
	}
	for _, token := range []any{seed, fields["refresh_token"]} { // a reuse, and what it has ended
		if status, again := refresh(token); status != 400 || again["error"] != "invalid_grant" {
			t.Errorf("got %d %v, want invalid_grant", status, again)
		}
	}
	r := m.end()
	if strings.Count(r.stderr, "grant=refresh_token") != 3 || strings.Contains(r.stderr, seed) {
		t.Errorf("logged %s", r.stderr)
	}
}

func TestMockLogin(t *testing.T) {
	t.Parallel()
	m := startMock(t, nil, "--grant", "authorization_code", "--grant", "device_code", "--grant", "refresh_token", "--auth-method", "none", "--approve-devices")
	origin := strings.TrimSuffix(m.tokenURL, "/oauth2/v1/token")
	get := func(target string) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		return req
	}
	_, _, metadata := m.do(get(origin + "/.well-known/oauth-authorization-server"))
	if metadata["issuer"] != origin || metadata["token_endpoint"] != m.tokenURL {
		t.Errorf("got metadata %v", metadata)
	}
	authorize, _ := metadata["authorization_endpoint"].(string)
	verifier := oauth2.GenerateVerifier()
	resp, err := http.DefaultTransport.RoundTrip(get(authorize + "?response_type=code&client_id=me&redirect_uri=http://127.0.0.1:1/&code_challenge_method=S256&code_challenge=" +
		oauth2.S256ChallengeFromVerifier(verifier)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	location, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	status, _, fields := m.do(m.post(m.tokenURL, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"me"}, "code": {location.Query().Get("code")}, "code_verifier": {verifier},
		"redirect_uri": {"http://127.0.0.1:1/"},
	}))
	if status != 200 || fields["refresh_token"] == nil {
		t.Errorf("the code: got %d %v", status, fields)
	}
	_, _, device := m.do(m.post(origin+"/device_authorization", url.Values{"client_id": {"me"}}))
	code, _ := device["device_code"].(string)
	status, _, fields = m.do(m.post(m.tokenURL, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {"me"}, "device_code": {code},
	}))
	if status != 200 || fields["refresh_token"] == nil {
		t.Errorf("the device: got %d %v", status, fields)
	}
	refreshToken, _ := fields["refresh_token"].(string)
	if status, _, _ := m.do(m.post(origin+"/revoke", url.Values{"client_id": {"me"}, "token": {refreshToken}})); status != 200 {
		t.Errorf("the revocation: got %d", status)
	}
	if status, _, _ := m.do(m.post(m.tokenURL, url.Values{"grant_type": {"refresh_token"}, "client_id": {"me"}, "refresh_token": {refreshToken}})); status != 400 {
		t.Errorf("after the revocation: got %d, want 400", status)
	}
}

// The environment that it prints works as it is.
func TestMockExample(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := startMock(t, []string{"ONETOKEN_MOCK_CLIENT_SECRET=" + clientSecret}, "--client-id", "it's me", "--example")
	content := m.tokenURL + "\n"
	for !strings.Contains(content, "client_secret:") {
		line, err := m.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("got %s, %v", content, err)
		}
		content += line
	}
	path := filepath.Join(t.TempDir(), "onetoken.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, []string{"ONETOKEN_CONFIG=" + path, "ONETOKEN_MOCK_CLIENT_SECRET=" + clientSecret}, "get", "mock", s.redisURL())
	if r.code != 0 || !strings.HasPrefix(r.stdout, "mock-1-") {
		t.Errorf("exit code %d, %s; with %s", r.code, r.stderr, content)
	}
}

func TestMockExamples(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seed := filepath.Join(dir, "seed")
	if err := os.WriteFile(seed, []byte("hunter2-refresh"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "public.pem")
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][]string{
		"--grant refresh_token --refresh-token-file " + seed:                   {"grant: refresh_token", `refresh_token_file: "` + seed + `"`, "/revoke"},
		"--grant token_exchange --auth-method none":                            {"grant: token_exchange", "auth_method: none", "subject_token_file: FILE"},
		"--grant jwt_bearer --client-key-file " + public:                       {"grant: jwt_bearer", "private_key_file: FILE"},
		"--grant jwt_bearer --client-secret-file " + seed:                      {"assertion: {file: FILE}", `client_secret_file: "` + seed + `"`},
		"--auth-method private_key_jwt --client-key-file " + public:            {"auth_method: private_key_jwt", "private_key_file: FILE"},
		"--grant device_code --grant authorization_code --grant refresh_token": {"grant: refresh_token", "authorization_url: http://", "device_authorization_url: http://"},
	} {
		m := startMock(t, nil, append(strings.Fields(args), "--example")...)
		got := m.end().stdout
		for _, part := range want {
			if !strings.Contains(got, part) {
				t.Errorf("%s: got %s, want %s in it", args, got, part)
			}
		}
		if strings.Contains(got, "hunter2") {
			t.Errorf("%s: a secret was printed", args)
		}
	}
}
