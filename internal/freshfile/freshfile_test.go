package freshfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/freshfile"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *freshfile.Value[string] {
	t.Helper()
	v, err := freshfile.Open(freshfile.Line, freshfile.File{Setting: "secret_file", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mustBe fails unless v is want, and its files are good or not.
func mustBe(t *testing.T, v *freshfile.Value[string], want, problem string) {
	t.Helper()
	got, err := v.Get()
	if got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if problem == "" && err != nil || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
		t.Errorf("%v; want %q", err, problem)
	}
}

func TestAFileIsWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "one\n")
	v := open(t, path)
	mustBe(t, v, "one", "")
	write(t, path, "two\n") // of the same length, maybe within a tick of the file system's clock
	mustBe(t, v, "two", "")
	write(t, path, "")
	mustBe(t, v, "two", `secret_file: "`+path+`": is empty`)
	write(t, path, "three")
	mustBe(t, v, "three", "")
}

// Kubernetes turns a link to a folder: the files' own path leads elsewhere.
func TestALinkIsTurned(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "secret"), "version "+name)
	}
	link := func(to, from string) {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Skip(err)
		}
	}
	link("1", "..data")
	link(filepath.Join("..data", "secret"), "secret")
	// All is old: nothing but the link tells that there is another file.
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{"1", "2"} {
		if err := os.Chtimes(filepath.Join(dir, name, "secret"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	v := open(t, filepath.Join(dir, "secret"))
	mustBe(t, v, "version 1", "")
	link("2", "..new")
	if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	mustBe(t, v, "version 2", "")
}

func TestAFileThatStaysIsNotReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "one")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	reads := 0
	v, err := freshfile.Open(func(contents ...[]byte) (string, error) {
		reads++
		if string(contents[0]) == "bad" {
			return "", errors.New("bad")
		}
		return string(contents[0]), nil
	}, freshfile.File{Setting: "s", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	get := func(want int) {
		t.Helper()
		for range 3 {
			_, _ = v.Get()
		}
		if reads != want {
			t.Errorf("%d reads; want %d", reads, want)
		}
	}
	get(1)
	write(t, path, "bad")
	if err := os.Chtimes(path, old.Add(time.Minute), old.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	get(2) // nor is a bad one
	if got, err := v.Get(); got != "one" || err == nil {
		t.Errorf("%q, %v; want one, and an error", got, err)
	}
}

func TestFilesThatBelongTogether(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1")
	write(t, b, "1")
	pair := func(contents ...[]byte) (string, error) {
		if string(contents[0]) != string(contents[1]) {
			return "", errors.New("differ")
		}
		return string(contents[0]), nil
	}
	files := []freshfile.File{{Setting: "a_file", Path: a}, {Setting: "b_file", Path: b}}
	v, err := freshfile.Open(pair, files...)
	if err != nil {
		t.Fatal(err)
	}
	write(t, a, "2")
	mustBe(t, v, "1", `a_file, b_file: "`+a+`", "`+b+`": differ`)
	write(t, b, "2")
	mustBe(t, v, "2", "")
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	mustBe(t, v, "2", `b_file: "`+b+`": no such file`)
	write(t, b, "3")
	if _, err := freshfile.Open(pair, files...); err == nil || err.Error() != `a_file, b_file: "`+a+`", "`+b+`": differ` {
		t.Errorf("%v; want an error that names both", err)
	}
}

func TestFilesThatCantBeRead(t *testing.T) {
	dir := t.TempDir()
	long, blank := filepath.Join(dir, "long"), filepath.Join(dir, "blank")
	write(t, long, strings.Repeat("x", freshfile.MaxSize+1))
	write(t, blank, "\r\n \n")
	for path, want := range map[string]string{
		filepath.Join(dir, "nothing\nhere"): `s: "` + dir + `/nothing here": no such file or directory`,
		dir:                                 `s: "` + dir + `": is a directory`,
		long:                                `s: "` + long + `": is longer than 1 MiB`,
		blank:                               `s: "` + blank + `": is empty`,
	} {
		if _, err := freshfile.Open(freshfile.Line, freshfile.File{Setting: "s", Path: path}); err == nil || err.Error() != want {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// A shell's <(…) is a pipe, in which there is nothing a second time.
func TestAPipeIsReadOnce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no /dev/fd here")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := w.WriteString("s3cret\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	v := open(t, "/dev/fd/"+strconv.Itoa(int(r.Fd())))
	for range 2 {
		mustBe(t, v, "s3cret", "")
	}
}

func TestManyReadAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "1")
	v := open(t, path)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if got, _ := v.Get(); got != "1" && got != "2" {
					t.Errorf("%q", got)
				}
			}
		})
	}
	for _, content := range []string{"2", "1", "2"} {
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	mustBe(t, v, "2", "")
}
