package endpoint_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A recorder is an endpoint that keeps the forms it is sent, and a client of it.
type recorder struct {
	t       *testing.T
	client  *endpoint.Client
	forms   []url.Values
	reports []string
}

func record(t *testing.T, mend func(*endpoint.Config)) *recorder {
	t.Helper()
	r := &recorder{t: t}
	c := config(serve(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		r.forms = append(r.forms, form)
		answers(200, goodReply)(w, req)
	}))
	c.ClientSecret, c.AuthMethod = secret.Secret{}, endpoint.ClientSecretPost
	c.Report = func(err error) { r.reports = append(r.reports, err.Error()) }
	mend(&c)
	var err error
	if r.client, err = endpoint.New(c); err != nil {
		t.Fatal(err)
	}
	return r
}

// fetch returns what was sent for a token.
func (r *recorder) fetch() url.Values {
	r.t.Helper()
	if _, err := r.client.Fetch(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return r.forms[len(r.forms)-1]
}

func TestASecretIsReadAgainWhenItsFileChanges(t *testing.T) {
	path := file(t, "first-secret\n")
	r := record(t, func(c *endpoint.Config) { c.ClientSecretFile = path })
	credential := r.client.Credential()
	for _, step := range []struct {
		name, content, want string // "" removes the file
		report              string
	}{
		{"as it was", "first-secret\n", "first-secret", ""},
		{"replaced", "second-secret\n", "second-secret", ""},
		{"emptied", "\n", "second-secret", "is empty"},
		{"still", "\n", "second-secret", ""},
		{"replaced again", "third-secret", "third-secret", ""},
		{"removed", "", "third-secret", "no such file or directory"},
		{"back", "third-secret", "third-secret", ""},
		{"removed again", "", "third-secret", "no such file or directory"},
	} {
		r.reports = nil
		if step.content == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else {
			replace(t, path, step.content)
		}
		if got := r.fetch().Get("client_secret"); got != step.want {
			t.Errorf("%s: %q; want %q", step.name, got, step.want)
		}
		if got, want := strings.Join(r.reports, "\n"), `client_secret_file: "`+path+`": `+step.report+"; the last good version is still used"; step.report != "" && got != want || step.report == "" && got != "" {
			t.Errorf("%s: reported %q; want %q, once", step.name, got, want)
		}
		if same := r.client.Credential() == credential; same != (step.want == "first-secret") {
			t.Errorf("%s: the credential is the first one's: %v", step.name, same)
		}
	}
}

func TestTokensOfFilesAreReadAgain(t *testing.T) {
	for _, c := range []struct {
		parameter string
		mend      func(c *endpoint.Config, path string)
	}{
		{"client_assertion", func(c *endpoint.Config, path string) {
			c.AuthMethod, c.ClientAssertionFile = endpoint.PrivateKeyJWT, path
		}},
		{"assertion", func(c *endpoint.Config, path string) {
			c.AuthMethod, c.Grant, c.Assertion.File = endpoint.NoClientAuth, endpoint.JWTBearer, path
		}},
		{"subject_token", func(c *endpoint.Config, path string) {
			c.AuthMethod, c.Grant, c.SubjectTokenFile = endpoint.NoClientAuth, endpoint.TokenExchange, path
		}},
		{"actor_token", func(c *endpoint.Config, path string) {
			c.AuthMethod, c.Grant, c.SubjectTokenFile = endpoint.NoClientAuth, endpoint.TokenExchange, file(t, "subject")
			c.ActorTokenFile = path
		}},
	} {
		path := file(t, "one\n")
		r := record(t, func(conf *endpoint.Config) { c.mend(conf, path) })
		credential := r.client.Credential()
		if got := r.fetch().Get(c.parameter); got != "one" {
			t.Errorf("%s: %q; want one", c.parameter, got)
		}
		replace(t, path, "two\n")
		if got := r.fetch().Get(c.parameter); got != "two" {
			t.Errorf("%s: %q; want two", c.parameter, got)
		}
		if r.client.Credential() == credential {
			t.Errorf("%s: the credential is what it was", c.parameter)
		}
	}
}

func TestAKeyIsReadAgainAndAWrongOneIsNotUsed(t *testing.T) {
	path := file(t, pkcs8(p256Key()))
	r := record(t, func(c *endpoint.Config) { withKey(c, path); c.SigningAlgorithm = "ES256" })
	credential := r.client.Credential()
	sign := func() string { return r.fetch().Get("client_assertion") }
	verify(t, sign(), "ES256", p256Key().Public())

	replace(t, path, pkcs8(rsaKey()))
	verify(t, sign(), "ES256", p256Key().Public())
	if len(r.reports) != 1 || !strings.HasPrefix(r.reports[0], `private_key_file: "`+path+`": holds an RSA key, and ES256`) {
		t.Errorf("reported %q; want the key's kind", r.reports)
	}
	if r.client.Credential() != credential {
		t.Error("the credential changes by a key that isn't used")
	}
	replace(t, path, jwk(t, p256Other, map[string]string{"kid": "new"}))
	if got := verify(t, sign(), "ES256", p256Other.Public()); got.header["kid"] != "new" {
		t.Errorf("kid %v; want new", got.header["kid"])
	}
	if r.client.Credential() == credential {
		t.Error("the credential is what it was")
	}
}

func TestAnotherServiceAccountsKeyIsNotUsed(t *testing.T) {
	path := file(t, serviceAccount(p256Key(), "me@project.example"))
	r := record(t, func(c *endpoint.Config) {
		c.AuthMethod, c.Grant, c.PrivateKeyFile = endpoint.NoClientAuth, endpoint.JWTBearer, path
	})
	if got := r.client.ServiceAccount(); got != "me@project.example" {
		t.Errorf("service account %q", got)
	}
	replace(t, path, serviceAccount(p256Other, "other@project.example"))
	verify(t, r.fetch().Get("assertion"), "ES256", p256Key().Public())
	if len(r.reports) != 1 || !strings.Contains(r.reports[0], "another service account") {
		t.Errorf("reported %q", r.reports)
	}
	replace(t, path, serviceAccount(p256Other, "me@project.example"))
	verify(t, r.fetch().Get("assertion"), "ES256", p256Other.Public())
}

func TestTheCredentialIsOfAllSecretsAndNothingElse(t *testing.T) {
	credential := func(mend func(*endpoint.Config)) string {
		c := config("https://auth.example/token")
		if mend != nil {
			mend(&c)
		}
		return must(endpoint.New(c)).Credential()
	}
	want := credential(nil)
	if want != "bcf3" { // what it was before there were other secrets: fleets are mixed while they are updated
		t.Errorf("%s; want bcf3", want)
	}
	for name, mend := range map[string]func(*endpoint.Config){
		"the secret in a file": func(c *endpoint.Config) {
			c.ClientSecret, c.ClientSecretFile = secret.Secret{}, file(t, clientSecret+"\n")
		},
		"another id":     func(c *endpoint.Config) { c.ClientID = "other" },
		"another method": func(c *endpoint.Config) { c.AuthMethod = endpoint.ClientSecretPost },
		"a header":       func(c *endpoint.Config) { c.Headers = map[string]string{"X-A": "b"} },
	} {
		if got := credential(mend); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
	}
	seen := map[string]string{want: "the secret"}
	for name, mend := range map[string]func(*endpoint.Config){
		"another secret":     func(c *endpoint.Config) { c.ClientSecret = secret.New("other") },
		"a secret parameter": func(c *endpoint.Config) { c.SecretParams = map[string]secret.Secret{"x": secret.New("y")} },
		"a secret header":    func(c *endpoint.Config) { c.SecretHeaders = map[string]secret.Secret{"x": secret.New("y")} },
		"a refresh token": func(c *endpoint.Config) {
			c.Grant, c.RefreshToken = endpoint.RefreshToken, secret.New("y")
		},
		"a subject token": func(c *endpoint.Config) {
			c.Grant, c.SubjectTokenFile = endpoint.TokenExchange, file(t, "y")
		},
		"an assertion": func(c *endpoint.Config) { c.Grant, c.Assertion.File = endpoint.JWTBearer, file(t, "y") },
	} {
		got := credential(mend)
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the credential of %s", name, other)
		}
		seen[got] = name
	}
}
