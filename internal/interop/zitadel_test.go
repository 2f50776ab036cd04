package interop_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/onetoken/onetoken/internal/programs"
)

// aZitadel is an authorization server by zitadel/oidc, with its clients.
type aZitadel struct {
	authority
	dir     string       // has what the clients sign with, and <name>.jwt of a platform
	machine registration // of client_credentials
	service registration // signs the assertions that it gets tokens for: of jwt_bearer, which needs no client
	key     key          // the service's
	web     registration // a person logs in to it, and it exchanges tokens; a secret
	signs   registration // the same, with private_key_jwt
	native  registration // the same, without any
}

// startZitadel builds the server and starts it, for the life of t.
func startZitadel(t *testing.T) *aZitadel {
	t.Helper()
	program := filepath.Join(t.TempDir(), "zitadel")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = "zitadel"
	if out, err := build.CombinedOutput(); err != nil {
		if os.Getenv(programs.RequireEnv) == "1" {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		t.Skipf("go build: %v\n%s", err, out) // its modules are not the library's, and may not be there
	}
	z := &aZitadel{dir: t.TempDir(), key: newKey(t, "RS256")}
	z.client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	z.asks = [2]string{"api", "secret"}
	keyed := newKey(t, "ES256")
	write(t, filepath.Join(z.dir, "service.pem"), z.key.pem)
	write(t, filepath.Join(z.dir, "other.pem"), newKey(t, "RS256").pem)
	write(t, filepath.Join(z.dir, "key.pem"), keyed.pem)
	z.begin(t, detached(t, program), map[string]any{"keys": map[string]any{"service": z.key.jwk(), "key": keyed.jwk()}})

	// Assertions of either kind have the issuer as their audience.
	signing := func(file, kid string) string {
		return fmt.Sprintf("private_key_file: %s\nkey_id: %s", file, kid)
	}
	z.machine = registration{
		name: "machine", id: "sid1", settings: "client_secret: verysecret", wrong: "client_secret: wrong", basic: []string{"sid1", "verysecret"},
	}
	asserting := "\nassertion: {audience: " + z.issuer + "}\nauth_method: none"
	z.service = registration{
		name: "service", id: "service", settings: signing("service.pem", "RS256") + asserting, wrong: signing("other.pem", "RS256") + asserting,
	}
	z.web = registration{
		name: "web", id: "web", settings: "client_secret: secret", wrong: "client_secret: wrong", basic: []string{"web", "secret"},
	}
	keyAuth := "\nauth_method: private_key_jwt\nclient_assertion_audience: " + z.issuer
	z.signs = registration{
		name: "signs", id: "key", settings: signing("key.pem", "ES256") + keyAuth, wrong: signing("other.pem", "RS256") + keyAuth,
		form: func(t *testing.T, a *authority) url.Values {
			return url.Values{
				"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
				"client_assertion":      {keyed.sign(t, map[string]any{"iss": "key", "sub": "key", "aud": a.issuer})},
			}
		},
	}
	z.native = registration{name: "native", id: "native", settings: "auth_method: none", form: onlyID("native")}
	return z
}

func TestZitadel(t *testing.T) {
	z := startZitadel(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"by hand", z.byHand},
		{"machines", z.machines},
		{"subject token", z.subjectToken},
		{"people", z.people},
	} {
		t.Run(test.name, test.run)
	}
}

// What a person's tokens are for, with a refresh token.
var personal = url.Values{"scope": {"openid offline_access"}}

