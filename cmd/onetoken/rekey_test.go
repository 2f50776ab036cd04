package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/store/seal"
)

// keyring is a path in a folder of its own.
func keyringPath(t *testing.T) string { return filepath.Join(t.TempDir(), "keyring") }

// keygen runs keygen with a flag for the file, and returns the id of the new key.
func keygen(t *testing.T, flag, path string) string {
	t.Helper()
	var answer struct {
		Key, File string
		Keys      []string
	}
	out := run(t, nil, "keygen", flag, path, "--output=json").succeeds(t)
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.File != path || answer.Key == "" {
		t.Fatalf("got %s, %v", out, err)
	}
	want := answer.Keys[0]
	if flag == "--append" {
		want = answer.Keys[len(answer.Keys)-1]
	}
	if answer.Key != want {
		t.Errorf("%s puts %s into %q", flag, answer.Key, answer.Keys)
	}
	return answer.Key
}

// sealing returns the site with a keyring.
func (s *site) sealing(path string, accept bool) *site {
	s.t.Helper()
	old := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	content, err := os.ReadFile(old)
	if err != nil {
		s.t.Fatal(err)
	}
	next := filepath.Join(s.t.TempDir(), "onetoken.yaml")
	section := fmt.Sprintf("sealing: {keyring_file: %q, accept_unsealed: %v}\n", path, accept)
	if err := os.WriteFile(next, append(content, section...), 0o600); err != nil {
		s.t.Fatal(err)
	}
	other := *s
	other.env = append([]string{"ONETOKEN_CONFIG=" + next}, s.env[1:]...)
	return &other
}

func (s *site) accessToken() string {
	s.t.Helper()
	return s.rdb.HGet(s.t.Context(), "onetoken:{prod}:token", "access_token").Val()
}

func TestKeygenPrintsALineOfAKeyring(t *testing.T) {
	t.Parallel()
	first := run(t, nil, "keygen").succeeds(t)
	if !regexp.MustCompile(`^k-[a-z2-7]{8} [A-Za-z0-9_-]{43}\n$`).MatchString(first) {
		t.Errorf("got %q", first)
	}
	second := run(t, nil, "keygen").succeeds(t)
	if ring, err := seal.Parse([]byte(first + second)); err != nil || ring.SealingKey() != strings.Fields(first)[0] {
		t.Errorf("got %v, %v", ring, err)
	}
	run(t, nil, "keygen", "--output=json").fails(t, 2)
	run(t, nil, "keygen", "--append=").fails(t, 2)
	run(t, nil, "keygen", "--append=a", "--prepend=a").fails(t, 2)
	run(t, nil, "keygen", "x").fails(t, 2)
}

