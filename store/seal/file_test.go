package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/store/seal"
)

// A folder with a keyring, and what was reported of it.
type folder struct {
	t       *testing.T
	path    string
	mu      sync.Mutex
	reports []error
}

func newFolder(t *testing.T, keys ...seal.Key) *folder {
	f := &folder{t: t, path: filepath.Join(t.TempDir(), "keyring")}
	f.replace(lines(keys...))
	return f
}

func lines(keys ...seal.Key) string {
	var b bytes.Buffer
	for _, k := range keys {
		b.Write(k.Line())
	}
	return b.String()
}

func (f *folder) replace(content string) {
	f.t.Helper()
	next := f.path + ".new"
	f.must(os.WriteFile(next, []byte(content), 0o600))
	f.must(os.Rename(next, f.path))
}

func (f *folder) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) open(accept bool) *seal.File {
	f.t.Helper()
	file, err := seal.Open(f.path, seal.FileOptions{AcceptUnsealed: accept, Reloaded: func(err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.reports = append(f.reports, err)
	}})
	f.must(err)
	return file
}

// later lets the time between two looks pass. It is for a bubble.
func later() {
	<-time.After(1100 * time.Millisecond)
}

func (f *folder) wantKeys(file *seal.File, ids ...string) {
	f.t.Helper()
	if got := strings.Join(file.IDs(), " "); got != strings.Join(ids, " ") {
		f.t.Errorf("got the keys %s, want %q", got, ids)
	}
}

// reported checks how many reports there were since the last call, and that the last is an error or none.
func (f *folder) reported(n int, failed bool) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.reports) != n || n > 0 && (f.reports[n-1] != nil) != failed {
		f.t.Errorf("reported %v; want %d, the last an error: %v", f.reports, n, failed)
	}
	f.reports = nil
}

func TestAFileIsReadAgainWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := seal.NewKey(), seal.NewKey()
		f := newFolder(t, a)
		file := f.open(false)
		f.wantKeys(file, a.ID())
		later()
		f.wantKeys(file, a.ID())
		f.reported(0, false)

		f.replace(lines(b, a))
		later()
		f.wantKeys(file, b.ID(), a.ID())
		f.reported(1, false)

		f.must(os.WriteFile(f.path, []byte(lines(a, b)), 0o600)) // in place, with the same length
		later()
		f.wantKeys(file, a.ID(), b.ID())
		f.reported(1, false)
	})
}

func TestABrokenFileChangesNothingAndIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := seal.NewKey()
		f := newFolder(t, a)
		file := f.open(false)
		for _, content := range []string{"", "k1 " + good[:20], lines(a, a)} {
			f.replace(content)
			for range 3 {
				later()
				f.wantKeys(file, a.ID())
			}
			f.mu.Lock()
			if len(f.reports) == 1 && (!strings.Contains(f.reports[0].Error(), f.path) || strings.Contains(f.reports[0].Error(), good[:20])) {
				t.Errorf("reported %v", f.reports[0])
			}
			f.mu.Unlock()
			f.reported(1, true)
		}
		f.must(os.Remove(f.path))
		for range 3 {
			later()
			f.wantKeys(file, a.ID())
		}
		f.reported(1, true)
		f.replace(lines(a)) // as it was
		later()
		f.wantKeys(file, a.ID())
		f.reported(1, false)
	})
}

// As the kubelet does: the file is a link into a folder that is a link, and that one is swapped.
func TestASwappedLinkIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := seal.NewKey(), seal.NewKey()
		dir := t.TempDir()
		f := &folder{t: t, path: filepath.Join(dir, "keyring")}
		version := func(name string, keys ...seal.Key) {
			f.must(os.Mkdir(filepath.Join(dir, name), 0o700))
			f.must(os.WriteFile(filepath.Join(dir, name, "keyring"), []byte(lines(keys...)), 0o600))
			f.must(os.Symlink(name, filepath.Join(dir, "..data_tmp")))
			f.must(os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		}
		version("..1", a)
		f.must(os.Symlink(filepath.Join("..data", "keyring"), f.path))
		file := f.open(false)
		version("..2", b, a)
		f.must(os.RemoveAll(filepath.Join(dir, "..1")))
		later()
		f.wantKeys(file, b.ID(), a.ID())
	})
}

// A value with a key that came into the file a moment ago opens at once.
func TestAnUnknownKeyIsLookedForInTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := seal.NewKey(), seal.NewKey()
		f := newFolder(t, a)
		file := f.open(true)
		value := sealed(t, ring(t, b), "1", "x")
		if _, err := file.Decrypt(value, []byte("x")); !errors.Is(err, seal.ErrUnknownKey) {
			t.Errorf("got %v", err)
		}
		f.replace(lines(a, b))
		if got, err := file.Decrypt(value, []byte("x")); err != nil || string(got) != "1" {
			t.Errorf("got %q, %v", got, err)
		}
		f.reported(1, false)
		if got, err := file.Decrypt([]byte("in-clear"), nil); err != nil || string(got) != "in-clear" {
			t.Errorf("read again, it accepts nothing unsealed any more: %q, %v", got, err)
		}
	})
}

func TestOpenNamesTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("k1 "+good[:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, bytes.Repeat([]byte("#\n"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file", dir: "no regular file", broken: "line 1: the key is", large: "longer than",
	} {
		file, err := seal.Open(path, seal.FileOptions{})
		if file != nil || err == nil || !strings.HasPrefix(err.Error(), "seal: "+path+": ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), good[:20]) {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
}

func TestAFileIsForManyAtOnce(t *testing.T) {
	t.Parallel()
	a, b := seal.NewKey(), seal.NewKey()
	f := newFolder(t, a, b)
	file := f.open(false)
	unknown := sealed(t, ring(t, seal.NewKey()), "1", "x") // each has the file read
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				if i == 0 {
					f.replace(lines(b, a))
					f.replace(lines(a, b))
				}
				value, err := file.Encrypt([]byte("1"), []byte("x"))
				if err != nil {
					t.Error(err)
				}
				if got, err := file.Decrypt(value, []byte("x")); err != nil || string(got) != "1" {
					t.Errorf("got %q, %v", got, err)
				}
				if _, err := file.Decrypt(unknown, []byte("x")); !errors.Is(err, seal.ErrUnknownKey) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	wg.Wait()
}