// byHand checks the server itself: what it takes, and what it refuses.
func (z *aZitadel) byHand(t *testing.T) {
	for _, c := range []struct {
		name  string
		by    registration
		form  url.Values
		sub   string
		wrong url.Values // what is then refused
	}{
		{
			"client_credentials", z.machine,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"openid"}},
			"sid1",
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"sid1"}, "client_secret": {"wrong"}},
		},
		{
			"jwt_bearer", z.service,
			url.Values{"grant_type": {jwtBearer}, "scope": {"openid"}, "assertion": {z.assertion(t, z.key, z.issuer)}},
			"service",
			url.Values{"grant_type": {jwtBearer}, "assertion": {z.assertion(t, newKey(t, "RS256"), z.issuer)}},
		},
		{
			"jwt_bearer, of another audience", z.service,
			url.Values{"grant_type": {jwtBearer}, "scope": {"openid"}, "assertion": {z.assertion(t, z.key, z.issuer)}},
			"service",
			url.Values{"grant_type": {jwtBearer}, "assertion": {z.assertion(t, z.key, z.metadata.TokenURL)}},
		},
		{
			"token_exchange", z.web, z.exchanging(z.assertion(t, z.key, z.issuer)), "service",
			z.exchanging(z.assertion(t, newKey(t, "RS256"), z.issuer)),
		},
	} {
		s := c.by.ask(t, &z.authority, c.form)
		if s.status != http.StatusOK {
			t.Errorf("%s: %d, %q: %s", c.name, s.status, s.text("error"), s.text("error_description"))
			continue
		}
		if claims := z.accepts(t, s.text("access_token")); claims["sub"] != c.sub {
			t.Errorf("%s: the token is %v", c.name, claims)
		}
		by := c.by
		if c.wrong.Has("client_secret") {
			by.basic = []string{by.id, c.wrong.Get("client_secret")}
		}
		if s := by.ask(t, &z.authority, c.wrong); s.status == http.StatusOK {
			t.Errorf("%s: what is wrong is taken, too", c.name)
		} else {
			t.Logf("%s: %d, %q", c.name, s.status, s.text("error"))
		}
	}
	for _, c := range []registration{z.web, z.signs, z.native} {
		first := z.grant(t, c, personal)
		s := z.refresh(t, c, first)
		if s.text("refresh_token") == "" || s.text("refresh_token") == first {
			t.Fatalf("%s: no rotation: %d %q: %s", c.name, s.status, s.text("error"), s.text("error_description"))
		}
		z.knows(t, "id1", s.text("access_token"))
		if s := z.refresh(t, c, first); s.text("error") != "invalid_grant" {
			t.Errorf("%s: spent, it gets %d %q", c.name, s.status, s.text("error"))
		}
	}
	s := z.post(t, z.client, z.metadata.DeviceURL, url.Values{"client_id": {"native"}, "scope": {"openid offline_access"}})
	poll := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {s.text("device_code")}}
	if s := z.native.ask(t, &z.authority, poll); s.text("error") != "authorization_pending" {
		t.Errorf("before anybody has approved: %d %q", s.status, s.text("error"))
	}
	z.approve(t, s.text("user_code"))
	s = z.native.ask(t, &z.authority, poll)
	if s := z.refresh(t, z.native, s.text("refresh_token")); s.text("access_token") == "" {
		t.Errorf("the device's refresh token gets %d, %q: %s", s.status, s.text("error"), s.text("error_description"))
	}
}

const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// assertion returns a JWT of the service for an audience.
func (*aZitadel) assertion(t *testing.T, k key, audience string) string {
	return k.sign(t, map[string]any{"iss": "service", "sub": "service", "aud": audience})
}

// exchanging is the form of a token exchange for a JWT.
func (*aZitadel) exchanging(jwt string) url.Values {
	return url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {jwt}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"audience":             {"api"}, "scope": {"openid"},
	}
}

// approve is what a person does who is shown a device's code.
func (z *aZitadel) approve(t *testing.T, code string) {
	t.Helper()
	if s := z.post(t, z.client, z.issuer+"/approve", url.Values{"user_code": {code}}); s.status != http.StatusOK {
		t.Fatalf("approving %q: status %d", code, s.status)
	}
}

func (z *aZitadel) common() string { return "issuer: " + z.issuer }

