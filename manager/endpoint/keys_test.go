package endpoint_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// Keys for all tests: those of RSA take a while to make.
var (
	rsaKey  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey   = sync.OnceValue(func() ed25519.PrivateKey {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return must(private, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// encoded is DER in PEM.
func encoded(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pkcs8 is a private key in PEM.
func pkcs8(private any) string {
	return encoded("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(private)))
}

// file writes a file that goes with the test, and returns its path.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	replace(t, path, content)
	return path
}

// replace puts a new file in the place of an old one.
func replace(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func number(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }

// A jwk is a private key in JSON, with further members.
func jwk(t *testing.T, private crypto.Signer, members map[string]string) string {
	t.Helper()
	m := map[string]string{}
	switch k := private.(type) {
	case *rsa.PrivateKey:
		m = map[string]string{
			"kty": "RSA", "n": number(k.N), "e": "AQAB", "d": number(k.D), "p": number(k.Primes[0]), "q": number(k.Primes[1]),
			"dp": number(k.Precomputed.Dp), "dq": number(k.Precomputed.Dq), "qi": number(k.Precomputed.Qinv),
		}
	case *ecdsa.PrivateKey:
		public := must(k.PublicKey.Bytes())
		half := len(public) / 2
		m = map[string]string{
			"kty": "EC", "crv": k.Params().Name, "d": base64.RawURLEncoding.EncodeToString(must(k.Bytes())),
			"x": base64.RawURLEncoding.EncodeToString(public[1 : 1+half]), "y": base64.RawURLEncoding.EncodeToString(public[1+half:]),
		}
	case ed25519.PrivateKey:
		m = map[string]string{
			"kty": "OKP", "crv": "Ed25519", "d": base64.RawURLEncoding.EncodeToString(k.Seed()),
			"x": base64.RawURLEncoding.EncodeToString(k.Public().(ed25519.PublicKey)),
		}
	}
	maps.Copy(m, members)
	return string(must(json.Marshal(m)))
}

// A token is a JWT, read and verified by nothing but the primitives.
type token struct {
	header, claims map[string]any
}

// verify fails unless text is a JWT signed by the key of public, by the algorithm.
func verify(t *testing.T, text, algorithm string, public crypto.PublicKey) token {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts: %q", len(parts), text)
	}
	var decoded [3][]byte
	for i, part := range parts {
		decoded[i] = must(base64.RawURLEncoding.DecodeString(part))
	}
	var got token
	if err := json.Unmarshal(decoded[0], &got.header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(decoded[1], &got.claims); err != nil {
		t.Fatal(err)
	}
	if got.header["alg"] != algorithm {
		t.Fatalf("alg %v; want %s", got.header["alg"], algorithm)
	}
	input, signature := []byte(parts[0]+"."+parts[1]), decoded[2]
	sum256, sum384, sum512 := sha256.Sum256(input), sha512.Sum384(input), sha512.Sum512(input)
	hash, sum := crypto.SHA256, sum256[:]
	switch algorithm[2:] {
	case "384":
		hash, sum = crypto.SHA384, sum384[:]
	case "512":
		hash, sum = crypto.SHA512, sum512[:]
	}
	ok := false
	switch k := public.(type) {
	case *rsa.PublicKey:
		if algorithm[:2] == "PS" {
			ok = rsa.VerifyPSS(k, hash, sum, signature, &rsa.PSSOptions{SaltLength: hash.Size()}) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(k, hash, sum, signature) == nil
		}
	case *ecdsa.PublicKey:
		size := (k.Params().BitSize + 7) / 8
		ok = len(signature) == 2*size &&
			ecdsa.Verify(k, sum, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, input, signature)
	}
	if !ok {
		t.Fatalf("the signature of %q is not that of the key by %s", text, algorithm)
	}
	return got
}

// withKey makes c sign its client assertions.
func withKey(c *endpoint.Config, path string) {
	c.AuthMethod, c.ClientSecret, c.PrivateKeyFile = endpoint.PrivateKeyJWT, secret.Secret{}, path
}

func TestKeysSignByTheirAlgorithms(t *testing.T) {
	account := func(private any) string {
		return string(must(json.Marshal(map[string]string{
			"type": "service_account", "private_key": pkcs8(private), "private_key_id": "key-of-the-account", "client_email": "me@project.example",
		})))
	}
	ec := func(k *ecdsa.PrivateKey) string { return encoded("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(k))) }
	parameters := encoded("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})
	certificate := encoded("CERTIFICATE", []byte("any"))
	for _, c := range []struct {
		name, content, set, want string
		key                      crypto.Signer
		kid                      any
	}{
		{"RSA, PKCS #8", pkcs8(rsaKey()), "", "RS256", rsaKey(), nil},
		{"RSA, PKCS #1", encoded("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey())), "", "RS256", rsaKey(), nil},
		{"RSA behind a certificate", certificate + pkcs8(rsaKey()), "", "RS256", rsaKey(), nil},
		{"RSA, RS384", pkcs8(rsaKey()), "RS384", "RS384", rsaKey(), nil},
		{"RSA, RS512", pkcs8(rsaKey()), "RS512", "RS512", rsaKey(), nil},
		{"RSA, PS256", pkcs8(rsaKey()), "PS256", "PS256", rsaKey(), nil},
		{"RSA, PS384", pkcs8(rsaKey()), "PS384", "PS384", rsaKey(), nil},
		{"RSA, PS512", pkcs8(rsaKey()), "PS512", "PS512", rsaKey(), nil},
		{"P-256, PKCS #8", pkcs8(p256Key()), "", "ES256", p256Key(), nil},
		{"P-256, SEC 1", ec(p256Key()), "", "ES256", p256Key(), nil},
		{"P-256 as openssl ecparam writes it", parameters + ec(p256Key()), "ES256", "ES256", p256Key(), nil},
		{"P-384", pkcs8(p384Key()), "", "ES384", p384Key(), nil},
		{"P-521", ec(p521Key()), "", "ES512", p521Key(), nil},
		{"Ed25519", pkcs8(edKey()), "", "EdDSA", edKey(), nil},
		{"an RSA JWK", jwk(t, rsaKey(), map[string]string{"kid": "k1", "use": "sig"}), "", "RS256", rsaKey(), "k1"},
		{"an RSA JWK with its algorithm", jwk(t, rsaKey(), map[string]string{"alg": "PS384"}), "", "PS384", rsaKey(), nil},
		{"an RSA JWK with another algorithm than is configured", jwk(t, rsaKey(), map[string]string{"alg": "PS384"}), "RS512", "RS512", rsaKey(), nil},
		{"a P-256 JWK", jwk(t, p256Key(), nil), "", "ES256", p256Key(), nil},
		{"a P-384 JWK", jwk(t, p384Key(), nil), "", "ES384", p384Key(), nil},
		{"a P-521 JWK", " \n" + jwk(t, p521Key(), nil) + "\n", "", "ES512", p521Key(), nil},
		{"an Ed25519 JWK", jwk(t, edKey(), map[string]string{"alg": "EdDSA", "kid": "k2"}), "", "EdDSA", edKey(), "k2"},
		{"a service account", account(rsaKey()), "", "RS256", rsaKey(), "key-of-the-account"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var to string
			r := capture(t, func(conf *endpoint.Config) {
				withKey(conf, file(t, c.content))
				conf.SigningAlgorithm = c.set
				to = conf.TokenURL
			})
			got := verify(t, r.form.Get("client_assertion"), c.want, c.key.Public())
			if got.header["typ"] != "JWT" || got.header["kid"] != c.kid {
				t.Errorf("header %v; want kid %v", got.header, c.kid)
			}
			if got.claims["iss"] != clientID || got.claims["sub"] != clientID || got.claims["aud"] != to {
				t.Errorf("claims %v; want %s, and aud %s", got.claims, clientID, to)
			}
		})
	}
}

func TestAConfiguredKeyIDIsUsed(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		withKey(c, file(t, jwk(t, p256Key(), map[string]string{"kid": "its own"})))
		c.KeyID = "mine"
	})
	if got := verify(t, r.form.Get("client_assertion"), "ES256", p256Key().Public()); got.header["kid"] != "mine" {
		t.Errorf("kid %v; want mine", got.header["kid"])
	}
}

func TestAClientAssertion(t *testing.T) {
	before := time.Now().Unix()
	seen := map[any]bool{}
	for range 2 {
		r := capture(t, func(c *endpoint.Config) {
			withKey(c, file(t, pkcs8(edKey())))
			c.ClientAssertionAudience = "https://issuer.example"
		})
		if got, want := r.form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"; got != want {
			t.Errorf("client_assertion_type %q; want %q", got, want)
		}
		if got := r.form.Get("client_id"); got != clientID {
			t.Errorf("client_id %q; want %q", got, clientID)
		}
		if r.form.Has("client_secret") || r.header.Get("Authorization") != "" {
			t.Error("there are credentials beside the assertion")
		}
		claims := verify(t, r.form.Get("client_assertion"), "EdDSA", edKey().Public()).claims
		if len(claims) != 6 || claims["aud"] != "https://issuer.example" {
			t.Errorf("claims %v; want iss, sub, aud as configured, iat, exp, jti", claims)
		}
		iat, exp := int64(claims["iat"].(float64)), int64(claims["exp"].(float64))
		if iat < before || iat > time.Now().Unix() || exp-iat != 60 {
			t.Errorf("from %d to %d; want a minute from now", iat, exp)
		}
		if jti, _ := claims["jti"].(string); len(jti) < 20 || seen[jti] {
			t.Errorf("jti %v; want one that no other assertion has", claims["jti"])
		} else {
			seen[jti] = true
		}
	}
}

func TestBadKeysAreErrorsThatNameSettingAndFile(t *testing.T) {
	short := must(rsa.GenerateKey(rand.Reader, 1024))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	x25519 := must(ecdh.X25519().GenerateKey(rand.Reader))
	good := pkcs8(rsaKey())
	for _, c := range []struct{ name, content, algorithm, want string }{
		{"empty", "", "", "is empty"},
		{"white space", " \n", "", "is empty"},
		{"long", strings.Repeat("x", 1<<20+1), "", "is longer than 1 MiB"},
		{"text", "hunter2", "", "is neither PEM nor a JWK nor a service account's JSON"},
		{"half of it", good[:len(good)/2], "", "is neither PEM nor a JWK nor a service account's JSON"},
		{"damaged", encoded("PRIVATE KEY", []byte("hunter2")), "", "the PRIVATE KEY in it can't be read: it is damaged, or of an unknown kind"},
		{"a public key", encoded("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(rsaKey().Public()))), "", "holds a public key, not the private one"},
		{"a certificate", encoded("CERTIFICATE", []byte("x")), "", "holds no private key"},
		{"encrypted", encoded("ENCRYPTED PRIVATE KEY", []byte("x")), "", "the key is encrypted: openssl pkey writes it without its passphrase"},
		{"encrypted, the old way", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naGk=\n-----END RSA PRIVATE KEY-----\n", "", "the key is encrypted: openssl pkey writes it without its passphrase"},
		{"OpenSSH's", encoded("OPENSSH PRIVATE KEY", []byte("x")), "", "an OpenSSH key: ssh-keygen -p -m PKCS8 makes PKCS #8 of it"},
		{"short", pkcs8(short), "", "an RSA key of 1024 bits: RFC 7518 §3.3 wants 2048 or more, and more than 16384 are slow"},
		{"short, a JWK", jwk(t, short, nil), "", "an RSA key of 1024 bits: RFC 7518 §3.3 wants 2048 or more, and more than 16384 are slow"},
		{"for encryption", pkcs8(x25519), "", "signed is with keys of RSA, EC (P-256, P-384, P-521) and Ed25519"},
		{"P-224", pkcs8(p224), "", "holds an EC key on P-224: signed is with keys of RSA, EC (P-256, P-384, P-521) and Ed25519"},
		{"RSA for ES256", good, "ES256", "holds an RSA key, and ES256 is signed with an EC key on P-256 (signing_algorithm)"},
		{"P-384 for ES256", pkcs8(p384Key()), "ES256", "holds an EC key on P-384, and ES256 is signed with an EC key on P-256 (signing_algorithm)"},
		{"P-256 for RS256", pkcs8(p256Key()), "RS256", "holds an EC key on P-256, and RS256 is signed with an RSA key (signing_algorithm)"},
		{"Ed25519 for PS512", pkcs8(edKey()), "PS512", "holds an Ed25519 key, and PS512 is signed with an RSA key (signing_algorithm)"},
		{"RSA for EdDSA", good, "EdDSA", "holds an RSA key, and EdDSA is signed with an Ed25519 key (signing_algorithm)"},
		{"a JWK of another algorithm", jwk(t, rsaKey(), map[string]string{"alg": "RSA-OAEP"}), "", `the key is for the algorithm "RSA-OAEP", which is not one of ` + allAlgorithms},
		{"a JWK for encryption", jwk(t, rsaKey(), map[string]string{"use": "enc"}), "", `the JWK's use is "enc", not sig`},
		{"a public JWK", jwk(t, rsaKey(), map[string]string{"d": ""}), "", "the JWK has no d: it is no private key"},
		{"a symmetric JWK", `{"kty":"oct","k":"aGk","d":"aGk"}`, "", `the JWK's kty is "oct", not RSA, EC or OKP`},
		{"a JWK without primes", jwk(t, rsaKey(), map[string]string{"p": ""}), "", "the JWK has no p and q"},
		{"a JWK with a wrong prime", jwk(t, rsaKey(), map[string]string{"p": number(rsaKey().Primes[1])}), "", "the JWK's numbers are not those of a key"},
		{"a JWK on another curve", jwk(t, p256Key(), map[string]string{"crv": "secp256k1"}), "", `the JWK's crv is "secp256k1", not P-256, P-384 or P-521`},
		{"a JWK with another public key", jwk(t, p256Key(), map[string]string{"x": "AAAA"}), "", "the JWK's numbers are not those of a key"},
		{"a JWK with a long x", jwk(t, p256Key(), map[string]string{"x": strings.Repeat("A", 100)}), "", "the JWK's numbers are not those of a key"},
		{"an Ed25519 JWK with another public key", jwk(t, edKey(), map[string]string{"x": "AAAA"}), "", "the JWK's numbers are not those of a key"},
		{"an X25519 JWK", jwk(t, edKey(), map[string]string{"crv": "X25519"}), "", `the JWK's crv is "X25519", not Ed25519`},
		{"a set of JWKs", `{"keys":[]}`, "", "is JSON without kty (of a JWK) and private_key (of a service account)"},
		{"a JWK that isn't base64", jwk(t, edKey(), map[string]string{"d": "!"}), "", "is no JSON of a JWK or a service account"},
		{"half a JWK", jwk(t, edKey(), nil)[:20], "", "is no JSON of a JWK or a service account"},
		{"a user's credentials", `{"type":"authorized_user","client_secret":"hunter2"}`, "", "is JSON without kty (of a JWK) and private_key (of a service account)"},
		{"a service account without a key", `{"private_key":"hunter2"}`, "", "private_key: is neither PEM nor a JWK nor a service account's JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := file(t, c.content)
			conf := config("https://auth.example/token")
			withKey(&conf, path)
			conf.SigningAlgorithm = c.algorithm
			_, err := endpoint.New(conf)
			if want := `private_key_file: "` + path + `": ` + c.want; err == nil || err.Error() != want {
				t.Errorf("%v; want %s", err, want)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		conf := config("https://auth.example/token")
		withKey(&conf, "/nowhere/key.pem")
		if _, err := endpoint.New(conf); err == nil || err.Error() != `private_key_file: "/nowhere/key.pem": no such file or directory` {
			t.Errorf("%v; want setting, file and reason", err)
		}
	})
}

const allAlgorithms = "ES256, ES384, ES512, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512"

var p256Other = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))

func TestAnAssertionNamesItsKeysCertificate(t *testing.T) {
	own, other := identify(t, "own", -time.Hour, time.Hour, nil), identify(t, "other", -time.Hour, time.Hour, nil)
	thumbprint := sha256.Sum256(own.cert.Raw)
	for _, c := range []struct {
		name string
		cert identity
		want any
	}{
		{"the key's", own, base64.RawURLEncoding.EncodeToString(thumbprint[:])},
		{"another, for the connection", other, nil},
	} {
		r := capture(t, func(cfg *endpoint.Config) {
			withKey(cfg, file(t, own.keyPEM()))
			cfg.ClientCertFile, cfg.ClientKeyFile = file(t, c.cert.certPEM()), file(t, c.cert.keyPEM())
		})
		if got := verify(t, r.form.Get("client_assertion"), "ES256", own.key.Public()).header["x5t#S256"]; got != c.want {
			t.Errorf("%s: x5t#S256 is %v, want %v", c.name, got, c.want)
		}
	}
}
