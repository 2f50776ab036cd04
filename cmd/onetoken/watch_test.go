package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	ossignal "os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/internal/tmuxtest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A watched process is one that goes on, whose output is read line by line.
type watched struct {
	t      *testing.T
	first  string // of lines, where it wasn't awaited yet
	cmd    *exec.Cmd
	lines  chan string
	stderr *text
	stdout io.ReadCloser
}

// watch starts onetoken with the site's file; args follow the program's name.
func (s *site) watch(t *testing.T, args ...string) *watched {
	t.Helper()
	return watch(t, command(t.Context(), t, s.env, args...))
}

// watch starts a process, and returns when it has written a line. Where the machine was too slow for its first look at Redis it
// starts it again.
func watch(t *testing.T, cmd *exec.Cmd) *watched {
	t.Helper()
	for range 5 {
		again := exec.CommandContext(t.Context(), cmd.Path)
		again.Args, again.Dir, again.Env = cmd.Args, cmd.Dir, cmd.Env
		w := watchOnce(t, cmd)
		if line, ok := <-w.lines; ok {
			w.first = line
			return w
		}
		if stderr := w.ends(3); !slow.MatchString(stderr) {
			t.Fatalf("it has ended: %s", stderr)
		}
		cmd = again
	}
	t.Fatal("the machine is too slow")
	return nil
}

func watchOnce(t *testing.T, cmd *exec.Cmd) *watched {
	t.Helper()
	w := &watched{t: t, cmd: cmd, lines: make(chan string, 1000), stderr: &text{}}
	cmd.Stderr = w.stderr
	var err error
	if w.stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	go func() {
		defer close(w.lines)
		for scanner := bufio.NewScanner(w.stdout); scanner.Scan(); {
			select {
			case w.lines <- scanner.Text():
			case <-t.Context().Done():
				return
			}
		}
	}()
	return w
}

// await returns the next line that is as wanted.
func (w *watched) await(what string, met func(line string) bool) string {
	w.t.Helper()
	late := time.After(60 * time.Second)
	var seen []string
	if line := w.first; line != "" {
		if w.first = ""; met(line) {
			return line
		}
		seen = append(seen, line)
	}
	for {
		select {
		case line, ok := <-w.lines:
			if !ok {
				w.t.Fatalf("it ended before %s:\n%s", what, strings.Join(seen, "\n"))
			}
			if met(line) {
				return line
			}
			seen = append(seen, line)
		case <-late:
			w.t.Fatalf("not within a minute: %s; last lines:\n%s", what, strings.Join(seen[max(len(seen)-10, 0):], "\n"))
		}
	}
}

// busy is what a watch says of a machine that was too slow for a while.
var busy = regexp.MustCompile(`(?m)^onetoken: .*(i/o timeout|deadline exceeded).*; trying again\n|^onetoken: reading works again\n`)

// ends waits for the process's end with that exit code, and returns what it wrote to stderr.
func (w *watched) ends(code int) string {
	w.t.Helper()
	for range w.lines { // to the end: Wait closes the pipe
	}
	_ = w.cmd.Wait()
	if got := w.cmd.ProcessState.ExitCode(); got != code {
		w.t.Errorf("exit code %d (%v), want %d; stderr: %s", got, w.cmd.ProcessState, code, w.stderr.String())
	}
	return w.stderr.String()
}

// states returns the environments and states of a line of JSON.
func states(t *testing.T, line string) string {
	t.Helper()
	var rows []struct{ Environment, State string }
	if err := json.Unmarshal([]byte(line), &rows); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	var list []string
	for _, row := range rows {
		list = append(list, row.Environment+" "+row.State)
	}
	return strings.Join(list, ", ")
}

// A program gets all rows as an array on a line, again and again, until a signal ends it.
func TestWatchJSON(t *testing.T) {
	needSignals(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			if signal != syscall.SIGTERM && ossignal.Ignored(signal) {
				t.Skip("ignored where this test was started: so it stays")
			}
			s := newSite(t)
			w := s.watch(t, "status", "--watch", "--output=json", "--interval=200ms")
			w.await("nothing there", func(line string) bool { return states(t, line) == "prod missing, test missing" })
			s.run("get", "prod").succeeds(t)
			line := w.await("a token", func(line string) bool { return states(t, line) == "prod fresh, test missing" })
			if !strings.Contains(line, `"refreshed_by":"`) || !strings.Contains(line, `"ttl_ms":3`) {
				t.Errorf("got %s", line)
			}
			s.run("invalidate", "prod").succeeds(t)
			w.await("the invalidation", func(line string) bool { return states(t, line) == "prod missing, test missing" })
			if err := w.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if stderr := busy.ReplaceAllString(w.ends(0), ""); stderr != "" {
				t.Errorf("stderr: %s", stderr)
			}
		})
	}
}

