package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientID     = "the client" // looks different in a form
	clientSecret = "hunter2/+ %secret:5f1d"
	prod         = "/v1/environments/prod"
	patience     = 30 * time.Second // for what must come, but has no bound of its own
)

// endless is an environment whose requests don't end by themselves.
var endless = manager.Environment{Policy: manager.Policy{EndpointTimeout: time.Hour}}

// A site is an agent with all that it needs.
type site struct {
	t      *testing.T
	kit    *managertest.Kit
	agent  *agent.Agent
	server *httptest.Server
	logged *logBuffer
	seen   *logBuffer // all that was answered to requests that bring no token
}

// options change what a site is made of.
type options struct {
	names       []string // of the environments; default: prod and test
	environment manager.Environment
	endpoint    mockendpoint.Options
	agent       func(*agent.Options)
}

// newSite starts a site with its environments. At the test's end it is searched for leaks.
func newSite(t *testing.T, o options) *site {
	t.Helper()
	s := &site{t: t, logged: &logBuffer{}, seen: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(s.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.environment.ClientID, o.environment.ClientSecret = clientID, manager.NewSecret(clientSecret)
	var environments map[string]manager.Environment
	if o.names == nil {
		o.names = []string{"prod", "test"}
	}
	s.kit = managertest.New(t, managertest.Options{
		Environment: o.environment, EnvironmentNames: o.names, Endpoint: o.endpoint, Logger: log,
		Config: func(_ int, c *manager.Config) { environments = c.Environments },
	})
	options := agent.Options{
		Manager: s.kit.Manager, Overview: overview.New(s.kit.Store, s.kit.Manager).Cached(), Environments: environments, Log: log,
	}
	if o.agent != nil {
		o.agent(&options)
	}
	var err error
	if s.agent, err = agent.New(options); err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewServer(s.agent.Handler())
	t.Cleanup(func() {
		s.server.Close()
		s.searchForLeaks()
	})
	return s
}

// searchForLeaks looks for secrets and tokens where none may be.
func (s *site) searchForLeaks() {
	secrets := append(s.kit.Endpoint.Issued(), clientSecret, url.QueryEscape(clientSecret))
	for what, text := range map[string]string{"log": s.logged.String(), "answers without a token": s.seen.String()} {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				s.t.Errorf("the %s: %q is in it: %s", what, secret, text)
			}
		}
	}
}

// A request is changed by these before it is sent.
type change func(*http.Request)

func header(name string, values ...string) change {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
}

func host(h string) change { return func(r *http.Request) { r.Host = h } }

func basic(id, secret string) change { return func(r *http.Request) { r.SetBasicAuth(id, secret) } }

// own authenticates as the environment's own client, as RFC 6749 §2.3.1 has it.
func own() change { return basic(url.QueryEscape(clientID), url.QueryEscape(clientSecret)) }

// A reply is a response, read.
type reply struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

// do sends a request to the site's agent.
func (s *site) do(method, path, body string, changes ...change) reply {
	s.t.Helper()
	return s.send(s.server.Client(), s.server.URL, method, path, body, changes...)
}

// slow is what the agent says on a machine that is too busy for the second that a call of Redis has.
var slow = regexp.MustCompile(`i/o timeout|deadline exceeded`)

// send sends a request, again where the machine was too slow for it.
func (s *site) send(client *http.Client, base, method, path, body string, changes ...change) (a reply) {
	s.t.Helper()
	for range 10 {
		a = s.sendOnce(client, base, method, path, body, changes...)
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"redis"`) || !slow.MatchString(a.body) {
			break
		}
	}
	return a
}

func (s *site) sendOnce(client *http.Client, base, method, path, body string, changes ...change) reply {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range changes {
		c(r)
	}
	resp, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := reply{s.t, resp.StatusCode, resp.Header, string(text)}
	if !strings.Contains(a.body, `"access_token"`) {
		_, _ = s.seen.Write(text)
	}
	var headers bytes.Buffer
	_ = resp.Header.Write(&headers)
	_, _ = s.seen.Write(headers.Bytes())
	return a
}

func (s *site) get(path string, changes ...change) reply {
	s.t.Helper()
	return s.do(http.MethodGet, path, "", changes...)
}

// fields are those of a JSON body.
func (a reply) fields() map[string]any {
	a.t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%v: status %d, %q", err, a.status, a.body)
	}
	return v
}

// isProblem checks that the answer is a problem (RFC 9457) with that status and code; it returns its detail.
func (a reply) isProblem(status int, code string) string {
	a.t.Helper()
	v := a.fields()
	if a.status != status || v["status"] != float64(status) || v["code"] != code || v["title"] != http.StatusText(status) || v["type"] != "about:blank" {
		a.t.Errorf("got %d %s, want the problem %d %s", a.status, a.body, status, code)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("Content-Type %q", got)
	}
	detail, _ := v["detail"].(string)
	return detail
}

// eventually looks until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// A logBuffer collects what is written, by many at once.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

func overviewOf(s *site) *overview.Cached { return overview.New(s.kit.Store, s.kit.Manager).Cached() }
