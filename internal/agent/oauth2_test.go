package agent_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const (
	endpointPath = prod + "/oauth2/token"
	grant        = "grant_type=client_credentials"
)

func inForm() string {
	return grant + "&" + url.Values{"client_id": {clientID}, "client_secret": {clientSecret}}.Encode()
}

// isGranted checks an answer by RFC 6749 §5.1; it returns the fields.
func (a reply) isGranted() map[string]any {
	a.t.Helper()
	v := a.fields()
	token, _ := v["access_token"].(string)
	life, _ := v["expires_in"].(float64)
	if a.status != 200 || token == "" || v["token_type"] != "Bearer" || life < 3000 || life > 3600 {
		a.t.Errorf("got %d %s", a.status, a.body)
	}
	a.isUncached()
	return v
}

func (a reply) isUncached() {
	a.t.Helper()
	h := a.header
	if h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" {
		a.t.Errorf("headers %v", h)
	}
}

// isRefused checks an answer by RFC 6749 §5.2.
func (a reply) isRefused(status int, code string) {
	a.t.Helper()
	v := a.fields()
	if a.status != status || v["error"] != code {
		a.t.Errorf("got %d %s, want %d %s", a.status, a.body, status, code)
	}
	for name := range v {
		if name != "error" && name != "error_description" {
			a.t.Errorf("%s is in it", name)
		}
	}
	description, _ := v["error_description"].(string)
	if description == "" || strings.ContainsFunc(description, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		a.t.Errorf("error_description %q", description)
	}
	if challenge := a.header.Get("WWW-Authenticate"); (status == 401) != strings.HasPrefix(challenge, "Basic ") {
		a.t.Errorf("status %d, WWW-Authenticate %q", status, challenge)
	}
	a.isUncached()
}

func TestTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	for name, a := range map[string]reply{
		"basic":                        s.do("POST", endpointPath, grant, own()),
		"basic, not form-encoded":      s.do("POST", endpointPath, grant, basic(clientID, clientSecret)),
		"basic in another case":        s.do("POST", endpointPath, grant, header("Authorization", "bAsIc "+base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(clientID)+":"+url.QueryEscape(clientSecret))))),
		"in the form":                  s.do("POST", endpointPath, inForm()),
		"basic, and the id once more":  s.do("POST", endpointPath, grant+"&client_id="+url.QueryEscape(clientID), own()),
		"unknown and empty parameters": s.do("POST", endpointPath, grant+"&scope=&audience=&client_secret=&foo=bar", own()),
		"a charset":                    s.do("POST", endpointPath, grant, own(), header("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")),
		"min_ttl":                      s.do("POST", endpointPath+"?min_ttl=5m", grant, own()),
	} {
		t.Run(name, func(t *testing.T) {
			a.t = t
			if v := a.isGranted(); v["scope"] != nil {
				t.Errorf("a scope that nobody knows: %v", v["scope"])
			}
		})
	}
	if n := s.kit.Endpoint.Calls(); n != 1 {
		t.Errorf("%d calls of the endpoint, want one for all", n)
	}
}

// An environment's secret may be in a file, which is read again when it changes.
func TestOwnSecretInAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	replaceFile(t, path, "the first of two secrets\n")
	s := newSite(t, options{agent: func(o *agent.Options) {
		e := o.Environments["prod"]
		e.ClientSecret, e.ClientSecretFile = manager.Secret{}, path
		o.Environments["prod"] = e
	}})
	first, second := basic(url.QueryEscape(clientID), "the first of two secrets"), basic(url.QueryEscape(clientID), "the second of them")
	s.do("POST", endpointPath, grant, first).isGranted()
	replaceFile(t, path, "the second of them")
	eventually(t, "the new secret counts", func() bool { return s.do("POST", endpointPath, grant, second).status == 200 })
	if a := s.unheld(func() reply { return s.do("POST", endpointPath, grant, first) }); a.status != 401 {
		t.Errorf("with the old secret: %d", a.status)
	}
}

// A client that has no secret can't show who it is: its id alone is worth nothing.
func TestNoSecretIsNoPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: func(o *agent.Options) {
		e := o.Environments["prod"]
		e.ClientSecret, e.AuthMethod = manager.Secret{}, manager.NoClientAuth
		o.Environments["prod"] = e
	}})
	for _, c := range []change{basic(url.QueryEscape(clientID), ""), basic(clientID, ""), own()} {
		if a := s.unheld(func() reply { return s.do("POST", endpointPath, grant, c) }); a.status != 401 {
			t.Errorf("%d: %s", a.status, a.body)
		}
	}
}

func TestBadTokenRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: manager.Environment{
		Scopes:       []string{"read", "write"},
		Params:       url.Values{"audience": {"campaigns", "more"}},
		SecretParams: map[string]manager.Secret{"resource": manager.NewSecret("https://secret.example/")},
	}})
	json := header("Content-Type", "application/json")
	for _, c := range []struct {
		name, path, body string
		change           change
		status           int
		code             string
	}{
		{"no body", "", "", own(), 400, "invalid_request"},
		{"JSON", "", `{"grant_type":"client_credentials"}`, json, 400, "invalid_request"},
		{"no content type", "", grant, header("Content-Type"), 400, "invalid_request"},
		{"no form", "", grant + "&a=%zz", own(), 400, "invalid_request"},
		{"a semicolon", "", grant + ";a=b", own(), 400, "invalid_request"},
		{"no grant", "", "scope=read", own(), 400, "invalid_request"},
		{"an empty grant", "", "grant_type=", own(), 400, "invalid_request"},
		{"two grants", "", grant + "&" + grant, own(), 400, "invalid_request"},
		{"a grant twice, and empty once", "", grant + "&grant_type=&scope=x", own(), 400, "invalid_scope"},
		{"two scopes", "", grant + "&scope=read&scope=write", own(), 400, "invalid_request"},
		{"an unknown parameter twice", "", grant + "&foo=1&foo=2", own(), 400, "invalid_request"},
		{"another grant", "", "grant_type=password&username=a&password=b", own(), 400, "unsupported_grant_type"},
		{"another grant of a stranger", "", "grant_type=authorization_code", nil, 400, "unsupported_grant_type"},
		{"another grant in another case", "", "grant_type=Client_Credentials", own(), 400, "unsupported_grant_type"},
		{"parameters in the URL", "?" + grant, "", own(), 400, "invalid_request"},
		{"a secret in the URL", "?client_secret=x", grant, own(), 400, "invalid_request"},
		{"a bad query", "?%zz", grant, own(), 400, "invalid_request"},
		{"a bad min_ttl", "?min_ttl=x", grant, own(), 400, "invalid_request"},
		{"too much of a life", "?min_ttl=10h", grant, own(), 400, "invalid_request"},
		{"too large", "", grant + "&a=" + strings.Repeat("a", 70_000), own(), 413, "invalid_request"},

		{"no credentials", "", grant, nil, 401, "invalid_client"},
		{"an id alone", "", grant + "&client_id=x", nil, 401, "invalid_client"},
		{"a secret alone", "", grant + "&client_secret=" + url.QueryEscape(clientSecret), nil, 401, "invalid_client"},
		{"a wrong secret", "", grant, basic(url.QueryEscape(clientID), "wrong"), 401, "invalid_client"},
		{"a wrong id", "", grant, basic("wrong", url.QueryEscape(clientSecret)), 401, "invalid_client"},
		{"a wrong secret in the form", "", grant + "&client_id=" + url.QueryEscape(clientID) + "&client_secret=wrong", nil, 401, "invalid_client"},
		{"a part of the secret", "", grant, basic(url.QueryEscape(clientID), url.QueryEscape(clientSecret[:10])), 401, "invalid_client"},
		{"an empty secret", "", grant, basic(url.QueryEscape(clientID), ""), 401, "invalid_client"},
		{"no base64", "", grant, header("Authorization", "Basic !!!"), 401, "invalid_client"},
		{"no colon", "", grant, header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("x"))), 401, "invalid_client"},
		{"a bearer", "", grant, header("Authorization", "Bearer x"), 401, "invalid_client"},
		{"an empty header", "", grant, header("Authorization", ""), 401, "invalid_client"},
		{"both ways", "", inForm(), own(), 400, "invalid_request"},
		{"two ids", "", grant + "&client_id=other", own(), 400, "invalid_request"},
		{"two headers", "", grant, header("Authorization", "Basic eDp4", "Basic eDp4"), 400, "invalid_request"},

		{"another scope", "", grant + "&scope=read+admin", own(), 400, "invalid_scope"},
		{"a malformed scope", "", grant + "&scope=%22", own(), 400, "invalid_scope"},
		{"another audience", "", grant + "&audience=other", own(), 400, "invalid_target"},
		{"one more audience", "", grant + "&audience=campaigns&audience=other", own(), 400, "invalid_target"},
		{"another resource", "", grant + "&resource=https%3A%2F%2Fother.example%2F", own(), 400, "invalid_target"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []change
			if c.change != nil {
				changes = append(changes, c.change)
			}
			a := s.do("POST", endpointPath+c.path, c.body, changes...)
			a.t = t
			if a.status == http.StatusTooManyRequests {
				t.Fatal("held back")
			}
			a.isRefused(c.status, c.code)
		})
	}
	for _, body := range []string{
		grant + "&scope=read", grant + "&scope=write+read", grant + "&scope=+read++", grant + "&audience=campaigns",
		grant + "&audience=more&audience=campaigns", grant + "&resource=https%3A%2F%2Fsecret.example%2F", grant,
	} {
		if v := s.do("POST", endpointPath, body, own()).isGranted(); v["scope"] != "read write" {
			t.Errorf("%s: scope %v", body, v["scope"])
		}
	}
}

