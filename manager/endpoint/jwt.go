package endpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// What an algorithm is signed with.
const (
	kindRSA     = "an RSA key"
	kindEd25519 = "an Ed25519 key"
)

// An algorithm is one of RFC 7518 §3.1, or RFC 8037's.
type algorithm struct {
	kind string
	hash crypto.Hash // 0: the algorithm hashes by itself
	pss  bool
}

var algorithms = map[string]algorithm{
	"RS256": {kind: kindRSA, hash: crypto.SHA256},
	"RS384": {kind: kindRSA, hash: crypto.SHA384},
	"RS512": {kind: kindRSA, hash: crypto.SHA512},
	"PS256": {kind: kindRSA, hash: crypto.SHA256, pss: true},
	"PS384": {kind: kindRSA, hash: crypto.SHA384, pss: true},
	"PS512": {kind: kindRSA, hash: crypto.SHA512, pss: true},
	"ES256": {kind: "an EC key on P-256", hash: crypto.SHA256},
	"ES384": {kind: "an EC key on P-384", hash: crypto.SHA384},
	"ES512": {kind: "an EC key on P-521", hash: crypto.SHA512},
	"EdDSA": {kind: kindEd25519},
}

func algorithmNames() []string { return slices.Sorted(maps.Keys(algorithms)) }

// defaultAlgorithm is the one that goes with a key: RS256 with RSA, whose others must be asked for.
func defaultAlgorithm(s crypto.Signer) string {
	if kindOf(s) == kindRSA {
		return "RS256"
	}
	for name, a := range algorithms {
		if a.kind == kindOf(s) {
			return name
		}
	}
	return ""
}

// isOf reports whether a certificate is the key's, and not that of another for the connection alone.
func (k *key) isOf(cert *certificate) bool {
	public, ok := k.signer.Public().(interface {
		Equal(other crypto.PublicKey) bool
	})
	leaf, err := x509.ParseCertificate(cert.pair.Certificate[0])
	return ok && err == nil && public.Equal(leaf.PublicKey)
}

// sign returns a JWT of the claims (RFC 7519), as a JWS in compact serialization (RFC 7515 §7.1). A certificate of the key, which
// may be nil, is named by its thumbprint (§4.1.8).
func (k *key) sign(claims map[string]any, cert *certificate) (string, error) {
	header := map[string]any{"alg": k.algorithm, "typ": "JWT"}
	if cert != nil && k.isOf(cert) {
		thumbprint := sha256.Sum256(cert.pair.Certificate[0])
		header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(thumbprint[:])
	}
	if k.id != "" {
		header["kid"] = k.id
	}
	var input string
	for _, part := range []map[string]any{header, claims} {
		encoded, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		if input != "" {
			input += "."
		}
		input += base64.RawURLEncoding.EncodeToString(encoded)
	}
	signature, err := k.signature([]byte(input))
	if err != nil {
		return "", err
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func (k *key) signature(input []byte) ([]byte, error) {
	a := algorithms[k.algorithm]
	digest := input
	if a.hash != 0 {
		h := a.hash.New()
		_, _ = h.Write(input)
		digest = h.Sum(nil)
	}
	switch private := k.signer.(type) {
	case *rsa.PrivateKey:
		if a.pss {
			return rsa.SignPSS(rand.Reader, private, a.hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, private, a.hash, digest)
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, digest)
		if err != nil {
			return nil, err
		}
		size := (private.Curve.Params().BitSize + 7) / 8
		signature := make([]byte, 2*size) // RFC 7518 §3.4: both numbers, each in full length
		r.FillBytes(signature[:size])
		s.FillBytes(signature[size:])
		return signature, nil
	case ed25519.PrivateKey:
		return ed25519.Sign(private, digest), nil
	}
	return nil, fmt.Errorf("%T signs nothing", k.signer) // parseKey makes no other
}

// stamp adds to claims what every assertion has (RFC 7523 §3): when it was issued, when it ends, and an id that no other has.
func stamp(claims map[string]any, life time.Duration) map[string]any {
	now := time.Now()
	claims["iat"], claims["exp"], claims["jti"] = now.Unix(), now.Add(life).Unix(), rand.Text()
	return claims
}
