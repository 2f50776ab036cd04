package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/store/seal"
)

// A keygenAnswer is what keygen prints as JSON where the key went into a file.
type keygenAnswer struct {
	Key  string   `json:"key"` // its id
	File string   `json:"file"`
	Keys []string `json:"keys"` // the ids of all keys in the file; the first seals
}

func (a *app) keygenCommand() *cobra.Command {
	var last, first string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that seals the secrets in Redis",
		Long: `Make a key that seals the secrets in Redis: a line of the file that sealing.keyring_file names. It goes to stdout, and is a
secret. With --append or --prepend it goes into a keyring instead, which is replaced as a whole, and made with mode 0600 where
there is none; then only its id is printed.

The first key of a keyring seals, all open. A new key comes last everywhere, then first everywhere, then onetoken rekey seals
anew what is in Redis, then the old one goes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := seal.NewKey()
			atEnd, atHead := cmd.Flags().Changed("append"), cmd.Flags().Changed("prepend")
			path, toFile := last+first, atEnd || atHead
			switch {
			case atEnd && atHead:
				return &usageError{errors.New("--append and --prepend: one of the two is enough")}
			case !toFile && a.output == "json":
				return &usageError{errors.New("--output json goes with --append or --prepend: what keygen prints without them is a line of a keyring")}
			case !toFile:
				_, err := a.stdout.Write(key.Line())
				return err
			case path == "":
				return &usageError{errors.New("--append, --prepend: the name of the file is empty")}
			}
			keys, err := addKey(path, key, atHead)
			if err != nil {
				return err
			}
			return a.answer(keygenAnswer{key.ID(), path, keys.IDs()},
				fmt.Sprintf("%s: key %s is new; its keys are now %s\n", path, key.ID(), strings.Join(keys.IDs(), ", ")))
		},
	}
	cmd.Flags().StringVar(&last, "append", "", "add the key to this keyring `file` as the last, which opens")
	cmd.Flags().StringVar(&first, "prepend", "", "add the key to this keyring `file` as the first, which seals")
	return cmd
}

// addKey adds a key to a keyring in a file, and returns that. Comments stay. Who reads the file has the old one or the new one,
// whole; of a symbolic link it is the file behind it that is replaced.
func addKey(path string, key seal.Key, first bool) (*seal.Keyring, error) {
	target, mode := path, fs.FileMode(0o600)
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, &usageError{fmt.Errorf("the keyring: %w", err)}
	default:
		if _, err := seal.Parse(old); err != nil {
			return nil, &usageError{fmt.Errorf("the keyring %s: %w", path, err)}
		}
		if target, err = filepath.EvalSymlinks(path); err != nil {
			return nil, &usageError{fmt.Errorf("the keyring: %w", err)}
		}
		info, err := os.Stat(target)
		if err != nil {
			return nil, &usageError{fmt.Errorf("the keyring: %w", err)}
		}
		mode = info.Mode().Perm()
	}
	content := append(key.Line(), old...)
	if !first {
		if len(old) > 0 && old[len(old)-1] != '\n' {
			old = append(old, '\n')
		}
		content = append(old, key.Line()...)
	}
	keys, err := seal.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("the keyring %s with the new key: %w", path, err)
	}
	if err := replaceFile(target, content, mode); err != nil {
		return nil, &usageError{fmt.Errorf("the keyring: %w", err)}
	}
	return keys, nil
}

// replaceFile has a file hold content, all of it at once and on the disk.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	next, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // of mode 0600
	if err != nil {
		return err
	}
	_, err = next.Write(content)
	err = errors.Join(err, next.Chmod(mode), next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), path)
	}
	if err != nil {
		_ = os.Remove(next.Name())
	}
	return err
}
