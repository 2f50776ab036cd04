package endpoint_test

import (
	"net/url"
	"strings"
	"testing"

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
