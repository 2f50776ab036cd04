// Package programs finds the programs that some tests need beside Go.
//
// Where one isn't installed a test that needs it is skipped; with ONETOKEN_REQUIRE_PROGRAMS=1 it fails.
package programs

import (
	"os"
	"os/exec"
	"testing"
)

// RequireEnv is the environment variable that makes a missing program a failure where it is "1".
const RequireEnv = "ONETOKEN_REQUIRE_PROGRAMS"

// Need returns the path of a program that the test needs. Where it isn't installed the test ends here.
func Need(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv(RequireEnv) == "1":
		t.Fatalf("programs: %s=1, but %v", RequireEnv, err)
	default:
		t.Skipf("programs: %v", err)
	}
	return path
}
