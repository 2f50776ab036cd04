package page_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/manager"
)

// The page in a real Chromium: what is looked at is in browsertest/page.test.mjs.
func TestInABrowser(t *testing.T) {
	node := programs.Need(t, "node")
	npm := programs.Need(t, "npm")
	chromium := os.Getenv("CHROMIUM")
	if chromium == "" {
		chromium = programs.Need(t, "chromium")
	}
	install(t, npm)

	s := newSite(t, page.Pace{All: 300 * time.Millisecond, Names: 300 * time.Millisecond})
	s.show()
	empty := serve(t, newSource(), page.Pace{})
	thousands := newSource()
	for i := range 2000 {
		name := fmt.Sprintf("tenant-%05d", i)
		thousands.set(name, manager.Version(i+1))
	}
	many := serve(t, thousands, page.Pace{})

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "--test-reporter=spec", "page.test.mjs")
	cmd.Dir = "browsertest"
	cmd.Env = append(os.Environ(), "PAGE_URL="+s.URL, "CONTROL_URL="+s.control().URL, "EMPTY_URL="+empty.URL, "MANY_URL="+many.URL,
		"CHROMIUM="+chromium, "SECRET="+secretText)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it ends its browser
	cmd.WaitDelay = 20 * time.Second
	life, err := cmd.StdinPipe() // its end is ours, however that comes
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passed := regexp.MustCompile(`(?m)^ℹ pass ([0-9]+)$`).FindSubmatch(out); passed == nil || string(passed[1]) == "0" {
		t.Fatalf("it ran no test:\n%s", out)
	}
	t.Logf("%s", out)
}

// install has npm fetch what the tests in the browser need, once, as the lock file has it.
func install(t *testing.T, npm string) {
	t.Helper()
	lock, err := os.ReadFile("browsertest/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	done := filepath.Join("browsertest", "node_modules", ".installed")
	if installed, err := os.ReadFile(done); err == nil && string(installed) == string(lock) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = "browsertest"
	cmd.Stdin = nil
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		if err := os.WriteFile(done, lock, 0o600); err != nil {
			t.Fatal(err)
		}
	case os.Getenv(programs.RequireEnv) == "1":
		t.Fatalf("npm ci: %v\n%s", err, out)
	default:
		t.Skipf("npm ci: %v\n%s", err, out)
	}
}
