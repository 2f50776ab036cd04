// Package tmuxtest runs a program on a real terminal for a test: one of tmux, which can be typed on and looked at.
package tmuxtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/programs"
)

// patience is the longest that anything is waited for; on a machine that has time it takes a moment.
const patience = 2 * time.Minute

// A Terminal is one that a shell command runs on. When that has ended the terminal stays, as the command left it.
type Terminal struct {
	t      testing.TB
	tmux   string
	socket string
	pid    string // where the command's process id is
}

// Start runs a command in a terminal of that size until the test's end, with env alone for an environment but TERM and what
// tmux sets. It needs tmux: [programs.Need].
func Start(t testing.TB, width, height int, env []string, args ...string) *Terminal {
	t.Helper()
	dir, err := os.MkdirTemp("", "tmux-") //nolint:usetesting // a socket's path may have 100 bytes, and that of a test has more
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	term := &Terminal{t: t, tmux: programs.Need(t, "tmux"), socket: filepath.Join(dir, "s"), pid: filepath.Join(dir, "pid")}
	// The shell stays for what comes after: the exit code, and whether what is typed is echoed again.
	script := fmt.Sprintf(`trap : INT; sh -c %s; echo "exit code $?."; stty -a | tr ' ;' '\n\n' | grep -e echo$ -e icanon$ | tr '\n' ' '; exec cat`,
		quote(fmt.Sprintf("echo $$ > %[1]s.part; mv %[1]s.part %[1]s; exec %[2]s", term.pid, quoted(args))))
	start := []string{"-f", os.DevNull, "new-session", "-d", "-s", "main", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height)}
	for _, entry := range env {
		start = append(start, "-e", entry)
	}
	t.Cleanup(func() { _, _ = term.try("kill-server") })
	term.run(append(start, "exec sh -c "+quote(script))...)
	return term
}

func quoted(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = quote(arg)
	}
	return strings.Join(words, " ")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (t *Terminal) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.tmux, append([]string{"-u", "-S", t.socket}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(t.socket), "TERM=xterm-256color", "LANG=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (t *Terminal) run(args ...string) string {
	t.t.Helper()
	out, err := t.try(args...)
	if err != nil {
		t.t.Fatalf("tmuxtest: tmux %q: %v: %s", args, err, out)
	}
	return out
}

// Type presses keys, by tmux's names: "q", "C-c", "Down", "PPage".
func (t *Terminal) Type(keys ...string) {
	t.t.Helper()
	t.run(append([]string{"send-keys", "-t", "main"}, keys...)...)
}

// Resize changes the terminal's size.
func (t *Terminal) Resize(width, height int) {
	t.t.Helper()
	t.run("resize-window", "-t", "main", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
}

// Screen returns what is to be seen, without the spaces at the lines' ends.
func (t *Terminal) Screen() string {
	t.t.Helper()
	return t.run("capture-pane", "-p", "-t", "main")
}

// Styled returns what is to be seen with its colours, as escape sequences.
func (t *Terminal) Styled() string {
	t.t.Helper()
	return t.run("capture-pane", "-e", "-p", "-t", "main")
}

// History returns all that was written, with what has scrolled out of sight.
func (t *Terminal) History() string {
	t.t.Helper()
	return t.run("capture-pane", "-p", "-J", "-S", "-", "-t", "main")
}

// Alternate reports whether a program has the terminal's second screen.
func (t *Terminal) Alternate() bool {
	t.t.Helper()
	return strings.TrimSpace(t.run("display-message", "-p", "-t", "main", "#{alternate_on}")) == "1"
}

// Await waits until all of want are to be seen, and returns what is.
func (t *Terminal) Await(want ...string) string {
	t.t.Helper()
	return t.AwaitThat(fmt.Sprintf("%q", want), func(screen string) bool {
		for _, w := range want {
			if !strings.Contains(screen, w) {
				return false
			}
		}
		return true
	})
}

// AwaitThat waits until what is to be seen is as wanted, and returns it.
func (t *Terminal) AwaitThat(what string, met func(screen string) bool) string {
	t.t.Helper()
	late := time.After(patience)
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	for {
		screen := t.Screen()
		if met(screen) {
			return screen
		}
		select {
		case <-next.C:
		case <-late:
			t.t.Fatalf("tmuxtest: not within %v: %s; on the screen:\n%s", patience, what, screen)
		}
	}
}

// Restored waits for the command's end with that exit code, and checks that the terminal is as it was before.
func (t *Terminal) Restored(code int) string {
	t.t.Helper()
	screen := t.AwaitThat("the end of the command", func(screen string) bool {
		return strings.Contains(screen, "exit code ") && strings.Contains(screen, "icanon") && strings.Contains(screen, "echo")
	})
	if !strings.Contains(screen, fmt.Sprintf("exit code %d.", code)) || t.Alternate() ||
		!strings.Contains(screen, "\nicanon echo") || strings.TrimSpace(t.run("display-message", "-p", "-t", "main", "#{cursor_flag}")) != "1" {
		t.t.Errorf("not restored, or another exit code than %d (second screen %v):\n%s", code, t.Alternate(), screen)
	}
	return screen
}

// Process returns the command's process.
func (t *Terminal) Process() *os.Process {
	t.t.Helper()
	late := time.After(patience)
	next := time.NewTicker(20 * time.Millisecond)
	defer next.Stop()
	for {
		if content, err := os.ReadFile(t.pid); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
			if err != nil {
				t.t.Fatal(err)
			}
			process, err := os.FindProcess(pid)
			if err != nil {
				t.t.Fatal(err)
			}
			return process
		}
		select {
		case <-next.C:
		case <-late:
			t.t.Fatal("tmuxtest: the command wasn't started")
		}
	}
}