// In a pipe people get a table for each change, under the time.
func TestWatchTable(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSite(t)
	w := s.watch(t, "status", "-w", "--interval=200ms", "test")
	const head = "ENVIRONMENT  STATE    USABLE  TTL  VERSION  REFRESHED BY  DETAIL"
	at := w.await("the time", func(string) bool { return true })
	if _, err := time.Parse(time.RFC3339, at); err != nil {
		t.Error(err)
	}
	if line := w.await("a head", func(string) bool { return true }); line != head {
		t.Errorf("got %q, want %q", line, head)
	}
	s.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	s.run("get", "prod").fails(t, 4) // another one's change is none of this view's
	s.run("get", "test").fails(t, 4)
	tables := 1
	w.await("the failure", func(line string) bool {
		if strings.HasPrefix(line, "ENVIRONMENT") {
			tables++
		}
		if strings.Contains(line, "prod") {
			t.Errorf("got %q", line)
		}
		return strings.HasPrefix(line, "test         failing")
	})
	if tables > 4 { // missing, perhaps refreshing, perhaps that with the failure, failing
		t.Errorf("%d tables for two changes", tables)
	}
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	w.ends(0)
}

func TestWatchUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct{ args, want string }{
		{"--watch --check", "--check and --watch don't go together"},
		{"--watch --interval 100ms", "--interval: 100ms is below 200ms"},
		{"--interval 1s", "--interval is for --watch"},
		{"--watch nope", `"nope"`},
		{"--watch --output json nope prod", `"nope"`},
	} {
		if line := s.run(append([]string{"status"}, strings.Fields(c.args)...)...).fails(t, 2); !strings.Contains(line, c.want) {
			t.Errorf("%s: got %s", c.args, line)
		}
	}
	r := run(t, nil, "status", "--watch", "--output=json", "--redis-url=redis://127.0.0.1:1")
	r.fails(t, 3)
}

// Who reads no more ends it, without a word.
func TestWatchClosedPipe(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSite(t)
	for range 5 {
		if code, stderr := closePipe(t, s); code != 3 || !slow.MatchString(stderr) {
			return
		}
	}
	t.Error("the machine is too slow for a look at Redis")
}

// closePipe watches until there is something to be read, and reads no more. It returns how that ended.
func closePipe(t *testing.T, s *site) (code int, said string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(ctx, t, s.env, "status", "--watch", "--output=json", "--interval=200ms")
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_, unread := r.Read(make([]byte, 1))
	_ = r.Close()
	err = cmd.Wait()
	if code, said = cmd.ProcessState.ExitCode(), busy.ReplaceAllString(stderr.String(), ""); code == 3 && slow.MatchString(said) {
		return code, said
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); unread != nil || ctx.Err() != nil || said != "" || !ok || code != 0 && status.Signal() != syscall.SIGPIPE {
		t.Errorf("%v, %v, stderr %q", unread, err, said)
	}
	return code, said
}

// Redis away: it is said once, and that it is back.
func TestWatchOutlastsRedis(t *testing.T) {
	t.Parallel()
	needSignals(t)
	server := redistest.Start(t)
	w := watch(t, command(t.Context(), t, nil, "status", "--watch", "--output=json", "--interval=200ms", "--redis-url="+server.URL(), "prod"))
	w.await("a row", func(line string) bool { return states(t, line) == "prod missing" })
	server.Stop()
	eventually(t, "it says so", func() bool { return strings.Contains(w.stderr.String(), "; trying again\n") })
	for len(w.lines) > 0 { // what was written before
		<-w.lines
	}
	server.Start(t)
	w.await("a row again", func(line string) bool { return states(t, line) == "prod missing" })
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	w.ends(0)
}

// SIGINT and SIGHUP that were ignored at the start stay so: a job in the background of a shell, or of nohup.
func TestWatchKeepsIgnoring(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSite(t)
	cmd := command(t.Context(), t, s.env)
	cmd.Path = programs.Need(t, "sh")
	cmd.Args = []string{"sh", "-c", `trap "" INT HUP; exec "$0" status --watch --output=json --interval=200ms`, binaries.onetoken}
	w := watch(t, cmd)
	any := func(string) bool { return true }
	w.await("a line", any)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if err := w.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	s.run("get", "prod").succeeds(t)
	w.await("what was done after the signals", func(line string) bool { return strings.HasPrefix(states(t, line), "prod fresh") })
	_ = w.cmd.Process.Signal(syscall.SIGTERM)
	w.ends(0)
}

// terminal starts onetoken on a terminal.
func (s *site) terminal(t *testing.T, width, height int, env []string, args ...string) *tmuxtest.Terminal {
	t.Helper()
	return tmuxtest.Start(t, width, height, append(env, s.env...), append([]string{binaries.onetoken}, args...)...)
}

