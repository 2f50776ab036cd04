package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/oauth2/clientcredentials"
)

// edited replaces the site's file by one that is changed, as an editor does: whoever reads it finds the old or the new one.
func (s *site) edited(change func(file string) string) {
	s.t.Helper()
	path := strings.TrimPrefix(s.env[0], "ONETOKEN_CONFIG=")
	file, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(change(string(file))), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
}

// added is a further environment, for the end of the file.
func (s *site) added(name, secret string) string {
	return fmt.Sprintf("  %s: {token_url: %q, client_id: %s, client_secret: %q, scopes: [a]}\n", name, s.url+"/token", clientID, secret)
}

// logs waits until the agent has logged so much more since the test began.
func (s *served) logs(what string, n int) {
	s.t.Helper()
	eventually(s.t, what, func() bool { return strings.Count(s.stderr.String(), what) >= n })
}

// reloads has the agent read its file again, for the nth time.
func (s *served) reloads(n int) {
	s.t.Helper()
	s.signal(syscall.SIGHUP)
	s.logs("outcome=config_reloaded", n)
}

func (s *served) token(env string) (int, string) {
	s.t.Helper()
	status, fields := ask(s.t, http.DefaultClient, "GET", s.listen[0]+"/v1/environments/"+env+"/token")
	token, _ := fields["access_token"].(string)
	return status, token
}

// endpoint asks the agent's token endpoint of an environment.
func (s *served) endpoint(env, id, secret string) error {
	c := clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: s.listen[0] + "/v1/environments/" + env + "/oauth2/token"}
	_, err := c.Token(s.t.Context())
	return err
}

func TestServeTakesOverItsConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	reports := filepath.Join(t.TempDir(), "reports")
	if err := os.WriteFile(reports, []byte("secret-of-reports"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startServe(t, s.env, "--listen", "127.0.0.1:0")
	status, prod := a.token("prod")
	if status != 200 {
		t.Fatalf("got %d; %s", status, a.stderr.String())
	}
	if status, _ := a.token("tenant"); status != 404 {
		t.Errorf("tenant, before: %d", status)
	}

	s.edited(func(file string) string { return file + s.added("tenant", clientSecret) })
	a.reloads(1)
	if status, _ := a.token("tenant"); status != 200 {
		t.Errorf("tenant: %d; %s", status, a.stderr.String())
	}
	calls := s.endpoint.Calls()
	if _, again := a.token("prod"); again != prod {
		t.Error("prod, which is as it was, has another token")
	}

	s.edited(func(file string) string {
		return strings.Replace(file, s.added("tenant", clientSecret), s.added("tenant", "another-secret"), 1) +
			fmt.Sprintf("agent: {clients: [{id: reports, secret_file: %q, environments: [tenant]}]}\n", reports)
	})
	a.reloads(2)
	if err := a.endpoint("tenant", clientID, "another-secret"); err != nil {
		t.Errorf("with the new secret: %v", err)
	}
	if err := a.endpoint("tenant", clientID, clientSecret); err == nil {
		t.Error("the old secret still counts")
	}
	if err := a.endpoint("tenant", "reports", "secret-of-reports"); err != nil {
		t.Errorf("the new client: %v", err)
	}
	if n := s.endpoint.Calls() - calls; n != 0 {
		t.Errorf("%d calls of the endpoint, though every token is still good", n)
	}

	whole := ""
	s.edited(func(file string) string {
		whole = file
		return strings.Replace(file, "scopes: [a]", "lease: soon", 1)
	})
	a.signal(syscall.SIGHUP)
	a.logs("outcome=config_failed", 1)
	if status, _ := a.token("tenant"); status != 200 {
		t.Errorf("after a file with a mistake: %d", status)
	}

	s.edited(func(string) string {
		file, _, _ := strings.Cut(whole, "agent:")
		return "namespace: other\nreplica: other\n" + strings.Replace(file, s.added("tenant", "another-secret"), "", 1)
	})
	a.reloads(3)
	if status, _ := a.token("tenant"); status != 404 {
		t.Errorf("tenant, which was removed: %d", status)
	}
	if _, again := a.token("prod"); again != prod {
		t.Error("prod, which is as it was, has another token")
	}
	if status, row := ask(t, http.DefaultClient, "GET", a.listen[0]+"/v1/environments/tenant"); status != 200 || row["version"] == nil {
		t.Errorf("what is in Redis of tenant: %d %v", status, row)
	}

	log := a.end()
	for _, want := range []string{
		`level=INFO msg="an environment was added" replica=`, `outcome=env_added env=tenant`,
		`outcome=env_changed env=tenant`, `outcome=env_removed env=tenant`,
		`onetoken.yaml:8: environments.tenant.lease: `, `level=WARN msg="the configuration has settings that count after a restart only"`,
		`settings="namespace, replica"`,
	} {
		if strings.Count(log, want) != 1 {
			t.Errorf("the log has %q %d times", want, strings.Count(log, want))
		}
	}
	if n := strings.Count(log, "level=ERROR"); n != 1 {
		t.Errorf("%d errors are logged", n)
	}
	for _, secret := range append(s.endpoint.Issued(), clientSecret, "another-secret", "secret-of-reports") {
		if strings.Contains(log, secret) {
			t.Errorf("a secret is in the log")
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}

// A file that is changed is read again where that is wanted; and so, until it can be used, is one that names a file which isn't
// there yet.
func TestServeWatchesItsConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := startServe(t, s.env, "--listen", "127.0.0.1:0", "--watch-config")
	secret := filepath.Join(t.TempDir(), "secret")
	s.edited(func(file string) string {
		return file + strings.Replace(s.added("tenant", secret), "client_secret:", "client_secret_file:", 1)
	})
	a.logs("outcome=config_failed", 1)
	if err := os.WriteFile(secret, []byte(clientSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	a.logs("outcome=env_added env=tenant", 1)
	if status, _ := a.token("tenant"); status != 200 {
		t.Errorf("tenant: %d", status)
	}
	if log := a.end(); strings.Count(log, "outcome=config_reloaded") != 1 || strings.Count(log, "outcome=config_failed") != 1 {
		t.Errorf("more is logged than that it could not be used, and then could: %s", log)
	}
}

// The new environments are on the page and in the list though names are searched for in Redis now and then only.
func TestTheListHasWhatWasJustAdded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := startServe(t, s.env, "--listen", "127.0.0.1:0")
	rows := func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.listen[0]+"/v1/environments", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if strings.Contains(rows(), "tenant") {
		t.Error("tenant is there already")
	}
	s.edited(func(file string) string { return file + s.added("tenant", clientSecret) })
	a.reloads(1)
	if !strings.Contains(rows(), `"tenant"`) {
		t.Error("tenant isn't in the list")
	}
}
