package interop_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/internal/programs"
)

// A request is what a client is told to do.
type request struct{ url, id, secret, auth, scope string }

// An answer is what a client made of the endpoint's, in its own view.
type answer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"`
	Scope       string `json:"scope"`
	Error       string `json:"error"`
	Status      int    `json:"status"` // of the response to a call that failed; 0 where the client doesn't tell
}

// A client is an OAuth client of other hands.
type client struct {
	name string
	run  func(*testing.T, request) answer
	// What it says instead of the error's code: of a 401 with a challenge, and of a 503, whose body some don't read.
	challenged, unavailable string
}

var clients = []client{
	{name: "golang.org/x/oauth2", run: runGo},
	{name: "openid-client", run: runNode, challenged: "OAUTH_WWW_AUTHENTICATE_CHALLENGE", unavailable: "OAUTH_RESPONSE_IS_NOT_CONFORM"},
	{name: "requests-oauthlib", run: runPython("requests_client.py", "requests_oauthlib")},
	{name: "Authlib", run: runPython("authlib_client.py", "authlib"), unavailable: "HTTPError"},
	{name: "curl", run: runCurl},
}

// each runs test for every client, and for each way to authenticate.
func each(t *testing.T, test func(*testing.T, client, string)) {
	for _, c := range clients {
		for _, auth := range []string{"basic", "post"} {
			t.Run(c.name+"/"+auth, func(t *testing.T) {
				t.Parallel()
				test(t, c, auth)
			})
		}
	}
}

func runGo(t *testing.T, r request) answer {
	style := oauth2.AuthStyleInHeader
	if r.auth == "post" {
		style = oauth2.AuthStyleInParams
	}
	config := clientcredentials.Config{
		ClientID: r.id, ClientSecret: r.secret, TokenURL: r.url, Scopes: strings.Fields(r.scope), AuthStyle: style,
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // the default
	defer transport.CloseIdleConnections()
	token, err := config.Token(context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: transport}))
	if failed, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return answer{Error: failed.ErrorCode, Status: failed.Response.StatusCode}
	}
	if err != nil {
		t.Fatal(err)
	}
	granted, _ := token.Extra("scope").(string)
	return answer{AccessToken: token.AccessToken, TokenType: token.TokenType, ExpiresIn: int(time.Until(token.Expiry).Seconds()), Scope: granted}
}

func runNode(t *testing.T, r request) answer {
	node := programs.Need(t, "node")
	installed(t, installClients)
	return r.run(t, node, "openid-client.mjs")
}

