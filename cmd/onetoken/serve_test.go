package main_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A served is a running onetoken serve.
type served struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *text
	listen []string
	dev    map[string]string
	ended  chan struct{}
}

// A text is written by one and read by another.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *text) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *text) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startServe starts an agent, and waits until it listens.
func startServe(t *testing.T, env []string, args ...string) *served {
	t.Helper()
	needSignals(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s := &served{t: t, stderr: &text{}, ended: make(chan struct{})}
	s.cmd = command(ctx, t, env, append([]string{"serve", "--output", "json"}, args...)...)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = write, s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	go func() {
		defer close(s.ended)
		_ = s.cmd.Wait() // its error is in the ProcessState
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
		_ = read.Close()
	})
	s.stdout = bufio.NewReader(read)
	var answer struct {
		Listen []string          `json:"listen"`
		Dev    map[string]string `json:"dev"`
	}
	if err := json.NewDecoder(s.stdout).Decode(&answer); err != nil {
		<-s.ended
		t.Fatalf("no address: %v; %s", err, s.stderr.String())
	}
	s.listen, s.dev = answer.Listen, answer.Dev
	return s
}

func (s *served) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
}

// end sends SIGTERM, and waits for a good end. It returns what was logged.
func (s *served) end() string {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	<-s.ended
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	return s.stderr.String()
}

// ask sends a request and returns status and fields.
func ask(t *testing.T, client *http.Client, method, url string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var fields map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&fields) // nil where it is no JSON object
	return resp.StatusCode, fields
}

func TestServe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	socket := filepath.Join(shortDir(t), "s")
	a := startServe(t, s.env, "--listen", "127.0.0.1:0", "--listen", "unix:"+socket, "--log-level", "debug")
	if len(a.listen) != 2 || !strings.HasPrefix(a.listen[0], "http://127.0.0.1:") || a.listen[1] != "unix:"+socket {
		t.Fatalf("listens at %v", a.listen)
	}
	status, fields := ask(t, http.DefaultClient, "GET", a.listen[0]+"/v1/environments/prod/token")
	token, _ := fields["access_token"].(string)
	if status != 200 || token == "" {
		t.Fatalf("got %d %v", status, fields)
	}
	if printed := s.run("get", "prod").succeeds(t); printed != token+"\n" {
		t.Error("get prints another token")
	}
	unix := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	if status, again := ask(t, unix, "GET", "http://localhost/v1/environments/prod/token"); status != 200 || again["access_token"] != token {
		t.Errorf("over the unix socket: %d", status)
	}
	c := clientcredentials.Config{ClientID: clientID, ClientSecret: clientSecret, TokenURL: a.listen[0] + "/v1/environments/prod/oauth2/token"}
	if tok, err := c.Token(t.Context()); err != nil || tok.AccessToken != token {
		t.Errorf("Go's own client: %v", err)
	}
	if status, _ := ask(t, http.DefaultClient, "GET", a.listen[0]+"/metrics"); status != 200 {
		t.Errorf("/metrics: %d", status)
	}
	eventually(t, "test, which is kept warm, has a token without being asked for", func() bool {
		_, row := ask(t, http.DefaultClient, "GET", a.listen[0]+"/v1/environments/test")
		return row["usable"] == true
	})
	log := a.end()
	for _, secret := range append(s.endpoint.Issued(), clientSecret) {
		if strings.Contains(log, secret) {
			t.Errorf("a secret is in the log: %s", log)
		}
	}
	if !strings.Contains(log, "msg=serving") || !strings.Contains(log, "msg=stopped") || !strings.Contains(log, "path=/v1/environments/prod/token") {
		t.Errorf("logged: %s", log)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// eventually looks until ok, for what must come.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-late:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// shortDir is t.TempDir with a short name: a socket's has at most about 100 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ot") //nolint:usetesting // its names are long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// patient has no request to the endpoint end by itself while a test runs.
func (s *site) patient() {
	s.t.Helper()
	path := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	file, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer("client_secret: ${SITE_SECRET}", "client_secret: ${SITE_SECRET}\n    endpoint_timeout: 5m",
		"keep_warm: true", "keep_warm: true, endpoint_timeout: 5m").Replace(string(file))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// A refresh that was sent is finished, and its token stored, though the agent is told to end meanwhile.
func TestServeIsStoppedInMidRefresh(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.patient()
			gate := make(chan struct{})
			s.endpoint.SetDefault(mockendpoint.Reply{Gate: gate})
			a := startServe(t, s.env, "--listen", "127.0.0.1:0")
			done := make(chan struct{})
			go func() {
				defer close(done)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.listen[0]+"/v1/environments/prod/token", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Errorf("the request under way: %v", err)
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode != 200 && resp.StatusCode != 503 { // 503 where the grace was over first
					t.Errorf("the request under way: %d", resp.StatusCode)
				}
			}()
			// prod's, and that of test, which is kept warm.
			if err := s.endpoint.Await(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			a.signal(sig)
			address := strings.TrimPrefix(a.listen[0], "http://")
			eventually(t, "nobody is let in", func() bool {
				var d net.Dialer
				conn, err := d.DialContext(t.Context(), "tcp", address)
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			})
			close(gate)
			<-done
			<-a.ended
			if code := a.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d: %s", code, a.stderr.String())
			}
			if n, err := s.rdb.Exists(t.Context(), "onetoken:{prod}:token", "onetoken:{test}:token").Result(); n != 2 || err != nil {
				t.Errorf("%d tokens are stored, %v; %s", n, err, a.stderr.String())
			}
			if n, err := s.rdb.Exists(t.Context(), "onetoken:{prod}:lock", "onetoken:{test}:lock").Result(); n != 0 || err != nil {
				t.Errorf("%d locks are left, %v", n, err)
			}
		})
	}
}

func TestASecondSignalEndsServeAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.patient()
	s.endpoint.SetDefault(mockendpoint.Reply{Hang: true}) // so that the manager would wait
	a := startServe(t, s.env, "--listen", "127.0.0.1:0")
	if err := s.endpoint.Await(t.Context(), 1); err != nil { // test's, which is kept warm
		t.Fatal(err)
	}
	a.signal(syscall.SIGTERM)
	eventually(t, "it stops", func() bool { return strings.Contains(a.stderr.String(), "msg=stopping") })
	// The first one has been heard, and perhaps not yet by who lets the next one through.
	eventually(t, "it ends", func() bool {
		_ = a.cmd.Process.Signal(syscall.SIGTERM) // an error: it is gone
		select {
		case <-a.ended:
			return true
		default:
			return false
		}
	})
	if status, ok := a.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && !status.Signaled() {
		t.Errorf("it ended by itself: %v", a.cmd.ProcessState)
	}
}

// An agent that can't say where it listens ends, and leaves no socket.
func TestServeThatCannotSayWhereLeavesNoSocket(t *testing.T) {
	t.Parallel()
	needSignals(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = full.Close() }()
	s := newSite(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	socket := filepath.Join(shortDir(t), "agent.sock")
	cmd := command(ctx, t, s.env, "serve", "--listen", "unix:"+socket)
	cmd.Stdout = full
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket: %v", err)
	}
}

func TestServeByItsSection(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	path := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cert, key := selfSigned(t)
	write("cert.pem", cert)
	write("key.pem", key)
	write("keys", "the-key-of-the-agent\n")
	write("robot", "the-secret-of-robot\n")
	config := write("onetoken.yaml", string(file)+`
agent:
  listen: 127.0.0.1:0
  tls_cert: cert.pem
  tls_key: key.pem
  key_file: keys
  clients: [{id: robot, secret_file: robot, environments: [prod]}]
`)
	a := startServe(t, []string{"ONETOKEN_CONFIG=" + config, "SITE_SECRET=" + clientSecret})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	if status, fields := ask(t, client, "GET", a.listen[0]+"/v1/environments/prod/token"); status != 401 || fields["code"] != "no_key" {
		t.Errorf("without a key: %d %v", status, fields)
	}
	withKey := strings.Replace(a.listen[0], "https://", "https://anyone:the-key-of-the-agent@", 1)
	if status, fields := ask(t, client, "GET", withKey+"/v1/environments/prod/token"); status != 200 {
		t.Errorf("with a key: %d %v", status, fields)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.listen[0]+"/v1/environments/prod/oauth2/token", strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("robot", "the-secret-of-robot")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("robot: %d", resp.StatusCode)
	}
	log := a.end()
	for _, secret := range []string{"the-key-of-the-agent", "the-secret-of-robot", clientSecret} {
		if strings.Contains(log, secret) {
			t.Errorf("a secret is in the log: %s", log)
		}
	}
}

