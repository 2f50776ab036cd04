package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	epoch   = "1700000000"
	stamped = "v1.2.3-4-gabcdef0"
)

// entry is what an archive holds of one file.
type entry struct {
	name string
	mode fs.FileMode
	at   time.Time
	data []byte
}

// The programs for this platform, built and packed twice, in folders of different names.
func TestARelease(t *testing.T) {
	t.Parallel()
	here := runtime.GOOS + "/" + runtime.GOARCH
	var archives, sums [2][]byte
	base := fmt.Sprintf("onetoken_%s_%s_%s", stamped, runtime.GOOS, runtime.GOARCH)
	name := base + ".tar.gz"
	if runtime.GOOS == "windows" {
		name = base + ".zip"
	}
	tool := filepath.Join(t.TempDir(), "release.exe") // as make release runs it: with the race detector packing takes minutes
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", tool, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for i := range archives {
		out := filepath.Join(t.TempDir(), strings.Repeat("x", i), "dist")
		cmd := exec.CommandContext(t.Context(), tool, "-root", "../..", "-out", out, "-version", stamped, "-platforms", here)
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+epoch)
		log, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		archives[i], sums[i] = read(t, filepath.Join(out, name)), read(t, filepath.Join(out, "SHA256SUMS"))
		if got := string(log); got != filepath.Join(out, name)+"\n" {
			t.Errorf("it says %q", got)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) || !bytes.Equal(sums[0], sums[1]) {
		t.Error("two runs give different bytes")
	}
	if got, want := string(sums[0]), fmt.Sprintf("%x  %s\n", sha256.Sum256(archives[0]), name); got != want {
		t.Errorf("SHA256SUMS is %q, want %q", got, want)
	}
	unpack := untar
	if runtime.GOOS == "windows" {
		unpack = unzip
	}
	entries := unpack(t, archives[0])
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	expect(t, entries, base, "LICENSE", "README.md", "onetoken"+suffix, "worker"+suffix)
	if !bytes.Equal(entries[0].data, read(t, "../../LICENSE")) || !bytes.Equal(entries[1].data, read(t, "../../README.md")) {
		t.Error("LICENSE and README.md aren't the module's")
	}
	for _, e := range entries[2:] {
		if dir, err := filepath.Abs("../.."); err != nil || bytes.Contains(e.data, []byte(dir)) {
			t.Errorf("%s tells where it was built (%v)", e.name, err)
		}
	}
	says(t, entries[2].data, here)
}

// says checks what the packed command prints of its version.
func says(t *testing.T, program []byte, platform string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "onetoken.exe") // Windows wants the suffix, the others don't mind
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput()
	if want := fmt.Sprintf("onetoken %s %s %s\n", stamped, runtime.Version(), platform); err != nil || string(out) != want {
		t.Errorf("version prints %q, %v; want %q", out, err, want)
	}
	out, err = exec.CommandContext(t.Context(), path, "version", "--output", "json").CombinedOutput()
	var answer struct{ Version, Platform string }
	if err != nil || json.Unmarshal(out, &answer) != nil || answer.Version != stamped || answer.Platform != platform {
		t.Errorf("version --output json prints %s, %v", out, err)
	}
}

func TestTheArchives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := time.Unix(1700000000, 0).UTC()
	files := []file{{"LICENSE", filepath.Join(dir, "a"), 0o644}, {"onetoken", filepath.Join(dir, "b"), 0o755}}
	for i, f := range files {
		// Neither the mode nor the time of what is packed shows.
		if err := os.WriteFile(f.path, bytes.Repeat([]byte{'0' + byte(i)}, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, kind := range map[string]struct {
		pack   func(io.Writer, string, time.Time, []file) error
		unpack func(*testing.T, []byte) []entry
	}{"tar": {packTar, untar}, "zip": {packZip, unzip}} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := kind.pack(&b, "folder", at, files); err != nil {
				t.Fatal(err)
			}
			entries := kind.unpack(t, b.Bytes())
			expect(t, entries, "folder", "LICENSE", "onetoken")
			for i, e := range entries {
				if !bytes.Equal(e.data, read(t, files[i].path)) {
					t.Errorf("%s holds other bytes than were packed", e.name)
				}
			}
			if err := kind.pack(io.Discard, "folder", at, []file{{"gone", filepath.Join(dir, "gone"), 0o644}}); err == nil {
				t.Error("a file that isn't there is packed")
			}
		})
	}
}

// expect checks the names in a folder, in order, their modes and their time.
func expect(t *testing.T, entries []entry, folder string, names ...string) {
	t.Helper()
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, strings.TrimPrefix(e.name, folder+"/"))
		want := fs.FileMode(0o755)
		if strings.HasSuffix(e.name, "LICENSE") || strings.HasSuffix(e.name, ".md") {
			want = 0o644
		}
		if e.mode != want || e.at.Unix() != 1700000000 || !strings.HasPrefix(e.name, folder+"/") {
			t.Errorf("%s: mode %v, time %v", e.name, e.mode, e.at)
		}
	}
	if !slices.Equal(got, names) {
		t.Fatalf("the archive has %q, want %q", got, names)
	}
}

func TestBadReleases(t *testing.T) {
	t.Parallel()
	linux := []string{"linux/amd64"}
	for name, c := range map[string]struct {
		version, epoch string
		platforms      []string
		want           string
	}{
		"no version":        {"", epoch, linux, "-version"},
		"a path":            {"v1/../x", epoch, linux, "-version"},
		"a linker's flag":   {"v1 -X main.x=y", epoch, linux, "-version"},
		"no time":           {"v1", "", linux, "SOURCE_DATE_EPOCH"},
		"a time in words":   {"v1", "today", linux, "SOURCE_DATE_EPOCH"},
		"before zip":        {"v1", "1", linux, "SOURCE_DATE_EPOCH"},
		"no platform":       {"v1", epoch, nil, "-platforms"},
		"half a platform":   {"v1", epoch, []string{"linux"}, "-platforms"},
		"an unknown one":    {"v1", epoch, []string{"linux/abacus"}, "linux/abacus: go build"},
		"a path as the CPU": {"v1", epoch, []string{"linux/../x"}, "-platforms"},
	} {
		r := release{root: "../..", out: filepath.Join(t.TempDir(), "dist"), version: c.version}
		if err := r.run(t.Context(), c.epoch, c.platforms, io.Discard); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(r.out, "SHA256SUMS")); err == nil {
			t.Errorf("%s: there are sums", name)
		}
	}
}

func untar(t *testing.T, data []byte) []entry {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if zipped.Name != "" || !zipped.ModTime.IsZero() {
		t.Errorf("gzip's header has %q, %v", zipped.Name, zipped.ModTime)
	}
	var entries []entry
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Typeflag != tar.TypeReg {
			t.Errorf("%s: %+v", h.Name, h)
		}
		entries = append(entries, entry{h.Name, h.FileInfo().Mode(), h.ModTime, all(t, archive)})
	}
}

func unzip(t *testing.T, data []byte) []entry {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for _, f := range archive.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{f.Name, f.Mode(), f.Modified, all(t, r)})
		_ = r.Close()
	}
	return entries
}

func all(t *testing.T, r io.Reader) []byte {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