func TestKeygenAddsToAFile(t *testing.T) {
	t.Parallel()
	path := keyringPath(t)
	a := keygen(t, "--append", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v; want mode 0600", info.Mode(), err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	commented := "# ours\n" + strings.TrimSuffix(string(content), "\n") // without its line break
	if err := os.WriteFile(path, []byte(commented), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	b := keygen(t, "--append", link)
	c := keygen(t, "--prepend", path)
	content, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := seal.Parse(content)
	if got, want := fmt.Sprint(ring), "keyring of "+strings.Join([]string{c, a, b}, ", "); err != nil || got != want || !strings.Contains(string(content), commented) {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link is none any more: %v, %v", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640, as it was", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	text := run(t, nil, "keygen", "--append", path).succeeds(t)
	if !strings.Contains(text, c+", "+a+", "+b+", ") || strings.Contains(text, strings.Fields(string(content))[1]) {
		t.Errorf("got %q", text)
	}
}

func TestKeygenLeavesABrokenFileAlone(t *testing.T) {
	t.Parallel()
	path := keyringPath(t)
	const broken = "k1 tooshort\n"
	if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	line := run(t, nil, "keygen", "--append", path).fails(t, 2)
	if content, err := os.ReadFile(path); err != nil || string(content) != broken || !strings.Contains(line, path) || !strings.Contains(line, "line 1") || strings.Contains(line, "tooshort") {
		t.Errorf("%s; the file is %q, %v", line, content, err)
	}
	line = run(t, nil, "keygen", "--append", filepath.Join(path, "under")).fails(t, 2)
	if !strings.Contains(line, path) {
		t.Errorf("%s doesn't name the file", line)
	}
}

func TestWithAKeyringTheTokenIsSealed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := keyringPath(t)
	key := keygen(t, "--append", path)
	sealed := s.sealing(path, false)
	got := sealed.run("get", "prod").succeeds(t)
	if raw := s.accessToken(); seal.KeyID([]byte(raw)) != key || strings.Contains(raw, strings.TrimSpace(got)) {
		t.Errorf("Redis has %s, want it sealed with %s", raw, key)
	}
	if again := sealed.run("get", "prod").succeeds(t); again != got || s.endpoint.Calls() != 1 {
		t.Errorf("another token after %d calls", s.endpoint.Calls())
	}
	if out := sealed.run("status", "prod", "--check").succeeds(t); !strings.Contains(out, "fresh") {
		t.Errorf("got %s", out)
	}
	// Without the keys: a token is known to be there, and isn't handed out.
	out := run(t, nil, "status", "prod", "--check", s.redisURL()).succeeds(t)
	if !strings.Contains(out, "fresh") || strings.Contains(out, "sealed1") {
		t.Errorf("got %s", out)
	}
	out = s.run("status", "prod").succeeds(t)
	if !strings.Contains(out, "conflict") || !strings.Contains(out, key) {
		t.Errorf("got %s, want conflict and the name of the key %s", out, key)
	}
	if other := s.run("get", "prod").succeeds(t); strings.Contains(other, "sealed1") || s.endpoint.Calls() != 2 || !s.endpoint.Accepts(strings.TrimSpace(other)) {
		t.Errorf("without keys, get prints %s after %d calls", other, s.endpoint.Calls())
	}
	run(t, nil, "invalidate", "prod", s.redisURL()).succeeds(t)
}

func TestDoctorNamesTheMissingKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path, other := keyringPath(t), keyringPath(t)
	key := keygen(t, "--append", path)
	keygen(t, "--append", other)
	s.sealing(path, false).run("get", "prod").succeeds(t)
	findings := func(r result) string {
		var lines []string
		var all []struct{ Check, Level, Message string }
		if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
			t.Fatalf("%v: %s", err, r.stdout)
		}
		for _, f := range all {
			if strings.Contains(f.Message, "sealed") {
				lines = append(lines, f.Check+" "+f.Level+" "+f.Message)
			}
		}
		return strings.Join(lines, "\n")
	}
	if got := findings(s.sealing(other, false).run("doctor", "--output=json")); !strings.HasPrefix(got, "redis.keys warning") || !strings.Contains(got, key) || strings.Contains(got, "\n") {
		t.Errorf("got %q, want one warning that names %s", got, key)
	}
	if got := findings(run(t, nil, "doctor", "--output=json", s.redisURL())); !strings.HasPrefix(got, "redis.keys ok not looked at") {
		t.Errorf("without keys: got %q", got)
	}
	if got := findings(s.sealing(path, false).run("doctor", "--output=json")); got != "" {
		t.Errorf("with the key: got %q", got)
	}
}

