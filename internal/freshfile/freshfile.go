// Package freshfile keeps what is made of files up to date: secrets, keys and certificates that somebody else replaces
// while the program runs.
package freshfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// MaxSize is how long a file may be: none of those read here is anywhere near it.
const MaxSize = 1 << 20

// settled is how old a file's last change must be for its time to tell one content from the next: file systems count in
// steps of up to two seconds.
const settled = 2 * time.Second

// A File is a path and the setting that names it, which errors begin with.
type File struct{ Setting, Path string }

// A Value is made of the contents of some files, and made again when one of them changes: is replaced atomically, is
// written to, or stands behind a symbolic link that is turned. A new version that can't be read, or that nothing can be
// made of, is left aside for the last good one: it may be half written. It is safe for concurrent use.
type Value[T any] struct {
	files []File
	parse func(contents ...[]byte) (T, error)

	mu     sync.Mutex // guards what follows, while the files are looked at, too
	states []state
	value  T
	err    error // why the files' newest version isn't value; nil where it is
}

// state is a file as it was when it was last read.
type state struct {
	info      fs.FileInfo
	content   []byte
	unsettled bool // it was changed so shortly before that its next change may not show
}

// Open reads the files and makes the first value, of contents in the files' order. parse may be called at any time, by one
// goroutine at once; it must not keep the contents. The error names setting and path, in one line; parse's own follows.
func Open[T any](parse func(contents ...[]byte) (T, error), files ...File) (*Value[T], error) {
	v := &Value[T]{files: slices.Clone(files), parse: parse, states: make([]state, len(files))}
	if err := v.read(); err != nil {
		return nil, err
	}
	return v, nil
}

// Get returns the value as the files have it now. An error says why the files' newest version is not what is returned:
// the last good one always is.
func (v *Value[T]) Get() (T, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed() {
		v.err = v.read()
	}
	return v.value, v.err
}

// changed reports whether a file may be another than the one that was read.
func (v *Value[T]) changed() bool {
	for i, f := range v.files {
		was := v.states[i]
		switch now, err := os.Stat(f.Path); {
		case was.info == nil || err != nil:
			return true
		case !was.info.Mode().IsRegular() && os.SameFile(was.info, now):
			// A pipe (of a shell's <(…)) is read once: there is nothing in it a second time.
		case was.unsettled || !same(was.info, now):
			return true
		}
	}
	return false
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read makes the value of the files as they are. What it can't make leaves everything as it was, but for what was learnt
// of the files: the same broken version isn't read twice.
func (v *Value[T]) read() error {
	states := make([]state, len(v.files))
	contents := make([][]byte, len(v.files))
	for i, f := range v.files {
		if was := v.states[i]; was.info != nil && !was.info.Mode().IsRegular() {
			states[i] = was
		} else {
			s, err := load(f.Path)
			if err != nil {
				v.states[i].unsettled = true // it may come back as it was
				return fmt.Errorf("%s: %s: %w", f.Setting, quote(f.Path), err)
			}
			states[i] = s
		}
		contents[i] = bytes.Clone(states[i].content)
	}
	v.states = states
	value, err := v.parse(contents...)
	if err != nil {
		return fmt.Errorf("%s: %w", v.name(), err)
	}
	v.value = value
	return nil
}

// name is the settings and the paths, as an error about all of them begins.
func (v *Value[T]) name() string {
	var settings, paths []string
	for _, f := range v.files {
		settings, paths = append(settings, f.Setting), append(paths, quote(f.Path))
	}
	return strings.Join(settings, ", ") + ": " + strings.Join(paths, ", ")
}

func quote(path string) string { return `"` + printable.Line(path, 200) + `"` }

// load reads a file that stays the same meanwhile.
func load(path string) (state, error) {
	f, err := os.Open(path)
	if err != nil {
		return state{}, reason(err)
	}
	defer func() { _ = f.Close() }()
	before, err := f.Stat()
	if err != nil {
		return state{}, reason(err)
	}
	if before.IsDir() {
		return state{}, errors.New("is a directory")
	}
	now := time.Now()
	content, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return state{}, reason(err)
	}
	after, err := f.Stat()
	switch {
	case err != nil:
		return state{}, reason(err)
	case before.Mode().IsRegular() && !same(before, after):
		return state{}, errors.New("is being written")
	case len(content) > MaxSize:
		return state{}, errors.New("is longer than 1 MiB")
	case len(bytes.TrimSpace(content)) == 0:
		return state{}, errors.New("is empty")
	}
	return state{after, content, now.Sub(after.ModTime()) < settled}, nil
}

// reason leaves out the path, which stands before it already.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Line is the parse of a file that holds one text, a secret for instance: the line break at its end is no part of it.
func Line(contents ...[]byte) (string, error) {
	text := strings.TrimRight(string(contents[0]), "\r\n")
	if text == "" {
		return "", errors.New("is empty")
	}
	return text, nil
}
