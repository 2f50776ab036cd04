package doctor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// listen returns the address of a server that takes connections and doesn't answer.
func listen(t *testing.T) string {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestConfigurationFails(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "{url: 'redis://127.0.0.1:1'}")
	for _, c := range []struct{ environments, want string }{
		{"  prod: {client_id: a}\n", "base_url"},
		{"  prod: {token_url: 'https://a.example/t', client_id: a, client_secret: '${UNSET}'}\n", "UNSET"},
		{"  prod: {token_url: 'https://a.example/t', client_id: a, client_secret: hunter2, lease: 1h}\n", "lease"},
		{"  prod: {token_url: 'http://a.example/t', client_id: a, client_secret: hunter2}\n", "allow_http"},
		{"  prod: [\n", "YAML"},
	} {
		p.write("{url: 'redis://127.0.0.1:1'}", c.environments)
		got := p.examine()
		got.has(doctor.LevelFailure, "configuration.file", p.path, c.want)
		got.only(1)
		if worst := doctor.Worst(got.all, false); worst == nil || worst.Group() != doctor.GroupConfiguration {
			t.Errorf("the worst is %+v", worst)
		}
	}
}

func TestSuspiciousSettings(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, section(server))
	env := func(name, more string) string {
		return fmt.Sprintf("  %s: {token_url: %q, client_id: %s, client_secret: %s%s}\n", name, p.url+"/token", name, clientSecret, more)
	}
	p.write(section(server), env("plain", "")+env("alone", ", outage: refresh_alone")+
		env("slow", ", connect_timeout: 20s")+env("cut", ", max_life: 1m")+env("margin", ", expiry_margin: 2h, max_life: 3h")+
		env("one", ", scopes: [a, b]")+fmt.Sprintf("  two: {token_url: %q, client_id: one, client_secret: %s, scopes: [b, a]}\n", p.url+"/token", clientSecret)+
		fmt.Sprintf("  three: {token_url: %q, client_id: one, client_secret: %s, scopes: [c]}\n", p.url+"/token", clientSecret))
	got := p.examine()
	got.has(doctor.LevelOK, "configuration.environment", "plain", "token endpoint")
	got.has(doctor.LevelOK, "configuration.environment", "alone", "refresh_alone")
	got.has(doctor.LevelWarning, "configuration.environment", "slow", "connect_timeout 20s is longer")
	got.has(doctor.LevelWarning, "configuration.environment", "cut", "default_life 5m0s is longer")
	got.has(doctor.LevelWarning, "configuration.environment", "margin", "expiry_margin 2h0m0s is more than half")
	got.has(doctor.LevelWarning, "configuration.environment", "one, two", "twice the calls")
	got.only(4)
	p.examine("plain", "alone").only(0)
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, section(server))
	p.write(section(server), "  prod: {token_url: 'http://login.invalid/token?key=hunter2', allow_http: true, client_id: a, client_secret: hunter2}\n")
	got := p.examine()
	got.has(doctor.LevelWarning, "configuration.environment", "http://login.invalid/token in the clear", "use https")
	got.has(doctor.LevelFailure, "endpoint.connection", "http://login.invalid (prod)", "host's name")
	got.only(2)
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, section(server))
	must(t, os.Chmod(p.path, 0o644))
	got := p.examine()
	got.has(doctor.LevelWarning, "configuration.permissions", p.path, "mode 0644", "environments.prod.client_secret", "chmod 600")
	got.only(1)

	path := filepath.Join(filepath.Dir(p.path), "secret")
	must(t, os.WriteFile(path, []byte(clientSecret), 0o600))
	p.write(section(server), fmt.Sprintf("  prod: {token_url: %q, client_id: the-client, client_secret_file: secret}\n", p.url+"/token"))
	p.examine().only(0) // everybody may read the file: there is no secret in it
	must(t, os.Chmod(path, 0o604))
	got = p.examine()
	got.has(doctor.LevelWarning, "configuration.permissions", path, "mode 0604", "chmod 600")
	got.only(1)

	p.write(section(server), fmt.Sprintf("  prod: {token_url: %q, client_id: the-client, client_secret: '%s'}\nagent: {key_file: secret, clients: [{id: a, secret_file: none, environments: [prod]}]}\n",
		p.url+"/token", clientSecret))
	got = p.examine()
	got.has(doctor.LevelWarning, "configuration.permissions", path, "mode 0604", "chmod 600")
	got.has(doctor.LevelWarning, "configuration.permissions", "none", "no such file", "onetoken serve")
	got.has(doctor.LevelWarning, "configuration.permissions", p.path, "environments.prod.client_secret") // as at first
	got.only(3)
}

