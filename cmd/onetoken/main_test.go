package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const (
	clientID     = "the-client"
	clientSecret = "hunter2-hunter2"
)

// binaries are the commands under test, built once.
var binaries = struct{ dir, onetoken, worker string }{}

func TestMain(m *testing.M) {
	if os.Getenv(browserEnv) != "" {
		os.Exit(browse())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "onetoken-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries.dir = dir
	binaries.onetoken, binaries.worker = filepath.Join(dir, "onetoken"), filepath.Join(dir, "bin", "worker")
	for out, pkg := range map[string]string{binaries.onetoken: ".", binaries.worker: "../worker"} {
		args := []string{"build", "-o", out, pkg}
		if raceEnabled {
			args = []string{"build", "-race", "-o", out, pkg}
		}
		if output, err := exec.CommandContext(context.Background(), "go", args...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go %v: %v\n%s", args, err, output)
			return 1
		}
	}
	hearInterrupts()
	return m.Run()
}

// hearInterrupts has processes started here know SIGINT and SIGHUP, which were ignored where this one was started in the
// background of a shell: processes inherit that.
func hearInterrupts() {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}

// A result is what a process left.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
	again          func() result // runs it once more; nil where that can't be done
}

// soon is far below the half minute that a command waits by itself, and more than a busy machine needs.
const soon = 25 * time.Second

// slow is what a command says on a machine that is too busy for the second that a call of Redis has.
var slow = regexp.MustCompile(`i/o timeout|deadline exceeded`)

// unless returns r or, where the machine was too slow for it and another exit code is wanted, what comes of running it again.
func (r result) unless(t testing.TB, code int) result {
	t.Helper()
	for range 5 {
		if r.code == code || r.code != 3 || r.again == nil || !slow.MatchString(r.stderr) {
			break
		}
		t.Logf("again, after %s", r.stderr)
		r = r.again()
	}
	return r
}

// command prepares a process in a folder and an environment of its own.
func command(ctx context.Context, t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, binaries.onetoken, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "GORACE=atexit_sleep_ms=0"}, env...)
	return cmd
}

// run runs onetoken to its end.
func run(t testing.TB, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	r := finish(t, command(ctx, t, env, args...), nil)
	r.again = func() result { return run(t, env, args...) }
	return r
}

// finish runs cmd to its end; started is called once it runs.
func finish(t testing.TB, cmd *exec.Cmd, started func(*os.Process)) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if started != nil {
		started(cmd.Process)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode(), took: time.Since(begun)}
}

// succeeds fails the test unless r ended well and in silence; it returns stdout.
func (r result) succeeds(t testing.TB) string {
	t.Helper()
	r = r.unless(t, 0)
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("exit code %d, stderr %q", r.code, r.stderr)
	}
	return r.stdout
}

// fails checks the exit code, that stdout is empty and that stderr is one line; it returns that line.
func (r result) fails(t testing.TB, code int) string {
	t.Helper()
	r = r.unless(t, code)
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr: %s", r.code, code, r.stderr)
	}
	if r.stdout != "" {
		t.Errorf("stdout: %q", r.stdout)
	}
	line := strings.TrimSuffix(r.stderr, "\n")
	if line == "" || strings.ContainsAny(line, "\n\r") || line == r.stderr {
		t.Errorf("stderr isn't one line: %q", r.stderr)
	}
	return line
}

// A site is a Redis, an endpoint and a configuration file with the environments prod and test.
type site struct {
	t        testing.TB
	rdb      *redis.Client
	endpoint *mockendpoint.Endpoint
	url      string // of the endpoint's server
	env      []string
}

func newSite(t testing.TB) *site {
	t.Helper()
	return newSiteOn(t, redistest.Mini(t))
}

func newSiteOn(t testing.TB, rdb *redis.Client) *site {
	t.Helper()
	s := &site{t: t, rdb: rdb, endpoint: mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret})}
	server := httptest.NewServer(s.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(s.endpoint.Close)
	s.url = server.URL
	s.configure(clientSecret)
	return s
}

// configure writes the file.
func (s *site) configure(secret string) {
	s.t.Helper()
	content := fmt.Sprintf(`redis: {url: "redis://%[1]s"}
environments:
  prod:
    base_url: %[2]s/api/v2
    client_id: %[3]s
    client_secret: ${SITE_SECRET}
  test: {token_url: "%[2]s/token", client_id: %[3]s, client_secret: "${SITE_SECRET}", keep_warm: true}
`, s.rdb.Options().Addr, s.url, clientID)
	path := filepath.Join(s.t.TempDir(), "onetoken.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.env = []string{"ONETOKEN_CONFIG=" + path, "SITE_SECRET=" + secret}
}

// run runs onetoken with the site's file.
func (s *site) run(args ...string) result {
	s.t.Helper()
	return run(s.t, s.env, args...)
}

// redisURL is a flag that names the site's Redis.
func (s *site) redisURL() string { return "--redis-url=redis://" + s.rdb.Options().Addr }

func needSignals(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no signals on Windows")
	}
}