// A machine's grants: none needs a person.
func (z *aZitadel) machines(t *testing.T) {
	jwt := func(name string, k key) string {
		write(t, filepath.Join(z.dir, name), z.assertion(t, k, z.issuer)+"\n")
		return name
	}
	const scopes = "scopes: [openid]"
	exchange := func(file, kind string) string {
		return "grant: token_exchange\naudience: api\nrequested_token_type: access_token\nsubject_token_type: " + kind + "\nsubject_token_file: " + file
	}
	personal := z.login(t, z.web, personal)
	write(t, filepath.Join(z.dir, "access-token"), personal.text("access_token"))
	for _, c := range []struct {
		name        string
		by          registration
		settings    string
		sub         string
		wrong, code string // settings that are refused, and how
	}{
		{name: "client_credentials", by: z.machine, sub: "sid1", wrong: z.machine.wrong, code: "invalid_client"},
		{name: "jwt_bearer", by: z.service, settings: "grant: jwt_bearer\n" + z.service.settings, sub: "service", wrong: "grant: jwt_bearer\n" + z.service.wrong, code: "invalid_grant"},
		{
			name: "jwt_bearer from a file", by: z.service, settings: "grant: jwt_bearer\nauth_method: none\nassertion: {file: " + jwt("good.jwt", z.key) + "}", sub: "service",
			wrong: "grant: jwt_bearer\nauth_method: none\nassertion: {file: " + jwt("bad.jwt", newKey(t, "RS256")) + "}", code: "invalid_grant",
		},
		{
			name: "token_exchange", by: z.web, settings: exchange("good.jwt", "jwt") + "\n" + z.web.settings, sub: "service",
			wrong: exchange("bad.jwt", "jwt") + "\n" + z.web.settings, code: "invalid_request",
		},
		{
			name: "token_exchange of an access token", by: z.web, settings: exchange("access-token", "access_token") + "\n" + z.web.settings, sub: "id1",
			wrong: exchange("access-token", "access_token") + "\n" + z.web.wrong, code: "invalid_client",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.settings == "" {
				c.settings = c.by.settings
			}
			f := newFleet(t, z.dir, embedded(t), c.by.environment("prod", z.common(), scopes, c.settings), c.by.environment("wrong", z.common(), scopes, c.wrong))
			for _, token := range []string{f.get(t, "prod"), f.renewed(t, "prod")} {
				if claims := z.accepts(t, token); claims["sub"] != c.sub || !scoped(claims, "openid") {
					t.Errorf("the token is %v", claims)
				}
			}
			f.run(t, "", "get", "wrong").fails(t, 4, "wrong", c.code)
		})
	}
}

// A subject token that somebody else keeps fresh is read again, without a restart and without a failure.
func (z *aZitadel) subjectToken(t *testing.T) {
	path := filepath.Join(z.dir, "subject.jwt")
	subject := func(k key, sub string) {
		write(t, path, k.sign(t, map[string]any{"sub": sub, "aud": z.issuer}))
	}
	subject(z.key, "pod-1")
	f := newFleet(t, z.dir, embedded(t), z.web.environment("prod", z.common(), z.web.settings, "grant: token_exchange\naudience: api\nscopes: [openid]\nrequested_token_type: access_token\nsubject_token_file: subject.jwt"))
	m := f.replica(t, "a")
	for _, sub := range []string{"pod-1", "pod-2"} {
		subject(z.key, sub)
		token, err := m.Refresh(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		if claims := z.accepts(t, bearer(t, token)); claims["sub"] != sub {
			t.Errorf("the token of %s is %v", sub, claims)
		}
	}
}

// A person's: rotation, and login by either way.
func (z *aZitadel) people(t *testing.T) {
	const settings = "grant: refresh_token\nscopes: [openid, offline_access]"
	for _, c := range []registration{z.web, z.signs, z.native} {
		for way, args := range map[string][]string{"browser": {"--no-browser"}, "device": {"--device"}, "import": nil} {
			t.Run(way+"/"+c.name, func(t *testing.T) {
				f := newFleet(t, z.dir, embedded(t), c.environment("prod", z.common(), c.settings, settings))
				switch way {
				case "browser":
					f.login(t, func(_, address string) { visit(t, z.browser(t), address) }, append(args, "prod")...).succeeds(t)
				case "device":
					f.login(t, func(_, address string) {
						u, err := url.Parse(address)
						if err != nil {
							t.Fatal(err)
						}
						z.approve(t, u.Query().Get("user_code"))
					}, append(args, "prod")...).succeeds(t)
				case "import":
					f.run(t, z.grant(t, c, personal), "grant", "import", "prod").succeeds(t)
				}
				f.get(t, "prod")
				for range 3 {
					z.knows(t, "id1", f.renewed(t, "prod"))
				}
				token := f.get(t, "prod")
				f.run(t, "", "logout", "prod").succeeds(t)
				if status := z.get(t, z.metadata.UserinfoURL, token, &map[string]any{}); status == http.StatusOK {
					t.Error("the server accepts a token after the logout")
				}
				f.run(t, "", "get", "prod").fails(t, 4, "prod", "must log in", "onetoken login")
			})
		}
	}
	f := newFleet(t, z.dir, embedded(t), z.web.environment("prod", z.common(), z.web.wrong, settings))
	f.run(t, z.grant(t, z.web, personal), "grant", "import", "prod").fails(t, 4, "prod", "invalid_client")
}
