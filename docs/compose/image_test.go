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

// The Dockerfile's build, without Docker: what it copies, less what .dockerignore leaves out, is all that the build needs.
func TestTheImageBuilds(t *testing.T) {
	t.Parallel()
	text := read(t, "../../Dockerfile")
	src, out := t.TempDir(), t.TempDir()
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
	run := regexp.MustCompile(`(?m)^RUN (.*go build.*) -o /out/ (.*)$`).FindStringSubmatch(text)
	if run == nil {
		t.Fatal("the Dockerfile doesn't build")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", run[1]+` -o "$OUT/" `+run[2])
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "OUT="+out, "VERSION=v1.2.3-of-the-image")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	version, err := exec.CommandContext(t.Context(), filepath.Join(out, "onetoken"), "version").Output()
	if err != nil || !strings.HasPrefix(string(version), "onetoken v1.2.3-of-the-image ") {
		t.Errorf("version prints %q, %v", version, err)
	}
	if _, err := os.Stat(filepath.Join(out, "worker")); err != nil {
		t.Error(err)
	}
}

// send copies a file, or a folder without what .dockerignore leaves out of each.
func send(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
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
