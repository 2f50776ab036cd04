// Package readme checks that what README.md shows is true.
package readme

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The two blocks of Go, each in the smallest program around it.
var programs = []struct{ name, before, after string }{
	{"main.go", `package main

import (
	"log"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
)

func main() {
`, "\t_, _ = resp, err\n}\n"},
	{"own_test.go", `package main

import (
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestOwn(t *testing.T) {
`, "\tif err == nil {\n\t\tt.Fatal(\"no error\")\n\t}\n}\n"},
}

func TestTheExamplesCompileAndRun(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "../..", "README.md"), -1)
	if len(blocks) != len(programs) {
		t.Fatalf("README.md has %d blocks of Go, want %d", len(blocks), len(programs))
	}
	if lines := strings.Count(blocks[0][1], "\n"); lines > 15 {
		t.Errorf("the example has %d lines, want at most 15", lines)
	}
	// Beneath testdata, where ./... doesn't look, and within the module, where the imports are found.
	dir := filepath.Join("testdata", "example")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll("testdata") })
	for i, p := range programs {
		if err := os.WriteFile(filepath.Join(dir, p.name), []byte(p.before+blocks[i][1]+p.after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-race", "./"+dir) // -race: what is built for this run serves it, too
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWhatItNamesIsThere(t *testing.T) {
	text := read(t, "../..", "README.md")
	makefile := read(t, "../..", "Makefile")
	for _, m := range regexp.MustCompile(`(?m)^make (\w+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("make %s: the Makefile has no such target", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\]\(([^):]+)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
			t.Errorf("a link to nowhere: %v", err)
		}
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