func TestWatchOnATerminal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	term := s.terminal(t, 100, 24, nil, "status", "--watch", "--interval=200ms")
	screen := term.Await("2 environments, 2 not usable", "› prod ", "○ missing", "namespace onetoken", "q quit")
	if !term.Alternate() {
		t.Errorf("not on the second screen:\n%s", screen)
	}
	s.run("get", "prod").succeeds(t)
	term.Await("● fresh", "1 not usable", "█████")
	if styled := term.Styled(); !regexp.MustCompile(`[\[;]32[;m]`).MatchString(styled) {
		t.Errorf("no green:\n%q", styled)
	}
	term.Type("/", "t", "e", "s", "Enter")
	term.AwaitThat("the filter", func(screen string) bool {
		return strings.Contains(screen, "1 match") && !strings.Contains(screen, "prod ")
	})
	term.Type("Escape")
	term.Await("prod ", "test ")
	term.Type("s", "r", "Down", "Down")
	term.Await("by name, reversed", "› prod ")
	term.Resize(40, 8)
	term.AwaitThat("the small view", func(screen string) bool {
		return strings.Contains(screen, "› prod ") && !strings.Contains(screen, "namespace")
	})
	term.Type("Space")
	term.Await("paused at")
	term.Type("Space")
	term.AwaitThat("going on", func(screen string) bool { return !strings.Contains(screen, "paused at") })
	term.Type("q")
	term.Restored(0)
	if h := term.History(); strings.Contains(h, "prod ") {
		t.Errorf("the view was left on the terminal:\n%s", h)
	}
}

// However it ends, the terminal is as it was.
func TestWatchRestoresTheTerminal(t *testing.T) {
	t.Parallel()
	needSignals(t)
	for name, end := range map[string]func(*testing.T, *tmuxtest.Terminal){
		"ctrl-c":  func(_ *testing.T, term *tmuxtest.Terminal) { term.Type("C-c") },
		"esc":     func(_ *testing.T, term *tmuxtest.Terminal) { term.Type("Escape") },
		"SIGTERM": func(t *testing.T, term *tmuxtest.Terminal) { kill(t, term, syscall.SIGTERM) },
		"SIGINT":  func(t *testing.T, term *tmuxtest.Terminal) { kill(t, term, syscall.SIGINT) },
		"SIGHUP":  func(t *testing.T, term *tmuxtest.Terminal) { kill(t, term, syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			term := s.terminal(t, 80, 24, nil, "status", "--watch")
			term.Await("› prod ", "q quit")
			end(t, term)
			term.Restored(0)
		})
	}
}

func kill(t *testing.T, term *tmuxtest.Terminal, signal syscall.Signal) {
	t.Helper()
	if err := term.Process().Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// Redis away: the rows stay under the problem, and it recovers by itself. NO_COLOR is obeyed.
func TestWatchOnATerminalOutlastsRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	term := tmuxtest.Start(t, 100, 20, []string{"NO_COLOR=yes"}, binaries.onetoken, "status", "--watch", "--redis-url="+server.URL(), "prod")
	term.Await("1 environment", "q quit")
	if err := server.Client(t).Set(t.Context(), "onetoken:{prod}:lock", "replica-7|x", 10*time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	term.AwaitThat("the row", func(screen string) bool {
		return strings.Contains(screen, "lease: replica-7 9h") && !strings.Contains(screen, "reading fails")
	})
	server.Stop()
	term.Await("reading fails since", "refused", "↻ refreshing", "replica-7")
	if styled := term.Styled(); regexp.MustCompile(`[\[;](3[0-8]|4[0-8]|9[0-7])[;m]`).MatchString(styled) {
		t.Errorf("colours, for NO_COLOR:\n%q", styled)
	}
	server.Start(t)
	term.AwaitThat("that it is there again", func(screen string) bool {
		// It is missing until it is found that nothing in Redis tells of it.
		return !strings.Contains(screen, "reading fails") && (strings.Contains(screen, "○ missing") || strings.Contains(screen, "none is in Redis"))
	})
	term.Type("q")
	term.Restored(0)
}

// Thousands of rows: there at once, and the troubles first.
func TestWatchThousandsOnATerminal(t *testing.T) {
	t.Parallel()
	o := redistest.Options(redistest.Start(t).Addr())
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = time.Minute, time.Minute, time.Minute
	rdb := redistest.NewClient(t, o)
	p := rdb.Pipeline()
	for i := range 3000 {
		p.Set(t.Context(), fmt.Sprintf("onetoken:{env-%04d}:lock", i), "replica-7|x", time.Hour)
	}
	p.HSet(t.Context(), "onetoken:{zzz}:mark", "issued", 1)
	if _, err := p.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	term := tmuxtest.Start(t, 120, 30, nil, binaries.onetoken, "status", "--watch", "--redis-url=redis://"+rdb.Options().Addr)
	term.Await("3,001 environments, 3,001 not usable", "› zzz ", "↻ 3,000 refreshing", "env-0000")
	term.Type("End")
	term.Await("› env-2999")
	term.Type("q")
	term.Restored(0)
}

// A terminal that can't be drawn on gets lines.
func TestWatchOnADumbTerminal(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSite(t)
	for range 5 {
		term := tmuxtest.Start(t, 100, 20, s.env, "env", "TERM=dumb", binaries.onetoken, "status", "--watch")
		screen := term.AwaitThat("a table, or no look at Redis", func(screen string) bool {
			return strings.Contains(screen, "ENVIRONMENT  STATE    USABLE") || strings.Contains(screen, "exit code 3.")
		})
		if !strings.Contains(screen, "exit code 3.") {
			term.Type("C-c")
			term.Restored(0)
			return
		}
	}
	t.Error("the machine is too slow for a look at Redis")
}
