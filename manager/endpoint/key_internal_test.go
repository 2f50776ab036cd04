package endpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What passes for a key signs what its public key verifies; what doesn't is refused in a short line.
func FuzzKey(f *testing.F) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		f.Fatal(err)
	}
	seed := strings.Repeat("s", ed25519.SeedSize)
	public := ed25519.NewKeyFromSeed([]byte(seed)).Public().(ed25519.PublicKey)
	b64 := base64.RawURLEncoding.EncodeToString
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "")
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","d":"`+b64([]byte(seed))+`","x":"`+b64(public)+`"}`), "EdDSA")
	f.Add([]byte(`{"kty":"EC","crv":"P-256","d":"AQ","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}`), "ES256")
	f.Add([]byte(`{"kty":"RSA","n":"`+strings.Repeat("A", 400)+`","e":"AQAB","d":"AA","p":"AA","q":"AA"}`), "RS256")
	f.Add([]byte(`{"private_key":"-----BEGIN","client_email":"a"}`), "")
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n"), "PS256")
	f.Fuzz(func(t *testing.T, data []byte, algorithm string) {
		if len(data) > 8<<10 {
			t.Skip() // numbers of such a length take their time
		}
		k, err := parseKey(data, algorithm, "")
		if err != nil {
			text := err.Error()
			if k != nil || len(text) > 300 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%v beside an error of %d bytes: %q", k, len(text), text)
			}
			return
		}
		if algorithm != "" && k.algorithm != algorithm {
			t.Errorf("algorithm %q; want %q", k.algorithm, algorithm)
		}
		signed, err := k.sign(map[string]any{"a": "b"}, nil)
		if err != nil {
			t.Fatalf("a key that passes doesn't sign: %v", err)
		}
		at := strings.LastIndex(signed, ".")
		signature, err := base64.RawURLEncoding.DecodeString(signed[at+1:])
		if err != nil {
			t.Fatal(err)
		}
		sum := []byte(signed[:at])
		hash := algorithms[k.algorithm].hash
		if hash != 0 {
			h := hash.New()
			h.Write(sum)
			sum = h.Sum(nil)
		}
		if !verifies(k.signer.Public(), k.algorithm, hash, sum, signature) {
			t.Errorf("%s signs by %s what doesn't verify", kindOf(k.signer), k.algorithm)
		}
	})
}

func verifies(public crypto.PublicKey, algorithm string, hash crypto.Hash, sum, signature []byte) bool {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if strings.HasPrefix(algorithm, "PS") {
			return rsa.VerifyPSS(p, hash, sum, signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(p, hash, sum, signature) == nil
	case *ecdsa.PublicKey:
		half := len(signature) / 2
		return ecdsa.Verify(p, sum, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
	case ed25519.PublicKey:
		return ed25519.Verify(p, sum, signature)
	}
	return false
}
