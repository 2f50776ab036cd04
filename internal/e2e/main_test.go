package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binaries are the commands under test, built once.
var binaries struct{ onetoken, worker string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onetoken-e2e-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func build(dir string) error {
	binaries.onetoken, binaries.worker = filepath.Join(dir, "onetoken"), filepath.Join(dir, "worker")
	for _, name := range []string{"onetoken", "worker"} {
		args := []string{"build", "-o", filepath.Join(dir, name)}
		if raceEnabled {
			args = append(args, "-race")
		}
		args = append(args, "github.com/onetoken/onetoken/cmd/"+name)
		if output, err := exec.CommandContext(context.Background(), "go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %v: %w\n%s", args, err, output)
		}
	}
	return nil
}

const (
	patience = 20 * time.Second      // for what must come, but has no bound of its own
	glance   = 10 * time.Millisecond // between two looks
)

// eventually looks until ok, for at most limit, and returns how long that took.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-ticker.C
	}
	return time.Since(start)
}

// holds looks for as long as d, and fails the test where it isn't ok.
func holds(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	start := time.Now()
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	for time.Since(start) < d {
		if !ok() {
			t.Fatalf("not so after %v: %s", time.Since(start), what)
		}
		<-ticker.C
	}
}
