package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often a file is looked at for a change, at most; and for how long after a change its time doesn't tell
// whether there was another.
const lookEvery = time.Second

// A watched value comes from files, which are read again when they have changed, by whoever uses the value then. What is
// broken, or half written, changes nothing.
type watched[T any] struct {
	log   *slog.Logger
	parse func([][]byte) (T, error)
	paths []string

	current atomic.Pointer[T]
	next    atomic.Int64 // look again after: nanoseconds since base
	base    time.Time

	mu    sync.Mutex // guards what follows, and is held while the files are read
	stats []fs.FileInfo
	young bool   // they had only just changed
	wrong string // the last error that was logged
}

// watch reads a value from files for the first time: each must be there, and nobody but its owner may write it.
func watch[T any](log *slog.Logger, parse func([][]byte) (T, error), paths ...string) (*watched[T], error) {
	w := &watched[T]{log: log, parse: parse, paths: paths, base: time.Now()}
	if err := w.read(); err != nil {
		return nil, err
	}
	w.next.Store(int64(lookEvery))
	return w, nil
}

// get returns the value as it is now.
func (w *watched[T]) get() T {
	now := int64(time.Since(w.base))
	if next := w.next.Load(); now >= next && w.next.CompareAndSwap(next, now+int64(lookEvery)) {
		w.look()
	}
	return *w.current.Load()
}

// look reads the files again if they may have changed.
func (w *watched[T]) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.changedLocked() {
		return
	}
	err := w.readLocked()
	switch {
	case err == nil:
		if w.wrong != "" {
			w.log.Info("a file that was broken is mended", "outcome", "reloaded", "file", w.paths)
		}
		w.wrong = ""
	case err.Error() != w.wrong:
		w.wrong = err.Error()
		w.log.Warn("a file that has changed can't be used: what it held before still counts", "outcome", "reload_failed", "error", err)
	}
}

func (w *watched[T]) changedLocked() bool {
	if w.young || w.wrong != "" || len(w.stats) != len(w.paths) {
		return true
	}
	for i, path := range w.paths {
		now, err := os.Stat(path)
		if err != nil || !os.SameFile(now, w.stats[i]) || now.Size() != w.stats[i].Size() || !now.ModTime().Equal(w.stats[i].ModTime()) {
			return true
		}
	}
	return false
}

func (w *watched[T]) read() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.readLocked()
}

func (w *watched[T]) readLocked() error {
	var contents [][]byte
	var stats []fs.FileInfo
	w.young = false
	for _, path := range w.paths {
		data, info, err := readFile(path)
		if err != nil {
			return err
		}
		w.young = w.young || time.Since(info.ModTime()).Abs() < 2*lookEvery
		contents, stats = append(contents, data), append(stats, info)
	}
	v, err := w.parse(contents)
	if err != nil {
		return fmt.Errorf("%s: %w", w.paths[0], err)
	}
	w.stats = slices.Clone(stats)
	w.current.Store(&v)
	return nil
}

// readFile reads a small file, and refuses one that others may write: they would decide who gets tokens.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // to open a pipe would block
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("no regular file")}
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		return nil, nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("others may write it (mode %04o): chmod go-w", info.Mode().Perm())}
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return data, info, err
}

// warnIfReadable tells of a file with a secret that everybody may read: in a container that may be as it should.
func warnIfReadable(log *slog.Logger, path string) {
	if info, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0 {
		log.Warn("everybody on this machine may read a file that holds a secret", "outcome", "permissions", "file", path)
	}
}
