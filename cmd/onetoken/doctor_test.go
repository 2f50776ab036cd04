package main_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// examined checks the exit code of a doctor, and that stderr is one line where it failed and nothing where it didn't.
func (r result) examined(t *testing.T, code int) string {
	t.Helper()
	r = r.unless(t, code)
	lines := 0
	if code != 0 {
		lines = 1
	}
	if r.code != code || strings.Count(r.stderr, "\n") != lines {
		t.Errorf("exit code %d, want %d; stderr %q; stdout:\n%s", r.code, code, r.stderr, r.stdout)
	}
	if strings.Contains(r.stdout+r.stderr, clientSecret) {
		t.Errorf("the secret shows:\n%s%s", r.stdout, r.stderr)
	}
	return r.stdout
}

// prescribe writes the file with time-outs that a busy machine doesn't reach.
func (s *site) prescribe(secret string) {
	s.t.Helper()
	s.configure(secret)
	path := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	content := fmt.Sprintf(`redis: {url: "redis://%[1]s?dial_timeout=20s&read_timeout=20s&write_timeout=20s"}
environments:
  prod: {token_url: "%[2]s/token", client_id: %[3]s, client_secret: "${SITE_SECRET}", connect_timeout: 30s, endpoint_timeout: 60s}
`, s.rdb.Options().Addr, s.url, clientID)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestDoctorExitCodes(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := newSiteOn(t, server.Client(t))
	s.prescribe(clientSecret)
	out := s.run("doctor").examined(t, 0)
	for _, want := range []string{"\nredis\n", "\nendpoint\n", "✓ version", "✓ rights"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q isn't in\n%s", want, out)
		}
	}
	s.run("doctor", "--strict", "--round-trip", "1h").examined(t, 0)
	s.run("doctor", "nope").fails(t, 2)
	s.run("doctor", "--timeout", "0s").fails(t, 2)
	s.run("doctor", "--round-trip", "0s").fails(t, 2)
	s.run("doctor", "--config", "/no/such/file").examined(t, 2)
	run(t, nil, "doctor", s.redisURL()+"?dial_timeout=20s&read_timeout=20s&write_timeout=20s").examined(t, 0)

	// A warning, which counts where it is to.
	if err := s.rdb.Set(t.Context(), "onetoken:stray", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	out = s.run("doctor").examined(t, 0)
	if !strings.Contains(out, "! keys ") || !strings.Contains(out, "\n      → ") {
		t.Errorf("no warning in\n%s", out)
	}
	r := s.run("doctor", "--strict", "--round-trip", "1h")
	r.examined(t, 3)
	if want := "onetoken: doctor: 0 failures, 1 warning; the worst is redis.keys of onetoken:stray: "; !strings.HasPrefix(r.stderr, want) {
		t.Errorf("stderr is %q, want %s…", r.stderr, want)
	}
	// Redis and the endpoint: the former is the worse. And with Redis alone a warning elsewhere isn't.
	s.url = "http://127.0.0.1:1"
	s.prescribe(clientSecret)
	s.run("doctor", "--strict", "--round-trip", "1h").examined(t, 4)
	s.run("doctor", "--redis-url", "redis://127.0.0.1:1").examined(t, 3)
	s.prescribe("")
	s.run("doctor").examined(t, 2)
	if n := s.endpoint.Calls(); n != 0 {
		t.Errorf("%d calls of the endpoint", n)
	}
}

func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	s := newSiteOn(t, redistest.Start(t).Client(t))
	s.prescribe(clientSecret)
	var found []map[string]string
	if err := json.Unmarshal([]byte(s.run("doctor", "prod", "--output", "json").examined(t, 0)), &found); err != nil {
		t.Fatal(err)
	}
	levels := map[string]string{}
	for _, f := range found {
		for _, key := range []string{"check", "level", "subject", "message", "mend"} {
			if _, ok := f[key]; !ok || len(f) != 5 {
				t.Errorf("the keys of %v", f)
			}
		}
		levels[f["check"]] = f["level"]
	}
	if levels["redis.rights"] != "ok" || levels["endpoint.connection"] != "ok" {
		t.Errorf("found %v", levels)
	}
}

