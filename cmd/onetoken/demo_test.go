package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/onetoken/onetoken/internal/tmuxtest"
)

// The demonstration checks itself; here, that it does so and that its figures are what they must be.
func TestDemo(t *testing.T) {
	needSignals(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"with the worker", []string{"--worker", binaries.worker}},
		{"by itself", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// Settings around must not reach the replicas.
			out := demonstrate(t, []string{"ONETOKEN_REDIS_URL=redis://127.0.0.1:1", "ONETOKEN_CONFIG=/nope"}, append([]string{"demo", "--replicas", "4"}, c.args...)...)
			if strings.Contains(out, "DID NOT HOLD") || strings.Count(out, "=> held: ") != 8 || !strings.HasSuffix(out, "\nAll of it held.\n") {
				t.Errorf("got\n%s", out)
			}
			for _, want := range []string{
				`cold fleet     4 replicas, calls: 1, `,
				`rotation       calls: 1; `,
				`holder killed  3 replicas served \S+ after the SIGKILL, with a lease of 2s; calls: 2\n`,
				`429            3 replicas told within \S+ of each other; the next call \S+ later; calls: 2\n`,
				`in all         calls: 6, `,
			} {
				if !regexp.MustCompile(`\n` + want).MatchString(out) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// demonstrate returns what a demonstration says. It speaks of fractions of a second: on a machine that is too busy for that it
// is given once more.
func demonstrate(t *testing.T, env []string, args ...string) (out string) {
	t.Helper()
	for range 4 {
		r := finish(t, command(t.Context(), t, env, args...), nil)
		if out = r.stdout; r.code == 0 && r.stderr == "" {
			break
		}
		t.Logf("exit code %d, stderr %q:\n%s", r.code, r.stderr, out)
	}
	return out
}

// A replica that can't work is an error, and nothing is left behind.
func TestDemoWithABrokenWorker(t *testing.T) {
	t.Parallel()
	needSignals(t)
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho 'it is broken' >&2\nexit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	r := run(t, []string{"TMPDIR=" + temp}, "demo", "--worker", broken)
	if r.code != 1 || !regexp.MustCompile(`^onetoken: worker-\d has ended by itself: it is broken\n$`).MatchString(r.stderr) {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// On a terminal the live view stands beneath the lines, and nothing of it is left at the end.
func TestDemoOnATerminal(t *testing.T) {
	t.Parallel()
	needSignals(t)
	for range 4 { // on a machine that is too busy it isn't given to its end
		term := tmuxtest.Start(t, 120, 40, nil, binaries.onetoken, "demo", "--replicas", "3")
		term.Await("─── live, as onetoken status --watch shows it", "  ENVIRONMENT STATE", "  prod ")
		screen := term.AwaitThat("the end", func(screen string) bool { return strings.Contains(screen, "exit code ") })
		code := 0
		if !strings.Contains(screen, "All of it held.") {
			code = 1 // what it says of such a machine isn't what is tested here
		}
		term.Restored(code)
		said := term.History()
		if strings.Contains(screen, "─── live") || !strings.Contains(said, "an embedded Redis on") {
			t.Errorf("got\n%s", said)
		}
		if strings.Count(said, "=> ") == 8 {
			return
		}
		t.Logf("got\n%s", said)
	}
	t.Error("it isn't given to its end")
}

// Ctrl-c ends it as a signal does, with the replicas.
func TestDemoOnATerminalInterrupted(t *testing.T) {
	t.Parallel()
	needSignals(t)
	for name, end := range map[string]func(*testing.T, *tmuxtest.Terminal){
		"ctrl-c":  func(_ *testing.T, term *tmuxtest.Terminal) { term.Type("C-c") },
		"SIGTERM": func(t *testing.T, term *tmuxtest.Terminal) { kill(t, term, syscall.SIGTERM) },
		"SIGHUP":  func(t *testing.T, term *tmuxtest.Terminal) { kill(t, term, syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temp := t.TempDir()
			term := tmuxtest.Start(t, 120, 40, []string{"TMPDIR=" + temp}, binaries.onetoken, "demo", "--replicas", "3")
			term.Await("─── live", "  prod ")
			end(t, term)
			term.Restored(1)
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// A small terminal, and who wants it so, gets lines.
func TestDemoPlain(t *testing.T) {
	t.Parallel()
	needSignals(t)
	for _, c := range []struct {
		width, height int
		args          []string
	}{{79, 40, nil}, {120, 15, nil}, {120, 40, []string{"--plain"}}} {
		term := tmuxtest.Start(t, c.width, c.height, nil, append([]string{binaries.onetoken, "demo", "--replicas", "3"}, c.args...)...)
		term.Await("1. A cold fleet")
		if said := term.History(); strings.Contains(said, "─── live") {
			t.Errorf("%v:\n%s", c, said)
		}
		term.Type("C-c")
		term.Restored(1)
	}
}
