package seal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	lookEvery = time.Second // between two looks at the file, while the keys are in use
	largest   = 1 << 20     // bytes of a file
)

// FileOptions are for [Open]. The zero value will do.
type FileOptions struct {
	// AcceptUnsealed is [Keyring.AcceptUnsealed].
	AcceptUnsealed bool

	// Reloaded is called when the file has changed: with nil where its keys are in use from now on, and else with why not; the
	// last good ones then stay in use. It is called once for each change, on whichever goroutine has noticed it.
	Reloaded func(error)
}

// A File is a keyring in a file, which is read again when it changes: replaced by another, swapped by a symbolic link (as
// Kubernetes does), or written anew. While its keys are in use it is looked at once a second, and whenever a value names a key
// that isn't known. What is broken, empty or gone changes nothing. A File has no goroutine, needs no closing, and is safe for
// concurrent use.
type File struct {
	path    string
	options FileOptions
	opened  time.Time
	ring    atomic.Pointer[Keyring]
	looked  atomic.Int64 // when the file was looked at last, since opened

	mu   sync.Mutex // guards seen, and is held while the file is read, which nobody else waits for but who needs another key
	seen string     // what the file was at the last look, a digest or the error
}

// Open reads the keyring in the file. The error names the file, and repeats nothing of what is in it.
func Open(path string, o FileOptions) (*File, error) {
	f := &File{path: path, options: o, opened: time.Now()}
	data, err := read(path)
	if err == nil {
		var ring *Keyring
		if ring, err = f.parse(data); err == nil {
			f.ring.Store(ring)
			f.seen = digest(data)
			return f, nil
		}
	}
	return nil, fmt.Errorf("seal: %s: %w", path, err)
}

func (f *File) parse(data []byte) (*Keyring, error) {
	ring, err := Parse(data)
	if err == nil && f.options.AcceptUnsealed {
		ring = ring.AcceptUnsealed()
	}
	return ring, err
}

// read reads a file whole. Its errors leave the path out.
func read(path string) ([]byte, error) {
	data, err := func() ([]byte, error) {
		if info, err := os.Stat(path); err != nil {
			return nil, err
		} else if !info.Mode().IsRegular() {
			return nil, errors.New("no regular file")
		}
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		return io.ReadAll(io.LimitReader(file, largest+1))
	}()
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, pathError.Err
	}
	if err == nil && len(data) > largest {
		err = fmt.Errorf("longer than %d bytes", largest)
	}
	return data, err
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return string(sum[:])
}

// Keyring returns the keys that are in use now.
func (f *File) Keyring() *Keyring {
	now, last := int64(time.Since(f.opened)), f.looked.Load()
	if now-last >= int64(lookEvery) && f.looked.CompareAndSwap(last, now) {
		f.reload()
	}
	return f.ring.Load()
}

// reload takes what is in the file, where that has changed and is good.
func (f *File) reload() {
	changed, err := f.look()
	if err != nil {
		err = fmt.Errorf("seal: %s: %w", f.path, err)
	}
	if changed && f.options.Reloaded != nil {
		f.options.Reloaded(err)
	}
}

func (f *File) look() (changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := read(f.path)
	seen := digest(data)
	if err != nil {
		seen = err.Error()
	}
	if seen == f.seen {
		return false, nil
	}
	f.seen = seen
	if err != nil {
		return true, err
	}
	ring, err := f.parse(data)
	if err == nil {
		f.ring.Store(ring)
	}
	return true, err
}

// IDs is that of the keyring in use.
func (f *File) IDs() []string { return f.Keyring().IDs() }

// SealingKey is that of the keyring in use.
func (f *File) SealingKey() string { return f.Keyring().SealingKey() }

// KeyID is the function [KeyID].
func (*File) KeyID(value []byte) string { return KeyID(value) }

// Encrypt is that of the keyring in use.
func (f *File) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	return f.Keyring().Encrypt(plaintext, associatedData)
}

// Decrypt is that of the keyring in use or, where that doesn't have the key, of the one that is in the file by now.
func (f *File) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	ring := f.Keyring()
	plaintext, err := ring.Decrypt(ciphertext, associatedData)
	if !errors.Is(err, ErrUnknownKey) {
		return plaintext, err
	}
	f.reload()
	if newer := f.ring.Load(); newer != ring {
		return newer.Decrypt(ciphertext, associatedData)
	}
	return nil, err
}
