package opsdocs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/store/seal"
)

func TestSealing(t *testing.T) {
	t.Parallel()
	page{
		name: "sealing.md", commands: 10,
		states: map[string]state{
			"the-keyring":                        withoutKeys,
			"introduce-it-on-a-fleet-that-works": introduced,
			"change-the-key":                     keyed,
			"a-key-is-missing":                   missingKey,
		},
	}.run(t)
}

// keys writes a keyring with a new key.
func (s *sandbox) keys(name string) { s.write(name, string(seal.NewKey().Line())) }

// sealing gives the sandbox's configuration files a section.
func (s *sandbox) sealing(file, keyring, more string) {
	s.write(file, s.settings("prod", "replica: ops-1", "sealing: {keyring_file: "+keyring+more+"}"))
}

func withoutKeys(s *sandbox) { s.sealing("onetoken.yaml", "keyring", "") }

// introduced: a worker had no keys yet, and those who have them accept its token.
func introduced(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	before := s.token(m)
	s.keys("keyring")
	s.sealing("onetoken.yaml", "keyring", ", accept_unsealed: true")
	s.after = func() {
		s.sealing("strict.yaml", "keyring", "")
		if tok, err := s.ask(s.worker("worker-4", "strict.yaml").Token, "prod"); err != nil || tok.Version != before.Version {
			s.t.Errorf("got %v, %v; want %v, sealed", tok, err, before)
		}
	}
}

// keyed also sees that the new key alone opens what is there in the end, and that the file kept its mode.
func keyed(s *sandbox) {
	s.keys("keyring")
	must(s.t, os.Chmod(filepath.Join(s.dir, "keyring"), 0o600))
	s.sealing("onetoken.yaml", "keyring", "")
	before := s.token(s.worker("worker-3", "onetoken.yaml"))
	s.after = func() {
		path := filepath.Join(s.dir, "keyring")
		content, err := os.ReadFile(path)
		must(s.t, err)
		first, _, _ := strings.Cut(string(content), "\n")
		s.write("new-keyring", first+"\n")
		s.sealing("new.yaml", "new-keyring", "")
		if tok, err := s.ask(s.worker("worker-4", "new.yaml").Token, "prod"); err != nil || tok.Version != before.Version {
			s.t.Errorf("got %v, %v; want %v with the new key alone", tok, err, before)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			s.t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func missingKey(s *sandbox) {
	s.keys("keyring")
	s.keys("other-keyring")
	s.sealing("onetoken.yaml", "keyring", "")
	s.sealing("other-key.yaml", "other-keyring", "")
	s.token(s.worker("ops-1", "onetoken.yaml"))
}
