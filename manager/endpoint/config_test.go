package endpoint_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

func TestConfigErrorsNameTheSetting(t *testing.T) {
	const hidden = "do-not-print"
	for _, c := range []struct {
		name string
		mend func(*endpoint.Config)
		want string
	}{
		{"no URL", func(c *endpoint.Config) { c.TokenURL = "" }, "token_url: is missing"},
		{"no host", func(c *endpoint.Config) { c.TokenURL = "https:///token" }, "token_url: is no absolute http or https URL"},
		{"no scheme", func(c *endpoint.Config) { c.TokenURL = "auth.example/token?key=" + hidden }, "token_url: is no absolute http or https URL"},
		{"another scheme", func(c *endpoint.Config) { c.TokenURL = "ftp://auth.example/?key=" + hidden }, "token_url: is no absolute http or https URL"},
		{"not a URL", func(c *endpoint.Config) { c.TokenURL = "https://auth.example/%zz?key=" + hidden }, "token_url: is no URL"},
		{"a line break", func(c *endpoint.Config) { c.TokenURL = "https://auth.example/\n?key=" + hidden }, "token_url: is no URL"},
		{"credentials in the URL", func(c *endpoint.Config) { c.TokenURL = "https://me:" + hidden + "@auth.example/token" }, "token_url: must not hold credentials"},
		{"a fragment", func(c *endpoint.Config) { c.TokenURL = "https://auth.example/token#" + hidden }, "token_url: must not have a fragment (RFC 6749 §3.2)"},
		{
			"plain http", func(c *endpoint.Config) { c.TokenURL = "http://auth.example/token?key=" + hidden },
			"token_url: plain http to auth.example would show the client secret to the network: use https, or set allow_http",
		},
		{
			"a name that only looks local", func(c *endpoint.Config) { c.TokenURL = "http://localhost.example/token" },
			"token_url: plain http to localhost.example would show the client secret to the network: use https, or set allow_http",
		},
		{
			"an address that only looks local", func(c *endpoint.Config) { c.TokenURL = "http://127.0.0.1.example/token" },
			"token_url: plain http to 127.0.0.1.example would show the client secret to the network: use https, or set allow_http",
		},
		{
			"any address", func(c *endpoint.Config) { c.TokenURL = "http://0.0.0.0/token" },
			"token_url: plain http to 0.0.0.0 would show the client secret to the network: use https, or set allow_http",
		},
		{"no id", func(c *endpoint.Config) { c.ClientID = "" }, "client_id is missing"},
		{"no secret", func(c *endpoint.Config) { c.ClientSecret = secret.Secret{} }, "client_secret is missing"},
		{"an empty secret", func(c *endpoint.Config) { c.ClientSecret = secret.New("") }, "client_secret is missing"},
		{
			"an unknown method", func(c *endpoint.Config) { c.AuthMethod = "basic" },
			`auth_method "basic" is not one of client_secret_basic, client_secret_post, private_key_jwt, tls_client_auth, none`,
		},
		{"an empty scope", func(c *endpoint.Config) { c.Scopes = []string{"a", ""} }, `scopes: "" is no scope (RFC 6749 §3.3)`},
		{"two scopes in one", func(c *endpoint.Config) { c.Scopes = []string{"a b"} }, `scopes: "a b" is no scope (RFC 6749 §3.3)`},
		{"a quote in a scope", func(c *endpoint.Config) { c.Scopes = []string{`a"b`} }, `scopes: "a\"b" is no scope (RFC 6749 §3.3)`},
		{"a line break in a scope", func(c *endpoint.Config) { c.Scopes = []string{"a\nb"} }, `scopes: "a\nb" is no scope (RFC 6749 §3.3)`},
		{"a scope beyond ASCII", func(c *endpoint.Config) { c.Scopes = []string{"é"} }, `scopes: "é" is no scope (RFC 6749 §3.3)`},
		{"a parameter that has a setting", func(c *endpoint.Config) { c.Params = url.Values{"scope": {hidden}} }, `params: "scope" has a setting of its own`},
		{"the grant as a parameter", func(c *endpoint.Config) { c.Params = url.Values{"grant_type": {hidden}} }, `params: "grant_type" has a setting of its own`},
		{"a parameter without a name", func(c *endpoint.Config) { c.Params = url.Values{"": {hidden}} }, `params: a parameter without a name`},
		{"a secret parameter that has a setting", func(c *endpoint.Config) {
			c.SecretParams = map[string]secret.Secret{"client_secret": secret.New(hidden)}
		}, `secret_params: "client_secret" has a setting of its own`},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := config("https://auth.example/token")
			c.mend(&conf)
			client, err := endpoint.New(conf)
			if client != nil || err == nil {
				t.Fatalf("%v, %v; want an error", client, err)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("%q; want %q", got, c.want)
			}
			for _, never := range []string{hidden, clientSecret, "\n"} {
				if strings.Contains(err.Error(), never) {
					t.Errorf("the error has %q in it: %v", never, err)
				}
			}
		})
	}
}

