package topology_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// An authority signs certificates, and has its own in a file.
type authority struct {
	t    *testing.T
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir, name: name}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.file = filepath.Join(dir, name+".pem")
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// issue writes a certificate and its key, valid until then, to NAME.crt and NAME.key and returns the paths.
func (a *authority) issue(name string, until time.Time) (cert, key string) {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.example.com"},
	}
	private := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	must(a.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	must(a.t, err)
	cert, key = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	writePEM(a.t, cert, "CERTIFICATE", der)
	writePEM(a.t, key, "PRIVATE KEY", secret)
	return cert, key
}

func TestTLSWithClientCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, others := newAuthority(t, dir, "ours"), newAuthority(t, dir, "others")
	soon := time.Now().Add(time.Hour)
	serverCert, serverKey := ours.issue("server", soon)
	ours.issue("client", soon)
	ours.issue("expired", time.Now().Add(-time.Hour))
	others.issue("stranger", soon)
	lines := func(cert, key string) []string {
		return []string{
			"port 0", "tls-port {port}", "tls-auth-clients yes", "tls-cert-file " + cert, "tls-key-file " + key,
			"tls-ca-cert-file " + ours.file, "requirepass " + password,
		}
	}
	server := redistest.Start(t, lines(serverCert, serverKey)...)
	oldCert, oldKey := ours.issue("old-server", time.Now().Add(-time.Hour))
	old := redistest.Start(t, lines(oldCert, oldKey)...)
	endpoint := mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret})
	url := serve(t, endpoint)

	for _, c := range []struct {
		name, addr, tls string
		want            string // part of the error; "" where all is well
	}{
		{"a client certificate", server.Addr(), "{ca_file: ours.pem, cert_file: client.crt, key_file: client.key}", ""},
		{"the server by another name", server.Addr(), "{ca_file: ours.pem, cert_file: client.crt, key_file: client.key, server_name: redis.example.com}", ""},
		{"no client certificate", server.Addr(), "{ca_file: ours.pem}", "certificate required"},
		{"a stranger's", server.Addr(), "{ca_file: ours.pem, cert_file: stranger.crt, key_file: stranger.key}", "unknown certificate authority"},
		{"an expired one", server.Addr(), "{ca_file: ours.pem, cert_file: expired.crt, key_file: expired.key}", "expired certificate"},
		{"a server of an unknown authority", server.Addr(), "{cert_file: client.crt, key_file: client.key}", "unknown authority"},
		{"a server of another authority", server.Addr(), "{ca_file: others.pem, cert_file: client.crt, key_file: client.key}", "unknown authority"},
		{"a server of another name", server.Addr(), "{ca_file: ours.pem, cert_file: client.crt, key_file: client.key, server_name: other.example.com}", "other.example.com"},
		{"a server whose certificate has expired", old.Addr(), "{ca_file: ours.pem, cert_file: client.crt, key_file: client.key}", "expired"},
		{"no TLS", server.Addr(), "", "read of onetoken"}, // the connection ends, and says no more
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			scheme, tls := "rediss", c.tls
			if tls == "" {
				scheme, tls = "redis", "false"
			}
			text := fmt.Sprintf("redis: {url: '%s://:%s@%s/0', tls: %s}\nenvironments:\n  %s: {token_url: %s/token, client_id: %s, client_secret: '%s'}\n",
				scheme, password, c.addr, tls, env, url, clientID, clientSecret)
			err := tokenBy(t, filepath.Join(dir, "onetoken.yaml"), text)
			if c.want == "" {
				must(t, err)
				return
			}
			var away *manager.RedisError
			if !errors.As(err, &away) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if text := fmt.Sprint(err); strings.Contains(text, "\n") || strings.Contains(text, "hunter2") || strings.Contains(text, dir) {
				t.Errorf("the error isn't one line without secrets: %q", text)
			}
			t.Log(err)
		})
	}
}

// tokenBy asks a manager of a configuration for a token.
func tokenBy(t *testing.T, path, text string) error {
	t.Helper()
	file, err := config.Parse(path, []byte(text), func(string) (string, bool) { return "", false })
	must(t, err)
	rdb, err := file.Client()
	must(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	m, err := file.Manager(rdb, nil)
	must(t, err)
	t.Cleanup(func() { _ = m.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = m.Token(ctx, env)
	return err
}
