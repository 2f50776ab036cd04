package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
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
			r := run(t, []string{"ONETOKEN_REDIS_URL=redis://127.0.0.1:1", "ONETOKEN_CONFIG=/nope"}, append([]string{"demo", "--replicas", "4"}, c.args...)...)
			out := r.succeeds(t)
			if r.took > 30*time.Second {
				t.Errorf("it took %v", r.took)
			}
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
