package compose_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The Dockerfile's build, without Docker and without compiling anything (-n): what it copies, less what .dockerignore leaves
// out, is all that the build needs, and the version arrives at the linker.
func TestTheImageBuilds(t *testing.T) {
	t.Parallel()
	text := read(t, "../../Dockerfile")
	src := t.TempDir()
	sent := regexp.MustCompile(`(?m)^!(\S+)$`).FindAllStringSubmatch(read(t, "../../.dockerignore"), -1)
	allowed := map[string]bool{}
	for _, m := range sent {
		allowed[m[1]] = true
	}
	copied := regexp.MustCompile(`(?m)^COPY ([a-z][^\n]*) (\S+)$`).FindAllStringSubmatch(text, -1)
	if len(copied) < 5 {
		t.Fatalf("the Dockerfile copies %q", copied)
	}
	for _, m := range copied {
		for from := range strings.FieldsSeq(m[1]) {
			if !allowed[from] {
				t.Fatalf(".dockerignore leaves %s out", from)
			}
			send(t, filepath.Join("../..", from), filepath.Join(src, from))
		}
	}
	run := regexp.MustCompile(`(?m)^RUN (.*go build .* -o /out/ .*)$`).FindStringSubmatch(text)
	if run == nil {
		t.Fatal("the Dockerfile doesn't build")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", run[1])
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "GOFLAGS=-n", "VERSION=v1.2.3-of-the-image")
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, program := range []string{"onetoken", "worker"} {
		link := regexp.MustCompile(`(?m)^.*/link -o .* -X main.version=v1\.2\.3-of-the-image .*$`).FindAllString(string(output), -1)
		if len(link) != 2 || !strings.Contains(string(output), "/out/"+program+"\n") {
			t.Errorf("%d programs are linked, and %s may be none of them: %s", len(link), program, output)
		}
	}
}

// send copies a file, or a folder without what .dockerignore leaves out of each.
func send(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules"): // the latter may be growing just now, by another package's tests
			return fs.SkipDir
		case d.IsDir() || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, []byte(read(t, path)), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
