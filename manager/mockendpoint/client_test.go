package mockendpoint_test

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
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2/jwt"

	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

// sign returns a JWT.
func sign(t *testing.T, key crypto.Signer, algorithm string, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64(fmt.Appendf(nil, `{"alg":%q,"typ":"JWT"}`, algorithm)) + "." + b64(payload)
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[algorithm[2:]]
	digest, options := []byte(text), crypto.SignerOpts(hash)
	if hash != 0 {
		h := hash.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	if algorithm[:2] == "PS" {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	var signature []byte
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, signErr := ecdsa.Sign(rand.Reader, k, digest)
		size := (k.Curve.Params().BitSize + 7) / 8
		signature, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), signErr
	} else {
		signature, err = key.Sign(rand.Reader, digest, options)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(signature)
}

type keys struct {
	rsa     *rsa.PrivateKey
	ec      map[string]*ecdsa.PrivateKey
	ed25519 ed25519.PrivateKey
}

// ours and theirs are two sets of keys: made once, as it takes its time.
var ours, theirs = sync.OnceValues(newKeys), sync.OnceValues(newKeys)

func newKeys() (keys, error) {
	k := keys{ec: map[string]*ecdsa.PrivateKey{}}
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return k, err
	}
	for algorithm, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		if k.ec[algorithm], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			return k, err
		}
	}
	_, k.ed25519, err = ed25519.GenerateKey(rand.Reader)
	return k, err
}

func use(t *testing.T, set func() (keys, error)) keys {
	t.Helper()
	k, err := set()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k keys) of(algorithm string) crypto.Signer {
	switch {
	case algorithm == "EdDSA":
		return k.ed25519
	case strings.HasPrefix(algorithm, "ES"):
		return k.ec[algorithm]
	}
	return k.rsa
}

func (k keys) public() []crypto.PublicKey {
	list := []crypto.PublicKey{k.rsa.Public(), k.ed25519.Public()}
	for _, key := range k.ec {
		list = append(list, key.Public())
	}
	return list
}

// statement is what a good client assertion says.
func statement(audience any) map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": "id", "sub": "id", "aud": audience, "exp": now + 60, "iat": now, "nbf": now, "jti": rand.Text()}
}

func asserting(assertion string) url.Values {
	return with(grant(), "client_assertion_type", assertionType, "client_assertion", assertion)
}

func TestPrivateKeyJWT(t *testing.T) {
	k := use(t, ours)
	_, target := start(t, mockendpoint.Options{ClientID: "id", ClientKeys: k.public(), Issuer: "https://issuer.test"})
	for _, algorithm := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		for _, audience := range []any{target, "https://issuer.test", []string{"x", target}} {
			a := askWith(t, target, asserting(sign(t, k.of(algorithm), algorithm, statement(audience))), nil)
			if a.StatusCode != http.StatusOK {
				t.Errorf("%s for %v: got %d %v", algorithm, audience, a.StatusCode, a.fields)
			}
		}
	}
}

