package tokenfile_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/tokenfile"
	"github.com/onetoken/onetoken/manager"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func token(text string) *manager.Token { return &manager.Token{AccessToken: manager.NewSecret(text)} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func holds(t *testing.T, f *tokenfile.File, want string) {
	t.Helper()
	data, err := os.ReadFile(f.Path())
	must(t, err)
	if string(data) != want {
		t.Errorf("the file holds %q, want %q", data, want)
	}
}

func TestTemporary(t *testing.T) {
	t.Parallel()
	runtime := t.TempDir()
	for _, c := range []struct{ variable, parent string }{
		{runtime, runtime},
		{"", os.TempDir()},
		{filepath.Join(runtime, "missing"), os.TempDir()},
		{".", os.TempDir()}, // not absolute, against the rules of that variable
	} {
		f, err := tokenfile.Temporary(func(string) (string, bool) { return c.variable, true })
		must(t, err)
		if folder := filepath.Dir(f.Path()); filepath.Dir(folder) != filepath.Clean(c.parent) {
			t.Errorf("with %q: %s", c.variable, f.Path())
		}
		must(t, f.Write(token("one")))
		holds(t, f, "one")
		must(t, f.Remove())
		if _, err := os.Stat(filepath.Dir(f.Path())); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder: %v", err)
		}
	}
}

func TestAFileThatIsGoneIsWrittenAgain(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "folder")
	must(t, os.Mkdir(folder, 0o700))
	f, err := tokenfile.At(filepath.Join(folder, "token"))
	must(t, err)
	must(t, f.Write(token("one")))
	must(t, os.RemoveAll(folder))
	if err := f.Write(token("one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its folder: %v", err)
	}
	must(t, os.Mkdir(folder, 0o700))
	must(t, f.Write(token("one")))
	holds(t, f, "one")
	must(t, f.Remove())
}

// A reader that has the file open goes on with the token that it opened; the same token again isn't written.
func TestWriteReplaces(t *testing.T) {
	t.Parallel()
	f, err := tokenfile.At(filepath.Join(t.TempDir(), "token"))
	must(t, err)
	must(t, f.Write(token("one")))
	old, err := os.Open(f.Path())
	must(t, err)
	defer func() { _ = old.Close() }()
	before, err := os.Stat(f.Path())
	must(t, err)
	must(t, f.Write(token("one")))
	if after, err := os.Stat(f.Path()); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same token was written again: %v", err)
	}
	must(t, f.Write(token("another")))
	holds(t, f, "another")
	buf := make([]byte, 16)
	if n, err := old.Read(buf); err != nil || string(buf[:n]) != "one" {
		t.Errorf("the old file holds %q, %v", buf[:n], err)
	}
	must(t, f.Remove())
	if entries, err := os.ReadDir(filepath.Dir(f.Path())); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A folder that is gone is an error without the token, and no half-written file stays where it can't be renamed.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := tokenfile.At(filepath.Join(dir, "token"))
	must(t, err)
	must(t, os.Mkdir(f.Path(), 0o700)) // since
	if err := f.Write(token("sesame")); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	must(t, os.Remove(f.Path()))
	must(t, os.Remove(dir))
	if err := f.Write(token("sesame")); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("got %v", err)
	}
}

// Trouble is said when it begins, once a minute while it lasts, and when it is over; the file keeps what it held.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		f, err := tokenfile.At(path)
		must(t, err)
		must(t, f.Write(token("one")))
		var mu sync.Mutex
		next, trouble := token("two"), error(nil)
		set := func(tok *manager.Token, err error) {
			mu.Lock()
			defer mu.Unlock()
			next, trouble = tok, err
		}
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		var keeping sync.WaitGroup
		keeping.Go(func() {
			f.Keep(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(context.Context) (*manager.Token, error) {
				mu.Lock()
				defer mu.Unlock()
				return next, trouble
			})
		})
		pass := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		pass(time.Second)
		holds(t, f, "two")
		set(nil, errors.New("no luck"))
		pass(150 * time.Second)
		holds(t, f, "two")
		if n := strings.Count(log.String(), "no luck"); n != 3 {
			t.Errorf("said %d times in 150 s, want 3:\n%s", n, log.String())
		}
		set(token("three"), nil)
		pass(time.Second)
		holds(t, f, "three")
		if n := strings.Count(log.String(), "up to date again"); n != 1 {
			t.Errorf("the end is said %d times", n)
		}
		cancel()
		keeping.Wait()
	})
}
