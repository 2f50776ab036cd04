package interop_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/onetoken/onetoken/internal/programs"
)

// What clients may be given, and a resource (RFC 8707) whose tokens are JWTs.
const (
	readScope = "campaigns.read"
	resource  = "https://api.example/v1"
)

// anOIDCProvider is an authorization server by oidc-provider, with its clients.
type anOIDCProvider struct {
	authority
	dir     string // has ca.pem, and what the clients sign and show
	clients []registration
	public  registration // has no secret
}

var installOIDCProvider = sync.OnceValue(func() error { return npm("oidc-provider") })

// startOIDCProvider starts the server for the life of t.
func startOIDCProvider(t *testing.T) *anOIDCProvider {
	t.Helper()
	node := programs.Need(t, "node")
	installed(t, installOIDCProvider)
	dir := t.TempDir()
	clientCA, serverCA := authorityOf(t, "clients"), authorityOf(t, "servers")
	certificate := serverCertificate(t, serverCA)
	serverCA.save(t, dir, "ca")

	p := &anOIDCProvider{dir: dir}
	p.clients = slices.Concat(bySecret(), byKey(t, dir), byCertificate(t, dir, clientCA))
	p.public = registration{
		name: "public", id: "public", server: map[string]any{"token_endpoint_auth_method": "none"},
		settings: "auth_method: none", form: onlyID("public"),
	}
	p.asks = [2]string{"inspector", "an inspector's secret"}
	clients := []map[string]any{{
		"client_id": p.asks[0], "client_secret": p.asks[1], "grant_types": []string{}, "redirect_uris": []string{}, "response_types": []string{},
	}}
	for _, c := range append(p.clients, p.public) {
		c.server["client_id"] = c.id
		c.server["application_type"] = "native" // its redirect may be to any port
		c.server["redirect_uris"] = []string{"http://127.0.0.1" + callbackPath}
		c.server["response_types"] = []string{"code"}
		c.server["grant_types"] = []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}
		if c.name != p.public.name {
			c.server["grant_types"] = append(c.server["grant_types"].([]string), "client_credentials")
		}
		clients = append(clients, c.server)
	}
	roots := x509.NewCertPool()
	roots.AddCert(serverCA.tls.Leaf)
	p.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	cmd := detached(t, node, "server.mjs")
	cmd.Dir = "oidc-provider"
	p.begin(t, cmd, map[string]any{"key": certificate.private, "cert": certificate.cert, "clientCA": clientCA.cert, "clients": clients})
	return p
}

func TestOIDCProvider(t *testing.T) {
	p := startOIDCProvider(t)
	t.Run("by hand", p.byHand)
}

// byHand checks the server itself: what it takes, and what it refuses. Else a test of ours could succeed for no good reason.
func (p *anOIDCProvider) byHand(t *testing.T) {
	credentials := url.Values{"grant_type": {"client_credentials"}, "scope": {readScope}}
	for _, c := range p.clients {
		s := c.ask(t, &p.authority, credentials)
		if s.status != http.StatusOK || s.text("access_token") == "" {
			t.Errorf("%s: %d, %q: %s", c.name, s.status, s.text("error"), s.text("error_description"))
			continue
		}
		if claims := p.accepts(t, s.text("access_token")); claims["client_id"] != c.id || !scoped(claims, readScope) {
			t.Errorf("%s: the token is %v", c.name, claims)
		}
		bare := registration{form: onlyID(c.id)}
		if s := bare.ask(t, &p.authority, credentials); s.status == http.StatusOK {
			t.Errorf("%s: its id is enough", c.name)
		}
	}
	s := p.clients[0].ask(t, &p.authority, url.Values{"grant_type": {"client_credentials"}, "scope": {readScope}, "resource": {resource}})
	if claims := p.accepts(t, s.text("access_token")); !slices.Equal(audience(claims), []string{resource}) {
		t.Errorf("the token for a resource is %v", claims)
	}

	// A refresh token that was spent ends its family.
	first := p.grant(t, p.public, url.Values{"scope": {"openid " + readScope}})
	s = p.refresh(t, p.public, first)
	second, access := s.text("refresh_token"), s.text("access_token")
	if second == "" || second == first {
		t.Fatalf("no rotation: %d %q", s.status, s.text("error"))
	}
	if claims := p.accepts(t, access); claims["sub"] != "alice" {
		t.Errorf("the token is %v", claims)
	}
	for _, spent := range []string{first, second} {
		if s := p.refresh(t, p.public, spent); s.text("error") != "invalid_grant" {
			t.Errorf("a family that ended: %d %q", s.status, s.text("error"))
		}
	}
	p.refuses(t, "an access token of the family", access)

	// A device.
	s = p.post(t, p.client, p.metadata.DeviceURL, url.Values{"client_id": {p.public.id}, "scope": {"openid " + readScope}})
	poll := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {s.text("device_code")}}
	if s := p.public.ask(t, &p.authority, poll); s.text("error") != "authorization_pending" {
		t.Errorf("before anybody is asked: %d %q", s.status, s.text("error"))
	}
	visit(t, p.browser(t), s.text("verification_uri_complete"))
	if s := p.public.ask(t, &p.authority, poll); s.text("refresh_token") == "" {
		t.Errorf("the device gets %d, %q: %s", s.status, s.text("error"), s.text("error_description"))
	}
}
