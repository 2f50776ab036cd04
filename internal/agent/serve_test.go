package agent_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestListenSettings(t *testing.T) {
	t.Parallel()
	whole := agent.Listen{AllowRemote: true, TLSCert: "c", TLSKey: "k", HasKey: true}
	with := func(l agent.Listen, addresses ...string) agent.Listen { l.Addresses = addresses; return l }
	without := func(edit func(*agent.Listen), address string) agent.Listen {
		l := with(whole, address)
		edit(&l)
		return l
	}
	for _, c := range []struct {
		listen agent.Listen
		want   string // "" where all is well
	}{
		{with(agent.Listen{}, "127.0.0.1:0"), ""},
		{with(agent.Listen{}, "localhost:8085", "[::1]:8085", "127.1.2.3:1", "unix:/run/x"), ""},
		{with(whole, "0.0.0.0:1", ":2", "[::]:3", "example.com:4", "192.0.2.1:5"), ""},
		{with(agent.Listen{}), "listen: no address"},
		{with(agent.Listen{}, "8085"), `listen: "8085" is neither host:port nor unix:/path`},
		{with(agent.Listen{}, "unix:"), "listen: unix: needs a path"},
		{with(agent.Listen{}, "0.0.0.0:8085"), "allow_remote permits it"},
		{with(agent.Listen{}, ":8085"), "allow_remote permits it"},
		{with(agent.Listen{}, "127.0.0.1:1", "192.0.2.1:8085"), "allow_remote permits it"},
		{with(agent.Listen{}, "localhost.example:8085"), "allow_remote permits it"},
		{without(func(l *agent.Listen) { l.AllowRemote = false }, "192.0.2.1:1"), "allow_remote permits it"},
		{without(func(l *agent.Listen) { l.TLSCert, l.TLSKey = "", "" }, "192.0.2.1:1"), "needs TLS (tls_cert, tls_key)"},
		{without(func(l *agent.Listen) { l.HasKey = false }, "192.0.2.1:1"), "needs a key (key_file)"},
		{without(func(l *agent.Listen) { l.TLSKey = "" }, "127.0.0.1:1"), "tls_cert and tls_key belong together"},
		{without(func(l *agent.Listen) { l.TLSCert = "" }, "127.0.0.1:1"), "tls_cert and tls_key belong together"},
		{without(func(l *agent.Listen) { l.TLSCert, l.TLSKey, l.ClientCA = "", "", "ca" }, "127.0.0.1:1"), "client certificates need TLS"},
	} {
		err := c.listen.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.listen.Addresses, err, c.want)
		}
	}
	if got := strings.Join(with(whole, "0.0.0.0:1", "unix:/a:b", "example.com:4", ":5", "[::]:6").Hosts(), " "); got != "example.com" {
		t.Errorf("hosts: %s", got)
	}
}

// A running agent, until the test's end or stop.
type running struct {
	listeners []*agent.Listener
	stop      func() error
}

func (s *site) run(l agent.Listen) *running {
	s.t.Helper()
	l.Log = slog.New(slog.NewTextHandler(s.logged, nil))
	listeners, err := l.Open(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.agent.Serve(ctx, listeners...) }()
	stopped := false
	r := &running{listeners: listeners, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}}
	s.t.Cleanup(func() { _ = r.stop() })
	return r
}

func TestServeOnLoopbackAndAUnixSocket(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	path := filepath.Join(shortDir(t), "s")
	r := s.run(agent.Listen{Addresses: []string{"localhost:0", "unix:" + path}})
	if !strings.HasPrefix(r.listeners[0].URL(), "http://127.0.0.1:") || r.listeners[1].URL() != "unix:"+path {
		t.Errorf("listens at %s and %s", r.listeners[0].URL(), r.listeners[1].URL())
	}
	tcp := dialer(t, "tcp", r.listeners[0].Addr().String())
	if a := s.send(tcp, r.listeners[0].URL(), "GET", prod+"/token", ""); a.status != 200 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	s.send(tcp, "http://evil.example", "GET", prod+"/token", "").isProblem(403, "foreign_host")
	unix := dialer(t, "unix", path)
	if a := s.send(unix, "http://whatever", "GET", prod+"/token", ""); a.status != 200 {
		t.Errorf("over the unix socket: %d %s", a.status, a.body)
	}
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
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

func TestWhatIsAtASocketsPath(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	path := filepath.Join(shortDir(t), "s")
	open := func() ([]*agent.Listener, error) {
		return agent.Listen{Addresses: []string{"127.0.0.1:0", "unix:" + path}}.Open(t.Context())
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "is there, and is no socket") {
		t.Errorf("a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file: %q, %v", data, err)
	}
	_ = os.Remove(path)

	var c net.ListenConfig
	stale, err := c.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "another process listens at") {
		t.Errorf("one who listens: %v", err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	r := s.run(agent.Listen{Addresses: []string{"unix:" + path}})
	if a := s.send(dialer(t, "unix", path), "http://x", "GET", "/healthz", ""); a.status != 200 {
		t.Errorf("in place of a stale one: %d", a.status)
	}

	// What another process has put there meanwhile stays.
	_ = os.Remove(path)
	other, err := c.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's socket: %v", err)
	}
	if _, err := (agent.Listen{Addresses: []string{"unix:" + filepath.Join(path, "not", "there")}}).Open(t.Context()); err == nil || agent.IsAddressError(err) {
		t.Errorf("no such folder: %v", err)
	}
	if _, err := (agent.Listen{Addresses: []string{"127.0.0.1:0", "[::1]:99999"}}).Open(t.Context()); !agent.IsAddressError(err) {
		t.Errorf("no such port: %v", err)
	}
}

// An authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = serial, pkix.Name{CommonName: serial.String()}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, parentKey := a.cert, a.key
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed, key
}

