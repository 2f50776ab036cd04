package doctor_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{}) // it reports every dial that fails, as these tests make them
	// go-redis tries once a second to reach a server that is gone, and notices then that the client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

const (
	patience     = 60 * time.Second
	clientSecret = "hunter2-hunter2"
)

// must fails the test with err.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A patient is a configuration file, with a scripted endpoint.
type patient struct {
	t        *testing.T
	path     string
	endpoint *mockendpoint.Endpoint
	url      string // of the endpoint
	token    bool

	roundTrip time.Duration // that is too slow; an hour where it is 0: it says more of the machine
}

// newPatient returns one whose file has the redis section, as YAML on one line, and the environment prod.
func newPatient(t *testing.T, redisSection string) *patient {
	t.Helper()
	p := &patient{t: t, path: filepath.Join(t.TempDir(), "onetoken.yaml")}
	p.endpoint = mockendpoint.New(mockendpoint.Options{ClientID: "the-client", ClientSecret: clientSecret})
	server := httptest.NewServer(p.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(p.endpoint.Close)
	p.url = server.URL
	p.write(redisSection, fmt.Sprintf("  prod: {token_url: %q, client_id: the-client, client_secret: %q, connect_timeout: 30s, endpoint_timeout: 60s}\n", p.url+"/token", clientSecret))
	return p
}

// write writes the file anew.
func (p *patient) write(redisSection, environments string) {
	p.t.Helper()
	must(p.t, os.WriteFile(p.path, []byte("redis: "+redisSection+"\nenvironments:\n"+environments), 0o600))
}

// examine has the patient examined. Nothing that is found may hold the secret, or break its line.
func (p *patient) examine(envs ...string) findings {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	return p.examineFor(ctx, envs...)
}

func (p *patient) examineFor(ctx context.Context, envs ...string) findings {
	p.t.Helper()
	got, err := doctor.Run(ctx, doctor.Options{
		Sources:      config.Sources{Path: p.path, Lookup: func(string) (string, bool) { return "", false }},
		Environments: envs, Token: p.token, RoundTrip: cmp.Or(p.roundTrip, time.Hour),
	})
	must(p.t, err)
	for _, f := range got {
		text := f.Check + f.Subject + f.Message + f.Mend
		if strings.Contains(text, "hunter2") || strings.ContainsAny(text, "\n\r\x1b") {
			p.t.Errorf("a finding with a secret or more than a line: %q", text)
		}
		if f.Message == "" || f.Level != doctor.LevelOK && f.Mend == "" {
			p.t.Errorf("a finding that doesn't say what to do: %+v", f)
		}
	}
	return findings{p.t, got}
}

type findings struct {
	t   *testing.T
	all []doctor.Finding
}

// bad are the findings that aren't ok.
func (f findings) bad() []doctor.Finding {
	return slices.DeleteFunc(slices.Clone(f.all), func(one doctor.Finding) bool { return one.Level == doctor.LevelOK })
}

// has fails unless there is a finding of the check at the level whose text has all the parts.
func (f findings) has(level doctor.Level, check string, parts ...string) {
	f.t.Helper()
	for _, one := range f.all {
		text := one.Subject + " | " + one.Message + " | " + one.Mend
		if one.Check == check && one.Level == level && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) }) {
			return
		}
	}
	f.t.Errorf("no %s of %s with %q among\n%s", level, check, parts, f)
}

// only fails unless there are just so many findings that aren't ok.
func (f findings) only(n int) {
	f.t.Helper()
	if bad := f.bad(); len(bad) != n {
		f.t.Errorf("%d bad findings, want %d:\n%s", len(bad), n, f)
	}
}

func (f findings) String() string {
	var b strings.Builder
	for _, one := range f.all {
		fmt.Fprintf(&b, "%s %s %s: %s → %s\n", one.Level, one.Check, one.Subject, one.Message, one.Mend)
	}
	return b.String()
}

// An authority signs certificates for 127.0.0.1; its own is in a file.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.file = filepath.Join(a.dir, "ca.pem")
	a.write(a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) write(path, kind string, der []byte) {
	a.t.Helper()
	must(a.t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// issue writes a certificate that lasts for life, and its key, and returns the paths.
func (a *authority) issue(name string, life time.Duration) (cert, key string) {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	must(a.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(a.t, err)
	cert, key = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	a.write(cert, "CERTIFICATE", der)
	a.write(key, "PRIVATE KEY", secret)
	return cert, key
}
