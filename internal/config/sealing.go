package config

import (
	"errors"
	"log/slog"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

// Sealing says how secrets in Redis are sealed.
type Sealing struct {
	KeyringFile    string // "" means that they aren't
	AcceptUnsealed bool

	codec store.Codec // made by Codec, once
}

// keyringPath is the path of a keyring that can be read.
func (v value) keyringPath() string {
	path := v.secretPath()
	if path == "" {
		return ""
	}
	if _, err := seal.Open(path, seal.FileOptions{}); err != nil {
		v.fail("%q: %w", printable.Line(v.node.Value, 200), errors.Unwrap(err)) // without the path that it has, too
	}
	return path
}

// Codec returns the codec of the keyring, the same each time, or nil where nothing is sealed. That the keyring has changed, or
// is broken, is logged.
func (f *File) Codec(logger *slog.Logger) (store.Codec, error) {
	s := &f.Sealing
	if s.codec != nil || s.KeyringFile == "" {
		return s.codec, nil
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	var keys *seal.File
	keys, err := seal.Open(s.KeyringFile, seal.FileOptions{AcceptUnsealed: s.AcceptUnsealed, Reloaded: func(err error) {
		if err != nil {
			logger.Warn("the keyring has changed and can't be used: the keys that were read before stay", "outcome", "reload_failed", "error", err)
		} else {
			logger.Info("the keyring was read again", "outcome", "reloaded", "key", keys.SealingKey())
		}
	}})
	if err != nil {
		return nil, &Error{File: f.Path, Line: f.lines["sealing.keyring_file"], Setting: "sealing.keyring_file", Err: err}
	}
	s.codec = keys
	return keys, nil
}
