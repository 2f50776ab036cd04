//go:build unix

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A running is an onetoken exec whose command talks to the test: by lines of its standard output, until its standard
// input ends.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Reader
	stderr *synced
	ended  bool
}

// synced is a buffer that is read while it is written.
type synced struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// start starts onetoken with the site's file, as the leader of a process group without a terminal.
func (s *site) start(args ...string) *running {
	s.t.Helper()
	t := s.t.(*testing.T)
	ctx, cancel := context.WithTimeout(context.Background(), 180*time.Second)
	r := &running{t: t, cmd: command(ctx, t, s.env, args...), stderr: &synced{}}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	r.cmd.Stderr = r.stderr
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.lines = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !r.ended {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		cancel()
	})
	return r
}

// line returns the next line of the command's output.
func (r *running) line() string {
	r.t.Helper()
	line, err := r.lines.ReadString('\n')
	if err != nil {
		r.t.Fatalf("%v after %q; stderr: %s", err, line, r.stderr)
	}
	return strings.TrimSuffix(line, "\n")
}

// end returns the exit code, and what was said before it, once standard input has ended.
func (r *running) end() (int, string) {
	r.t.Helper()
	_ = r.stdin.Close()
	rest, err := io.ReadAll(r.lines)
	if err != nil {
		r.t.Fatal(err)
	}
	err = r.cmd.Wait()
	r.ended = true
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode(), string(rest)
}

// within waits for something that comes in its own time.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 60 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// talk is a command that says where its file is, and stays until its standard input ends.
var talk = []string{"sh", "-c", `echo "$ONETOKEN_TOKEN_FILE"; cat`}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestExecFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	folder := t.TempDir()
	s.env = append(s.env, "XDG_RUNTIME_DIR="+folder)
	r := s.start(append([]string{"exec", "prod", "--"}, talk...)...)
	path := r.line()
	token := s.endpoint.Issued()[0]
	if got := content(t, path); got != token {
		t.Errorf("the file holds %q, want %q", got, token)
	}
	if file, dir := mode(t, path), mode(t, filepath.Dir(path)); file != 0o600 || dir != 0o700 {
		t.Errorf("the file's mode is %o, its folder's %o", file, dir)
	}
	if filepath.Dir(filepath.Dir(path)) != folder {
		t.Errorf("the file is %s, not in $XDG_RUNTIME_DIR", path)
	}
	if code, _ := r.end(); code != 0 || r.stderr.String() != "" {
		t.Errorf("exit code %d, stderr %q", code, r.stderr)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Neither the arguments nor the environment of any process hold the token, the client secret, the Redis URL or its password.
func TestExecShowsNoSecret(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip("no /proc")
	}
	const password = "a part of the URL"
	server := miniredis.RunT(t)
	server.RequireAuth(password)
	redisURL := "redis://:" + url.PathEscape(password) + "@" + server.Addr()
	s := newSiteOn(t, redistest.NewClient(t, redistest.Options(server.Addr())))
	s.env = append(s.env, "ONETOKEN_REDIS_URL="+redisURL, "REDIS_COPY="+redisURL, "REDIS_PASSWORD="+password, "KEPT=kept")
	script := `cat /proc/$PPID/cmdline /proc/$$/cmdline /proc/$$/environ | tr '\0' '\n'`
	out := s.run("exec", "prod", "--", "sh", "-c", script).succeeds(t)
	for _, hidden := range []string{s.endpoint.Issued()[0], clientSecret, "REDIS_COPY", "ONETOKEN_REDIS_URL", password, url.PathEscape(password)} {
		if strings.Contains(out, hidden) {
			t.Errorf("%s shows:\n%s", hidden, out)
		}
	}
	if !strings.Contains(out, "KEPT=kept") || !strings.Contains(out, "ONETOKEN_TOKEN_FILE=/") {
		t.Errorf("the environment:\n%s", out)
	}
}

// Whoever reads the file while its token is replaced gets one whole token, and soon the newest.
func TestExecReplacesTheFileAsAWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.start(append([]string{"exec", "prod", "--"}, talk...)...)
	path := r.line()
	var seen []string
	look := func() string {
		got := content(t, path)
		if !slices.Contains(seen, got) {
			seen = append(seen, got)
		}
		return got
	}
	for range 4 {
		s.run("refresh", "prod").succeeds(t)
		within(t, "the newest token in the file", func() bool {
			issued := s.endpoint.Issued()
			return look() == issued[len(issued)-1]
		})
	}
	for _, got := range seen {
		if !slices.Contains(s.endpoint.Issued(), got) {
			t.Errorf("the file held %q, which is no token", got)
		}
	}
	if mode(t, path) != 0o600 {
		t.Errorf("the mode is %o", mode(t, path))
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("beside the file: %v, %v", left, err)
	}
	if code, _ := r.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A refresh that fails is said, takes nothing away, and is made up for.
