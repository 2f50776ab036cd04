package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/store"
)

func TestTokenURL(t *testing.T) {
	const prod = "https://app.campaignflow.com.au"
	for _, c := range []struct{ base, token, want string }{
		{prod + "/api/v2", "", prod + "/oauth2/v1/token"},
		{"https://test.campaignflow.com.au/api/v2", "", "https://test.campaignflow.com.au/oauth2/v1/token"},
		{prod + "/api/v2/", "", prod + "/oauth2/v1/token"},
		{prod + "/api/v2///", "", prod + "/oauth2/v1/token"},
		{prod + "//api/v2", "", prod + "/oauth2/v1/token"},
		{prod, "", prod + "/oauth2/v1/token"},
		{prod + "/", "", prod + "/oauth2/v1/token"},
		{prod + ":8443/api/v2", "", prod + ":8443/oauth2/v1/token"},
		{prod + "/tenant/api/v2", "", prod + "/tenant/oauth2/v1/token"},
		{prod + "/api/v2/api/v2", "", prod + "/api/v2/oauth2/v1/token"},
		{prod + "/api/v1", "", prod + "/api/v1/oauth2/v1/token"},
		{prod + "/myapi/v2", "", prod + "/myapi/v2/oauth2/v1/token"},
		{prod + "/api/v2", "https://auth.example/token", "https://auth.example/token"},
		{"", "https://auth.example/token/", "https://auth.example/token/"},
		{"", "", ""},
	} {
		if got := (Environment{Issuer: "https://auth.example", BaseURL: c.base, TokenURL: c.token}).TokenEndpoint(); got != c.token {
			t.Errorf("base_url %q, token_url %q, and an issuer: %q; want %q", c.base, c.token, got, c.token)
		}
		if got := (Environment{BaseURL: c.base, TokenURL: c.token}).TokenEndpoint(); got != c.want {
			t.Errorf("base_url %q, token_url %q: %q; want %q", c.base, c.token, got, c.want)
		}
	}
}

