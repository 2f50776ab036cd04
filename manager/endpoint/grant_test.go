package endpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// mustHave fails unless the form is want.
func (r sent) mustHave(t *testing.T, want url.Values) {
	t.Helper()
	if !maps.EqualFunc(r.form, want, slices.Equal) {
		t.Errorf("form %v; want %v", r.form, want)
	}
}

const jwtType, accessTokenType = "urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:access_token"

func TestAPublicClientSendsItsIDAlone(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) { c.AuthMethod, c.ClientSecret = endpoint.NoClientAuth, secret.Secret{} })
	r.mustHave(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}})
	if r.header.Get("Authorization") != "" {
		t.Error("there is an Authorization header")
	}
}

func TestAClientAssertionOfAFileIsSentAsItIs(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.AuthMethod, c.ClientSecret = endpoint.PrivateKeyJWT, secret.Secret{}
		c.ClientAssertionFile = file(t, "a.b.c\r\n")
	})
	r.mustHave(t, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_assertion": {"a.b.c"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	})
}

func TestASecretOfAFileHasNoLineBreakAtItsEnd(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.AuthMethod, c.ClientSecret, c.ClientSecretFile = endpoint.ClientSecretPost, secret.Secret{}, file(t, " s3cret \n\r\n")
	})
	r.mustHave(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {" s3cret "}})
}

func TestAudienceAndResourceAreRepeated(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.Audience = []string{"a", "b"}
		c.Resource = []string{"https://api.example/x?y=1", "urn:example:z"}
	})
	r.mustHave(t, url.Values{
		"grant_type": {"client_credentials"}, "audience": {"a", "b"}, "resource": {"https://api.example/x?y=1", "urn:example:z"},
	})
}

func TestHeadersAreAdded(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.Headers = map[string]string{"x-tenant": "t1", "User-Agent": "mine"}
		c.SecretHeaders = map[string]secret.Secret{"X-Api-Key": secret.New("k1")}
	})
	for name, want := range map[string]string{
		"X-Tenant": "t1", "User-Agent": "mine", "X-Api-Key": "k1", "Accept": "application/json",
		"Content-Type": "application/x-www-form-urlencoded",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
}

func TestJWTBearerSignsAnAssertion(t *testing.T) {
	for _, c := range []struct {
		name   string
		mend   func(*endpoint.Config)
		claims map[string]any // "" for the token URL
		life   float64
	}{
		{"by default", func(*endpoint.Config) {}, map[string]any{"iss": clientID, "sub": clientID, "aud": ""}, 300},
		{
			"as configured", func(c *endpoint.Config) {
				c.Assertion = endpoint.Assertion{
					Issuer: "i", Subject: "s", Audience: "a", Life: time.Hour,
					Claims: map[string]any{"https://x.example/roles": []string{"r"}, "n": 1234567890123},
				}
			},
			map[string]any{"iss": "i", "sub": "s", "aud": "a", "https://x.example/roles": []any{"r"}, "n": 1234567890123.0},
			3600,
		},
		{
			"a service account", func(c *endpoint.Config) {
				c.PrivateKeyFile = file(t, serviceAccount(p256Key(), "me@project.example"))
				c.AuthMethod, c.ClientID, c.ClientSecret = endpoint.NoClientAuth, "", secret.Secret{}
				c.Scopes = []string{"a", "b"}
			},
			map[string]any{"iss": "me@project.example", "aud": "", "scope": "a b"},
			300,
		},
		{
			"a service account for a user", func(c *endpoint.Config) {
				c.PrivateKeyFile = file(t, serviceAccount(p256Key(), "me@project.example"))
				c.AuthMethod, c.ClientID, c.ClientSecret = endpoint.NoClientAuth, "", secret.Secret{}
				c.Scopes = []string{"a"}
				c.Assertion = endpoint.Assertion{Subject: "you@example", Claims: map[string]any{"scope": "c"}}
			},
			map[string]any{"iss": "me@project.example", "sub": "you@example", "aud": "", "scope": "c"},
			300,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conf endpoint.Config
			r := capture(t, func(c2 *endpoint.Config) {
				c2.Grant, c2.PrivateKeyFile = endpoint.JWTBearer, file(t, pkcs8(p256Key()))
				c.mend(c2)
				conf = *c2
			})
			want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": r.form["assertion"]}
			if len(conf.Scopes) > 0 {
				want.Set("scope", strings.Join(conf.Scopes, " "))
			}
			r.mustHave(t, want)
			claims := verify(t, r.form.Get("assertion"), "ES256", p256Key().Public()).claims
			if got := claims["exp"].(float64) - claims["iat"].(float64); got != c.life {
				t.Errorf("a life of %v s; want %v", got, c.life)
			}
			if jti, _ := claims["jti"].(string); jti == "" {
				t.Error("no jti")
			}
			for _, name := range []string{"iat", "exp", "jti"} {
				delete(claims, name)
			}
			if c.claims["aud"] == "" {
				c.claims["aud"] = conf.TokenURL
			}
			if got, want := string(must(json.Marshal(claims))), string(must(json.Marshal(c.claims))); got != want {
				t.Errorf("claims %s; want %s", got, want)
			}
		})
	}
}

