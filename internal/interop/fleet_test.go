package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/manager"
)

// A fleet is one onetoken.yaml with a Redis, for replicas and commands.
type fleet struct {
	config string // path of the file
}

// newFleet writes the file into dir, where the keys are that it names.
func newFleet(t *testing.T, dir, redis string, environments ...string) *fleet {
	t.Helper()
	file, err := os.CreateTemp(dir, "onetoken-*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	f := &fleet{file.Name()}
	write(t, f.config, fmt.Sprintf("redis: {url: %q}\nenvironments:\n%s", "redis://"+redis, strings.Join(environments, "")))
	return f
}

// embedded returns the address of an empty miniredis whose TTLs follow the clock.
func embedded(t *testing.T) string {
	t.Helper()
	redis := miniredis.RunT(t)
	redis.ClockTTL(true)
	return redis.Addr()
}

// An outcome is what a command did.
type outcome struct {
	name           string
	stdout, stderr string
	code           int
}

// run runs the command with input on stdin.
func (f *fleet) run(t *testing.T, input string, args ...string) outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), onetoken, append(args, "--config", f.config)...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{strings.Join(args, " "), stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// fails checks that the command failed as it should, with a line that has the words in it.
func (o outcome) fails(t *testing.T, code int, words ...string) {
	t.Helper()
	if o.code != code || o.stdout != "" || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("%s: exit code %d, want %d; %q and %q", o.name, o.code, code, o.stdout, o.stderr)
	}
	for _, word := range words {
		if !strings.Contains(o.stderr, word) {
			t.Errorf("%s: %q doesn't say %q", o.name, o.stderr, word)
		}
	}
}

// succeeds checks that the command succeeded and said nothing but its answer.
func (o outcome) succeeds(t *testing.T) string {
	t.Helper()
	if o.code != 0 || o.stderr != "" {
		t.Fatalf("%s: exit code %d, %q", o.name, o.code, o.stderr)
	}
	return strings.TrimSuffix(o.stdout, "\n")
}

// get returns the access token of an environment.
func (f *fleet) get(t *testing.T, env string) string {
	t.Helper()
	return f.run(t, "", "get", env).succeeds(t)
}

// renewed returns the access token after a refresh, which is another one.
func (f *fleet) renewed(t *testing.T, env string) string {
	t.Helper()
	before := f.get(t, env)
	f.run(t, "", "refresh", env).succeeds(t)
	after := f.get(t, env)
	if after == before {
		t.Errorf("%s: a refresh brings the same token", env)
	}
	return after
}

// replica returns a replica in this process, which ends with the test.
func (f *fleet) replica(t *testing.T, name string) *manager.Manager {
	t.Helper()
	file, err := config.Sources{Path: f.config, Lookup: func(string) (string, bool) { return "", false }}.Load()
	if err != nil {
		t.Fatal(err)
	}
	rdb, err := file.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rdb.Close() })
	m, err := file.Manager(rdb, slog.New(slog.DiscardHandler), func(c *manager.Config) { c.Replica = name })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

var address = regexp.MustCompile(`https?://[^\s,]+`)

// login runs onetoken login, and hands the last address of the line in which it asks for a person to do. It returns what the
// command said after that.
func (f *fleet) login(t *testing.T, do func(line, address string), args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	args = append([]string{"login"}, args...)
	cmd := exec.CommandContext(ctx, onetoken, append(args, "--config", f.config)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	line, _ := said.ReadString('\n')
	if addresses := address.FindAllString(line, -1); len(addresses) > 0 {
		do(line, addresses[len(addresses)-1])
	}
	rest, _ := io.ReadAll(said)
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	o := outcome{strings.Join(args, " "), stdout.String(), string(rest), cmd.ProcessState.ExitCode()}
	if !address.MatchString(line) {
		o.stderr = line + o.stderr
	}
	return o
}

// token returns the header's access token of a manager's.
func bearer(t *testing.T, token *manager.Token) string {
	t.Helper()
	req := &http.Request{Header: http.Header{}}
	token.SetAuthHeader(req)
	_, text, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	return text
}
