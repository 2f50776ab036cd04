package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// exampleVariables are those that the example file needs.
var exampleVariables = []string{"CAMPAIGNFLOW_PROD_CLIENT_ID=the-id", "CAMPAIGNFLOW_PROD_CLIENT_SECRET=" + clientSecret}

// A checked is what config check says in JSON.
type checked struct {
	File         string `json:"file"`
	OK           bool   `json:"ok"`
	Environments int    `json:"environments"`
	Problems     []struct {
		Line    int    `json:"line"`
		Setting string `json:"setting"`
		Message string `json:"message"`
	} `json:"problems"`
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "onetoken.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What config example prints passes config check, wherever the file is named.
func TestConfigExampleIsChecked(t *testing.T) {
	t.Parallel()
	example := run(t, nil, "config", "example").succeeds(t)
	path := writeConfig(t, example)
	want := path + ": ok: 1 environment\n"
	for _, args := range [][]string{{"config", "check", path}, {"config", "check", "--config", path}, {"--config=/nowhere", "config", "check", path}} {
		if got := run(t, exampleVariables, args...).succeeds(t); got != want {
			t.Errorf("%v: got %q, want %q", args, got, want)
		}
	}
	if got := run(t, append(exampleVariables, "ONETOKEN_CONFIG="+path), "config", "check").succeeds(t); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var got checked
	out := run(t, exampleVariables, "config", "check", path, "--output", "json").succeeds(t)
	if err := json.Unmarshal([]byte(out), &got); err != nil || !got.OK || got.File != path || got.Environments != 1 || got.Problems == nil || len(got.Problems) > 0 {
		t.Errorf("got %s, %v", out, err)
	}
}

// One problem is an error as that of any command; of several there is a list. None repeats a secret.
func TestConfigCheckFindsProblems(t *testing.T) {
	t.Parallel()
	environment := func(name, lines string) string {
		return "  " + name + ":\n    base_url: https://api.example.com\n    client_id: x\n    client_secret: " + clientSecret + "\n" + lines
	}
	const top = "redis: {url: redis://localhost}\nenvironments:\n"
	for name, c := range map[string]struct {
		content string
		want    []string // without the file's name
	}{
		"a syntax error":                    {"redis: [\n", []string{":2: not YAML: did not find expected node content, while parsing a flow node that begins in line 2"}},
		"a misspelt name":                   {top + environment("prod", "    leese: 6s\n"), []string{":7: environments.prod.leese: unknown setting; did you mean lease?"}},
		"what the manager finds":            {top + environment("prod", "    lease: 1h\n"), []string{":7: environments.prod.lease: 1h0m0s is not between 1s and 10m0s"}},
		"no Redis":                          {"environments:\n" + environment("prod", ""), []string{": redis.url: missing; --redis-url or $ONETOKEN_REDIS_URL gives one, too"}},
		"a file that isn't there":           {top + environment("prod", "    private_key_file: not-there\n"), []string{`:7: environments.prod.private_key_file: "not-there": no such file or directory`}},
		"an unset variable":                 {top + environment("prod", "    key_id: ${NOT_THERE}\n"), []string{":7: environments.prod.key_id: the environment variable NOT_THERE is not set"}},
		"several that the manager finds":    {top + environment("a", "    lease: 1h\n") + environment("b", "") + environment("c", "    scopes: [a b]\n"), []string{":7: environments.a.lease: 1h0m0s is not between 1s and 10m0s", `:16: environments.c.scopes: "a b" is no scope (RFC 6749 §3.3)`}},
		"several that the parser finds":     {top + environment("a", "    lease: 1\n") + environment("b", "    keep_warm: 1\n"), []string{`:7: environments.a.lease: "1" is no duration (6s, 500ms, 2m)`, `:12: environments.b.keep_warm: "1" is neither true nor false`}},
		"what is about no environment":      {"replica: a|b\n" + top + environment("a", "") + environment("b", ""), []string{`:1: replica: "a|b" is not 1 to 128 printable ASCII characters without space, "|", "," or quotes`}},
		"a secret where it doesn't belong":  {top + environment("prod", "    outage: "+clientSecret+"-not\n    token_url: https://u:"+clientSecret+"@x/\n"), nil},
		"a number that is none, in Redis's": {"redis: {url: 'redis://:" + clientSecret + "@h:x'}\nenvironments:\n" + environment("prod", ""), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeConfig(t, c.content)
			r := run(t, nil, "config", "check", path)
			line := strings.TrimSuffix(r.stderr, "\n")
			if r.code != 2 || line == "" || strings.Contains(line, "\n") {
				t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
			}
			var want []string
			for _, w := range c.want {
				want = append(want, path+w)
			}
			switch len(want) {
			case 0: // the secret alone is looked for; but for a word that isn't one it may be quoted
				if strings.Contains(strings.ReplaceAll(r.stderr+r.stdout, clientSecret+"-not", ""), clientSecret) {
					t.Errorf("a secret shows: %s%s", r.stdout, r.stderr)
				}
			case 1:
				if r.stdout != "" || line != "onetoken: "+want[0] {
					t.Errorf("stdout %q, stderr %q; want %q", r.stdout, line, want[0])
				}
			default:
				if r.stdout != strings.Join(want, "\n")+"\n" || line != "onetoken: "+path+": 2 problems" {
					t.Errorf("stdout %q, stderr %q; want %q", r.stdout, line, want)
				}
			}
			var got checked
			out := run(t, nil, "config", "check", path, "--output", "json").stdout
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.OK || len(c.want) > 0 && len(got.Problems) != len(c.want) {
				t.Errorf("got %s, %v", out, err)
			}
		})
	}
}

func TestConfigSchema(t *testing.T) {
	t.Parallel()
	out := run(t, nil, "config", "schema").succeeds(t)
	var schema struct {
		Schema     string                     `json:"$schema"`
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal([]byte(out), &schema); err != nil || schema.Schema != "https://json-schema.org/draft/2020-12/schema" || schema.Properties["environments"] == nil {
		t.Errorf("got %.300s, %v", out, err)
	}
}

func TestConfigUsage(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`onetoken: config: unknown command "chek"; check, schema and example are known`: {"config", "chek"},
		`onetoken: accepts at most 1 arg(s), received 2`:                                {"config", "check", "a", "b"},
		`onetoken: unknown command "x" for "onetoken config schema"`:                    {"config", "schema", "x"},
	} {
		if got := run(t, nil, args...).fails(t, 2); got != want {
			t.Errorf("%v: got %q, want %q", args, got, want)
		}
	}
	if got := run(t, nil, "__complete", "config", "").stdout; !strings.Contains(got, "check\t") || !strings.Contains(got, "schema\t") || !strings.Contains(got, "example\t") {
		t.Errorf("completion of config: %q", got)
	}
	if got := run(t, nil, "__complete", "config", "check", "").stdout; !strings.HasPrefix(got, "yaml\nyml\n:8\n") {
		t.Errorf("completion of config check: %q", got)
	}
}
