package grantdocs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/config"
)

// setting is a file's, or assertion's file, in a block: `name: path`, also within braces.
var setting = regexp.MustCompile(`(\w*_file|\bfile): (\$\{\w+\}|[\w./-]+)`)

// read makes the files that a block names, beneath a folder of its own, and reads the block as a file in that folder.
func read(t *testing.T, b block) (*config.File, error) {
	t.Helper()
	dir := t.TempDir()
	variables := map[string]string{}
	changed := setting.ReplaceAllStringFunc(b.text, func(s string) string {
		m := setting.FindStringSubmatch(s)
		path := strings.Trim(m[2], "/")
		if name, ok := strings.CutPrefix(m[2], "${"); ok {
			name = strings.TrimSuffix(name, "}")
			path = strings.ToLower(name)
			variables[name] = filepath.Join(dir, path)
		}
		write(t, filepath.Join(dir, path), content(t, m[1], path))
		if strings.HasPrefix(m[2], "/") {
			return m[1] + ": " + filepath.Join(dir, path)
		}
		return s
	})
	return config.Parse(filepath.Join(dir, "onetoken.yaml"), []byte(changed), func(name string) (string, bool) {
		if v, ok := variables[name]; ok {
			return v, true
		}
		return "made-up-" + strings.ToLower(strings.ReplaceAll(name, "_", "-")), true
	})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, data, 0o600))
}

// content is what the file of a setting must have.
func content(t *testing.T, name, path string) []byte {
	t.Helper()
	switch p := made(); {
	case name == "private_key_file" && filepath.Ext(path) == ".json":
		b, err := json.Marshal(map[string]string{
			"type": "service_account", "client_email": "worker@acme-prod.iam.gserviceaccount.com", "client_id": "123456789",
			"private_key_id": "4c1d", "private_key": string(p.key), "token_uri": "https://oauth2.googleapis.com/token",
		})
		must(t, err)
		return b
	case name == "private_key_file", name == "client_key_file":
		return p.key
	case name == "client_cert_file", name == "ca_file":
		return p.cert
	case name == "client_secret_file", name == "refresh_token_file":
		return []byte("made-up-" + filepath.Base(path) + "\n")
	default: // a JWT
		return []byte(p.jwt + "\n")
	}
}

type pair struct {
	key, cert []byte // PEM
	jwt       string
}

// made returns a key with its certificate, and a JWT that nobody has signed.
var made = sync.OnceValue(func() pair {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "worker"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return pair{
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		jwt: part(`{"alg":"RS256","typ":"JWT"}`) + "." +
			part(fmt.Sprintf(`{"iss":"https://issuer.example.com","sub":"worker","exp":%d}`, now.Add(time.Hour).Unix())) + "." + part("none"),
	}
})