// selfSigned returns a certificate for 127.0.0.1 and its key, as PEM.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestServeDev(t *testing.T) {
	t.Parallel()
	// Variables for other commands don't matter to it.
	temporary := t.TempDir()
	a := startServe(t, []string{"ONETOKEN_CONFIG=/not/there", "ONETOKEN_REDIS_URL=redis://127.0.0.1:1", "TMPDIR=" + temporary}, "--dev", "--listen", "127.0.0.1:0")
	env := a.listen[0] + "/v1/environments/" + a.dev["environment"]
	if status, fields := ask(t, http.DefaultClient, "GET", env+"/token"); status != 200 {
		t.Errorf("got %d %v", status, fields)
	}
	c := clientcredentials.Config{ClientID: a.dev["client_id"], ClientSecret: a.dev["client_secret"], TokenURL: env + "/oauth2/token"}
	if _, err := c.Token(t.Context()); err != nil {
		t.Errorf("the token endpoint: %v", err)
	}
	if r := run(t, nil, "status", "--redis-url", a.dev["redis_url"]); !strings.Contains(r.succeeds(t), a.dev["environment"]) {
		t.Errorf("status: %s", r.stdout)
	}
	a.end()
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// For people, it says what to try: each of the lines works.
func TestServeDevSaysWhatToTry(t *testing.T) {
	t.Parallel()
	needSignals(t)
	curl := programs.Need(t, "curl")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := command(ctx, t, nil, "serve", "--dev", "--listen", "127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewReader(stdout)
	tried := 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(line, "  curl "); ok {
			out, err := exec.CommandContext(ctx, curl, append([]string{"--fail", "--noproxy", "*"}, strings.Fields(rest)...)...).Output()
			if err != nil {
				t.Errorf("%s: %v: %s", line, err, out)
			}
			tried++
		}
		if strings.HasPrefix(line, "  onetoken status") { // the last one
			break
		}
	}
	if tried != 5 {
		t.Errorf("%d lines for curl", tried)
	}
}

func TestServeUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	writable := filepath.Join(dir, "writable")
	if err := os.WriteFile(writable, []byte("a-key-that-all-may-change"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(writable, 0o666); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--listen 8085":                        `agent: listen: "8085" is neither host:port nor unix:/path`,
		"--listen 0.0.0.0:8085":                `agent: listen: "0.0.0.0:8085" isn't loopback: whoever reaches it would get tokens; allow_remote permits it, with TLS and a key`,
		"--listen 0.0.0.0:8085 --allow-remote": `agent: listen: "0.0.0.0:8085" isn't loopback: it needs TLS (tls_cert, tls_key)`,
		"--tls-cert x":                         "agent: tls_cert: tls_cert and tls_key belong together",
		"--client-ca x":                        "agent: client_ca: client certificates need TLS: tls_cert and tls_key",
		"--key-file not-there":                 "agent: key_file: stat not-there: no such file or directory",
		"--key-file " + writable:               "agent: key_file: read " + writable + ": others may write it (mode 0666): chmod go-w",
		"--dev --redis-url redis://x":          "--dev has a configuration of its own: without --config and --redis-url",
		"--dev --config x":                     "--dev has a configuration of its own: without --config and --redis-url",
		"extra":                                `unknown command "extra" for "onetoken serve"`,
	} {
		needSignals(t)
		if got := s.run(append([]string{"serve"}, strings.Fields(args)...)...).fails(t, 2); got != "onetoken: "+want {
			t.Errorf("%s: got %s", args, got)
		}
	}
	var c net.ListenConfig
	taken, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	if got := s.run("serve", "--listen", taken.Addr().String()).fails(t, 1); !strings.Contains(got, "address already in use") {
		t.Errorf("an address that is taken: %s", got)
	}
}

func TestGetMinTTL(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.endpoint.Push(mockendpoint.Reply{ExpiresIn: 600}) // and then an hour
	first := s.run("get", "prod", "--min-ttl", "5m").succeeds(t)
	if again := s.run("get", "prod").succeeds(t); again != first || s.endpoint.Calls() != 1 {
		t.Errorf("%d calls", s.endpoint.Calls())
	}
	if got := s.run("get", "prod", "--min-ttl", "2h").fails(t, 2); !strings.Contains(got, "no token has 2h0m0s left to live: ask for ") {
		t.Errorf("got %s", got)
	}
	if got := s.run("get", "prod", "--min-ttl", "-1s").fails(t, 2); got != "onetoken: --min-ttl: -1s is below 0" {
		t.Errorf("got %s", got)
	}
	if n := s.endpoint.Calls(); n != 1 {
		t.Errorf("%d calls", n)
	}
}