func TestPrivateKeyJWTIsRefused(t *testing.T) {
	k, other := use(t, ours), use(t, theirs)
	e, target := start(t, mockendpoint.Options{ClientID: "id", ClientKeys: k.public()})
	now := time.Now().Unix()
	good := func() string { return sign(t, k.rsa, "RS256", statement(target)) }
	but := func(changes map[string]any) string {
		claims := statement(target)
		maps.Copy(claims, changes)
		maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
		return sign(t, k.rsa, "RS256", claims)
	}
	used := good()
	if a := askWith(t, target, asserting(used), nil); a.StatusCode != http.StatusOK {
		t.Fatalf("a good one: %d %v", a.StatusCode, a.fields)
	}
	if r := last(t, e); r.AuthMethod != mockendpoint.PrivateKeyJWT || r.ClientID != "id" || strings.Contains(r.String(), used) {
		t.Errorf("recorded %v", r)
	}
	parts := strings.Split(good(), ".")
	for name, c := range map[string]struct{ assertion, why string }{
		"again":                    {used, "used before"},
		"another key":              {sign(t, other.rsa, "RS256", statement(target)), "signature"},
		"another's curve":          {sign(t, other.ec["ES256"], "ES256", statement(target)), "signature"},
		"unsigned":                 {b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "signature"},
		"HMAC":                     {b64([]byte(`{"alg":"HS256"}`)) + "." + parts[1] + "." + parts[2], "signature"},
		"algorithm of another key": {b64([]byte(`{"alg":"ES256"}`)) + "." + parts[1] + "." + parts[2], "signature"},
		"claims that were changed": {parts[0] + "." + b64([]byte(`{"iss":"id"}`)) + "." + parts[2], "signature"},
		"critical":                 {b64([]byte(`{"alg":"RS256","crit":["b64"]}`)) + "." + parts[1] + "." + parts[2], "header"},
		"no JWT":                   {"x", "no JWT"},
		"padded":                   {parts[0] + "." + parts[1] + "=." + parts[2], "no JWT"},
		"empty":                    {"", "no JWT"},
		"issuer":                   {but(map[string]any{"iss": "another"}), "iss or sub"},
		"no issuer":                {but(map[string]any{"iss": nil}), "iss or sub"},
		"subject":                  {but(map[string]any{"sub": "another"}), "iss or sub"},
		"audience":                 {but(map[string]any{"aud": target + "/"}), "aud"},
		"no audience":              {but(map[string]any{"aud": nil}), "aud"},
		"expired":                  {but(map[string]any{"exp": now - 60}), "expired"},
		"for ever":                 {but(map[string]any{"exp": now + 7200}), "exp"},
		"no end":                   {but(map[string]any{"exp": nil}), "exp is missing"},
		"not yet":                  {but(map[string]any{"nbf": now + 60}), "nbf"},
		"from the future":          {but(map[string]any{"iat": now + 60}), "iat"},
		"no jti":                   {but(map[string]any{"jti": nil}), "jti"},
		"exp as text":              {but(map[string]any{"exp": "soon"}), "claims"},
	} {
		a := askWith(t, target, with(asserting(c.assertion), "client_id", "id"), nil)
		description, _ := a.fields["error_description"].(string)
		if a.StatusCode != http.StatusUnauthorized || a.fields["error"] != "invalid_client" || !strings.Contains(description, c.why) {
			t.Errorf("%s: got %d %v, want 401 because of %s", name, a.StatusCode, a.fields, c.why)
		}
	}
	for name, c := range map[string]struct {
		form url.Values
		mend func(*http.Request)
		code string
	}{
		"another type":       {with(grant(), "client_assertion_type", "x", "client_assertion", good()), nil, "invalid_client"},
		"no type":            {with(grant(), "client_id", "id", "client_assertion", good()), nil, "invalid_client"},
		"another client_id":  {with(asserting(good()), "client_id", "another"), nil, "invalid_client"},
		"with a secret, too": {with(asserting(good()), "client_secret", "x"), nil, "invalid_request"},
		"with a header, too": {asserting(good()), basic("id", "x"), "invalid_request"},
		"basic":              {grant(), basic("id", "x"), "invalid_client"},
		"none":               {with(grant(), "client_id", "id"), nil, "invalid_client"},
	} {
		if a := askWith(t, target, c.form, c.mend); a.fields["error"] != c.code {
			t.Errorf("%s: got %v, want %s", name, a.fields, c.code)
		}
	}
}

