package interop_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
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
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"by hand", p.byHand},
		{"client credentials", p.clientCredentials},
		{"refresh tokens", p.refreshTokens},
		{"rotation", p.rotation},
		{"login and logout", p.loginAndLogout},
		{"login for a resource", p.loginForAResource},
		{"assertion file", p.assertionFile},
		{"another issuer", p.anotherIssuer},
	} {
		t.Run(test.name, test.run)
	}
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

// common is what all environments at the server have in common.
func (p *anOIDCProvider) common() string {
	return "issuer: " + p.issuer + "\nca_file: ca.pem"
}

func (p *anOIDCProvider) clientCredentials(t *testing.T) {
	var environments []string
	for _, c := range p.clients {
		scopes := "scopes: [" + readScope + "]"
		environments = append(
			environments,
			c.environment(c.name, p.common(), c.settings, scopes),
			c.environment("for-resource-"+c.name, p.common(), c.settings, scopes, "resource: "+resource),
			c.environment("wrong-"+c.name, p.common(), c.wrong, scopes),
		)
	}
	f := newFleet(t, p.dir, embedded(t), environments...)
	for _, c := range p.clients {
		t.Run(c.name, func(t *testing.T) {
			for _, token := range []string{f.get(t, c.name), f.renewed(t, c.name)} {
				if claims := p.accepts(t, token); claims["client_id"] != c.id || !scoped(claims, readScope) {
					t.Errorf("the token is %v", claims)
				}
			}
			if claims := p.accepts(t, f.get(t, "for-resource-"+c.name)); !slices.Equal(audience(claims), []string{resource}) {
				t.Errorf("the token for a resource is %v", claims)
			}
			f.run(t, "", "get", "wrong-"+c.name).fails(t, 4, "wrong-"+c.name, "invalid_client")
		})
	}
}

// Each client has a person log in once, by hand; what comes of it is the seed, or is imported.
func (p *anOIDCProvider) refreshTokens(t *testing.T) {
	clients := append(slices.Clone(p.clients), p.public)
	for _, from := range []string{"refresh_token_file", "grant import"} {
		t.Run(from, func(t *testing.T) {
			var environments []string
			environment := func(name string, c registration, lines ...string) {
				environments = append(environments, c.environment(name, append(lines, p.common(), "grant: refresh_token")...))
			}
			seeds := map[string]string{}
			for _, c := range clients {
				seeds[c.name] = p.grant(t, c, url.Values{"scope": {"openid " + readScope}})
				if from == "refresh_token_file" {
					write(t, filepath.Join(p.dir, "seed-"+c.name), seeds[c.name]+"\n")
					environment(c.name, c, c.settings, "refresh_token_file: seed-"+c.name)
					continue
				}
				environment(c.name, c, c.settings)
				if c.wrong != "" {
					environment("wrong-"+c.name, c, c.wrong)
				}
			}
			f := newFleet(t, p.dir, embedded(t), environments...)
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					if from == "grant import" {
						f.run(t, "", "get", c.name).fails(t, 4, c.name, "must log in", "onetoken login")
						if c.wrong != "" { // which doesn't spend it
							f.run(t, seeds[c.name]+"\n", "grant", "import", "wrong-"+c.name).fails(t, 4, c.name, "invalid_client")
						}
						f.run(t, seeds[c.name]+"\n", "grant", "import", c.name).succeeds(t)
					}
					token := f.get(t, c.name)
					for range 2 {
						token = f.renewed(t, c.name)
						if claims := p.accepts(t, token); claims["client_id"] != c.id || claims["sub"] != "alice" {
							t.Errorf("the token is %v", claims)
						}
					}
					if s := p.refresh(t, c, seeds[c.name]); s.text("error") != "invalid_grant" {
						t.Errorf("the seed that was spent gets %d %q", s.status, s.text("error"))
					}
					p.refuses(t, "a token of a family that was revoked", token)
					f.run(t, "", "refresh", c.name).fails(t, 4, c.name, "must log in", "onetoken login")
				})
			}
		})
	}
}

