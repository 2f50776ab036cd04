//go:build linux

package main_test

import (
	"bytes"
	"context"
	"syscall"
	"testing"
	"time"
)

// SIGHUP from a terminal that is closed ends the agent, as it would any other program; by kill it has the file read again.
func TestServeEndsWithItsTerminal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	keyboard, screen := terminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	a := &served{t: t, stderr: &text{}}
	a.cmd = command(ctx, t, s.env, "serve", "--listen", "127.0.0.1:0")
	a.cmd.Stdin, a.cmd.Stderr, a.cmd.Stdout = screen, a.stderr, &bytes.Buffer{}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.logs("outcome=serving", 1)
	a.reloads(1)
	_ = screen.Close()
	_ = keyboard.Close()
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("%v; %s", err, a.stderr.String())
	}
}