// server returns a certificate for loopback and its key, as PEM.
func (a *authority) server() (cert, key string) {
	a.t.Helper()
	signed, private := a.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return certPEM(signed), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (a *authority) client() tls.Certificate {
	a.t.Helper()
	signed, private := a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return tls.Certificate{Certificate: [][]byte{signed.Raw}, PrivateKey: private}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// tlsClient trusts an authority, and shows certificates if there are any. It makes a connection for each request.
func tlsClient(t *testing.T, trusted *authority, own ...tls.Certificate) *http.Client {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: trusted.pool(), Certificates: own, MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// try sends a request that may fail.
func try(t *testing.T, client *http.Client, url string) (status int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Body.Close()
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	one, two := newAuthority(t), newAuthority(t)
	cert, key := one.server()
	certPath, keyPath := secretFile(t, cert), secretFile(t, key)
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}, TLSCert: certPath, TLSKey: keyPath})
	url := r.listeners[0].URL() + "/healthz"
	if !strings.HasPrefix(url, "https://127.0.0.1:") {
		t.Errorf("listens at %s", url)
	}
	if status, err := try(t, tlsClient(t, one), url); status != 200 {
		t.Errorf("got %d, %v", status, err)
	}
	origin := header("Origin", strings.TrimSuffix(url, "/healthz"))
	if a := s.send(tlsClient(t, one), r.listeners[0].URL(), "GET", "/healthz", "", origin); a.status != 200 {
		t.Errorf("its own https origin: %d %s", a.status, a.body)
	}
	if status, _ := try(t, http.DefaultClient, strings.Replace(url, "https:", "http:", 1)); status == 200 {
		t.Error("it answers without TLS")
	}
	replaceFile(t, certPath, "nonsense")
	eventually(t, "that is logged", func() bool {
		if status, err := try(t, tlsClient(t, one), url); status != 200 {
			t.Fatalf("with a broken certificate: %d, %v", status, err)
		}
		return strings.Contains(s.logged.String(), "reload_failed")
	})
	cert, key = two.server()
	replaceFile(t, certPath, cert) // not yet with its key
	replaceFile(t, keyPath, key)
	eventually(t, "the new certificate is used", func() bool {
		status, _ := try(t, tlsClient(t, two), url)
		return status == 200
	})
	if strings.Contains(s.logged.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	one, two := newAuthority(t), newAuthority(t)
	cert, key := one.server()
	caPath := secretFile(t, certPEM(one.cert))
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}, TLSCert: secretFile(t, cert), TLSKey: secretFile(t, key), ClientCA: caPath})
	url := r.listeners[0].URL() + "/healthz"
	if status, err := try(t, tlsClient(t, one, one.client()), url); status != 200 {
		t.Errorf("with a certificate: %d, %v", status, err)
	}
	for name, client := range map[string]*http.Client{"none": tlsClient(t, one), "a foreign one": tlsClient(t, one, two.client())} {
		if status, err := try(t, client, url); err == nil {
			t.Errorf("%s: %d", name, status)
		}
	}
	replaceFile(t, caPath, certPEM(two.cert))
	eventually(t, "another CA counts", func() bool {
		status, _ := try(t, tlsClient(t, one, two.client()), url)
		return status == 200
	})
	if status, err := try(t, tlsClient(t, one, one.client()), url); err == nil {
		t.Errorf("with a certificate of the old CA: %d", status)
	}
}

