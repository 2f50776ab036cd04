//go:build linux

package main_test

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onetoken/onetoken/internal/redistest"
)

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, screen *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(screen.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// What is typed isn't shown, and the terminal shows what is typed again once that is over, however it ended.
func TestGrantImportOnATerminal(t *testing.T) {
	t.Parallel()
	for _, interrupted := range []bool{false, true} {
		s := newLoginSite(t, redistest.Mini(t), nil)
		keyboard, screen := terminal(t)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		cmd := command(ctx, t, s.env, "grant", "import", "prod")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
		before := echoes(t, screen)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var shown strings.Builder
		until := func(want string) {
			t.Helper()
			buf := make([]byte, 1024)
			for !strings.Contains(shown.String(), want) {
				n, err := keyboard.Read(buf)
				shown.Write(buf[:n])
				if err != nil {
					t.Fatalf("%v, after %q", err, shown.String())
				}
			}
		}
		until("Refresh token (not shown): ")
		for begun := time.Now(); echoes(t, screen); <-time.After(5 * time.Millisecond) { // it says so first
			if time.Since(begun) > soon {
				t.Fatal("the terminal shows what is typed")
			}
		}
		code, end := 0, "refreshed by"
		typed := s.endpoint.NewFamily() + "\n"
		if interrupted {
			typed, code, end = "\x03", 1, "interrupt"
		}
		if _, err := keyboard.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		until(end)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != code || strings.Contains(shown.String(), "mock-refresh") {
			t.Errorf("exit code %d, want %d; shown: %q", got, code, shown.String())
		}
		if after := echoes(t, screen); !before || !after {
			t.Errorf("the terminal shows what is typed: %v before, %v after", before, after)
		}
	}
}
