// Package tokenfile keeps an access token in a file for a program that can do no more than read one.
package tokenfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// A File holds one access token and nothing else, not even a line break, readable by its owner alone (mode 0600). Every
// write is a new file that is renamed into place: whoever opens the path gets one whole token, an old one or a new one,
// and whoever has it open goes on reading the one that it opened. Its methods are for one goroutine at a time.
type File struct {
	path   string
	folder string         // made for the file, and removed with it; "" where the path was chosen
	held   manager.Secret // what the file holds
	last   fs.FileInfo    // the file as it was written last; nil before
}

// At returns a File at a path that somebody chose. Its folder must exist; a file that is there is replaced, anything else
// is an error. Nothing is written yet.
func At(path string) (*File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(filepath.Dir(abs)); err != nil {
		return nil, fmt.Errorf("the folder of %s: %w", path, cause(err))
	} else if !info.IsDir() {
		return nil, fmt.Errorf("the folder of %s is none", path)
	}
	if info, err := os.Lstat(abs); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is there, and no regular file", path)
	}
	return &File{path: abs}, nil
}

// Temporary returns a File in a new folder of mode 0700 in $XDG_RUNTIME_DIR, which is in memory and the user's own, or in
// the system's folder for temporary files.
func Temporary(lookup func(string) (string, bool)) (*File, error) {
	parent, _ := lookup("XDG_RUNTIME_DIR")
	if info, err := os.Stat(parent); err != nil || !info.IsDir() || !filepath.IsAbs(parent) {
		parent = "" // os.TempDir's
	}
	folder, err := os.MkdirTemp(parent, "onetoken-")
	if err != nil {
		return nil, err
	}
	return &File{path: filepath.Join(folder, "token"), folder: folder}, nil
}

// Path returns the file's absolute path.
func (f *File) Path() string { return f.path }

// Write makes t's access token what the file holds. Where it is that already, nothing is written, unless the file is gone: a
// folder for temporary files is cleaned up now and then.
func (f *File) Write(t *manager.Token) error {
	if f.last != nil && f.held.Equal(t.AccessToken) && f.isThere() {
		return nil
	}
	next, err := os.CreateTemp(filepath.Dir(f.path), "."+filepath.Base(f.path)+"-") // of mode 0600
	if err != nil {
		return fmt.Errorf("the token file: %w", err)
	}
	_, err = next.WriteString(t.AccessToken.Reveal())
	info, statErr := next.Stat()
	err = errors.Join(err, statErr, next.Close())
	if err == nil {
		err = os.Rename(next.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(next.Name())
		return fmt.Errorf("the token file: %w", err)
	}
	f.held, f.last = t.AccessToken, info
	return nil
}

// isThere reports whether anything is at the path, which may be what somebody else has put there.
func (f *File) isThere() bool {
	_, err := os.Lstat(f.path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Remove removes the file, and the folder that was made for it. A file that somebody else has put in its place stays.
func (f *File) Remove() error {
	var err error
	if now, statErr := os.Lstat(f.path); f.last != nil && statErr == nil && os.SameFile(now, f.last) {
		err = os.Remove(f.path)
	}
	if f.folder != "" {
		err = errors.Join(err, os.RemoveAll(f.folder))
	}
	return err
}

// cause leaves the path out of an error that names it anyway.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// How often the source is asked, and how often at most the same trouble is logged.
const (
	lookEvery = 250 * time.Millisecond
	sayEvery  = time.Minute
)

// Keep has the file hold what next returns, until ctx is done. It asks again and again: a manager that is asked refreshes
// its token before it ends, and hears of another replica's. What goes wrong is logged, once a minute at most, and leaves
// the file as it is.
func (f *File) Keep(ctx context.Context, log *slog.Logger, next func(context.Context) (*manager.Token, error)) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var said time.Time // when trouble was logged last; zero where there is none
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		t, err := next(ctx)
		if err == nil {
			err = f.Write(t)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !said.IsZero():
			said = time.Time{}
			log.Info("the token file is up to date again", "outcome", "mended")
		case err != nil && (said.IsZero() || time.Since(said) >= sayEvery):
			said = time.Now()
			log.Error("the token file isn't up to date", "outcome", "stale", "error", err)
		}
	}
}