func serviceAccount(private any, email string) string {
	return string(must(json.Marshal(map[string]string{
		"type": "service_account", "private_key": pkcs8(private), "private_key_id": "k", "client_email": email,
	})))
}

func TestJWTBearerSendsAFilesAssertion(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.Grant, c.Assertion.File, c.Scopes = endpoint.JWTBearer, file(t, "x.y.z\n"), []string{"s"}
	})
	r.mustHave(t, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"x.y.z"}, "scope": {"s"},
	})
	if r.header.Get("Authorization") == "" {
		t.Error("the client doesn't authenticate")
	}
}

func TestTokenExchange(t *testing.T) {
	subject, actor := file(t, "subject.jwt\n"), file(t, "actor.jwt\n")
	const grant = "urn:ietf:params:oauth:grant-type:token-exchange"
	for _, c := range []struct {
		name string
		mend func(*endpoint.Config)
		want url.Values
	}{
		{"by default", func(*endpoint.Config) {}, url.Values{
			"grant_type": {grant}, "subject_token": {"subject.jwt"}, "subject_token_type": {jwtType},
		}},
		{"with all", func(c *endpoint.Config) {
			c.SubjectTokenType, c.ActorTokenFile, c.ActorTokenType = "access_token", actor, "urn:x:y"
			c.RequestedTokenType, c.Audience, c.Scopes = "access_token", []string{"a", "b"}, []string{"s"}
		}, url.Values{
			"grant_type": {grant}, "subject_token": {"subject.jwt"}, "subject_token_type": {accessTokenType},
			"actor_token": {"actor.jwt"}, "actor_token_type": {"urn:x:y"}, "requested_token_type": {accessTokenType},
			"audience": {"a", "b"}, "scope": {"s"},
		}},
		{"with an actor", func(c *endpoint.Config) { c.ActorTokenFile = actor }, url.Values{
			"grant_type": {grant}, "subject_token": {"subject.jwt"}, "subject_token_type": {jwtType},
			"actor_token": {"actor.jwt"}, "actor_token_type": {jwtType},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			capture(t, func(conf *endpoint.Config) {
				conf.Grant, conf.SubjectTokenFile = endpoint.TokenExchange, subject
				c.mend(conf)
			}).mustHave(t, c.want)
		})
	}
	c := config(serve(t, answers(200, `{"access_token":"a","issued_token_type":"`+accessTokenType+`"}`)))
	c.Grant, c.SubjectTokenFile = endpoint.TokenExchange, subject
	if reply, err := fetch(t, c); err != nil || reply.IssuedTokenType != accessTokenType {
		t.Errorf("%+v, %v; want issued_token_type", reply, err)
	}
}

// refresh asks the endpoint with a refresh token.
func refresh(t *testing.T, c endpoint.Config, refreshToken string) (*endpoint.Reply, error) {
	t.Helper()
	c.Grant = endpoint.RefreshToken
	client, err := endpoint.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return client.Refresh(ctx, secret.New(refreshToken))
}

func TestRefresh(t *testing.T) {
	for _, scopes := range [][]string{nil, {"a", "b"}} {
		var got url.Values
		c := config(serve(t, func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			got = r.PostForm
			answers(200, `{"access_token":"a","expires_in":60,"refresh_token":"next","refresh_expires_in":"1800.0"}`)(w, r)
		}))
		c.Scopes = scopes
		reply, err := refresh(t, c, "f1rst+/=")
		if err != nil {
			t.Fatal(err)
		}
		want := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"f1rst+/="}}
		if scopes != nil {
			want.Set("scope", "a b")
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("form %v; want %v", got, want)
		}
		if reply.RefreshToken.Reveal() != "next" || reply.RefreshExpiresIn != 30*time.Minute {
			t.Errorf("refresh token %q for %v; want next, 30m", reply.RefreshToken.Reveal(), reply.RefreshExpiresIn)
		}
	}
}

func TestAGrantIsAskedByItsOwnMethod(t *testing.T) {
	tokenURL := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	c := config(tokenURL)
	client := must(endpoint.New(config(tokenURL)))
	_, refreshErr := client.Refresh(t.Context(), secret.New("rt"))
	c.Grant = endpoint.RefreshToken
	_, fetchErr := must(endpoint.New(c)).Fetch(t.Context())
	_, emptyErr := must(endpoint.New(c)).Refresh(t.Context(), secret.Secret{})
	if emptyErr == nil || emptyErr.Error() != "token endpoint: invalid_grant: there is no refresh token" {
		t.Errorf("Refresh with nothing: %v", emptyErr)
	}
	for name, err := range map[string]error{"Refresh with client_credentials": refreshErr, "Fetch with refresh_token": fetchErr} {
		if failed, ok := errors.AsType[*endpoint.Error](err); !ok || !failed.Refused() || !strings.Contains(err.Error(), "grant ") {
			t.Errorf("%s: %v; want a refusal that names the grant", name, err)
		}
	}
}

