package agent_test

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/agent"
)

const (
	keyOne = "first-key-0123456789"
	keyTwo = "second-key-012345678"
)

func bearer(key string) change { return header("Authorization", "Bearer "+key) }

func TestKeys(t *testing.T) {
	t.Parallel()
	path := secretFile(t, keyOne+"\n\n  "+keyTwo+"\r\n")
	s := newSite(t, options{agent: func(o *agent.Options) { withPage(o); o.KeyFile = path }})
	protected := []string{"/", "/v1/environments", prod, prod + "/token", "/metrics", "/v1/nothing", "/nothing", "/assets/page.css"}
	for _, p := range protected {
		a := s.get(p)
		a.isProblem(401, "no_key")
		if got := a.header.Values("WWW-Authenticate"); len(got) != 2 || !strings.HasPrefix(got[0], "Bearer ") || !strings.HasPrefix(got[1], "Basic ") {
			t.Errorf("%s: WWW-Authenticate %q", p, got)
		}
		for _, key := range []change{bearer(keyOne), bearer(keyTwo), header("Authorization", "bearer "+keyOne), basic("anyone", keyOne)} {
			if a := s.get(p, key); a.status == 401 {
				t.Errorf("%s with a key: %d", p, a.status)
			}
		}
	}
	for _, p := range []string{"/healthz", "/readyz"} {
		if a := s.get(p); a.status != 200 {
			t.Errorf("%s: %d", p, a.status)
		}
	}
	for _, wrong := range []change{
		bearer("x"), bearer(keyOne + "x"), bearer(keyOne[:10]), basic(keyOne, "x"), header("Authorization", keyOne),
		header("Authorization", "Bearer "+keyOne, "Bearer "+keyOne), header("Authorization", "Digest "+keyOne),
	} {
		s.get(prod+"/token", wrong).isProblem(401, "no_key")
	}
	s.do("POST", prod+"/invalidate", "").isProblem(401, "no_key")
	if text := s.logged.String() + s.seen.String(); strings.Contains(text, keyOne) || strings.Contains(text, keyTwo) {
		t.Error("a key is in the log or in an answer")
	}
}

func TestKeysAreReadAgain(t *testing.T) {
	t.Parallel()
	path := secretFile(t, keyOne)
	s := newSite(t, options{agent: func(o *agent.Options) { o.KeyFile = path }})
	replaceFile(t, path, "short\n") // broken: the old one counts
	eventually(t, "it is logged", func() bool {
		if a := s.get(prod+"/token", bearer(keyOne)); a.status != 200 {
			t.Fatalf("with the old key: %d", a.status)
		}
		return strings.Contains(s.logged.String(), "reload_failed")
	})
	replaceFile(t, path, keyTwo)
	eventually(t, "the new key counts", func() bool {
		a := s.get(prod+"/token", bearer(keyTwo))
		return a.status == 200
	})
	s.unheld(func() reply { return s.get(prod+"/token", bearer(keyOne)) }).isProblem(401, "no_key")
	if n := strings.Count(s.logged.String(), "reload_failed"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestBadKeyFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file",
		dir:                           "no regular file",
		write("empty", "\n\n", 0o600): "there is no key in it",
		write("short", keyOne+"\nshort\n", 0o600):      "line 2: a key has at least 16 characters",
		write("spaces", "key with some spaces", 0o600): "line 1: a key is printable ASCII without spaces",
		write("writable", keyOne, 0o620):               "others may write it (mode 0620): chmod go-w",
		write("writable-by-all", keyOne, 0o602):        "others may write it (mode 0602): chmod go-w",
	} {
		if runtime.GOOS == "windows" && strings.HasPrefix(want, "others") {
			continue
		}
		_, err := agent.New(agent.Options{Manager: s.kit.Manager, Overview: overviewOf(s), KeyFile: path})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "agent: key_file: ") {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), keyOne) || strings.Contains(err.Error(), "some spaces")) {
			t.Errorf("a key is in it: %v", err)
		}
	}
	_, err := agent.New(agent.Options{Manager: s.kit.Manager, Overview: overviewOf(s), Clients: []agent.Client{{ID: "x", SecretFile: write("none", "\n", 0o600)}}})
	if err == nil || !strings.HasPrefix(err.Error(), "agent: clients: \"x\": secret_file: ") {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatAllMayReadIsToldOf(t *testing.T) {
	t.Parallel()
	path := secretFile(t, keyOne)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, options{agent: func(o *agent.Options) { o.KeyFile = path }})
	if runtime.GOOS != "windows" && !strings.Contains(s.logged.String(), "everybody on this machine may read") {
		t.Errorf("logged: %s", s.logged.String())
	}
}

func TestKeysCantBeGuessedForLong(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: func(o *agent.Options) { o.KeyFile = secretFile(t, keyOne) }})
	held := false
	for range 200 {
		a := s.get(prod+"/token", bearer("guess-0123456789"))
		if held = a.status == http.StatusTooManyRequests; held {
			a.isProblem(429, "too_many_failures")
			if a.header.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %v", a.header)
			}
			break
		}
	}
	if !held {
		t.Error("200 guesses")
	}
	if a := s.get(prod+"/token", bearer(keyOne)); a.status != 200 { // the rightful, at the same address
		t.Errorf("with the key: %d", a.status)
	}
	s.get(prod+"/token").isProblem(401, "no_key") // that is no guess
}

// An environment may have any name, and a path may be written in many ways: none of them goes past the keys.
func TestNoPathGoesPastTheKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{
		names: []string{"prod", "oauth2", "token", "healthz"},
		agent: func(o *agent.Options) { withPage(o); o.KeyFile = secretFile(t, keyOne) },
	})
	for _, path := range []string{
		"/v1/environments/oauth2/token", "/v1/environments/token/token", "/v1/environments/healthz/token", "/v1/environments/oauth2",
		"/v1/environments/x%2Foauth2%2Ftoken", "/v1/environments/prod%2Foauth2/token", "/v1/environments/prod/%74oken",
		"/v1/environments%2Fprod/oauth2/token", "/v1/environments/a/b/oauth2/token", "/v1/environments//oauth2/token",
		"/healthz/", "/healthz/../v1/environments", "/v1/environments/x/../prod/token?/oauth2/token", "/v1/environments/prod/token;/oauth2/token",
	} {
		s.get(path).isProblem(401, "no_key")
	}
	s.do("POST", "/v1/environments/oauth2/oauth2/token", grant, own()).isGranted()
	s.do("POST", "/v1/environments/oauth2/refresh", "").isProblem(401, "no_key")
}