// The family outlives what a fleet does in weeks: one after the other, and many at once.
func (p *anOIDCProvider) rotation(t *testing.T) {
	seed := p.grant(t, p.public, url.Values{"scope": {"openid " + readScope}})
	redis := redistest.Start(t)
	f := newFleet(t, p.dir, redis.Addr(), p.public.environment("prod", p.common(), p.public.settings, "grant: refresh_token", "refresh_token: "+seed))
	var replicas []*manager.Manager
	for _, name := range []string{"a", "b", "c"} {
		replicas = append(replicas, f.replica(t, name))
	}
	seen := map[string]bool{}
	rdb := redis.Client(t)
	for i := range 50 {
		for rdb.Exists(t.Context(), "onetoken:{prod}:lock").Val() != 0 { // who comes before the lease is released waits for half a second
		}
		token, err := replicas[0].Refresh(t.Context(), "prod")
		if err != nil {
			t.Fatalf("rotation %d: %v", i+1, err)
		}
		seen[bearer(t, token)] = true
	}
	if len(seen) != 50 {
		t.Errorf("%d tokens of 50 rotations", len(seen))
	}
	for i := range 5 {
		var group sync.WaitGroup
		for r, m := range replicas {
			for range 3 {
				group.Go(func() {
					if _, err := m.Refresh(t.Context(), "prod"); err != nil {
						t.Errorf("round %d of replica %d: %v", i+1, r, err)
					}
				})
			}
		}
		group.Wait()
	}
	last, err := replicas[1].Refresh(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	if claims := p.accepts(t, bearer(t, last)); claims["sub"] != "alice" {
		t.Errorf("the last token is %v", claims)
	}
	// The server would have ended the family with the first token that was sent twice: it does so now.
	if s := p.refresh(t, p.public, seed); s.text("error") != "invalid_grant" {
		t.Errorf("the seed that was spent gets %d %q", s.status, s.text("error"))
	}
	_, err = replicas[2].Refresh(t.Context(), "prod")
	if _, ok := errors.AsType[*manager.LoginError](err); !ok {
		t.Errorf("once the family is revoked: %v, want a LoginError", err)
	}
}

// A person logs in, the fleet has the tokens, and a logout ends them at the server.
func (p *anOIDCProvider) loginAndLogout(t *testing.T) {
	browser := func(t *testing.T) func(string, string) {
		return func(_, address string) { visit(t, p.browser(t), address) }
	}
	for _, way := range []struct {
		name string
		args []string
	}{{"browser", []string{"--no-browser"}}, {"device", []string{"--device"}}} {
		for _, c := range []registration{p.public, p.clients[0], p.clients[1], p.clients[4], p.clients[6]} {
			t.Run(way.name+"/"+c.name, func(t *testing.T) {
				t.Parallel() // a device asks once a second
				f := newFleet(t, p.dir, embedded(t), c.environment("prod", p.common(), c.settings, "grant: refresh_token", "scopes: [openid, "+readScope+"]"))
				f.login(t, browser(t), append([]string{"prod"}, way.args...)...).succeeds(t)
				f.get(t, "prod")
				token := f.renewed(t, "prod")
				if claims := p.accepts(t, token); claims["client_id"] != c.id || claims["sub"] != "alice" || !scoped(claims, "openid", readScope) {
					t.Errorf("the token is %v", claims)
				}
				f.run(t, "", "logout", "prod").succeeds(t)
				p.refuses(t, "a token after the logout", token)
				f.run(t, "", "get", "prod").fails(t, 4, "prod", "must log in", "onetoken login")
			})
		}
	}
}

// The audience of a login is that of its tokens, refreshed ones, too.
func (p *anOIDCProvider) loginForAResource(t *testing.T) {
	f := newFleet(t, p.dir, embedded(t), p.public.environment(
		"prod", p.common(), p.public.settings, "grant: refresh_token", "scopes: ["+readScope+"]", "resource: ["+resource+"]",
	))
	f.login(t, func(_, address string) { visit(t, p.browser(t), address) }, "prod", "--no-browser").succeeds(t)
	for _, token := range []string{f.get(t, "prod"), f.renewed(t, "prod")} {
		if claims := p.accepts(t, token); !slices.Equal(audience(claims), []string{resource}) || claims["sub"] != "alice" {
			t.Errorf("the token is %v", claims)
		}
	}
}

// An assertion is good for one use: whoever keeps the file fresh writes another, and no restart is needed.
func (p *anOIDCProvider) assertionFile(t *testing.T) {
	c := p.clients[2]
	path := filepath.Join(p.dir, "assertion.jwt")
	assert := func() { write(t, path, c.form(t, &p.authority).Get("client_assertion")+"\n") }
	assert()
	f := newFleet(t, p.dir, embedded(t), c.environment("prod", p.common(), "auth_method: private_key_jwt\nclient_assertion_file: assertion.jwt"))
	m := f.replica(t, "a")
	first, err := m.Token(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Refresh(t.Context(), "prod"); err == nil {
		t.Error("the server takes an assertion twice")
	}
	assert()
	second, err := m.Refresh(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	p.accepts(t, bearer(t, second))
	if second.Version <= first.Version {
		t.Errorf("version %v after %v", second.Version, first.Version)
	}
}

// Whoever answers in another's name isn't asked for a token.
func (p *anOIDCProvider) anotherIssuer(t *testing.T) {
	c := p.clients[0]
	alias := strings.Replace(p.issuer, "127.0.0.1", "localhost", 1)
	f := newFleet(t, p.dir, embedded(t), c.environment("prod", "issuer: "+alias, "ca_file: ca.pem", c.settings))
	f.run(t, "", "get", "prod").fails(t, 4, "prod", "issuer", p.issuer)
	// Nor is one whose certificate nobody vouches for.
	f = newFleet(t, p.dir, embedded(t), c.environment("prod", "issuer: "+p.issuer, c.settings))
	f.run(t, "", "get", "prod").fails(t, 4, "prod", "certificate")
}
