package endpoint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/onetoken/onetoken/internal/printable"
)

// minRSA is how many bits an RSA key must have (RFC 7518 §3.3).
const (
	minRSA = 2048
	maxRSA = 16384
)

// A key signs assertions, by one algorithm.
type key struct {
	signer    crypto.Signer
	algorithm string // of RFC 7518 §3.1
	id        string // its "kid"; "" where none is known
	account   string // the client_email of a service account's file; "" for other files
	sum       string // of the file
}

// parseKey reads a private key: PEM (PKCS #8, PKCS #1, SEC 1), a JWK, or a Google service account's JSON. algorithm and id
// are those that are configured; "" means the key's own. An error is one line and has nothing of the key in it.
func parseKey(data []byte, algorithm, id string) (*key, error) {
	k := &key{}
	var err error
	if trimmed := bytes.TrimSpace(data); bytes.HasPrefix(trimmed, []byte("{")) {
		err = k.readJSON(trimmed)
	} else {
		k.signer, err = parsePEM(data)
	}
	if err != nil {
		return nil, err
	}
	if algorithm != "" {
		k.algorithm = algorithm
	}
	if id != "" {
		k.id = id
	}
	if k.algorithm == "" {
		k.algorithm = defaultAlgorithm(k.signer)
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	return k, nil
}

// check returns an error unless the key is good for its algorithm.
func (k *key) check() error {
	if public, ok := k.signer.Public().(*rsa.PublicKey); ok {
		if bits := public.N.BitLen(); bits < minRSA || bits > maxRSA {
			return fmt.Errorf("an RSA key of %d bits: RFC 7518 §3.3 wants %d or more, and more than %d are slow", bits, minRSA, maxRSA)
		}
	}
	a, ok := algorithms[k.algorithm]
	switch {
	case k.algorithm == "":
		return fmt.Errorf("holds %s: %w", kindOf(k.signer), errSignsNothing)
	case !ok:
		return fmt.Errorf("the key is for the algorithm %q, which is not one of %s", printable.Line(k.algorithm, 30), strings.Join(algorithmNames(), ", "))
	case a.kind != kindOf(k.signer):
		return fmt.Errorf("holds %s, and %s is signed with %s (signing_algorithm)", kindOf(k.signer), k.algorithm, a.kind)
	}
	return nil
}

// kindOf says what a signer is, as [algorithm.kind] has it.
func kindOf(s crypto.Signer) string {
	switch public := s.Public().(type) {
	case *rsa.PublicKey:
		return kindRSA
	case *ecdsa.PublicKey:
		return "an EC key on " + public.Curve.Params().Name
	case ed25519.PublicKey:
		return kindEd25519
	}
	return "a key of another kind"
}

// parsePEM returns the first private key of a PEM file, in which there may be certificates, too.
func parsePEM(data []byte) (crypto.Signer, error) {
	blocks, public := 0, false
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		blocks++
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the key is encrypted: openssl pkey writes it without its passphrase")
		case block.Type == "OPENSSH PRIVATE KEY":
			return nil, errors.New("an OpenSSH key: ssh-keygen -p -m PKCS8 makes PKCS #8 of it")
		case block.Type == "PRIVATE KEY", block.Type == "RSA PRIVATE KEY", block.Type == "EC PRIVATE KEY":
			return parseDER(block)
		case block.Type == "PUBLIC KEY", block.Type == "RSA PUBLIC KEY":
			public = true
		}
	}
	switch {
	case public:
		return nil, errors.New("holds a public key, not the private one")
	case blocks > 0:
		return nil, errors.New("holds no private key")
	}
	return nil, errors.New("is neither PEM nor a JWK nor a service account's JSON")
}

func parseDER(block *pem.Block) (crypto.Signer, error) {
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil { // which isn't repeated: who knows what it has of the key
		return nil, fmt.Errorf("the %s in it can't be read: it is damaged, or of an unknown kind", block.Type)
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k, nil
	case ed25519.PrivateKey:
		return k, nil
	}
	return nil, errSignsNothing
}

var errSignsNothing = errors.New("signed is with keys of RSA, EC (P-256, P-384, P-521) and Ed25519")