func TestPolicyDefaults(t *testing.T) {
	got, err := Policy{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{
		RefreshAt:       0.8,
		Lease:           6 * time.Second,
		EndpointTimeout: 10 * time.Second,
		ConnectTimeout:  3 * time.Second,
		Backoff:         Backoff{time.Second, time.Minute},
		BackoffRefused:  Backoff{15 * time.Second, 2 * time.Minute},
		RetryAfterMax:   15 * time.Minute,
		DefaultLife:     5 * time.Minute,
		MaxLife:         30 * day,
		Outage:          OutageFail,
	}
	if got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	if again, err := got.withDefaults(); err != nil || again != got {
		t.Errorf("the defaults with defaults: %+v, %v; want them unchanged", again, err)
	}
}

func TestPolicySettingsAreKept(t *testing.T) {
	want := Policy{
		ExpiryMargin: time.Second, RefreshAt: 0.5, Lease: time.Second, EndpointTimeout: 2 * time.Second,
		ConnectTimeout: 3 * time.Second, Backoff: Backoff{4, 5}, BackoffRefused: Backoff{6, 7}, RetryAfterMax: 8,
		DefaultLife: 9 * time.Second, MaxLife: 10 * time.Second, KeepWarm: true, Outage: OutageRefreshAlone,
	}
	if got, err := want.withDefaults(); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

const hiddenText = "do-not-print"

// goodConfig is a configuration that New takes, with one environment.
func goodConfig(t *testing.T) (Config, *Environment) {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr:                     "127.0.0.1:1",
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return Config{Redis: rdb}, &Environment{
		BaseURL: "https://app.example/api/v2", ClientID: "id", ClientSecret: NewSecret(hiddenText),
	}
}

func TestConfigErrors(t *testing.T) {
	const names = `names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`
	type conf = Config
	type env = Environment
	for _, c := range []struct {
		name string
		mend func(*conf, *env)
		want string
	}{
		{"no Redis", func(c *conf, _ *env) { c.Redis = nil }, "onetoken: redis: no client"},
		{"no environment", func(c *conf, _ *env) { c.Environments = map[string]Environment{} }, "onetoken: environments: none is configured"},
		{
			"an environment without a name", func(c *conf, e *env) { c.Environments = map[string]Environment{"": *e} },
			`onetoken: environments: "": ` + names,
		},
		{
			"a bad name of an environment", func(c *conf, e *env) { c.Environments = map[string]Environment{"a b": *e} },
			`onetoken: environments: "a b": ` + names,
		},
		{"a bad namespace", func(c *conf, _ *env) { c.Namespace = "{x}" }, `onetoken: store: namespace: "{x}": ` + names},
		{
			"a comma in the replica", func(c *conf, _ *env) { c.Replica = "a,b" },
			`onetoken: replica: "a,b" is not 1 to 128 printable ASCII characters without space, "|", "," or quotes`,
		},

		{"no URL", func(_ *conf, e *env) { e.BaseURL = "" }, "onetoken: environment prod: base_url or token_url is missing"},
		{"no client id", func(_ *conf, e *env) { e.ClientID = "" }, "onetoken: environment prod: client_id is missing"},
		{"no secret", func(_ *conf, e *env) { e.ClientSecret = Secret{} }, "onetoken: environment prod: client_secret is missing"},
		{"an empty secret", func(_ *conf, e *env) { e.ClientSecret = NewSecret("") }, "onetoken: environment prod: client_secret is missing"},
		{
			"an unknown method", func(_ *conf, e *env) { e.AuthMethod = "tls" },
			`onetoken: environment prod: auth_method "tls" is not one of client_secret_basic, client_secret_post, private_key_jwt, tls_client_auth, none`,
		},
		{
			"a bad scope", func(_ *conf, e *env) { e.Scopes = []string{"a b"} },
			`onetoken: environment prod: scopes: "a b" is no scope (RFC 6749 §3.3)`,
		},
		{
			"a parameter with a setting", func(_ *conf, e *env) { e.Params = url.Values{"client_id": {"x"}} },
			`onetoken: environment prod: params: "client_id" has a setting of its own`,
		},
		{
			"a secret parameter with a setting", func(_ *conf, e *env) { e.SecretParams = map[string]Secret{"scope": NewSecret(hiddenText)} },
			`onetoken: environment prod: secret_params: "scope" has a setting of its own`,
		},
		{
			"a token URL that is none", func(_ *conf, e *env) { e.TokenURL = "auth.example/token" },
			"onetoken: environment prod: token_url: is no absolute http or https URL",
		},

		{"a negative margin", func(_ *conf, e *env) { e.ExpiryMargin = -1 }, "onetoken: environment prod: expiry_margin: -1ns is negative"},
		{"a negative lease", func(_ *conf, e *env) { e.Lease = -time.Second }, "onetoken: environment prod: lease: -1s is negative"},
		{
			"a short lease", func(_ *conf, e *env) { e.Lease = 999 * time.Millisecond },
			"onetoken: environment prod: lease: 999ms is not between 1s and 10m0s",
		},
		{
			"a long lease", func(_ *conf, e *env) { e.Lease = time.Hour },
			"onetoken: environment prod: lease: 1h0m0s is not between 1s and 10m0s",
		},
		{
			"a negative timeout", func(_ *conf, e *env) { e.EndpointTimeout = -time.Second },
			"onetoken: environment prod: endpoint_timeout: -1s is negative",
		},
		{
			"a negative connect timeout", func(_ *conf, e *env) { e.ConnectTimeout = -time.Second },
			"onetoken: environment prod: connect_timeout: -1s is negative",
		},
		{
			"a negative backoff", func(_ *conf, e *env) { e.Backoff.Min = -time.Second },
			"onetoken: environment prod: backoff.min: -1s is negative",
		},
		{
			"a backoff that shrinks", func(_ *conf, e *env) { e.Backoff = Backoff{time.Minute, time.Second} },
			"onetoken: environment prod: backoff: max 1s is shorter than min 1m0s",
		},
		{
			"a refusal's backoff that shrinks", func(_ *conf, e *env) { e.BackoffRefused.Max = time.Second },
			"onetoken: environment prod: backoff_refused: max 1s is shorter than min 15s",
		},
		{
			"a negative Retry-After", func(_ *conf, e *env) { e.RetryAfterMax = -time.Second },
			"onetoken: environment prod: retry_after_max: -1s is negative",
		},
		{
			"a short default life", func(_ *conf, e *env) { e.DefaultLife = time.Millisecond },
			"onetoken: environment prod: default_life, max_life: at least 1s",
		},
		{
			"a short longest life", func(_ *conf, e *env) { e.MaxLife = time.Millisecond },
			"onetoken: environment prod: default_life, max_life: at least 1s",
		},
		{
			"a late refresh", func(_ *conf, e *env) { e.RefreshAt = 1 },
			"onetoken: environment prod: refresh_at: 1 is not between 0.5 and 1 (50% and 100% of the life)",
		},
		{
			"an early refresh", func(_ *conf, e *env) { e.RefreshAt = 0.4 },
			"onetoken: environment prod: refresh_at: 0.4 is not between 0.5 and 1 (50% and 100% of the life)",
		},
		{
			"a refresh in percent", func(_ *conf, e *env) { e.RefreshAt = 80 },
			"onetoken: environment prod: refresh_at: 80 is not between 0.5 and 1 (50% and 100% of the life)",
		},
		{
			"an unknown outage policy", func(_ *conf, e *env) { e.Outage = "panic" },
			`onetoken: environment prod: outage: "panic" is not one of fail, refresh_alone`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, env := goodConfig(t)
			c.mend(&conf, env)
			err := mustNotStart(t, conf, env)
			if got := err.Error(); got != c.want {
				t.Errorf("%q; want %q", got, c.want)
			}
		})
	}
}

// mustNotStart returns the error of New for a configuration, to which env is added if it has no environment.
func mustNotStart(t *testing.T, conf Config, env *Environment) error {
	t.Helper()
	if conf.Environments == nil {
		conf.Environments = map[string]Environment{"prod": *env}
	}
	m, err := New(conf)
	if err == nil {
		_ = m.Close()
		t.Fatal("New succeeded; want an error")
	}
	if !errors.As(err, new(*ConfigError)) {
		t.Errorf("an error of type %T; want a *ConfigError", err)
	}
	for _, never := range []string{hiddenText, "\n"} {
		if strings.Contains(err.Error(), never) {
			t.Errorf("the error has %q in it: %q", never, err)
		}
	}
	return err
}

// An error about the URL names the setting that it stands in, and shows no credentials and no query.
func TestErrorsAboutTheBaseURLNameIt(t *testing.T) {
	for _, c := range []struct{ name, base string }{
		{"no scheme", "app.example/api/v2?key=" + hiddenText},
		{"another scheme", "ftp://app.example/api/v2?key=" + hiddenText},
		{"another scheme, and credentials", "ftp://me:" + hiddenText + "@app.example/api/v2"},
		{"not a URL", "https://app.example/%zz?key=" + hiddenText},
		{"plain http", "http://app.example/api/v2"},
		{"credentials", "https://me:" + hiddenText + "@app.example/api/v2"},
		{"a query", "https://app.example/api/v2?key=" + hiddenText},
		{"a fragment", "https://app.example/api/v2#" + hiddenText},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, env := goodConfig(t)
			env.BaseURL = c.base
			err := mustNotStart(t, conf, env)
			if !strings.HasPrefix(err.Error(), "onetoken: environment prod: ") || !strings.Contains(err.Error(), "base_url") {
				t.Errorf("%q; want base_url named", err)
			}
			if strings.Contains(err.Error(), "token_url") {
				t.Errorf("%q; token_url isn't set", err)
			}
		})
	}
}