func TestExecOutlivesAFailingRefresh(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := s.start(append([]string{"exec", "prod", "--"}, talk...)...)
	path := r.line()
	first := content(t, path)
	s.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	s.run("invalidate", "prod").succeeds(t)
	within(t, "a word of it", func() bool { return strings.Contains(r.stderr.String(), "the token file isn't up to date") })
	if got := content(t, path); got != first {
		t.Errorf("the file holds %q, want %q as before", got, first)
	}
	s.endpoint.SetDefault(mockendpoint.Reply{})
	within(t, "a new token", func() bool { return content(t, path) != first })
	if got := content(t, path); !slices.Contains(s.endpoint.Issued(), got) {
		t.Errorf("the file holds %q", got)
	}
	if code, _ := r.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestExecExitCodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"exec", "prod", "--", "true"}, 0, ""},
		{[]string{"exec", "prod", "--", "sh", "-c", "exit 7"}, 7, ""},
		{[]string{"exec", "prod", "--", "sh", "-c", "kill -9 $$"}, 128 + 9, ""},
		{[]string{"exec", "prod", "--", "sh", "-c", "kill -TERM $$"}, 128 + 15, ""},
		{[]string{"exec", "prod", "--", "no-such-command"}, 127, `"no-such-command" can't be run`},
		{[]string{"exec", "prod", "--", "/no/such/command"}, 127, "can't be run: no such file"},
		{[]string{"exec", "prod", "--", data}, 126, "can't be run: permission denied"},
		{[]string{"exec", "prod", "true"}, 2, "behind --"},
		{[]string{"exec", "prod", "--"}, 2, "behind --"},
		{[]string{"exec", "--", "true"}, 2, "behind --"},
		{[]string{"exec", "nope", "--", "true"}, 2, `unknown environment "nope"`},
		{[]string{"exec", "prod", "--fd", "2", "--", "true"}, 2, "--fd: 2 is not between"},
		{[]string{"exec", "prod", "--env", "A=B", "--", "true"}, 2, "is no name of a variable"},
		{[]string{"exec", "prod", "--env", "ONETOKEN_TOKEN_FILE", "--", "true"}, 2, "holds the file's path"},
		{[]string{"exec", "prod", "--file", "/no/such/folder/token", "--", "true"}, 2, "--file: the folder of /no/such/folder/token"},
		{[]string{"exec", "prod", "--file", "/dev/null", "--", "true"}, 2, "no regular file"},
		{[]string{"exec", "prod", "--redis-url", "redis://127.0.0.1:1", "--", "true"}, 3, "connection refused"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r := s.run(c.args...)
			if r.code != c.code || !strings.Contains(r.stderr, c.said) || r.stdout != "" {
				t.Errorf("exit code %d, want %d; stderr %q, stdout %q", r.code, c.code, r.stderr, r.stdout)
			}
			if lines := strings.Count(r.stderr, "\n"); lines > 1 || lines == 1 == (c.said == "") {
				t.Errorf("stderr: %q", r.stderr)
			}
		})
	}
	s.hold("test")
	s.run("exec", "test", "--timeout", "500ms", "--", "true").fails(t, 5)
	s.configure("wrong-" + clientSecret)
	if err := s.rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.run("exec", "prod", "--", "true").fails(t, 4)
}

func TestExecDescriptorAndVariable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct {
		name, script string
		flags        []string
		want         string // of the token T
	}{
		{"fd", `cat <&3; echo " ${ONETOKEN_TOKEN_FILE:-none}"`, []string{"--fd", "3"}, "T none\n"},
		{"fd 7", `cat <&7`, []string{"--fd", "7"}, "T"},
		{"fd and file", `cat <&3 "$ONETOKEN_TOKEN_FILE"`, []string{"--fd", "3", "--file", "token"}, "T"},
		{"variable", `echo "$TOKEN"; cat "$ONETOKEN_TOKEN_FILE"`, []string{"--env", "TOKEN"}, "T\nT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(append([]string{"exec", "prod"}, c.flags...), "--", "sh", "-c", c.script)
			out := s.run(args...).succeeds(t)
			if want := strings.ReplaceAll(c.want, "T", s.endpoint.Issued()[0]); out != want {
				t.Errorf("got %q, want %q", out, want)
			}
		})
	}
}