func TestUnknownEnvironment(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "{url: 'redis://127.0.0.1:1'}")
	_, err := doctor.Run(t.Context(), doctor.Options{
		Sources: config.Sources{Path: p.path, Lookup: func(string) (string, bool) { return "", false }}, Environments: []string{"nope"},
	})
	if unknown, ok := errors.AsType[*manager.UnknownEnvironmentError](err); !ok || unknown.Environment != "nope" {
		t.Errorf("got %v", err)
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	find := func(check string, level doctor.Level) doctor.Finding {
		return doctor.Finding{Check: check, Level: level}
	}
	warned, ok := find("configuration.a", doctor.LevelWarning), find("redis.a", doctor.LevelOK)
	redis, endpoint := find("redis.b", doctor.LevelFailure), find("endpoint.b", doctor.LevelFailure)
	for _, c := range []struct {
		all    []doctor.Finding
		strict bool
		want   string
	}{
		{nil, true, ""},
		{[]doctor.Finding{ok, warned}, false, ""},
		{[]doctor.Finding{ok, warned}, true, "configuration.a"},
		{[]doctor.Finding{warned, endpoint, redis}, false, "redis.b"},
		{[]doctor.Finding{warned, endpoint}, true, "endpoint.b"},
	} {
		got := ""
		if worst := doctor.Worst(c.all, c.strict); worst != nil {
			got = worst.Check
		}
		if got != c.want {
			t.Errorf("of %+v (strict: %v) the worst is %q, want %q", c.all, c.strict, got, c.want)
		}
	}
}

func TestEndpointIsGone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, section(server))
	p.write(section(server), "  prod: {token_url: 'http://127.0.0.1:1/token', client_id: a, client_secret: b}\n"+
		"  test: {token_url: 'http://127.0.0.1:1/other', client_id: c, client_secret: d}\n")
	got := p.examine()
	got.has(doctor.LevelFailure, "endpoint.connection", "http://127.0.0.1:1 (prod, test)", "refused", "is it started")
	got.only(1)
}

// The connection is made with what the environment names for it.
func TestEndpointWithCertificates(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	p := newPatient(t, section(redis))
	a := newAuthority(t)
	cert, key := a.issue("client", time.Hour)
	pair, err := tls.LoadX509KeyPair(a.issue("endpoint", 90*24*time.Hour))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	server := httptest.NewUnstartedServer(p.endpoint)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	// In TLS 1.3 a client learns only after its handshake that its certificate was missed.
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MaxVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	environment := func(name, settings string) string {
		return fmt.Sprintf("  %s: {token_url: '%s/token', client_id: %s, auth_method: tls_client_auth, client_cert_file: %s, client_key_file: %s%s}\n",
			name, server.URL, name, cert, key, settings)
	}
	p.write(section(redis), environment("knows", ", ca_file: "+a.file)+environment("doubts", "")+
		fmt.Sprintf("  shows-none: {token_url: '%s/token', client_id: c, client_secret: d, ca_file: %s}\n", server.URL, a.file))
	got := p.examine()
	got.has(doctor.LevelOK, "endpoint.connection", server.URL+" (knows)", "connected")
	got.has(doctor.LevelOK, "endpoint.certificate", server.URL+" (knows)", "TLS 1.2, verified")
	got.has(doctor.LevelFailure, "endpoint.connection", server.URL+" (doubts)", "unknown authority", "ca_file")
	got.has(doctor.LevelFailure, "endpoint.connection", server.URL+" (shows-none)", "handshake")
	got.only(2)
}

// A token is asked for once, is the fleet's, and isn't asked for while the fleet backs off.
func TestToken(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	p := newPatient(t, section(server))
	p.token = true
	got := p.examine()
	got.has(doctor.LevelOK, "endpoint.token", "prod", "is stored for all")
	got.only(0)
	if n := p.endpoint.Calls(); n != 1 || rdb.Exists(t.Context(), "onetoken:{prod}:token").Val() != 1 {
		t.Errorf("%d calls", n)
	}
	p.endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: clientSecret})
	got = p.examine()
	got.has(doctor.LevelFailure, "endpoint.token", "invalid_client", "client_secret and auth_method")
	got.only(1)
	got = p.examine() // within the 15 s for which it is remembered
	got.has(doctor.LevelWarning, "endpoint.failure", "prod", "invalid_client", "next try at")
	if n := p.endpoint.Calls(); n == 2 {
		got.has(doctor.LevelFailure, "endpoint.token", "not asked")
	}
}

func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "{url: 'redis://127.0.0.1:1'}")
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	got := p.examineFor(ctx)
	got.has(doctor.LevelFailure, "redis.time", "deadline exceeded")
	got.has(doctor.LevelFailure, "endpoint.time", "deadline exceeded")
}