func TestRefreshTokensOfReplies(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	for _, c := range []struct {
		name, members string
		want          string // the refresh token
		life          time.Duration
		message       string // of the error, where there is one
	}{
		{"none", ``, "", 0, ""},
		{"one", `,"refresh_token":"r"`, "r", 0, ""},
		{"null", `,"refresh_token":null`, "", 0, ""},
		{"empty", `,"refresh_token":""`, "", 0, ""},
		{"a number", `,"refresh_token":5`, "", 0, ""},
		{"Keycloak's life", `,"refresh_token":"r","refresh_expires_in":1800`, "r", 30 * time.Minute, ""},
		{"without end", `,"refresh_token":"r","refresh_expires_in":0`, "r", 0, ""},
		{"GitHub's life", `,"refresh_token":"r","refresh_token_expires_in":"15811200"`, "r", 183 * 24 * time.Hour, ""},
		{"a space", `,"refresh_token":"r 1"`, "r 1", 0, ""},
		{"as long as may be", `,"refresh_token":"` + long + `"`, long, 0, ""},
		{"too long", `,"refresh_token":"` + long + `x"`, "", 0, "in the reply: the refresh token is longer than 64 KiB"},
		{"a line break", `,"refresh_token":"r\n"`, "", 0, "in the reply: the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)"},
		{"beyond ASCII", `,"refresh_token":"é"`, "", 0, "in the reply: the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := config(serve(t, answers(200, `{"access_token":"abc"`+c.members+`}`)))
			reply, err := refresh(t, conf, "rt")
			if c.message != "" {
				if failed := failure(t, reply, err); failed.Code != endpoint.CodeBadReply || failed.Message != c.message {
					t.Errorf("%v; want %s", failed, c.message)
				}
				// Where none is used, an odd one is no trouble.
				if reply, err := fetch(t, conf); err != nil || !reply.RefreshToken.IsEmpty() {
					t.Errorf("client_credentials: %v, %v; want a reply without it", reply, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if reply.RefreshToken.Reveal() != c.want || reply.RefreshExpiresIn != c.life {
				t.Errorf("%q for %v; want %q for %v", reply.RefreshToken.Reveal(), reply.RefreshExpiresIn, c.want, c.life)
			}
		})
	}
}

// The refresh token that was sent is spent: the one that came must not be lost with an access token that can't be used.
func TestARefreshTokenIsntLostWithAnUnusableReply(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"no access token", 200, `{"refresh_token":"next-one","refresh_expires_in":60}`, "next-one"},
		{"a bad one", 201, `{"access_token":"a\nb","refresh_token":"next-one","refresh_expires_in":60}`, "next-one"},
		{"a bad type", 200, `{"access_token":"a","token_type":"a b","refresh_token":"next-one","refresh_expires_in":60}`, "next-one"},
		{"an error beside it", 200, `{"error":"next-one","refresh_token":"next-one","refresh_expires_in":60}`, "next-one"},
		{"a refusal beside it", 200, `{"error":"invalid_scope","error_description":"next-one","refresh_token":"next-one","refresh_expires_in":60}`, "next-one"},
		{"a failure", 400, `{"error":"invalid_grant","refresh_token":"next-one"}`, ""},
		{"neither can be used", 200, `{"refresh_token":"r\n"}`, ""},
	} {
		reply, err := refresh(t, config(serve(t, answers(c.status, c.body))), "the-first-one")
		failed := failure(t, reply, err)
		if got := failed.RefreshToken.Reveal(); got != c.want {
			t.Errorf("%s: refresh token %q; want %q", c.name, got, c.want)
		}
		if c.want != "" && failed.RefreshExpiresIn != time.Minute {
			t.Errorf("%s: for %v; want 1m", c.name, failed.RefreshExpiresIn)
		}
		if strings.Contains(failed.Error(), "next-one") {
			t.Errorf("%s: %v repeats it", c.name, failed)
		}
	}
}

func TestSeed(t *testing.T) {
	c := config("https://auth.example/token")
	c.Grant = endpoint.RefreshToken
	if got := must(endpoint.New(c)).Seed(); !got.IsEmpty() {
		t.Errorf("%q; want none", got.Reveal())
	}
	c.RefreshToken = secret.New("r1")
	if got := must(endpoint.New(c)).Seed().Reveal(); got != "r1" {
		t.Errorf("%q; want r1", got)
	}
	c.RefreshToken, c.RefreshTokenFile = secret.Secret{}, file(t, "r2\n")
	client := must(endpoint.New(c))
	if got := client.Seed().Reveal(); got != "r2" {
		t.Errorf("%q; want r2", got)
	}
	replace(t, c.RefreshTokenFile, "r3\n")
	if got := client.Seed().Reveal(); got != "r3" {
		t.Errorf("%q; want r3, which is there now", got)
	}
}