func unb64(t *testing.T, s string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The signatures of RFC 7515 §A.3 and RFC 8037 §A.4 are good: what is refused is what they sign.
func TestPublishedSignatures(t *testing.T) {
	point := append([]byte{4}, unb64(t, "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU")...)
	point = append(point, unb64(t, "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")...)
	ec, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.PublicKey(unb64(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	_, target := start(t, mockendpoint.Options{ClientKeys: []crypto.PublicKey{ec, ed}})
	for assertion, want := range map[string]string{
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ" +
			".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q": "client assertion: iss or sub is missing",
		"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc" +
			".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg": "client assertion: the claims can't be read",
	} {
		if a := askWith(t, target, asserting(assertion), nil); a.fields["error_description"] != want {
			t.Errorf("got %v, want %s", a.fields, want)
		}
	}
}

func TestAudiences(t *testing.T) {
	k := use(t, ours)
	_, target := start(t, mockendpoint.Options{ClientID: "id", ClientKeys: k.public(), Audiences: []string{"https://as.test"}})
	for audience, want := range map[string]int{"https://as.test": 200, target: 401} {
		if a := askWith(t, target, asserting(sign(t, k.ed25519, "EdDSA", statement(audience))), nil); a.StatusCode != want {
			t.Errorf("%s: got %d %v, want %d", audience, a.StatusCode, a.fields, want)
		}
	}
}

func TestSetClientKeys(t *testing.T) {
	old, next := use(t, ours), use(t, theirs)
	e, target := start(t, mockendpoint.Options{ClientID: "id", ClientKeys: old.public()})
	e.SetClientKeys(next.public()...)
	for key, want := range map[crypto.Signer]int{old.rsa: 401, next.rsa: 200} {
		if a := askWith(t, target, asserting(sign(t, key, "PS256", statement(target))), nil); a.StatusCode != want {
			t.Errorf("got %d %v, want %d", a.StatusCode, a.fields, want)
		}
	}
}

// certificate returns a certificate that is signed by itself.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"Test"}}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLSClientAuth(t *testing.T) {
	worker, stranger := certificate(t, "worker"), certificate(t, "stranger")
	fingerprint := sha256.Sum256(worker.Certificate[0])
	withID := with(grant(), "client_id", "id")
	for name, c := range map[string]struct {
		known  []string
		certs  []tls.Certificate
		form   url.Values
		status int
		method string
	}{
		"subject":             {[]string{"CN=worker,O=Test"}, []tls.Certificate{worker}, withID, 200, mockendpoint.TLSClientAuth},
		"fingerprint":         {[]string{"CN=x", strings.ToUpper(hex.EncodeToString(fingerprint[:]))}, []tls.Certificate{worker}, withID, 200, mockendpoint.TLSClientAuth},
		"another":             {[]string{"CN=worker,O=Test"}, []tls.Certificate{stranger}, withID, 401, mockendpoint.TLSClientAuth},
		"none":                {[]string{"CN=worker,O=Test"}, nil, withID, 401, mockendpoint.NoAuth},
		"a secret as well":    {[]string{"CN=worker,O=Test"}, []tls.Certificate{worker}, with(grant(), "client_id", "id", "client_secret", "x"), 401, mockendpoint.Post},
		"without client_id":   {[]string{"CN=worker,O=Test"}, []tls.Certificate{worker}, grant(), 401, mockendpoint.TLSClientAuth},
		"any, as none is set": {nil, []tls.Certificate{stranger}, withID, 200, mockendpoint.TLSClientAuth},
	} {
		t.Run(name, func(t *testing.T) {
			e := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientCerts: c.known})
			server := httptest.NewUnstartedServer(e)
			server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
			server.StartTLS()
			defer server.Close()
			transport, _ := server.Client().Transport.(*http.Transport)
			transport.TLSClientConfig.Certificates = c.certs
			resp, err := server.Client().Do(newRequest(t.Context(), t, server.URL, c.form, nil))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != c.status || last(t, e).AuthMethod != c.method {
				t.Errorf("got %d by %s, want %d by %s", resp.StatusCode, last(t, e).AuthMethod, c.status, c.method)
			}
		})
	}
}

func TestAuthMethods(t *testing.T) {
	for name, c := range map[string]struct {
		methods []string
		mend    func(*http.Request)
		status  int
	}{
		"basic alone, by basic":     {[]string{mockendpoint.Basic}, basic("id", "secret"), 200},
		"post alone, by basic":      {[]string{mockendpoint.Post}, basic("id", "secret"), 401},
		"a public client":           {[]string{mockendpoint.NoAuth}, nil, 200},
		"a public client, by basic": {[]string{mockendpoint.NoAuth}, basic("id", "secret"), 401},
		"basic alone, by none":      {[]string{mockendpoint.Basic}, nil, 401},
		"keys alone, by none":       {[]string{mockendpoint.PrivateKeyJWT, mockendpoint.TLSClientAuth}, nil, 401},
	} {
		_, target := start(t, mockendpoint.Options{ClientID: "id", ClientSecret: "secret", AuthMethods: c.methods})
		form := grant()
		if c.mend == nil {
			form.Set("client_id", "id")
		}
		if a := askWith(t, target, form, c.mend); a.StatusCode != c.status {
			t.Errorf("%s: got %d, want %d", name, a.StatusCode, c.status)
		}
	}
}

