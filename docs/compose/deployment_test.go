package compose_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// blocks returns the blocks of docs/deployment.md in one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	var list []string
	for _, m := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```").FindAllStringSubmatch(read(t, "../deployment.md"), -1) {
		list = append(list, m[1])
	}
	return list
}

// The commands in the examples are ones that there are, with flags that there are; docker-compose takes the example of a
// sidecar.
func TestTheExamplesOfDeployment(t *testing.T) {
	t.Parallel()
	examples := blocks(t, "yaml")
	if len(examples) != 2 {
		t.Fatalf("docs/deployment.md has %d blocks of YAML, want 2", len(examples))
	}
	var commands [][]string
	for _, text := range examples {
		var document any
		if err := yaml.Unmarshal([]byte(text), &document); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, wordsIn(document)...)
	}
	if len(commands) != 6 { // two agents, the health check of one and the three probes of the other
		t.Errorf("the commands are %q", commands)
	}
	for _, words := range commands {
		if words[0] == "onetoken" {
			words = words[1:]
		}
		help := exec.CommandContext(t.Context(), binaries.onetoken, append(slices.Clone(words), "--help")...)
		if out, err := help.CombinedOutput(); err != nil || !strings.Contains(string(out), "onetoken "+words[0]) {
			t.Errorf("%q: %v: %s", words, err, out)
		}
	}
	path := filepath.Join(t.TempDir(), "docker-compose.yml")
	if err := os.WriteFile(path, []byte("version: \"3.8\"\n"+examples[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	check := exec.CommandContext(t.Context(), programs.Need(t, "docker-compose"), "--file", path, "config", "--quiet")
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("docker-compose config: %v: %s", err, out)
	}
}

// wordsIn returns all that a YAML document has under command, args and test, which are lists of words.
func wordsIn(node any) [][]string {
	var found [][]string
	switch node := node.(type) {
	case map[string]any:
		for key, value := range node {
			list, ok := value.([]any)
			if !ok || key != "command" && key != "args" && key != "test" {
				found = append(found, wordsIn(value)...)
				continue
			}
			var words []string
			for _, word := range list {
				words = append(words, word.(string))
			}
			if words[0] == "CMD" {
				words = words[1:]
			}
			found = append(found, words)
		}
	case []any:
		for _, value := range node {
			found = append(found, wordsIn(value)...)
		}
	}
	return found
}

// The unit's command, with its credentials and its socket, as a process.
func TestTheUnitStarts(t *testing.T) {
	units := blocks(t, "ini")
	if len(units) != 1 {
		t.Fatalf("docs/deployment.md has %d units, want 1", len(units))
	}
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/onetoken (.*)$`).FindStringSubmatch(units[0])
	if m == nil {
		t.Fatal("the unit starts something else")
	}
	rdb := redistest.Mini(t)
	endpoint := mockendpoint.New(mockendpoint.Options{ClientID: "demo", ClientSecret: "hunter2-hunter2"})
	t.Cleanup(endpoint.Close)
	server := httptest.NewServer(endpoint)
	t.Cleanup(server.Close)

	s := &site{t: t, dir: shortDir(t)}
	credentials, config := s.folder("credentials"), filepath.Join(s.dir, "onetoken.yaml")
	for _, c := range regexp.MustCompile(`(?m)^LoadCredential=(\w+):`).FindAllStringSubmatch(units[0], -1) {
		if err := os.WriteFile(filepath.Join(credentials, c[1]), []byte("hunter2-hunter2\n"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	text := "redis: {url: \"redis://" + rdb.Options().Addr + "\"}\nenvironments:\n  prod:\n    token_url: " + server.URL +
		"/token\n    client_id: demo\n    client_secret_file: ${CREDENTIALS_DIRECTORY}/client_secret\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.here("/etc/onetoken/onetoken.yaml", config)
	s.here("/run/onetoken", s.folder("run"))
	environment := append(s.environment(""), "CREDENTIALS_DIRECTORY="+credentials)
	agent := s.start("agent", binaries.onetoken, strings.Fields(s.translate(m[1])), environment)
	address := agent.says(`(?m)^unix:\S+$`)
	if address != s.translate("unix:/run/onetoken/agent.sock") {
		t.Errorf("it listens at %s", address)
	}
	out, err := s.command(binaries.onetoken, []string{"healthcheck", address, "--timeout", "30s"}, s.environment("")).CombinedOutput()
	if err != nil {
		t.Errorf("healthcheck: %v: %s", err, out)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix:"))
	}}}
	answer, err := client.Get("http://localhost/v1/environments/prod/token")
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("the answer is %s", answer.Status)
	}
}
