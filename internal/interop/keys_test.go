package interop_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A key signs what the test sends by hand. Its private half is in the file <alg>.pem of the folder it was made for.
type key struct {
	alg     string // RFC 7518 §3.1
	private crypto.Signer
	pem     string
}

// newKey makes a key for an algorithm.
func newKey(t *testing.T, alg string) key {
	t.Helper()
	k := key{alg: alg}
	var err error
	switch alg {
	case "RS256", "PS256":
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		t.Fatal(err)
	}
	k.pem = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return k
}

// jwk returns the public half (RFC 7517), whose "kid" is the algorithm.
func (k key) jwk() map[string]any {
	j := map[string]any{"kid": k.alg, "use": "sig", "alg": k.alg}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		j["kty"], j["n"], j["e"] = "RSA", b64(public.N.Bytes()), b64(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		j["kty"], j["crv"], j["x"], j["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
	case ed25519.PublicKey:
		j["kty"], j["crv"], j["x"] = "OKP", "Ed25519", b64(public)
	}
	return j
}

// sign returns a JWT with the claims, whose "jti", "iat" and "exp" it adds.
func (k key) sign(t *testing.T, claims map[string]any) string {
	t.Helper()
	claims["jti"], claims["iat"], claims["exp"] = rand.Text(), time.Now().Unix(), time.Now().Add(time.Minute).Unix()
	text := encode(t, map[string]any{"alg": k.alg, "kid": k.alg}) + "." + encode(t, claims)
	sum := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch k.alg {
	case "RS256":
		signature, err = k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	case "PS256":
		signature, err = k.private.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	case "EdDSA":
		signature, err = k.private.Sign(rand.Reader, []byte(text), crypto.Hash(0))
	case "ES256":
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, k.private.(*ecdsa.PrivateKey), sum[:]); err == nil {
			signature = make([]byte, 64)
			r.FillBytes(signature[:32])
			s.FillBytes(signature[32:])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(signature)
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b64(b)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// verify returns the claims of a JWT that one of the keys, RSA ones, has signed with RS256.
func verify(t *testing.T, jwt string, keys []struct{ Kid, N, E string }) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("an access token of %d parts is no JWT", len(parts))
	}
	decoded := make([][]byte, 3)
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			t.Fatal(err)
		}
	}
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(decoded[0], &header); err != nil || header.Alg != "RS256" {
		t.Fatalf("the header %s: %v", decoded[0], err)
	}
	for _, k := range keys {
		if k.Kid != header.Kid {
			continue
		}
		n, _ := base64.RawURLEncoding.DecodeString(k.N)
		e, _ := base64.RawURLEncoding.DecodeString(k.E)
		public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], decoded[2]); err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := json.Unmarshal(decoded[1], &claims); err != nil {
			t.Fatal(err)
		}
		return claims
	}
	t.Fatalf("no key %q", header.Kid)
	return nil
}

// A certificate with its key, in PEM, too.
type certificate struct {
	tls           tls.Certificate
	cert, private string
}

// certify makes a certificate, signed by issuer or, without one, by itself.
func certify(t *testing.T, issuer *certificate, template x509.Certificate) *certificate {
	t.Helper()
	k := newKey(t, "ES256")
	template.SerialNumber = new(big.Int).SetBytes([]byte(rand.Text()[:10]))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	parent, signer := &template, k.private
	if issuer != nil {
		parent, signer = issuer.tls.Leaf, issuer.tls.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, k.private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c := &certificate{cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), private: k.pem}
	if c.tls, err = tls.X509KeyPair([]byte(c.cert), []byte(c.private)); err != nil {
		t.Fatal(err)
	}
	return c
}

// authorityOf makes a certificate that may sign others'.
func authorityOf(t *testing.T, name string) *certificate {
	return certify(t, nil, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	})
}

func serverCertificate(t *testing.T, issuer *certificate) *certificate {
	return certify(t, issuer, x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

func clientCertificate(t *testing.T, issuer *certificate, name string) *certificate {
	return certify(t, issuer, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// save writes the certificate and its key to <name>.pem and <name>-key.pem.
func (c *certificate) save(t *testing.T, dir, name string) {
	t.Helper()
	write(t, filepath.Join(dir, name+".pem"), c.cert)
	write(t, filepath.Join(dir, name+"-key.pem"), c.private)
}