// The JWT bearer grant of a client that nobody here wrote.
func TestOAuth2ClientAsserts(t *testing.T) {
	k, other := use(t, ours), use(t, theirs)
	_, target := start(t, mockendpoint.Options{
		Grants: []string{mockendpoint.JWTBearer}, AssertionKeys: []crypto.PublicKey{k.rsa.Public()}, Default: mockendpoint.Reply{AccessToken: "t1"},
	})
	for key, good := range map[*rsa.PrivateKey]bool{k.rsa: true, other.rsa: false} {
		config := jwt.Config{
			Email: "worker@test", Subject: "someone@test", TokenURL: target,
			PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		}
		token, err := config.TokenSource(t.Context()).Token()
		if good && (err != nil || token.AccessToken != "t1") || !good && (err == nil || !strings.Contains(err.Error(), "invalid_grant")) {
			t.Errorf("the right key: %t: got %v", good, err)
		}
	}
}

func TestJWTBearer(t *testing.T) {
	form := func(pairs ...string) url.Values {
		return with(url.Values{"grant_type": {mockendpoint.JWTBearer}}, pairs...)
	}
	_, target := start(t, mockendpoint.Options{Grants: []string{mockendpoint.JWTBearer}})
	for assertion, status := range map[string]int{"": 400, "anything": 200} {
		if a := askWith(t, target, form("assertion", assertion), nil); a.StatusCode != status {
			t.Errorf("%q: got %d %v, want %d", assertion, a.StatusCode, a.fields, status)
		}
	}
}

func TestTokenExchange(t *testing.T) {
	const (
		jwtType    = "urn:ietf:params:oauth:token-type:jwt"
		accessType = "urn:ietf:params:oauth:token-type:access_token"
	)
	e, target := start(t, mockendpoint.Options{Grants: []string{mockendpoint.TokenExchange}, SubjectTokens: []string{"subject"}})
	for name, c := range map[string]struct {
		pairs  []string
		issued any
		code   any
	}{
		"good":                  {[]string{"subject_token", "subject", "subject_token_type", jwtType, "audience", "a", "audience", "b"}, accessType, nil},
		"another type":          {[]string{"subject_token", "subject", "subject_token_type", jwtType, "requested_token_type", jwtType}, jwtType, nil},
		"with an actor":         {[]string{"subject_token", "subject", "subject_token_type", jwtType, "actor_token", "a", "actor_token_type", jwtType}, accessType, nil},
		"actor without a type":  {[]string{"subject_token", "subject", "subject_token_type", jwtType, "actor_token", "a"}, nil, "invalid_request"},
		"type without an actor": {[]string{"subject_token", "subject", "subject_token_type", jwtType, "actor_token_type", jwtType}, nil, "invalid_request"},
		"another subject":       {[]string{"subject_token", "x", "subject_token_type", jwtType}, nil, "invalid_request"},
		"no subject":            {[]string{"subject_token_type", jwtType}, nil, "invalid_request"},
		"no subject's type":     {[]string{"subject_token", "subject"}, nil, "invalid_request"},
	} {
		a := askWith(t, target, with(url.Values{"grant_type": {mockendpoint.TokenExchange}}, c.pairs...), nil)
		if a.fields["issued_token_type"] != c.issued || a.fields["error"] != c.code || (a.token() != "") != (c.code == nil) {
			t.Errorf("%s: got %v, want a token of type %v or error %v", name, a.fields, c.issued, c.code)
		}
	}
	for _, r := range e.Requests() {
		if strings.Contains(r.String(), `"subject"`) {
			t.Errorf("a subject token is in %v", r)
		}
	}
}

// The manager's client shows its certificate, and finds the endpoint by the issuer's metadata.
func TestTheManagersClientShowsItsCertificate(t *testing.T) {
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	worker := certificate(t, "worker")
	key, err := x509.MarshalPKCS8PrivateKey(worker.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	e := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientCerts: []string{"CN=worker,O=Test"}})
	server := httptest.NewUnstartedServer(e)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()
	client, err := endpoint.New(endpoint.Config{
		Issuer: server.URL, ClientID: "id", AuthMethod: endpoint.TLSClientAuth,
		ClientCertFile: write("cert.pem", "CERTIFICATE", worker.Certificate[0]), ClientKeyFile: write("key.pem", "PRIVATE KEY", key),
		CAFile: write("ca.pem", "CERTIFICATE", server.Certificate().Raw),
	})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !e.Accepts(reply.AccessToken.Reveal()) || last(t, e).AuthMethod != mockendpoint.TLSClientAuth {
		t.Errorf("got %v", last(t, e))
	}
}