// installed has npm install what a test needs.
func installed(t *testing.T, install func() error) {
	t.Helper()
	programs.Need(t, "npm")
	if err := install(); err != nil {
		if os.Getenv(programs.RequireEnv) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

var installClients = sync.OnceValue(func() error { return npm("clients") })

// npm installs what a folder's package-lock.json names.
func npm(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err == nil {
		return nil
	}
	cmd := exec.CommandContext(context.Background(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return nil
}

// runPython returns a client that runs with Debian's python3, which has the packages, whatever comes first in PATH.
func runPython(script, module string) func(*testing.T, request) answer {
	return func(t *testing.T, r request) answer {
		python := programs.Need(t, "/usr/bin/python3")
		if err := exec.CommandContext(t.Context(), python, "-c", "import "+module).Run(); err != nil {
			if os.Getenv(programs.RequireEnv) == "1" {
				t.Fatalf("python3 has no %s", module)
			}
			t.Skipf("python3 has no %s", module)
		}
		return r.run(t, python, script)
	}
}

// run runs a script of clients/, which prints an answer.
func (r request) run(t *testing.T, program, script string) answer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, script)
	cmd.Dir = "clients"
	cmd.Env = append(os.Environ(), "TOKEN_URL="+r.url, "CLIENT_ID="+r.id, "CLIENT_SECRET="+r.secret, "AUTH="+r.auth,
		"SCOPE="+r.scope, "OAUTHLIB_INSECURE_TRANSPORT=1", "OAUTHLIB_RELAX_TOKEN_SCOPE=1", "PYTHONDONTWRITEBYTECODE=1", "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, stderr.Bytes())
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("%s printed %q: %v", script, out, err)
	}
	return a
}

func runCurl(t *testing.T, r request) answer {
	return r.curl(t, "")
}

// curl asks with curl, which reads the credentials from stdin: arguments are for all to see.
func (r request) curl(t *testing.T, socket string) answer {
	t.Helper()
	curl := programs.Need(t, "curl")
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace
	lines := []string{`data = "grant_type=client_credentials"`, `write-out = "\n%{http_code}"`, `silent`, `show-error`, `noproxy = "*"`, `url = "` + r.url + `"`}
	if r.auth == "basic" {
		// RFC 6749 §2.3.1 would have both form-encoded first, which nobody does by hand.
		lines = append(lines, `user = "`+quote(strings.ReplaceAll(r.id, ":", "%3A"))+":"+quote(r.secret)+`"`)
	} else {
		lines = append(lines, `data-urlencode = "client_id=`+quote(r.id)+`"`, `data-urlencode = "client_secret=`+quote(r.secret)+`"`)
	}
	if r.scope != "" {
		lines = append(lines, `data-urlencode = "scope=`+r.scope+`"`)
	}
	if socket != "" {
		lines = append(lines, `unix-socket = "`+socket+`"`)
	}
	cmd := exec.CommandContext(t.Context(), curl, "--disable", "--config", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("curl: %v\n%s", err, out)
	}
	body, code, _ := strings.Cut(string(out), "\n")
	if i := strings.LastIndex(string(out), "\n"); i >= 0 {
		body, code = string(out[:i]), string(out[i+1:])
	}
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("curl brought %q: %v", out, err)
	}
	if status, _ := strconv.Atoi(code); status != http.StatusOK {
		a.Status = status
	}
	return a
}

// All of them, side by side, share one token that was fetched once.
func TestClientsOfOtherHandsShareOneToken(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex
	seen := map[string]int{}
	t.Run("clients", func(t *testing.T) {
		each(t, func(t *testing.T, c client, auth string) {
			for _, who := range [][2]string{{clientID, clientSecret}, {sharedID, sharedSecret}} {
				a := c.run(t, request{s.tokenURL(), who[0], who[1], auth, ""})
				if a.Error != "" || !strings.EqualFold(a.TokenType, "Bearer") || a.ExpiresIn < 3000 || a.ExpiresIn > 3600 {
					t.Errorf("%s got error %q, type %q, a life of %d s", who[0], a.Error, a.TokenType, a.ExpiresIn)
				}
				mu.Lock()
				seen[a.AccessToken]++
				mu.Unlock()
			}
		})
	})
	issued := s.endpoint.Issued()
	if len(issued) != 1 || len(seen) != 1 || seen[issued[0]] < 2 {
		t.Errorf("%d tokens were issued, and the clients have %d different ones", len(issued), len(seen))
	}
	t.Logf("%d calls of the agent were one of the endpoint", seen[issued[0]])
}

func (s *site) tokenURL() string { return s.agent + "/v1/environments/prod/oauth2/token" }

func TestClientsOfOtherHandsAreToldWhatIsWrong(t *testing.T) {
	s := newSite(t)
	t.Run("clients", func(t *testing.T) {
		each(t, func(t *testing.T, c client, auth string) {
			a := c.run(t, request{s.tokenURL(), clientID, "wrong", auth, ""})
			if a.Error != "invalid_client" && (c.challenged == "" || a.Error != c.challenged) || a.Status != http.StatusUnauthorized && a.Status != 0 || a.AccessToken != "" {
				t.Errorf("with a wrong secret: %+v", a)
			}
			a = c.run(t, request{s.tokenURL(), clientID, clientSecret, auth, "campaigns.delete"})
			if a.Error != "invalid_scope" || a.Status != http.StatusBadRequest && a.Status != 0 {
				t.Errorf("with a foreign scope: error %q, status %d", a.Error, a.Status)
			}
			if a = c.run(t, request{s.tokenURL(), clientID, clientSecret, auth, "campaigns.read"}); a.Error != "" || a.AccessToken == "" {
				t.Errorf("with a part of the scope: error %q, status %d", a.Error, a.Status)
			}
		})
	})
}

// What fails behind the agent is no refusal of the client: it would give up, or ask for another secret.
func TestClientsOfOtherHandsAreToldToComeAgain(t *testing.T) {
	s := newSite(t)
	s.fail()
	t.Run("clients", func(t *testing.T) {
		each(t, func(t *testing.T, c client, auth string) {
			a := c.run(t, request{s.tokenURL(), clientID, clientSecret, auth, ""})
			if want := cmp.Or(c.unavailable, "temporarily_unavailable"); a.Error != want {
				t.Errorf("while the endpoint refuses: error %q, status %d; want %q", a.Error, a.Status, want)
			}
		})
	})
	if calls := s.endpoint.Calls(); calls != 1 {
		t.Errorf("the endpoint was called %d times within its backoff", calls)
	}
}

func TestCurlOverAUnixSocket(t *testing.T) {
	programs.Need(t, "curl")
	dir, err := os.MkdirTemp("", "ot") //nolint:usetesting // a socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := newSite(t, "unix:"+filepath.Join(dir, "agent.sock"))
	r := request{"http://localhost/v1/environments/prod/oauth2/token", clientID, clientSecret, "basic", ""}
	a := r.curl(t, s.socket)
	if issued := s.endpoint.Issued(); len(issued) != 1 || a.AccessToken != issued[0] {
		t.Errorf("got error %q, status %d", a.Error, a.Status)
	}
}

// fail makes the endpoint refuse everything, for longer than any test.
func (s *site) fail() {
	s.endpoint.SetDefault(refusal(15 * time.Minute))
}
