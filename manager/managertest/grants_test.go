package managertest_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// Every grant with every way to authenticate: the managers and the endpoint understand each other without any setting
// but those.
func TestGrantsAndClientAuthentication(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	for _, grant := range []manager.Grant{"", manager.ClientCredentials, manager.RefreshToken, manager.JWTBearer, manager.TokenExchange} {
		for method, recorded := range map[manager.AuthMethod]string{
			"": "basic", manager.ClientSecretBasic: "basic", manager.ClientSecretPost: "post", manager.PrivateKeyJWT: "private_key_jwt", manager.NoClientAuth: "none",
		} {
			t.Run(string(grant)+" by "+string(method), func(t *testing.T) {
				o := managertest.Options{
					Environment: manager.Environment{Grant: grant, AuthMethod: method},
					Endpoint:    mockendpoint.Options{Rotate: true, SubjectTokens: []string{"subject"}},
				}
				keys := []crypto.PublicKey{public}
				if method == manager.PrivateKeyJWT {
					o.Environment.PrivateKeyFile, o.Endpoint.ClientKeys = keyFile, keys
				}
				switch grant {
				case manager.JWTBearer:
					o.Environment.PrivateKeyFile, o.Endpoint.AssertionKeys = keyFile, keys
				case manager.TokenExchange:
					o.Environment.SubjectTokenFile = write("subject", "subject")
				default:
				}
				kit := managertest.New(t, o)
				if tok := token(t, kit.Manager, managertest.Environment); !kit.Endpoint.Accepts(tok.AccessToken.Reveal()) {
					t.Error("its token isn't accepted")
				}
				if r := kit.Endpoint.Requests(); len(r) != 1 || r[0].AuthMethod != recorded || r[0].ClientID != "test-client" {
					t.Errorf("got %v, want one call by %s", r, recorded)
				}
				if grant == manager.RefreshToken {
					seed := kit.RefreshTokens[managertest.Environment]
					if f := kit.Endpoint.Families()[0]; f.Rotations != 1 || f.Reuses != 0 || kit.Endpoint.AcceptsRefreshToken(seed) {
						t.Errorf("got %+v, want one rotation of the seed", f)
					}
				}
			})
		}
	}
}

// An environment that knows its issuer alone finds the endpoint.
func TestIssuer(t *testing.T) {
	endpoint := mockendpoint.New(mockendpoint.Options{ClientSecret: "test-secret"})
	server := httptest.NewServer(endpoint)
	defer server.Close()
	kit := managertest.New(t, managertest.Options{Environment: manager.Environment{Issuer: server.URL}})
	token(t, kit.Manager, managertest.Environment)
	if endpoint.Calls() != 1 || kit.Endpoint.Calls() != 0 || !strings.HasSuffix(endpoint.Requests()[0].Path, "/token") {
		t.Errorf("got %v, want one call at the issuer's token endpoint", endpoint.Requests())
	}
}