// A token whose environment names no audience isn't for the one that a client has in mind.
func TestAnAudienceThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	for _, target := range []string{"audience=campaigns", "resource=https%3A%2F%2Fapi.example%2F"} {
		s.do("POST", endpointPath, grant+"&"+target, own()).isRefused(400, "invalid_target")
	}
	s.do("POST", endpointPath, grant+"&audience=&resource=", own()).isGranted()
}

// What the endpoint has granted counts, not what it was asked for.
func TestTheGrantedScopeCounts(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: manager.Environment{Scopes: []string{"read", "write"}}})
	s.kit.Endpoint.SetDefault(mockendpoint.Reply{Scope: "read extra"})
	s.do("POST", endpointPath, grant+"&scope=write", own()).isRefused(400, "invalid_scope")
	if v := s.do("POST", endpointPath, grant+"&scope=extra", own()).isGranted(); v["scope"] != "read extra" {
		t.Errorf("scope %v", v["scope"])
	}
}

// A client must not think that its own secret is wrong because the agent's is.
func TestAnUpstreamRefusalIsNotTheClients(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_client", "unauthorized_client", "invalid_scope", "invalid_grant"} {
		s := newSite(t, options{})
		s.kit.Endpoint.SetDefault(mockendpoint.Reply{Error: code, ErrorDescription: `"no" \ client é`, RetryAfter: 30 * time.Second})
		a := s.do("POST", endpointPath, grant, own())
		a.isRefused(503, "temporarily_unavailable")
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 30 {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
		if !strings.Contains(a.body, code) {
			t.Errorf("it isn't said why: %s", a.body)
		}
	}
}

// Nothing is wrong with the agent, and it doesn't get better by asking again soon.
func TestALoginIsNeeded(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{
		environment: manager.Environment{Grant: manager.RefreshToken}, endpoint: mockendpoint.Options{Rotate: true},
	})
	s.kit.Endpoint.RevokeFamily(s.kit.RefreshTokens["prod"])
	for range 2 { // the one who is told by the endpoint, and one who reads it in Redis
		a := s.unheld(func() reply { return s.get(prod + "/token") })
		if detail := a.isProblem(503, "login"); !strings.Contains(detail, "a person must log in") {
			t.Errorf("it isn't said why: %s", detail)
		}
		if got := a.header.Get("Retry-After"); got != "30" {
			t.Errorf("Retry-After %q", got)
		}
		a = s.do("POST", endpointPath, grant, own())
		a.isRefused(503, "temporarily_unavailable")
		if got := a.header.Get("Retry-After"); got != "30" {
			t.Errorf("at the token endpoint: Retry-After %q", got)
		}
	}
	eventually(t, "the row says so", func() bool { // once the lease is released
		row := s.get(prod).fields()
		failure, _ := row["failure"].(map[string]any)
		message, _ := failure["message"].(string)
		return row["state"] == "failing" && strings.Contains(message, "a person must log in")
	})
}

func TestGosOwnClient(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: manager.Environment{Scopes: []string{"read"}}})
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams, oauth2.AuthStyleAutoDetect} {
		c := clientcredentials.Config{
			ClientID: clientID, ClientSecret: clientSecret, TokenURL: s.server.URL + endpointPath, AuthStyle: style, Scopes: []string{"read"},
		}
		ctx := context.WithValue(t.Context(), oauth2.HTTPClient, s.server.Client())
		tok, err := c.Token(ctx)
		if err != nil {
			t.Fatalf("style %v: %v", style, err)
		}
		if !s.kit.Endpoint.Accepts(tok.AccessToken) || tok.TokenType != "Bearer" || time.Until(tok.Expiry) < 50*time.Minute {
			t.Errorf("style %v: %v until %v", style, tok.TokenType, tok.Expiry)
		}
		c.ClientSecret = "wrong"
		_, err = c.Token(ctx)
		refused, _ := err.(*oauth2.RetrieveError) //nolint:errorlint // it is returned as it is
		if refused == nil || refused.ErrorCode != "invalid_client" || refused.Response.StatusCode != 401 {
			t.Errorf("style %v, a wrong secret: %v", style, err)
		}
	}
	if n := s.kit.Endpoint.Calls(); n != 1 {
		t.Errorf("%d calls of the endpoint", n)
	}
}

