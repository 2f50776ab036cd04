package e2e_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const (
	env          = "prod"
	clientID     = "the-client"
	clientSecret = "hunter2/+ %secret-5f1d" // looks different in a header, in a form and in a URL
)

// A site is a Redis, a token endpoint and a configuration.
type site struct {
	launcher
	t        *testing.T
	redis    *redistest.Server
	rdb      *redis.Client // for the test's own looks
	endpoint *mockendpoint.Endpoint
	url      string   // of the endpoint's server
	secrets  []string // that nothing may print, besides the client secret
	tokens   []string // that nothing but get may print, besides the endpoint's
	dir      string
	files    int
}

// settings are those of an environment in the configuration file: name and value in YAML.
type settings map[string]string

// newSite starts a site, whose configuration has the one environment prod with the settings.
func newSite(t *testing.T, of settings) *site {
	t.Helper()
	server := redistest.Start(t)
	return newSiteOn(t, server, server.Client(t), server.URL(), of)
}

// newSiteOn is newSite with a Redis that is there already.
func newSiteOn(t *testing.T, server *redistest.Server, rdb *redis.Client, redisURL string, of settings) *site {
	t.Helper()
	s := &site{t: t, redis: server, rdb: rdb, dir: t.TempDir()}
	s.endpoint = mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret})
	s.url = s.serve(s.endpoint)
	t.Cleanup(s.endpoint.Close)
	s.launcher = launcher{site: s, config: s.configure(map[string]settings{env: of}), secret: clientSecret, redisURL: redisURL}
	return s
}

// serve serves h until the test's end, and returns the server's URL.
func (s *site) serve(h http.Handler) string {
	server := httptest.NewServer(h)
	s.t.Cleanup(server.Close)
	return server.URL
}

// configure writes a configuration file and returns its path. Settings win over the defaults; an empty one removes one.
func (s *site) configure(environments map[string]settings) string {
	s.t.Helper()
	var b strings.Builder
	b.WriteString("redis: {url: \"${REDIS_URL}\"}\nreplica: ${REPLICA}\nenvironments:\n")
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		all := settings{
			"token_url": s.url + "/token", "client_id": clientID, "client_secret": "${CLIENT_SECRET}", "lease": lease.String(),
		}
		maps.Copy(all, environments[name])
		fmt.Fprintf(&b, "  %s:\n", name)
		for _, setting := range slices.Sorted(maps.Keys(all)) {
			if all[setting] != "" {
				fmt.Fprintf(&b, "    %s: %s\n", setting, all[setting])
			}
		}
	}
	s.files++
	return s.write(fmt.Sprintf("onetoken-%d.yaml", s.files), b.String())
}

// write writes a file of the site, in place of one of that name, and returns its path.
func (s *site) write(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// A launcher starts processes with a configuration and an environment. It is a value: change a copy of it.
type launcher struct {
	site     *site
	config   string
	secret   string // of the client
	redisURL string
	extra    []string // further variables: NAME=value
}

// using returns a launcher with another configuration file.
func (l launcher) using(config string) launcher {
	l.config = config
	return l
}

// with returns a launcher with further variables.
func (l launcher) with(variables ...string) launcher {
	l.extra = slices.Concat(l.extra, variables)
	return l
}

func (l launcher) command(replica, path string, args ...string) *exec.Cmd {
	l.site.t.Helper()
	cmd := exec.CommandContext(l.site.t.Context(), path, args...)
	cmd.Dir = l.site.t.TempDir()
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "REPLICA=" + replica, "CLIENT_SECRET=" + l.secret,
		"REDIS_URL=" + l.redisURL, "ONETOKEN_CONFIG=" + l.config,
		"GORACE=atexit_sleep_ms=0", // else every process built with -race takes a second to end
	}, l.extra...)
	return cmd
}

// onetoken starts the command as a replica of a name.
func (l launcher) onetoken(replica string, args ...string) *process {
	l.site.t.Helper()
	return l.site.start(replica, l.command(replica, binaries.onetoken, args...))
}

// run runs the command to its end.
func (l launcher) run(args ...string) result {
	l.site.t.Helper()
	return l.onetoken("cli", args...).wait()
}

// worker starts a replica that asks for a token every 50 ms.
func (l launcher) worker(name string, flags ...string) *replica {
	l.site.t.Helper()
	args := append([]string{"--env", env, "--interval", "50ms", "--output", "json"}, flags...)
	log := &reports{}
	return &replica{l.site.start(name, l.command(name, binaries.worker, args...), log), log}
}

// workers starts n replicas: name-1, name-2, …
func (l launcher) workers(n int, name string, flags ...string) fleet {
	l.site.t.Helper()
	var f fleet
	for i := range n {
		f = append(f, l.worker(fmt.Sprintf("%s-%d", name, i+1), flags...))
	}
	return f
}

