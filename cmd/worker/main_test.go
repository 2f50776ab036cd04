package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const clientSecret = "hunter2-hunter2"

// With this variable the test binary is the worker.
const beWorker = "TEST_BE_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(beWorker) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A process is a running worker.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  *bufio.Reader
	seen   strings.Builder // of stdout
	stderr strings.Builder
}

func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no signals on Windows")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	p := &process{t: t, cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{beWorker + "=1"}, env...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

func (p *process) line() string {
	p.t.Helper()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		p.t.Fatalf("no further line: %v; stderr: %s", err, p.stderr.String())
	}
	p.seen.WriteString(line)
	return line
}

func (p *process) report() worker.Report {
	p.t.Helper()
	var r worker.Report
	if line := p.line(); json.Unmarshal([]byte(line), &r) != nil {
		p.t.Fatalf("no report: %s", line)
	}
	return r
}

// end waits for the end, after a SIGTERM where one is asked for, and returns the exit code.
func (p *process) end(terminate bool) int {
	p.t.Helper()
	if terminate {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.t.Error(err)
		}
	}
	rest, _ := io.ReadAll(p.lines)
	p.seen.Write(rest)
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// newSite returns an endpoint with an API, and the environment variables of a worker for them.
func newSite(t *testing.T) (endpoint *mockendpoint.Endpoint, api string, env []string) {
	t.Helper()
	endpoint = mockendpoint.New(mockendpoint.Options{ClientSecret: clientSecret})
	mux := http.NewServeMux()
	mux.Handle("/", endpoint)
	mux.Handle("/api/", endpoint.Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(endpoint.Close)
	path := filepath.Join(t.TempDir(), "config.yaml")
	content := fmt.Sprintf("environments: {prod: {base_url: '%s/api/v2', client_id: x, client_secret: '${SECRET}'}}\n", server.URL)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return endpoint, server.URL + "/api/v2/campaigns", []string{
		"ONETOKEN_CONFIG=" + path, "ONETOKEN_REDIS_URL=redis://" + redistest.Mini(t).Options().Addr, "SECRET=" + clientSecret,
	}
}

func TestReports(t *testing.T) {
	endpoint, api, env := newSite(t)
	p := start(t, env, "-interval", "10ms", "-output", "json", "-replica", "worker-1", "-url", api)
	first, second := p.report(), p.report()
	if !first.OK || first.Version == 0 || first.RefreshedBy != "worker-1" || first.Replica != "worker-1" || first.Env != "prod" || first.Status != 204 {
		t.Errorf("got %+v", first)
	}
	if second.Version != first.Version || second.At.Before(first.At) || endpoint.Calls() != 1 {
		t.Errorf("got %+v, with %d calls", second, endpoint.Calls())
	}
	if code := p.end(true); code != 0 || p.stderr.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, p.stderr.String())
	}
	if out := p.seen.String(); strings.Contains(out, clientSecret) || strings.Contains(out, endpoint.Issued()[0]) {
		t.Errorf("a secret is in the reports:\n%s", out)
	}
}

func TestReportsOfFailures(t *testing.T) {
	endpoint, _, env := newSite(t)
	endpoint.SetDefault(mockendpoint.Reply{Status: 429, RetryAfter: time.Minute})
	p := start(t, env, "-interval", "10ms", "-output", "json")
	r := p.report()
	if r.OK || r.Code != "http_429" || r.RetryAt == nil || r.RetryAt.Before(r.At) || !strings.Contains(r.Message, "next try at") {
		t.Errorf("got %+v", r)
	}
	if code := p.end(true); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p = start(t, append(env, "ONETOKEN_REDIS_URL=redis://127.0.0.1:1"), "-interval", "10ms", "-output", "json")
	if r := p.report(); r.OK || r.Code != "redis" || r.RetryAt != nil {
		t.Errorf("without Redis: got %+v", r)
	}
}

func TestLines(t *testing.T) {
	_, api, env := newSite(t)
	p := start(t, env, "-interval", "10ms", "-url", api)
	if line := p.line(); !strings.Contains(line, " prod: version ") || !strings.HasSuffix(line, "; the API says 204\n") {
		t.Errorf("got %q", line)
	}
}

func TestWrongUsage(t *testing.T) {
	_, _, env := newSite(t)
	for _, c := range []struct {
		env  []string
		args string
		code int
		want string
	}{
		{env, "-interval 0s", 1, "worker: wrong usage; see worker -help\n"},
		{env, "-output xml", 1, "worker: wrong usage; see worker -help\n"},
		{env, "prod", 1, "worker: wrong usage; see worker -help\n"},
		{env, "-env nope", 1, "worker: onetoken: unknown environment \"nope\"; configured: prod\n"},
		{env, "-replica a|b", 1, `"a|b" is not 1 to 128 printable ASCII characters`},
		{nil, "", 1, "worker: onetoken.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another\n"},
		{env[:1], "", 1, "client_secret: the environment variable SECRET is not set\n"},
		{[]string{env[0], env[2]}, "", 1, "redis.url: missing; --redis-url or $ONETOKEN_REDIS_URL gives one, too\n"},
	} {
		p := start(t, c.env, strings.Fields(c.args)...)
		if code := p.end(false); code != c.code || !strings.Contains(p.stderr.String(), c.want) || p.seen.Len() > 0 {
			t.Errorf("%q: exit code %d, stderr %q, stdout %q", c.args, code, p.stderr.String(), p.seen.String())
		}
	}
}