// secretFile writes a file that nobody else may read.
func secretFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	replaceFile(t, path, content)
	return path
}

// replaceFile puts a whole new file at path.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestConfiguredClients(t *testing.T) {
	t.Parallel()
	const robot = "robots-own-secret-1"
	path := secretFile(t, robot+"\n")
	s := newSite(t, options{agent: func(o *agent.Options) {
		o.Clients = []agent.Client{{ID: "robot", SecretFile: path, Environments: []string{"prod"}}}
	}})
	post := func(env, id, secret string) reply {
		return s.do("POST", "/v1/environments/"+env+"/oauth2/token", grant, basic(id, secret))
	}
	post("prod", "robot", robot).isGranted()
	post("test", "robot", robot).isRefused(400, "unauthorized_client")
	post("prod", "robot", "wrong").isRefused(401, "invalid_client")
	post("prod", url.QueryEscape(clientID), robot).isRefused(401, "invalid_client")
	post("prod", "robot", url.QueryEscape(clientSecret)).isRefused(401, "invalid_client")
	post("test", url.QueryEscape(clientID), url.QueryEscape(clientSecret)).isGranted()

	const next = "robots-own-secret-2"
	replaceFile(t, path, next)
	eventually(t, "the new secret counts", func() bool { return post("prod", "robot", next).status == 200 })
	// Held back, perhaps, for the tries until then: with a secret of that length only who has the wrong one is.
	if old := post("prod", "robot", robot); old.status != http.StatusUnauthorized && old.status != http.StatusTooManyRequests {
		t.Errorf("the old secret: status %d", old.status)
	}
	if text := s.logged.String(); strings.Contains(text, robot) || strings.Contains(text, next) {
		t.Error("the client's secret is in the log")
	}
}

// Who has no key doesn't learn which environments there are.
func TestWithAKeyUnknownEnvironmentsLookLikeOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: func(o *agent.Options) {
		o.KeyFile = secretFile(t, "a-key-of-the-agent")
		o.Clients = []agent.Client{{ID: "robot", SecretFile: secretFile(t, "robots-own-secret"), Environments: []string{"prod"}}}
	}})
	for _, env := range []string{"test", "nope"} {
		path := "/v1/environments/" + env + "/oauth2/token"
		s.do("POST", path, grant, basic("stranger", "x")).isRefused(401, "invalid_client")
		s.do("POST", path, grant, basic("robot", "robots-own-secret")).isRefused(400, "unauthorized_client")
	}
	s.do("POST", endpointPath, grant, own()).isGranted() // without the key
}

func TestGuessersAreHeldBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	var held *reply
	for range 200 {
		a := s.do("POST", endpointPath, grant, basic(url.QueryEscape(clientID), "guess"))
		if a.status == http.StatusTooManyRequests {
			held = &a
			break
		}
		a.isRefused(401, "invalid_client")
	}
	if held == nil {
		t.Fatal("200 guesses")
	}
	held.isRefused(429, "temporarily_unavailable")
	if held.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", held.header)
	}
	s.do("POST", endpointPath, grant, own()).isGranted() // the rightful client, at the same address
	looked := 0
	for _, other := range []string{"somebody-else", "somebody", "nobody"} { // one may be counted with the guessed one, by chance
		if s.do("POST", endpointPath, grant, basic(other, "guess")).status == 401 {
			looked++
		}
	}
	if looked < 2 {
		t.Errorf("%d of 3 others are looked at", looked)
	}
}

// A short secret can be guessed: it is looked at no more often than a guess.
func TestAShortSecretIsHeldBackToo(t *testing.T) {
	t.Parallel()
	const short = "hunter2"
	s := newSite(t, options{agent: func(o *agent.Options) {
		o.Clients = []agent.Client{{ID: "robot", SecretFile: secretFile(t, short), Environments: []string{"prod"}}}
	}})
	post := func(secret string) reply { return s.do("POST", endpointPath, grant, basic("robot", secret)) }
	post(short).isGranted()
	held := false
	for range 200 {
		for range 12 {
			post("guess")
		}
		if a := post(short); a.status == http.StatusTooManyRequests {
			held = true
			break
		}
	}
	if !held {
		t.Error("it is looked at among 200 × 12 guesses")
	}
	eventually(t, "a time later it is looked at", func() bool { return post(short).status == 200 })
}