func TestDoctorToken(t *testing.T) {
	t.Parallel()
	s := newSiteOn(t, redistest.Start(t).Client(t))
	s.prescribe(clientSecret)
	s.run("doctor", "prod", "--token").examined(t, 0)
	if s.endpoint.Calls() != 1 || s.read().Token == nil {
		t.Errorf("%d calls", s.endpoint.Calls())
	}
	s.endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "not " + clientSecret})
	if out := s.run("doctor", "prod", "--token").examined(t, 4); !strings.Contains(out, "invalid_client") {
		t.Errorf("got\n%s", out)
	}
}

// serveTLS serves the site's endpoint with a certificate for login.example.test and 127.0.0.1 that lasts for life, and
// returns its address and the authority's file.
func (s *site) serveTLS(life time.Duration) (addr, authority string) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the endpoint"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"login.example.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s.endpoint)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that doesn't trust it is what is tested
	server.StartTLS()
	s.t.Cleanup(server.Close)
	authority = filepath.Join(s.t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return server.Listener.Addr().String(), authority
}

func TestDoctorEndpointCertificate(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only there a variable names the authorities")
	}
	s := newSiteOn(t, redistest.Start(t).Client(t))
	s.prescribe(clientSecret)
	for _, c := range []struct {
		life    time.Duration
		trusted bool
		strict  int
		want    string
	}{
		{90 * 24 * time.Hour, true, 0, "✓ certificate"},
		{3*24*time.Hour + time.Hour, true, 4, "! certificate"},
		{-time.Hour, true, 4, "expired"},
		{90 * 24 * time.Hour, false, 4, "doesn't trust who signed"},
	} {
		addr, authority := s.serveTLS(c.life)
		s.url = "https://" + addr
		s.prescribe(clientSecret)
		if c.trusted {
			s.env = append(s.env, "SSL_CERT_FILE="+authority)
		}
		if out := s.run("doctor", "--strict", "--round-trip", "1h").examined(t, c.strict); !strings.Contains(out, c.want) {
			t.Errorf("%q isn't in\n%s", c.want, out)
		}
	}
	if n := s.endpoint.Calls(); n != 0 {
		t.Errorf("%d calls of the endpoint", n)
	}
}

// A proxy that passes every CONNECT on to one address.
func proxyTo(t *testing.T, addr string) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "login.example.test:443" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		asked.Add(1)
		var d net.Dialer
		there, err := d.DialContext(r.Context(), "tcp", addr)
		if err != nil {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { // until the connection is closed
			_, _ = io.Copy(there, bufio.NewReader(buffered))
			_ = there.Close()
		}()
		_, _ = io.Copy(here, there)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func TestDoctorByAProxy(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only there a variable names the authorities")
	}
	s := newSiteOn(t, redistest.Start(t).Client(t))
	s.prescribe(clientSecret)
	addr, authority := s.serveTLS(90 * 24 * time.Hour)
	proxy, asked := proxyTo(t, addr)
	s.url = "https://login.example.test"
	s.prescribe(clientSecret)
	s.env = append(s.env, "SSL_CERT_FILE="+authority, "HTTPS_PROXY="+strings.Replace(proxy, "://", "://user:"+clientSecret+"@", 1))
	out := s.run("doctor", "--strict", "--round-trip", "1h").examined(t, 0)
	if want := fmt.Sprintf("connected by the proxy %s within", proxy); !strings.Contains(out, want) || !strings.Contains(out, "✓ certificate") {
		t.Errorf("%q isn't in\n%s", want, out)
	}
	if asked.Load() != 1 || s.endpoint.Calls() != 0 {
		t.Errorf("the proxy was asked %d times, the endpoint %d", asked.Load(), s.endpoint.Calls())
	}
}

// An interrupted doctor says what it has found, and that it isn't all.
func TestDoctorInterrupted(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSiteOn(t, redistest.Start(t).Client(t))
	s.prescribe(clientSecret)
	var config net.ListenConfig
	silent, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	_ = silent.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)) // where it ends before it has come so far
	s.url = "https://" + silent.Addr().String()
	s.prescribe(clientSecret)
	r := finish(t, command(t.Context(), t, s.env, "doctor"), func(p *os.Process) {
		if conn, err := silent.Accept(); err != nil {
			t.Error(err)
		} else { // it waits for the handshake now, for as long as the connection stays
			t.Cleanup(func() { _ = conn.Close() })
		}
		if err := p.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
	})
	if out := r.examined(t, 1); !strings.Contains(r.stderr, "signal received before all was looked at") || !strings.Contains(out, "✓ file") {
		t.Errorf("stderr %q, stdout:\n%s", r.stderr, out)
	}
}