// A token that is longer than a pipe holds, and a command that doesn't read it.
func TestExecLongToken(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	long := strings.Repeat("x", 200_000)
	s.endpoint.SetDefault(mockendpoint.Reply{Body: new(`{"access_token": "` + long + `", "expires_in": 3600}`)})
	s.run("exec", "prod", "--fd", "3", "--", "true").succeeds(t)
	if out := s.run("exec", "prod", "--fd", "3", "--", "sh", "-c", "cat <&3").succeeds(t); out != long {
		t.Errorf("%d bytes came", len(out))
	}
	if out := s.run("exec", "prod", "--", "sh", "-c", `cat "$ONETOKEN_TOKEN_FILE"`).succeeds(t); out != long {
		t.Errorf("%d bytes are in the file", len(out))
	}
}

func TestExecChosenFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("left by another"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := s.start(append([]string{"exec", "prod", "--file", path, "--"}, talk...)...)
	if got := r.line(); got != path {
		t.Errorf("the variable has %q, want %q", got, path)
	}
	if got := content(t, path); got != s.endpoint.Issued()[0] || mode(t, path) != 0o600 {
		t.Errorf("the file holds %q, mode %o", got, mode(t, path))
	}
	if code, _ := r.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	// One that somebody else has put there meanwhile isn't ours to remove.
	r = s.start(append([]string{"exec", "prod", "--file", path, "--"}, talk...)...)
	r.line()
	other := filepath.Join(filepath.Dir(path), "other")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	r.end()
	if got := content(t, path); got != "mine" {
		t.Errorf("the file holds %q", got)
	}
}

// Each signal reaches the command, once, also where it was sent to onetoken's whole process group; and the file is gone
// in the end.
func TestExecForwardsSignals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	script := `for s in INT HUP QUIT USR1 USR2 WINCH; do eval "n_$s=0; trap 'n_$s=\$((n_$s + 1)); echo $s' $s"; done
trap 'echo "$n_INT$n_HUP$n_QUIT$n_USR1$n_USR2$n_WINCH"; exit 3' TERM
echo "$ONETOKEN_TOKEN_FILE"; while :; do sleep 0.02; done`
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}
	names := []string{"INT", "HUP", "QUIT", "USR1", "USR2", "WINCH"}
	for _, group := range []bool{false, true} {
		r := s.start("exec", "prod", "--", "sh", "-c", script)
		path := r.line()
		pid := r.cmd.Process.Pid
		if group {
			pid = -pid
		}
		for i, signal := range signals {
			if err := syscall.Kill(pid, signal); err != nil {
				t.Fatal(err)
			}
			if got := r.line(); got != names[i] {
				t.Errorf("got %q, want %q", got, names[i])
			}
		}
		if err := syscall.Kill(r.cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if counts := r.line(); counts != "111111" {
			t.Errorf("to the group %v: arrived %s times", group, counts)
		}
		if code, _ := r.end(); code != 3 {
			t.Errorf("exit code %d", code)
		}
		if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
			t.Errorf("the folder is still there: %v", err)
		}
	}
}

// A command that a signal ends has the file removed, too.
func TestExecRemovesTheFileAfterASignal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	folder := t.TempDir()
	s.env = append(s.env, "XDG_RUNTIME_DIR="+folder)
	r := s.start("exec", "prod", "--", "sh", "-c", "echo started; exec sleep 600")
	r.line()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, _ := r.end(); code != 128+15 {
		t.Errorf("exit code %d", code)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// One that was interrupted while it waited for a token starts nothing, and leaves no file.
func TestExecInterruptedBeforeItsStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	folder := t.TempDir()
	s.env = append(s.env, "XDG_RUNTIME_DIR="+folder)
	s.hold("test")
	r := s.start("exec", "test", "--", "echo", "started")
	s.awaitSubscriber()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, out := r.end(); code != 1 || out != "" {
		t.Errorf("exit code %d, stdout %q, stderr %s", code, out, r.stderr)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// alive tells a live process from one that is gone or a zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestExecCommandDiesWithOnetoken(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux tells a child of its parent's end")
	}
	s := newSite(t)
	r := s.start("exec", "prod", "--", "sh", "-c", `echo $$; exec sleep 600`)
	pid, err := strconv.Atoi(r.line())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	within(t, "the command's end", func() bool { return !alive(pid) })
}