func TestBadTLSFiles(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	cert, key := a.server()
	_, otherKey := a.server()
	for _, c := range []struct{ cert, key, ca, want string }{
		{"nonsense", key, "", "certificate and key are no pair of PEM files"},
		{cert, otherKey, "", "certificate and key are no pair of PEM files"},
		{cert, key, "nonsense", "the file of the clients' CA has no PEM certificates"},
	} {
		l := agent.Listen{Addresses: []string{"127.0.0.1:0"}, TLSCert: secretFile(t, c.cert), TLSKey: secretFile(t, c.key), Log: slog.New(slog.DiscardHandler)}
		if c.ca != "" {
			l.ClientCA = secretFile(t, c.ca)
		}
		if _, err := l.Open(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// raw sends text as it is, and returns what comes back until the server closes.
func raw(t *testing.T, r *running, text string) string {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", r.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, text) // the server may close before it has all
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}})
	const end = "\r\nConnection: close\r\n\r\n"
	form := "POST " + endpointPath + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"no HTTP":            {"nonsense\r\n\r\n", "HTTP/1.1 400 "},
		"no Host":            {"GET /healthz HTTP/1.1" + end, "HTTP/1.1 400 "},
		"HTTP/1.0, no Host":  {"GET /healthz HTTP/1.0" + end, "HTTP/1.0 403 "},
		"two Hosts":          {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b" + end, "HTTP/1.1 400 "},
		"headers too large":  {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + strings.Repeat("a", 64<<10) + end, "HTTP/1.1 431 "},
		"a bad length":       {form + "Content-Length: -1" + end, "HTTP/1.1 400 "},
		"a body too large":   {form + "Content-Length: 70000" + end, "HTTP/1.1 413 "},
		"chunks too large":   {form + "Transfer-Encoding: chunked" + end + "11171\r\n" + strings.Repeat("a", 0x11171) + "\r\n0\r\n\r\n", "HTTP/1.1 413 "},
		"broken chunks":      {form + "Transfer-Encoding: chunked" + end + "zz\r\n", "HTTP/1.1 400 "},
		"a body cut off":     {form + "Content-Length: 5" + end + "a=b&c", "HTTP/1.1 400 "},
		"a proxy request":    {"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost" + end, "HTTP/1.1 403 "},
		"a whole URL":        {"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost" + end, "HTTP/1.1 403 "},
		"the whole server":   {"OPTIONS * HTTP/1.1\r\nHost: localhost" + end, "HTTP/1.1 404 "},
		"a bad escape":       {"GET /v1/environments/%zz/token HTTP/1.1\r\nHost: localhost" + end, "HTTP/1.1 400 "},
		"an escaped slash":   {"GET /v1/environments/a%2fb/token HTTP/1.1\r\nHost: localhost" + end, "HTTP/1.1 404 "},
		"HTTP/2 all at once": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
	} {
		t.Run(name, func(t *testing.T) {
			got := raw(t, r, c.text)
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got %.300q", got)
			}
			if strings.Contains(got, ".go:") || strings.Contains(got, "goroutine") {
				t.Errorf("a stack: %s", got)
			}
		})
	}
}

// later asks in a goroutine. The reply has no status where asking has failed the test.
func (s *site) later(ask func() reply) <-chan reply {
	got := make(chan reply, 1)
	go func() {
		a := reply{t: s.t, body: "{}"}
		defer func() { got <- a }()
		a = ask()
	}()
	return got
}

func TestServeEndsStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: withPage})
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.listeners[0].URL()+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := dialer(t, "tcp", r.listeners[0].Addr().String())
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != "event\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("the stream's end: %q, %v", rest, err)
	}
}

// Who waits for a refresh that is under way when the agent is stopped gets its token.
func TestAStopFinishesWhatWasBegun(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: endless})
	gate := make(chan struct{})
	s.kit.Endpoint.Push(mockendpoint.Reply{Gate: gate})
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}})
	got := s.later(func() reply {
		return s.send(dialer(t, "tcp", r.listeners[0].Addr().String()), r.listeners[0].URL(), "GET", prod+"/token", "")
	})
	if err := s.kit.Endpoint.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "nobody is let in any more", func() bool {
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", r.listeners[0].Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(gate)
	// Under load the five seconds of grace may be over before the gate is passed.
	if a := <-got; a.status != 200 && a.fields()["code"] != "stopping" {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Who waits for longer is told why.
func TestAStopEndsWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: endless})
	s.kit.Endpoint.SetDefault(mockendpoint.Reply{Hang: true})
	r := s.run(agent.Listen{Addresses: []string{"127.0.0.1:0"}})
	got := s.later(func() reply {
		return s.send(dialer(t, "tcp", r.listeners[0].Addr().String()), r.listeners[0].URL(), "GET", prod+"/token", "")
	})
	if err := s.kit.Endpoint.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	a := <-got
	a.isProblem(503, "stopping")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("headers %v", a.header)
	}
}

func TestAnAddressThatFailsEndsServe(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	listeners, err := agent.Listen{Addresses: []string{"127.0.0.1:0", "127.0.0.1:0"}}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = listeners[0].Close()
	if err := s.agent.Serve(t.Context(), listeners...); err == nil {
		t.Error("no error")
	}
	if _, err := try(t, http.DefaultClient, listeners[1].URL()); err == nil {
		t.Error("the other one still answers")
	}
}