// A jwk is a private key of RFC 7517, RFC 7518 §6 and RFC 8037 §2.
type jwk struct {
	Type      string `json:"kty"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Curve     string `json:"crv"`

	N, E, D, P, Q, X, Y base64url
	Oth                 json.RawMessage

	// A service account's file has these instead.
	PrivateKey   string `json:"private_key"`
	PrivateKeyID string `json:"private_key_id"`
	ClientEmail  string `json:"client_email"`
}

// base64url is what RFC 7515 §2 encodes without padding.
type base64url []byte

func (b *base64url) UnmarshalText(text []byte) error {
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(text), "="))
	*b = decoded
	return err
}

func (k *key) readJSON(data []byte) error {
	var j jwk
	if err := json.Unmarshal(data, &j); err != nil {
		return errors.New("is no JSON of a JWK or a service account")
	}
	if j.Type == "" {
		if j.PrivateKey == "" {
			return errors.New("is JSON without kty (of a JWK) and private_key (of a service account)")
		}
		var err error
		if k.signer, err = parsePEM([]byte(j.PrivateKey)); err != nil {
			return fmt.Errorf("private_key: %w", err)
		}
		k.id, k.account = j.PrivateKeyID, j.ClientEmail
		return nil
	}
	if j.Use != "" && j.Use != "sig" {
		return fmt.Errorf("the JWK's use is %q, not sig", printable.Line(j.Use, 30))
	}
	if len(j.D) == 0 {
		return errors.New("the JWK has no d: it is no private key")
	}
	k.id, k.algorithm = j.ID, j.Algorithm
	switch j.Type {
	case "RSA":
		return j.rsa(k)
	case "EC":
		return j.ec(k)
	case "OKP":
		return j.okp(k)
	}
	return fmt.Errorf("the JWK's kty is %q, not RSA, EC or OKP", printable.Line(j.Type, 30))
}

func (j *jwk) rsa(k *key) error {
	e := new(big.Int).SetBytes(j.E)
	switch {
	case len(j.P) == 0 || len(j.Q) == 0:
		return errors.New("the JWK has no p and q")
	case len(j.Oth) > 0:
		return errors.New("the JWK has more than two primes")
	case len(j.N)*8 > maxRSA+8 || len(j.D) > len(j.N) || len(j.P) > len(j.N) || len(j.Q) > len(j.N) || !e.IsInt64() || e.BitLen() > 31:
		return errBadJWK
	}
	private := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(j.N), E: int(e.Int64())},
		D:         new(big.Int).SetBytes(j.D),
		Primes:    []*big.Int{new(big.Int).SetBytes(j.P), new(big.Int).SetBytes(j.Q)},
	}
	if bits := private.N.BitLen(); bits >= minRSA { // check has the better word for a shorter one
		private.Precompute()
		if private.Validate() != nil {
			return errBadJWK
		}
	}
	k.signer = private
	return nil
}

var errBadJWK = errors.New("the JWK's numbers are not those of a key")

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

func (j *jwk) ec(k *key) error {
	curve, ok := curves[j.Curve]
	if !ok {
		return fmt.Errorf("the JWK's crv is %q, not P-256, P-384 or P-521", printable.Line(j.Curve, 30))
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(j.D) > size || len(j.X) > size || len(j.Y) > size {
		return errBadJWK
	}
	private, err := ecdsa.ParseRawPrivateKey(curve, padded(j.D, size))
	if err != nil {
		return errBadJWK
	}
	public, err := private.PublicKey.Bytes()
	if err != nil || !bytes.Equal(public[1:], append(padded(j.X, size), padded(j.Y, size)...)) {
		return errBadJWK
	}
	k.signer = private
	return nil
}

// padded puts zeros before b, that some leave out.
func padded(b []byte, size int) []byte {
	return append(make([]byte, size-len(b), 2*size), b...)
}

func (j *jwk) okp(k *key) error {
	if j.Curve != "Ed25519" {
		return fmt.Errorf("the JWK's crv is %q, not Ed25519", printable.Line(j.Curve, 30))
	}
	if len(j.D) != ed25519.SeedSize {
		return errBadJWK
	}
	private := ed25519.NewKeyFromSeed(j.D)
	if !bytes.Equal(private.Public().(ed25519.PublicKey), j.X) {
		return errBadJWK
	}
	k.signer = private
	return nil
}
