package endpoint_test

import (
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A sent is a request as the endpoint saw it.
type sent struct {
	method, target string
	header         http.Header
	body           string
	form           url.Values
}

// capture fetches a token and returns the request that was sent for it.
func capture(t *testing.T, mend func(*endpoint.Config)) sent {
	t.Helper()
	var requests []sent
	c := config(serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("the request's body: %v", err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Errorf("the request's form: %v", err)
		}
		requests = append(requests, sent{r.Method, r.RequestURI, r.Header.Clone(), string(body), form})
		answers(200, goodReply)(w, r)
	}))
	if mend != nil {
		mend(&c)
	}
	if _, err := fetch(t, c); err != nil {
		t.Fatal(err)
	}
	if len(requests) != 1 {
		t.Fatalf("%d requests; want 1", len(requests))
	}
	return requests[0]
}

func TestRequestIsAFormPost(t *testing.T) {
	r := capture(t, nil)
	if r.method != http.MethodPost || r.target != "/oauth2/v1/token" {
		t.Errorf("%s %s; want POST /oauth2/v1/token", r.method, r.target)
	}
	if got, want := r.body, "grant_type=client_credentials"; got != want {
		t.Errorf("body %q; want %q", got, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", "User-Agent": "onetoken",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
}

func TestRequestKeepsTheQueryOfTheTokenURL(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) { c.TokenURL += "?p=B2C_1_app" })
	if want := "/oauth2/v1/token?p=B2C_1_app"; r.target != want {
		t.Errorf("target %q; want %q", r.target, want)
	}
}

// RFC 6749 §2.3.1: id and secret are form-encoded (Appendix B) before they become a user name and a password.
func TestBasicCredentialsAreFormEncoded(t *testing.T) {
	for _, c := range []struct{ id, secret, want string }{
		{"client-1", "s3cret", "client-1:s3cret"},
		{"a:b", "c:d", "a%3Ab:c%3Ad"},
		{"id", "100%+1", "id:100%25%2B1"},
		{"my id", "two words", "my+id:two+words"},
		{"é", "pässwörd", "%C3%A9:p%C3%A4ssw%C3%B6rd"},
		{"id", "a&b=c/d?e#f\"g", "id:a%26b%3Dc%2Fd%3Fe%23f%22g"},
		{"id", "%41", "id:%2541"},
	} {
		r := capture(t, func(conf *endpoint.Config) { conf.ClientID, conf.ClientSecret = c.id, secret.New(c.secret) })
		encoded, ok := strings.CutPrefix(r.header.Get("Authorization"), "Basic ")
		got, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || string(got) != c.want {
			t.Errorf("id %q, secret %q: credentials %q (%v); want %q", c.id, c.secret, got, err, c.want)
		}
		if r.form.Has("client_id") || r.form.Has("client_secret") {
			t.Errorf("the form has credentials beside the header's: %s", r.body)
		}
		user, password, _ := strings.Cut(string(got), ":")
		if id, err := url.QueryUnescape(user); err != nil || id != c.id {
			t.Errorf("the endpoint reads the id %q (%v); want %q", id, err, c.id)
		}
		if text, err := url.QueryUnescape(password); err != nil || text != c.secret {
			t.Errorf("the endpoint reads the secret %q (%v); want %q", text, err, c.secret)
		}
	}
}

func TestPostCredentialsAreInTheFormOnly(t *testing.T) {
	const odd = "a:b%+ é&=\""
	r := capture(t, func(c *endpoint.Config) {
		c.AuthMethod, c.ClientSecret = endpoint.ClientSecretPost, secret.New(odd)
	})
	if got, ok := r.header["Authorization"]; ok {
		t.Errorf("Authorization: %q; want none", got)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {odd}}
	if !maps.EqualFunc(r.form, want, slices.Equal) {
		t.Errorf("form %v; want %v", r.form, want)
	}
	if strings.Contains(r.target, "secret") {
		t.Errorf("the credentials are in the URL: %s", r.target)
	}
}

func TestFormHasScopesAndParameters(t *testing.T) {
	r := capture(t, func(c *endpoint.Config) {
		c.Scopes = []string{"campaigns.read", "campaigns.write"}
		c.Params = url.Values{"resource": {"https://a.example", "https://b.example"}, "audience": {"campaigns & more"}}
		c.SecretParams = map[string]secret.Secret{"api_key": secret.New("k+1")}
	})
	want := url.Values{
		"grant_type": {"client_credentials"},
		"scope":      {"campaigns.read campaigns.write"},
		"resource":   {"https://a.example", "https://b.example"},
		"audience":   {"campaigns & more"},
		"api_key":    {"k+1"},
	}
	if !maps.EqualFunc(r.form, want, slices.Equal) {
		t.Errorf("form %v; want %v", r.form, want)
	}
}

func TestEveryFetchSendsTheWholeRequest(t *testing.T) {
	var bodies []string
	client, err := endpoint.New(config(serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		answers(200, goodReply)(w, r)
	})))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := client.Fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"grant_type=client_credentials", "grant_type=client_credentials"}
	if !slices.Equal(bodies, want) {
		t.Errorf("bodies %q; want %q", bodies, want)
	}
}