func TestConfigsThatAreValid(t *testing.T) {
	for _, c := range []struct {
		name, tokenURL string
		mend           func(*endpoint.Config)
	}{
		{"https", "https://auth.example/token", nil},
		{"a port, a query", "https://auth.example:8443/token?p=1", nil},
		{"upper case", "HTTPS://AUTH.EXAMPLE/token", nil},
		{"localhost", "http://localhost:8080/token", nil},
		{"Localhost", "http://LocalHost/token", nil},
		{"loopback", "http://127.0.0.1:1/token", nil},
		{"all of 127", "http://127.9.9.9/token", nil},
		{"loopback of IPv6", "http://[::1]:8080/token", nil},
		{"plain http, allowed", "http://auth.internal/token", func(c *endpoint.Config) { c.AllowHTTP = true }},
		{"the secret in the form", "https://auth.example/token", func(c *endpoint.Config) { c.AuthMethod = endpoint.ClientSecretPost }},
		{"scopes of every kind", "https://auth.example/token", func(c *endpoint.Config) {
			c.Scopes = []string{"campaigns.read", "https://api.example/.default", "a:b", "!#[]~"}
		}},
	} {
		conf := config(c.tokenURL)
		if c.mend != nil {
			c.mend(&conf)
		}
		if _, err := endpoint.New(conf); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Whoever sets something expects an effect of it.
func TestSettingsThatMissEachOtherAreErrors(t *testing.T) {
	key, text := file(t, pkcs8(edKey())), file(t, "text")
	type conf = endpoint.Config
	jwt := func(c *conf) { withKey(c, key) }
	none := func(c *conf) { c.AuthMethod, c.ClientSecret = endpoint.NoClientAuth, secret.Secret{} }
	bearer := func(c *conf) { c.Grant, c.PrivateKeyFile = endpoint.JWTBearer, key }
	exchange := func(c *conf) { c.Grant, c.SubjectTokenFile = endpoint.TokenExchange, text }
	refreshes := func(c *conf) { c.Grant = endpoint.RefreshToken }
	for _, c := range []struct {
		base, mend func(*conf)
		want       string
	}{
		{nil, func(c *conf) { c.Grant = "password" }, `grant: "password" is not one of client_credentials, refresh_token, jwt_bearer, token_exchange`},
		{nil, func(c *conf) { c.ClientSecretFile = text }, "client_secret, client_secret_file: only one of the two may be set"},
		{nil, func(c *conf) { c.PrivateKeyFile = key }, "private_key_file: has no effect with auth_method client_secret_basic and grant client_credentials"},
		{nil, func(c *conf) { c.KeyID = "k" }, "key_id: has no effect with auth_method client_secret_basic and grant client_credentials"},
		{nil, func(c *conf) { c.SigningAlgorithm = "RS256" }, "signing_algorithm: has no effect with auth_method client_secret_basic and grant client_credentials"},
		{nil, func(c *conf) { c.ClientAssertionFile = text }, "client_assertion_file: has no effect with auth_method client_secret_basic"},
		{nil, func(c *conf) { c.ClientAssertionAudience = "a" }, "client_assertion_audience: has no effect with auth_method client_secret_basic and grant client_credentials"},
		{nil, func(c *conf) { c.ClientKeyFile = text }, "client_cert_file, client_key_file: one of the two is missing"},
		{nil, func(c *conf) { c.ClientCertFile = text }, "client_cert_file, client_key_file: one of the two is missing"},
		{nil, func(c *conf) { c.RefreshToken = secret.New("hunter2") }, "refresh_token: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.RefreshTokenFile = text }, "refresh_token_file: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.AuthorizationURL = "https://a.example" }, "authorization_url: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.DeviceAuthorizationURL = "https://a.example" }, "device_authorization_url: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.RevocationURL = "https://a.example" }, "revocation_url: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.Assertion.Subject = "s" }, "assertion: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.Assertion.File = text }, "assertion.file: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.SubjectTokenFile = text }, "subject_token_file: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.ActorTokenFile = text }, "actor_token_file: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.SubjectTokenType = "jwt" }, "subject_token_type: has no effect with grant client_credentials"},
		{nil, func(c *conf) { c.RequestedTokenType = "jwt" }, "requested_token_type: has no effect with grant client_credentials"},
		{jwt, func(c *conf) { c.ClientSecret = secret.New("hunter2") }, "client_secret: has no effect with auth_method private_key_jwt"},
		{jwt, func(c *conf) { c.ClientSecretFile = text }, "client_secret_file: has no effect with auth_method private_key_jwt"},
		{jwt, func(c *conf) { c.PrivateKeyFile = "" }, "private_key_file is missing: auth_method private_key_jwt signs with it, or sends what is in client_assertion_file"},
		{jwt, func(c *conf) { c.ClientAssertionFile = text }, "private_key_file: has no effect with client_assertion_file"},
		{jwt, func(c *conf) { c.SigningAlgorithm = "HS256" }, `signing_algorithm: "HS256" is not one of ` + allAlgorithms},
		{jwt, func(c *conf) { c.ClientID = "" }, "client_id is missing"},
		{jwt, func(c *conf) { c.Params = url.Values{"client_assertion": {"x"}} }, `params: "client_assertion" has a setting of its own`},
		{none, func(c *conf) { c.ClientSecret = secret.New("hunter2") }, "client_secret: has no effect with auth_method none"},
		{none, func(c *conf) { c.ClientID = "" }, "client_id is missing"},
		{none, func(c *conf) { c.AuthMethod = endpoint.TLSClientAuth }, "client_cert_file is missing: auth_method tls_client_auth proves who the client is with it"},
		{bearer, func(c *conf) { c.PrivateKeyFile = "" }, "private_key_file is missing: grant jwt_bearer signs with it, or sends what is in assertion.file"},
		{bearer, func(c *conf) { c.Assertion.File = text }, "private_key_file: has no effect with assertion.file"},
		{bearer, func(c *conf) { c.Assertion.File, c.PrivateKeyFile, c.Assertion.Subject = text, "", "s" }, "assertion: has no effect with assertion.file"},
		{bearer, func(c *conf) { c.Assertion.Life = -time.Second }, "assertion.life: -1s is not between 1s and 24h"},
		{bearer, func(c *conf) { c.Assertion.Life = 48 * time.Hour }, "assertion.life: 48h0m0s is not between 1s and 24h"},
		{bearer, func(c *conf) { c.Assertion.Claims = map[string]any{"iss": "x"} }, `assertion.claims: "iss" has a setting of its own`},
		{bearer, func(c *conf) { c.Assertion.Claims = map[string]any{"exp": 5} }, `assertion.claims: "exp" is another in each assertion`},
		{bearer, func(c *conf) { c.Assertion.Claims = map[string]any{"f": func() {}} }, `assertion.claims: "f" is nothing that JSON has a form for`},
		{bearer, func(c *conf) { c.Params = url.Values{"assertion": {"x"}} }, `params: "assertion" has a setting of its own`},
		{exchange, func(c *conf) { c.SubjectTokenFile = "" }, "subject_token_file is missing: grant token_exchange exchanges what is in it"},
		{exchange, func(c *conf) { c.SubjectTokenType = "token" }, `subject_token_type: "token" is neither a URI nor one of access_token, refresh_token, id_token, saml1, saml2, jwt`},
		{exchange, func(c *conf) { c.ActorTokenType = "jwt" }, "actor_token_type: has no effect without actor_token_file"},
		{exchange, func(c *conf) { c.SecretParams = map[string]secret.Secret{"subject_token": secret.New("x")} }, `secret_params: "subject_token" has a setting of its own`},
		{refreshes, func(c *conf) { c.RefreshToken, c.RefreshTokenFile = secret.New("r"), text }, "refresh_token, refresh_token_file: only one of the two may be set"},
		{refreshes, func(c *conf) { c.RefreshToken = secret.New("hunter2\n") }, "refresh_token: the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{refreshes, func(c *conf) { c.RefreshTokenFile = file(t, "hunter2\nx\n") }, `refresh_token_file: "FILE": the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)`},
		{refreshes, func(c *conf) { c.RevocationURL = "http://auth.example" }, "revocation_url: plain http to auth.example would show the client secret to the network: use https, or set allow_http"},
		{refreshes, func(c *conf) { c.Params = url.Values{"refresh_token": {"x"}} }, `params: "refresh_token" has a setting of its own`},
		{nil, func(c *conf) { c.Audience, c.Params = []string{"a"}, url.Values{"audience": {"b"}} }, `params: "audience" has a setting of its own`},
		{nil, func(c *conf) { c.Resource, c.Params = []string{"https://a"}, url.Values{"resource": {"b"}} }, `params: "resource" has a setting of its own`},
		{nil, func(c *conf) { c.Audience = []string{""} }, "audience: an empty one"},
		{nil, func(c *conf) { c.Resource = []string{"https://a.example/#b"} }, `resource: "https://a.example/#b" is no absolute URI without a fragment (RFC 8707 §2)`},
		{nil, func(c *conf) { c.Resource = []string{"/api"} }, `resource: "/api" is no absolute URI without a fragment (RFC 8707 §2)`},
		{nil, func(c *conf) { c.Headers = map[string]string{"a b": "c"} }, `headers: "a b" is no name of a header`},
		{nil, func(c *conf) { c.Headers = map[string]string{"authorization": "hunter2"} }, "headers: Authorization is set by the request itself"},
		{nil, func(c *conf) { c.SecretHeaders = map[string]secret.Secret{"HOST": secret.New("x")} }, "secret_headers: Host is set by the request itself"},
		{nil, func(c *conf) { c.Headers = map[string]string{"X-A": "hunter2\r\nX-B: c"} }, "headers: the value of X-A has a control character (a line break, for example)"},
		{nil, func(c *conf) {
			c.Headers, c.SecretHeaders = map[string]string{"x-a": "1"}, map[string]secret.Secret{"X-A": secret.New("2")}
		}, "secret_headers: X-A is there twice"},
	} {
		conf := config("https://auth.example/token")
		if c.base != nil {
			c.base(&conf)
			if _, err := endpoint.New(conf); err != nil {
				t.Fatalf("before the mistake: %v", err)
			}
		}
		c.mend(&conf)
		client, err := endpoint.New(conf)
		if client != nil || err == nil {
			t.Errorf("no error; want %s", c.want)
		} else if got := err.Error(); got != strings.ReplaceAll(c.want, "FILE", conf.RefreshTokenFile) {
			t.Errorf("%s; want %s", got, c.want)
		}
	}
}
