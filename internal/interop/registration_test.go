package interop_test

import (
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// A registration is a client of an authorization server.
type registration struct {
	name     string         // of the environment that is for it
	id       string         // the client id
	server   map[string]any // what the server is told of it
	settings string         // what onetoken is told, as lines of YAML
	wrong    string         // the same with a secret, a key or a certificate that isn't its own; "" where it has none

	// How it authenticates by hand: form is added to, the certificate is shown, and basic is a Basic header's id and secret.
	form        func(*testing.T, *authority) url.Values
	basic       []string
	certificate *tls.Certificate
}

// ask asks for a token as the client, by hand.
func (c registration) ask(t *testing.T, a *authority, form url.Values) said {
	t.Helper()
	client, target := a.client, a.metadata.TokenURL
	if c.certificate != nil {
		transport := client.Transport.(*http.Transport).Clone()
		// Certificates are only shown to servers that name their issuer among those they know.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate, nil }
		defer transport.CloseIdleConnections()
		client, target = &http.Client{Transport: transport}, a.metadata.Aliases.TokenURL
	}
	all := url.Values{}
	maps.Copy(all, form)
	if c.form != nil {
		maps.Copy(all, c.form(t, a))
	}
	return a.post(t, client, target, all, c.basic...)
}

// bySecret returns clients with a secret, in a Basic header and in the form.
func bySecret() []registration {
	return []registration{
		{
			name: "basic", id: clientID, server: map[string]any{"client_secret": clientSecret},
			settings: fmt.Sprintf("client_secret: %q", clientSecret), wrong: "client_secret: wrong",
			basic: []string{clientID, clientSecret},
		},
		{
			name: "post", id: "post", server: map[string]any{"client_secret": clientSecret, "token_endpoint_auth_method": "client_secret_post"},
			settings: fmt.Sprintf("auth_method: client_secret_post\nclient_secret: %q", clientSecret),
			wrong:    "auth_method: client_secret_post\nclient_secret: wrong",
			form: func(*testing.T, *authority) url.Values {
				return url.Values{"client_id": {"post"}, "client_secret": {clientSecret}}
			},
		},
	}
}

// byKey returns clients that sign assertions, each with another algorithm. Their keys are in dir.
func byKey(t *testing.T, dir string) (clients []registration) {
	t.Helper()
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		k, other := newKey(t, alg), newKey(t, alg)
		write(t, filepath.Join(dir, alg+".pem"), k.pem)
		write(t, filepath.Join(dir, "other-"+alg+".pem"), other.pem)
		settings := func(file string) string {
			return fmt.Sprintf("auth_method: private_key_jwt\nprivate_key_file: %s\nkey_id: %s\nsigning_algorithm: %s", file, alg, alg)
		}
		id := "signs-" + alg
		clients = append(clients, registration{
			name: alg, id: id, settings: settings(alg + ".pem"), wrong: settings("other-" + alg + ".pem"),
			server: map[string]any{
				"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": alg,
				"jwks": map[string]any{"keys": []any{k.jwk()}},
			},
			form: func(t *testing.T, a *authority) url.Values {
				return url.Values{
					"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
					"client_assertion":      {k.sign(t, map[string]any{"iss": id, "sub": id, "aud": a.issuer})},
				}
			},
		})
	}
	return clients
}

// byCertificate returns a client whose certificate the authority has signed, and one whose own is registered. What they show
// is in dir.
func byCertificate(t *testing.T, dir string, authority *certificate) (clients []registration) {
	t.Helper()
	settings := func(file string) string {
		return fmt.Sprintf("auth_method: tls_client_auth\nclient_cert_file: %s.pem\nclient_key_file: %s-key.pem", file, file)
	}
	const name = "worker.example"
	signed, own := clientCertificate(t, authority, name), clientCertificate(t, nil, "own.example")
	signed.save(t, dir, "signed")
	own.save(t, dir, "own")
	clientCertificate(t, nil, name).save(t, dir, "other") // says that it is the one, and is neither
	public := key{alg: "ES256", private: own.tls.PrivateKey.(crypto.Signer)}.jwk()
	public["x5c"] = []string{base64.StdEncoding.EncodeToString(own.tls.Certificate[0])}
	return []registration{
		{
			name: "signed", id: "signed", settings: settings("signed"), wrong: settings("other"),
			server:      map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": name},
			form:        onlyID("signed"),
			certificate: &signed.tls,
		},
		{
			name: "own", id: "own", settings: settings("own"), wrong: settings("other"),
			server:      map[string]any{"token_endpoint_auth_method": "self_signed_tls_client_auth", "jwks": map[string]any{"keys": []any{public}}},
			form:        onlyID("own"),
			certificate: &own.tls,
		},
	}
}

func onlyID(id string) func(*testing.T, *authority) url.Values {
	return func(*testing.T, *authority) url.Values { return url.Values{"client_id": {id}} }
}

// environment returns the environment of c in YAML, with further lines of settings.
func (c registration) environment(name string, lines ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    client_id: %q\n", name, c.id)
	for _, block := range lines {
		for line := range strings.Lines(strings.TrimRight(block, "\n") + "\n") {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}
