package interop_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What docs/agent.md shows of clients in other languages is what the tests run, and the switches that it names are theirs.
func TestTheDocsShowWhatIsRun(t *testing.T) {
	page := read(t, "../../docs/agent.md")
	scripts := map[string]string{"js": "clients/openid-client.mjs", "py": "clients/requests_client.py"}
	blocks := regexp.MustCompile("(?s)```(js|py)\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(blocks) != len(scripts) {
		t.Fatalf("%d blocks were found, want %d", len(blocks), len(scripts))
	}
	for _, b := range blocks {
		script := read(t, scripts[b[1]])
		for line := range strings.Lines(b[2]) {
			if !strings.Contains(script, line) {
				t.Errorf("%s doesn't have the line %q", scripts[b[1]], line)
			}
		}
	}
	run := read(t, "clients_test.go") + read(t, "clients/openid-client.mjs")
	for _, switched := range []string{"OAUTHLIB_INSECURE_TRANSPORT=1", "OAUTHLIB_RELAX_TOKEN_SCOPE=1", "client.allowInsecureRequests(config)", "OAUTH_RESPONSE_IS_NOT_CONFORM"} {
		if !strings.Contains(page, switched) || !strings.Contains(run, switched) {
			t.Errorf("%s isn't both in the page and in what is run", switched)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