func TestErrorsAboutOriginsNameThem(t *testing.T) {
	for _, origin := range []string{"", "app.example", "https://", "ftp://app.example", "https://me:" + hiddenText + "@/"} {
		conf, env := goodConfig(t)
		env.Origins = []string{"https://app.example", origin}
		if err := mustNotStart(t, conf, env); !strings.Contains(err.Error(), "origins") {
			t.Errorf("%q: %q; want origins named", origin, err)
		}
	}
}

func TestOriginsOfAnEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		env  Environment
		want []string
	}{
		{"BaseURL's", Environment{BaseURL: "https://App.example:443/api/v2"}, []string{"https://app.example"}},
		{
			"configured",
			Environment{BaseURL: "https://app.example/api/v2", Origins: []string{"https://a.example/", "http://b.example:8080"}},
			[]string{"https://a.example", "http://b.example:8080"},
		},
		{"any, where none is known", Environment{TokenURL: "https://auth.example/token"}, nil},
	} {
		allowed, err := c.env.origins()
		var got []string
		for _, o := range allowed {
			got = append(got, o.String())
		}
		if err != nil || !slices.Equal(got, c.want) || (allowed == nil) != (c.want == nil) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestASourceNeedsNoClient(t *testing.T) {
	source := SourceFunc(func(context.Context) (*Reply, error) { return nil, errors.New("never called") })
	r, err := Environment{Source: source, SourceID: "vault"}.resolve(slog.New(slog.DiscardHandler))
	if err != nil || r.source == nil || r.origins != nil {
		t.Errorf("%v, origins %q, %v; want the source, any origin, no error", r.source, r.origins, err)
	}
}

func TestFingerprint(t *testing.T) {
	source := SourceFunc(func(context.Context) (*Reply, error) { return nil, nil })
	base := func() Environment {
		return Environment{
			BaseURL: "https://app.example/api/v2", ClientID: "id", ClientSecret: NewSecret("s"),
			Scopes: []string{"a", "b"}, Params: url.Values{"audience": {"x"}, "resource": {"y", "z"}},
			SecretParams: map[string]Secret{"key": NewSecret("k")},
		}
	}
	want := base().fingerprint()
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(want) {
		t.Errorf("%q; want 16 hexadecimal digits", want)
	}
	for _, c := range []struct {
		name string
		same bool
		mend func(*Environment)
	}{
		{"the same again", true, func(*Environment) {}},
		{"scopes in another order", true, func(e *Environment) { e.Scopes = []string{"b", "a"} }},
		{"a scope twice", true, func(e *Environment) { e.Scopes = []string{"b", "a", "b"} }},
		{"a slash after the base URL", true, func(e *Environment) { e.BaseURL += "/" }},
		{"the same token URL outright", true, func(e *Environment) { e.TokenURL = "https://app.example/oauth2/v1/token" }},
		{"parameters set in another order", true, func(e *Environment) {
			e.Params = url.Values{}
			e.Params.Add("resource", "y")
			e.Params.Add("audience", "x")
			e.Params.Add("resource", "z")
		}},
		{"another secret", true, func(e *Environment) { e.ClientSecret = NewSecret("t") }},
		{"another secret parameter", true, func(e *Environment) { e.SecretParams = map[string]Secret{"other": NewSecret("o")} }},
		{"the secret in the form", true, func(e *Environment) { e.AuthMethod = ClientSecretPost }},
		{"another policy", true, func(e *Environment) {
			e.Lease, e.KeepWarm, e.Origins = time.Minute, true, []string{"https://x.example"}
		}},

		{"another URL", false, func(e *Environment) { e.BaseURL = "https://test.example/api/v2" }},
		{"another client", false, func(e *Environment) { e.ClientID = "id2" }},
		{"one scope less", false, func(e *Environment) { e.Scopes = []string{"a"} }},
		{"no scope", false, func(e *Environment) { e.Scopes = nil }},
		{"another audience", false, func(e *Environment) { e.Params.Set("audience", "xx") }},
		{"another resource", false, func(e *Environment) { e.Params["resource"] = []string{"y", "zz"} }},
		{"one resource less", false, func(e *Environment) { e.Params["resource"] = []string{"y"} }},
		{"a further parameter", false, func(e *Environment) { e.Params.Set("tenant", "t") }},
		{"an empty parameter", false, func(e *Environment) { e.Params.Set("tenant", "") }},
		{"a source", false, func(e *Environment) { e.Source = source }},
	} {
		e := base()
		c.mend(&e)
		if got := e.fingerprint(); (got == want) != c.same {
			t.Errorf("%s: %s beside %s; want them equal: %v", c.name, got, want, c.same)
		}
	}
}

// Replicas of this release and of the one before it share a fleet while it is updated: what those have of an environment
// must be what we have, or it is a conflict.
func TestFingerprintsAreThoseOfEarlierReleases(t *testing.T) {
	env := Environment{
		BaseURL: "https://app.example/api/v2", ClientID: "id", ClientSecret: NewSecret("s"), Scopes: []string{"a", "b"},
		Params:       url.Values{"audience": {"x"}, "resource": {"y", "z"}},
		SecretParams: map[string]Secret{"key": NewSecret("k")},
	}
	own := env
	own.Grant, own.Params, own.Audience, own.Resource = ClientCredentials, nil, []string{"x"}, []string{"y", "z"}
	source := Environment{
		TokenURL: "https://auth.example/token", ClientID: "id", SourceID: "vault",
		Source: SourceFunc(func(context.Context) (*Reply, error) { return nil, nil }),
	}
	for name, c := range map[string]struct {
		env               Environment
		fingerprint, cred string
	}{
		"client_credentials": {env, "924495dc74d1d340", "f190"},
		"a source":           {source, "412316feb40c69e4", source.credentialDigest()},
	} {
		r, err := c.env.resolve(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.fingerprint != c.fingerprint || r.credential() != c.cred || r.rotating != nil {
			t.Errorf("%s: %s, %s; want %s, %s", name, r.fingerprint, r.credential(), c.fingerprint, c.cred)
		}
	}
	if got := own.fingerprint(); got != "924495dc74d1d340" {
		t.Errorf("audience and resource by themselves: %s; want what they have as params: it is the same request", got)
	}
}

func TestFingerprintsOfTheOtherGrants(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base := Environment{TokenURL: "https://auth.example/token", ClientID: "id", ClientSecret: NewSecret("s")}
	with := func(mend func(*Environment)) Environment { e := base; mend(&e); return e }
	bearer := with(func(e *Environment) { e.Grant, e.Assertion.File = JWTBearer, file("assertion") })
	exchange := with(func(e *Environment) { e.Grant, e.SubjectTokenFile = TokenExchange, file("subject") })
	issuer := with(func(e *Environment) { e.TokenURL, e.Issuer = "", "https://auth.example/token" })
	fingerprint := func(e Environment) string {
		t.Helper()
		r, err := e.resolve(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return r.fingerprint
	}
	seen := map[string]string{}
	for name, e := range map[string]Environment{
		"client_credentials": base,
		"refresh_token":      with(func(e *Environment) { e.Grant = RefreshToken }),
		"jwt_bearer":         bearer,
		"token_exchange":     exchange,
		"an issuer":          issuer,
		"another issuer":     with(func(e *Environment) { e.TokenURL, e.Issuer = "", "https://auth.example" }),
		"a header":           with(func(e *Environment) { e.Headers = map[string]string{"X-Tenant": "1"} }),
		"another value":      with(func(e *Environment) { e.Headers = map[string]string{"X-Tenant": "2"} }),
		"an audience":        with(func(e *Environment) { e.Audience = []string{"a"} }),
		"a resource":         with(func(e *Environment) { e.Resource = []string{"https://a"} }),
		"a type of subject":  func() Environment { e := exchange; e.SubjectTokenType = "access_token"; return e }(),
		"an actor":           func() Environment { e := exchange; e.ActorTokenFile = file("actor"); return e }(),
		"a type asked for":   func() Environment { e := exchange; e.RequestedTokenType = "jwt"; return e }(),
	} {
		f := fingerprint(e)
		if other, ok := seen[f]; ok {
			t.Errorf("%s and %s have one fingerprint", name, other)
		}
		seen[f] = name
	}
	for name, same := range map[string][2]Environment{
		"a type by its short name": {exchange, func() Environment {
			e := exchange
			e.SubjectTokenType = "urn:ietf:params:oauth:token-type:jwt"
			return e
		}()},
		"another subject token":      {exchange, func() Environment { e := exchange; e.SubjectTokenFile = file("other"); return e }()},
		"a secret header":            {base, with(func(e *Environment) { e.SecretHeaders = map[string]Secret{"X": NewSecret("y")} })},
		"an issuer that isn't asked": {base, with(func(e *Environment) { e.Issuer = "https://auth.example" })},
		"the base URL of an issuer":  {issuer, func() Environment { e := issuer; e.BaseURL = "https://app.example"; return e }()},
		"a header in another case": {
			with(func(e *Environment) { e.Headers = map[string]string{"X-Tenant": "1"} }),
			with(func(e *Environment) { e.Headers = map[string]string{"x-tenant": "1"} }),
		},
	} {
		if a, b := fingerprint(same[0]), fingerprint(same[1]); a != b {
			t.Errorf("%s: %s and %s; want one fingerprint", name, a, b)
		}
	}
	// What an assertion says of itself.
	e := Environment{Grant: JWTBearer, TokenURL: base.TokenURL}
	for _, a := range []Assertion{
		{},
		{Issuer: "x"},
		{Subject: "x"},
		{Audience: "x"},
		{Claims: map[string]any{"x": "y"}},
		{Claims: map[string]any{"x": "z"}},
	} {
		e.Assertion = a
		if other, ok := seen[e.fingerprint()]; ok {
			t.Errorf("%+v has the fingerprint of %s", a, other)
		}
		seen[e.fingerprint()] = fmt.Sprintf("%+v", a)
	}
}

func TestRotatingIsForTheRefreshTokenGrantAlone(t *testing.T) {
	env := Environment{TokenURL: "https://auth.example/token", ClientID: "id", ClientSecret: NewSecret("s"), Grant: RefreshToken, RefreshToken: NewSecret("r")}
	r, err := env.resolve(slog.New(slog.DiscardHandler))
	if err != nil || r.rotating == nil || r.seeds().Reveal() != "r" {
		t.Fatalf("%v, %v; want a client with the refresh token", r.rotating, err)
	}
	if _, err := r.source.Fetch(t.Context()); err == nil {
		t.Error("the source fetches without a refresh token")
	}
	env.Outage = OutageRefreshAlone
	if _, err := env.resolve(slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "outage: refresh_alone with grant refresh_token ") {
		t.Errorf("%v; want an error about outage", err)
	}
}

func TestFingerprintsDontCollideByConcatenation(t *testing.T) {
	source := SourceFunc(func(context.Context) (*Reply, error) { return nil, nil })
	environments := map[string]Environment{
		"nothing":                       {},
		"an id":                         {ClientID: "a"},
		"the URL's end in the id":       {TokenURL: "https://x/to", ClientID: "ken"},
		"the id in the URL's end":       {TokenURL: "https://x/token"},
		"the id's end in a scope":       {ClientID: "ab", Scopes: []string{"c"}},
		"a scope in the id":             {ClientID: "abc"},
		"an id of two, a scope of one":  {ClientID: "a", Scopes: []string{"bc"}},
		"two scopes":                    {Scopes: []string{"a", "b"}},
		"one scope of the two letters":  {Scopes: []string{"ab"}},
		"a parameter like a scope":      {Params: url.Values{"a": {"b"}}},
		"two parameters":                {Params: url.Values{"a": {"b"}, "c": {"d"}}},
		"one parameter of two values":   {Params: url.Values{"a": {"b", "d"}}},
		"its values in the other order": {Params: url.Values{"a": {"d", "b"}}},
		"one parameter of all letters":  {Params: url.Values{"a": {"bcd"}}},
		"a longer name":                 {Params: url.Values{"ab": {"cd"}}},
		"a zero byte":                   {Params: url.Values{"a": {"b\x00c"}}},
		"a source":                      {Source: source},
		"a source with an id":           {Source: source, SourceID: "a"},
		"a source named like a grant":   {Source: source, SourceID: "client_credentials"},
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		f := environments[name].fingerprint()
		if other, ok := seen[f]; ok {
			t.Errorf("%s and %s have one fingerprint", name, other)
		}
		seen[f] = name
	}
}

func TestCredentialDigest(t *testing.T) {
	env := func(secret string, params map[string]Secret) Environment {
		return Environment{ClientID: "id", ClientSecret: NewSecret(secret), SecretParams: params}
	}
	want := env("old", nil).credentialDigest()
	if !regexp.MustCompile(`^[0-9a-f]{4}$`).MatchString(want) {
		t.Errorf("%q; want 4 hexadecimal digits", want)
	}
	other := env("old", nil)
	other.ClientID, other.Scopes = "id2", []string{"a"}
	if got := other.credentialDigest(); got != want {
		t.Errorf("with another id: %s; want %s: it is of the secret alone", got, want)
	}
	for name, e := range map[string]Environment{
		"another secret":           env("new", nil),
		"a secret parameter":       env("old", map[string]Secret{"key": NewSecret("1")}),
		"another secret parameter": env("old", map[string]Secret{"key": NewSecret("2")}),
	} {
		if got := e.credentialDigest(); got == want {
			t.Errorf("%s: %s again", name, got)
		}
	}
}

func TestCredentialDigestsAreSpread(t *testing.T) {
	const secrets = 1000
	seen := map[string]bool{}
	for i := range secrets {
		seen[Environment{ClientSecret: NewSecret(fmt.Sprint("secret-", i))}.credentialDigest()] = true
	}
	if len(seen) < secrets*95/100 { // of 16 bits, 8 or so would be the same
		t.Errorf("%d digests of %d secrets", len(seen), secrets)
	}
}

func TestReplicaNames(t *testing.T) {
	for _, name := range []string{"a", "worker-7", "host.example:4711", "pod/ns@node#1", "[::1]:80", strings.Repeat("x", 128)} {
		if err := checkReplica(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a b", "a,b", "a|b", `a"b`, `a\b`, "a\nb", "a\tb", "é", "a\x00", "a\x7f", strings.Repeat("x", 129)} {
		err := checkReplica(name)
		if err == nil || !strings.HasPrefix(err.Error(), "replica: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v; want an error that names the setting, in one line", name, err)
		}
	}
}

func TestDefaultReplicaIsHostAndPID(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	got := defaultReplica()
	if want := fmt.Sprintf("%s:%d", host, os.Getpid()); got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if err := checkReplica(got); err != nil {
		t.Errorf("the default isn't valid: %v", err)
	}
}

func TestConfigErrorsAreFoundByTheirCause(t *testing.T) {
	conf, env := goodConfig(t)
	conf.Environments = map[string]Environment{"a b": *env}
	if err := mustNotStart(t, conf, env); !errors.Is(err, store.ErrName) {
		t.Errorf("%v; want store.ErrName in its chain", err)
	}
}