func TestRekey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := keyringPath(t)
	// A fleet without keys, of which one has a grant, gets some.
	got := s.run("get", "prod").succeeds(t)
	s.run("get", "test").succeeds(t)
	old := keygen(t, "--append", path)
	strict, accepting := s.sealing(path, false), s.sealing(path, true)
	r := strict.run("rekey", "prod")
	if r.code != 1 || !strings.Contains(r.stderr, "access_token of prod (access_token doesn't open: it isn't sealed)") || !strings.Contains(r.stdout, "unopened") {
		t.Errorf("exit code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	out := accepting.run("rekey", "--dry-run").succeeds(t)
	if want := `(?s)prod +access_token +- +old\ntest +access_token +- +old\n`; !regexp.MustCompile(want).MatchString(out) || s.accessToken() != strings.TrimSpace(got) {
		t.Errorf("got %s, want %s and nothing changed", out, want)
	}
	out = accepting.run("rekey").succeeds(t)
	if want := `^ENVIRONMENT +SECRET +KEY +OUTCOME\nprod +access_token +` + old + ` +resealed, it wasn't sealed\ntest .*\n` + old + ` seals; `; !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got %s, want %s", out, want)
	}
	if again := strict.run("get", "prod").succeeds(t); again != got {
		t.Error("it is another token")
	}

	// Then another key.
	ring, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Parse(ring)
	if err != nil {
		t.Fatal(err)
	}
	value, err := keys.Encrypt([]byte("the-refresh-token"), []byte("onetoken\x00prod\x00refresh_token\x005"))
	if err != nil {
		t.Fatal(err)
	}
	s.rdb.HSet(t.Context(), "onetoken:{prod}:grant", "refresh_token", value, "version", "5")
	newer := keygen(t, "--prepend", path)
	out = strict.run("rekey", "prod", "--output=json").succeeds(t)
	want := fmt.Sprintf(`{
  "key": %[1]q,
  "fields": [
    {
      "environment": "prod",
      "field": "access_token",
      "outcome": "resealed",
      "was": %[2]q,
      "key": %[1]q,
      "error": null
    },
    {
      "environment": "prod",
      "field": "refresh_token",
      "outcome": "resealed",
      "was": %[2]q,
      "key": %[1]q,
      "error": null
    }
  ],
  "unused": null
}
`, newer, old)
	if out != want {
		t.Errorf("got %s, want %s", out, want)
	}
	out = strict.run("rekey", "--dry-run").succeeds(t)
	if want := `prod +access_token +` + newer + ` +current\nprod +refresh_token +` + newer + ` +current\ntest +access_token +` + old + ` +old\n` + newer + ` seals; there is no key that isn't needed\n$`; !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got %s, want %s", out, want)
	}
	out = strict.run("rekey").succeeds(t)
	if want := `test +access_token +` + newer + ` +resealed, it was ` + old + `\n` + newer + ` seals; nothing is sealed with ` + old + `: `; !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("got %s, want %s", out, want)
	}
	// The old one goes.
	only := keyringPath(t)
	if ring, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(ring), "\n")
	if err := os.WriteFile(only, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := s.sealing(only, false).run("get", "prod").succeeds(t); again != got || s.endpoint.Calls() != 2 {
		t.Errorf("another token, or more than 2 calls: %d", s.endpoint.Calls())
	}
}

func TestRekeySaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if line := s.run("rekey").fails(t, 2); !strings.Contains(line, "sealing.keyring_file: missing") {
		t.Errorf("got %s", line)
	}
	path := keyringPath(t)
	keygen(t, "--append", path)
	sealed := s.sealing(path, false)
	if line := sealed.run("rekey", "prdo").fails(t, 2); !strings.Contains(line, "prdo") {
		t.Errorf("got %s", line)
	}
	if line := sealed.run("rekey", "--redis-url=redis://127.0.0.1:1").fails(t, 3); !strings.Contains(line, "Redis") {
		t.Errorf("got %s", line)
	}
	if got, want := sealed.run("rekey", "--output=json").succeeds(t), "\"fields\": []"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestABadKeyringIsAnErrorAtTheStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := keyringPath(t)
	line := s.sealing(path, false).run("get", "prod").fails(t, 2)
	if !strings.Contains(line, "sealing.keyring_file") || !strings.Contains(line, path) || !strings.Contains(line, "no such file") {
		t.Errorf("got %s", line)
	}
	if err := os.WriteFile(path, []byte("k1 bm90LWEta2V5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"get prod", "status", "invalidate prod", "rekey", "refresh prod", "serve --listen 127.0.0.1:0"} {
		line = s.sealing(path, false).run(strings.Fields(command)...).fails(t, 2)
		if !strings.Contains(line, "onetoken.yaml:8: sealing.keyring_file: ") || !strings.Contains(line, "line 1: the key is 9 bytes long, not 32") || strings.Contains(line, "bm90") {
			t.Errorf("%s: %s", command, line)
		}
	}
	if s.endpoint.Calls() != 0 {
		t.Error("a token was fetched")
	}
}
