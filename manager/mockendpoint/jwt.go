package mockendpoint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // for RS256 and its like
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// claims are those of a JWT that are looked at (RFC 7519 §4.1).
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	ID        string   `json:"jti"`
	Expires   *float64 `json:"exp"`
	NotBefore *float64 `json:"nbf"`
	IssuedAt  *float64 `json:"iat"`
}

// An audience is one text or a list of them.
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// longestAssertion is how far off an assertion's end may be: one that is good for a day is a password.
const longestAssertion = time.Hour

// skew is what the clocks of a client and of the endpoint may be apart.
const skew = 5 * time.Second

// verify checks an assertion (RFC 7523 §3) that one of keys should have signed, for one of audiences.
func verify(jwt string, keys []crypto.PublicKey, audiences []string, now time.Time) (claims, error) {
	payload, err := verifySignature(jwt, keys)
	if err != nil {
		return claims{}, err
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return claims{}, errors.New("the claims can't be read")
	}
	at := func(seconds *float64) time.Time {
		return time.Unix(0, int64(min(max(*seconds, 0), 1<<32)*float64(time.Second)))
	}
	switch {
	case c.Issuer == "" || c.Subject == "":
		return claims{}, errors.New("iss or sub is missing")
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(audiences, a) }):
		return claims{}, errors.New("aud names somebody else")
	case c.Expires == nil:
		return claims{}, errors.New("exp is missing")
	case !now.Before(at(c.Expires).Add(skew)):
		return claims{}, errors.New("it has expired")
	case at(c.Expires).Sub(now) > longestAssertion+skew:
		return claims{}, fmt.Errorf("exp is more than %v off", longestAssertion)
	case c.NotBefore != nil && at(c.NotBefore).Sub(now) > skew:
		return claims{}, errors.New("nbf is still to come")
	case c.IssuedAt != nil && at(c.IssuedAt).Sub(now) > skew:
		return claims{}, errors.New("iat is still to come")
	}
	return c, nil
}

// verifySignature returns the payload of a JWT in compact form (RFC 7515 §5.2) that one of keys has signed.
func verifySignature(jwt string, keys []crypto.PublicKey) (payload []byte, err error) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil, errors.New("it is no JWT")
	}
	var decoded [3][]byte
	for i, part := range parts {
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return nil, errors.New("it is no JWT")
		}
	}
	var header struct {
		Algorithm string   `json:"alg"`
		Critical  []string `json:"crit"`
	}
	if json.Unmarshal(decoded[0], &header) != nil || header.Critical != nil {
		return nil, errors.New("its header can't be read")
	}
	signed := []byte(parts[0] + "." + parts[1])
	for _, key := range keys {
		if signedBy(key, header.Algorithm, signed, decoded[2]) {
			return decoded[1], nil
		}
	}
	return nil, errors.New("its signature isn't by a key that is known")
}

// hashes are those of the algorithms' names (RFC 7518 §3.1).
var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

// algorithms are those that are known.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// signedBy reports whether a signature by an algorithm is key's: never for an algorithm of another kind of key, nor for
// HMAC and "none".
func signedBy(key crypto.PublicKey, algorithm string, signed, signature []byte) bool {
	if k, ok := key.(ed25519.PublicKey); ok {
		return (algorithm == "EdDSA" || algorithm == "Ed25519") && ed25519.Verify(k, signed, signature)
	}
	if len(algorithm) != len("RS256") {
		return false
	}
	hash, ok := hashes[algorithm[2:]]
	if !ok {
		return false
	}
	h := hash.New()
	h.Write(signed)
	digest := h.Sum(nil)
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch algorithm[:2] {
		case "RS":
			return rsa.VerifyPKCS1v15(k, hash, digest, signature) == nil
		case "PS":
			return rsa.VerifyPSS(k, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		bits := k.Curve.Params().BitSize
		size := (bits + 7) / 8
		if algorithm != map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[bits] || len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(k, digest, r, s)
	}
	return false
}
