package config_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/store/seal"
)

// parseIn parses a valid file in a folder, with a section at its end.
func parseIn(dir, section string) (*config.File, error) {
	return config.Parse(filepath.Join(dir, "onetoken.yaml"), []byte(prod("client_secret: x")+"\n"+section+"\n"), lookup)
}

func TestTheKeyringIsTheCodec(t *testing.T) {
	dir := t.TempDir()
	key := seal.NewKey()
	write(t, filepath.Join(dir, "keyring"), string(key.Line()))
	f, err := parseIn(dir, "sealing: {keyring_file: keyring}")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(f.SecretFiles, filepath.Join(dir, "keyring")) {
		t.Errorf("the files with secrets are %q", f.SecretFiles)
	}
	codec, err := f.Codec(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	value, err := codec.Encrypt([]byte("tok"), nil)
	if err != nil || seal.KeyID(value) != key.ID() {
		t.Errorf("got %s, %v; want it sealed with %s", value, err, key.ID())
	}
	if _, err := codec.Decrypt([]byte("in-clear"), nil); err == nil {
		t.Error("what isn't sealed is opened")
	}
	if again, err := f.Codec(nil); err != nil || again != codec {
		t.Errorf("another codec, or %v", err)
	}
	if f, err = parseIn(dir, "sealing: {keyring_file: keyring, accept_unsealed: true}"); err != nil {
		t.Fatal(err)
	}
	if codec, err = f.Codec(slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if got, err := codec.Decrypt([]byte("in-clear"), nil); err != nil || string(got) != "in-clear" {
		t.Errorf("got %q, %v", got, err)
	}
	if f, err = parseIn(dir, ""); err != nil {
		t.Fatal(err)
	}
	if codec, err = f.Codec(nil); codec != nil || err != nil {
		t.Errorf("without the section: %v, %v", codec, err)
	}
}

func TestSealingErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "short"), "k1 "+hidden)
	write(t, filepath.Join(dir, "empty"), "# none\n")
	for section, want := range map[string]string{
		"sealing: {keyring_file: short}":                         `sealing.keyring_file: "short": line 1: the key is`,
		"sealing: {keyring_file: empty}":                         `sealing.keyring_file: "empty": no key in it`,
		"sealing: {keyring_file: none}":                          `sealing.keyring_file: "none": no such file`,
		"sealing: {keyring_file: .}":                             `sealing.keyring_file: ".": no regular file`,
		"sealing: {accept_unsealed: true}":                       `sealing.keyring_file: missing`,
		"sealing: {keyring_file: short, accept_unsealed: maybe}": `sealing.`,
		"sealing: {keyring_fil: short}":                          `sealing.keyring_fil: unknown setting; did you mean keyring_file?`,
		"sealing: {}":                                            `sealing: empty`,
	} {
		_, err := parseIn(dir, section)
		if err == nil || !strings.Contains(err.Error(), ": "+want) || strings.Contains(err.Error(), hidden) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", section, err, want)
		}
	}
}

func TestAKeyringThatBreaksIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "keyring")
		write(t, path, string(seal.NewKey().Line()))
		f, err := parseIn(dir, "sealing: {keyring_file: keyring}")
		if err != nil {
			t.Fatal(err)
		}
		var logged bytes.Buffer
		codec, err := f.Codec(slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		use := func(content string) {
			t.Helper()
			write(t, path, content)
			<-time.After(2 * time.Second)
			if _, err := codec.Encrypt(nil, nil); err != nil {
				t.Error(err)
			}
		}
		use("k1 " + hidden)
		newer := seal.NewKey()
		use(string(newer.Line()))
		for _, want := range []string{"level=WARN", "outcome=reload_failed", path, "level=INFO", "outcome=reloaded key=" + newer.ID()} {
			if !strings.Contains(logged.String(), want) {
				t.Errorf("%s isn't in the log:\n%s", want, logged.String())
			}
		}
		if strings.Contains(logged.String(), hidden) {
			t.Errorf("the key is in the log:\n%s", logged.String())
		}
	})
}