// An answer is what get and, but for the token, refresh and invalidate print as JSON.
type answer struct {
	AccessToken string          `json:"access_token"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
}

// get, refresh and invalidate run the command with success.
func (l launcher) get() answer {
	l.site.t.Helper()
	return decode[answer](l.run("get", env, "--output", "json"))
}

func (l launcher) refresh() answer {
	l.site.t.Helper()
	return decode[answer](l.run("refresh", env, "--output", "json"))
}

func (l launcher) invalidate() answer {
	l.site.t.Helper()
	return decode[answer](l.run("invalidate", env, "--output", "json"))
}

// A row is one of status.
type row struct {
	Environment string `json:"environment"`
	State       string `json:"state"`
	Usable      bool   `json:"usable"`
	TTL         int64  `json:"ttl_ms"`
}

// status returns the rows by environment.
func (l launcher) status(args ...string) map[string]row {
	l.site.t.Helper()
	rows := map[string]row{}
	for _, r := range decode[[]row](l.run(append([]string{"status", "--output", "json"}, args...)...)) {
		rows[r.Environment] = r
	}
	return rows
}

// key returns the name of one of an environment's keys.
func key(env, kind string) string { return "onetoken:{" + env + "}:" + kind }

// within returns a context for the test's own calls of Redis and the endpoint.
func (s *site) within(limit time.Duration, reason string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(s.t.Context(), limit, fmt.Errorf("not within %v: %s", limit, reason))
}

// calls fails the test unless the endpoint was called that often.
func (s *site) calls(want int) {
	s.t.Helper()
	if got := s.endpoint.Calls(); got != want {
		s.t.Errorf("%d calls of the endpoint, want %d: %v", got, want, s.endpoint.Requests())
	}
}

// awaitCall waits for the endpoint's first call.
func (s *site) awaitCall() {
	s.t.Helper()
	ctx, cancel := s.within(patience, "the endpoint is called")
	defer cancel()
	if err := s.endpoint.Await(ctx, 1); err != nil {
		s.t.Fatal(err)
	}
}

// holder returns who holds the lease, "" where nobody does.
func (s *site) holder() string {
	s.t.Helper()
	ctx, cancel := s.within(5*time.Second, "Redis says who holds the lease")
	defer cancel()
	value, err := s.rdb.Get(ctx, key(env, "lock")).Result()
	if errors.Is(err, redis.Nil) {
		return ""
	}
	name, random, found := strings.Cut(value, "|")
	if err != nil || !found || random == "" {
		s.t.Fatalf("the lock is %q: %v", value, err)
	}
	return name
}

// stored returns the version and the text of the stored token.
func (s *site) stored() (version, text, refreshedBy string) {
	s.t.Helper()
	ctx, cancel := s.within(5*time.Second, "Redis says what is stored")
	defer cancel()
	values, err := s.rdb.HGetAll(ctx, key(env, "token")).Result()
	if err != nil || len(values) == 0 {
		s.t.Fatalf("the token's record is %v: %v", values, err)
	}
	return values["version"], values["access_token"], values["refreshed_by"]
}

// search fails the test if a process has written a secret, or anything that says that it broke. On a failed test it logs
// what the process wrote.
func (s *site) search(p *process) {
	stdout, stderr := p.stdout.String(), p.stderr.String()
	tokens := append(s.endpoint.Issued(), s.tokens...)
	secrets := append([]string{clientSecret}, s.secrets...)
	inStdout := find(stdout, secrets)
	if !slices.Contains(p.cmd.Args, "get") {
		inStdout = append(inStdout, find(stdout, tokens)...)
	}
	secrets = append(secrets, tokens...)
	for where, found := range map[string][]string{
		"stdout": inStdout, "stderr": find(stderr, secrets), "the command line": find(string(p.cmdline), secrets),
	} {
		if len(found) > 0 {
			s.t.Errorf("%s: secrets in %s: %q", p.name, where, found)
		}
	}
	for _, sign := range []string{"DATA RACE", "panic:", "goroutine ", "fatal error:"} {
		if strings.Contains(stderr, sign) {
			s.t.Errorf("%s has broken: %s", p.name, stderr)
		}
	}
	if s.t.Failed() {
		s.t.Logf("%s: %v\nstdout: …%s\nstderr: %s", p.name, p.cmd.Args[1:], stdout[max(len(stdout)-1000, 0):], stderr)
	}
}

// find returns which of the secrets are in text, in the form in which they are.
func find(text string, secrets []string) []string {
	var found []string
	for _, secret := range secrets {
		for _, form := range forms(secret) {
			if strings.Contains(text, form) {
				found = append(found, form)
			}
		}
	}
	return found
}

// forms are the ways in which a secret could be written.
func forms(secret string) []string {
	inForm, inPath := url.QueryEscape(secret), url.PathEscape(secret)
	basic := url.QueryEscape(clientID) + ":" + inForm
	lower := strings.NewReplacer("%2F", "%2f", "%2B", "%2b")
	list := []string{secret}
	for _, escaped := range []string{inForm, inPath, strings.ReplaceAll(inForm, "+", "%20")} {
		list = append(list, escaped, lower.Replace(escaped))
	}
	for _, text := range []string{secret, basic, clientID + ":" + secret} {
		list = append(list, strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(text)), "="))
	}
	return list
}
