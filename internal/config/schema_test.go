package config_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/config"
)

// compiled is the schema in a validator that nobody here wrote.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("onetoken.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("onetoken.schema.json") // which checks it by the draft's own schema
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate returns what the schema has against a file, as an editor would see it.
func validate(schema *jsonschema.Schema, content string) error {
	var file any
	if err := yaml.Load([]byte(content), &file); err != nil {
		return err
	}
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return schema.Validate(instance)
}

// accepted returns the first thing that onetoken has against a file.
func accepted(content string) error {
	f, err := parseAnything(content)
	if err != nil {
		return err
	}
	nowhere := redis.NewClient(&redis.Options{
		Dialer:     func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
		MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer func() { _ = nowhere.Close() }()
	m, err := f.Manager(nowhere, nil)
	if err == nil {
		err = m.Close()
	}
	return err
}

// parseAnything parses with all variables set.
func parseAnything(content string) (*config.File, error) {
	return config.Parse("onetoken.yaml", []byte(content), func(name string) (string, bool) {
		return cmp.Or(map[string]string{"YES": "true", "EIGHTY": "80", "HTTPS": "https"}[name], "some-text"), true
	})
}

// onlyFilesAreMissing reports whether all that is wrong is that files which a file names aren't on this machine.
func onlyFilesAreMissing(err error) bool {
	first, ok := errors.AsType[*config.Error](err)
	if !ok {
		return false
	}
	for _, e := range append([]*config.Error{first}, first.Others...) {
		if !errors.Is(e, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// The example is valid as it is, and with any one of its lines that are commented out.
func TestExample(t *testing.T) {
	schema := compiled(t)
	example := string(config.Example())
	if err := validate(schema, example); err != nil {
		t.Errorf("the schema: %v", err)
	}
	if err := accepted(example); err != nil {
		t.Errorf("onetoken: %v", err)
	}
	out := regexp.MustCompile(`^#( *)([a-z_]+):`) // a remark has one space after its "#", and a capital or a mark
	lines := strings.Split(example, "\n")
	tried := 0
	for i, line := range lines {
		m := out.FindStringSubmatch(line)
		if m == nil || len(m[1]) == 1 {
			continue
		}
		changed := slices.Clone(lines)
		changed[i] = line[1:]
		inPlaceOf := map[string]string{
			"addresses": "url", "master_name": "url", "issuer": "base_url", "token_url": "base_url", "client_secret_file": "client_secret",
		}
		if other := inPlaceOf[m[2]]; other != "" {
			for j, l := range changed {
				if strings.HasPrefix(l, m[1]+other+":") {
					changed[j] = "#" + l
				}
			}
		}
		// What is in a section needs its heading, which needs something in it.
		for j := i - 1; j >= 0 && len(m[1]) > 0; j-- {
			if p := out.FindStringSubmatch(lines[j]); p != nil && len(p[1]) < len(m[1]) && strings.HasSuffix(lines[j], ":") {
				changed[j] = lines[j][1:]
				break
			} else if lines[j] != "" && lines[j][0] != '#' && len(lines[j])-len(strings.TrimLeft(lines[j], " ")) < len(m[1]) && !strings.HasPrefix(strings.TrimSpace(lines[j]), "#") {
				break
			}
		}
		if strings.HasSuffix(line, ":") {
			continue // tried with what is in it
		}
		// Those that need another one.
		text := strings.Join(changed, "\n")
		for name, needed := range map[string]string{
			"client_cert_file": "client_key_file", "client_key_file": "client_cert_file", "cert_file": "key_file", "key_file": "cert_file",
			"actor_token_file": "subject_token_file", "master_name": "addresses", "accept_unsealed": "keyring_file",
		} {
			if name == m[2] {
				text = regexp.MustCompile(`(?m)^#(`+m[1]+needed+`:)`).ReplaceAllString(text, "$1")
			}
		}
		tried++
		if err := validate(schema, text); err != nil {
			t.Errorf("%s: the schema: %v", line, err)
		}
		if _, err := parseAnything(text); err != nil && !onlyFilesAreMissing(err) {
			t.Errorf("%s: onetoken: %v", line, err)
		}
	}
	if tried < 60 {
		t.Errorf("only %d lines were tried", tried)
	}
}

// Every configuration in the documentation, and those of this repository, is one that editors and onetoken take.
func TestDocumentedConfigurations(t *testing.T) {
	schema := compiled(t)
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	deeper, err := filepath.Glob("../../docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```ya?ml\n(.*?)^```")
	found := map[string]string{}
	for _, page := range slices.Concat([]string{"../../README.md"}, pages, deeper) {
		for _, m := range block.FindAllStringSubmatch(readFile(t, page), -1) {
			line, _, _ := strings.Cut(m[1], "\n")
			found[page+": "+line] = m[1]
		}
	}
	for _, path := range []string{"../../docs/compose/onetoken.yaml", "../../docs/onetoken.example.yaml"} {
		found[path] = readFile(t, path)
	}
	checked := 0
	for name, content := range found {
		var file map[string]any
		if err := yaml.Load([]byte(content), &file); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		known := []string{"redis", "namespace", "replica", "sealing", "environments", "agent"}
		if slices.ContainsFunc(slices.Collect(maps.Keys(file)), func(key string) bool { return !slices.Contains(known, key) }) {
			continue // of another program
		}
		if file["environments"] == nil {
			content = "environments: {prod: {base_url: https://a.example, client_id: x, client_secret: y}}\n" + content
		}
		checked++
		if err := validate(schema, content); err != nil {
			t.Errorf("%s: the schema: %v", name, err)
		}
		if _, err := parseAnything(content); err != nil && !onlyFilesAreMissing(err) {
			t.Errorf("%s: onetoken: %v", name, err)
		}
	}
	if checked < 4 {
		t.Errorf("only %d configurations were found", checked)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What onetoken takes, the schema takes, and what one refuses, the other does; but for what a schema can't know.
func TestSchemaAndParserAgree(t *testing.T) {
	schema := compiled(t)
	env := func(lines ...string) string {
		return "environments:\n  prod:\n    base_url: https://api.example.com/api/v2\n    client_id: x\n    client_secret: y\n    " +
			strings.Join(lines, "\n    ") + "\n"
	}
	top := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" + env() }
	whole := func(lines ...string) string {
		return "environments:\n  prod:\n    " + strings.Join(lines, "\n    ") + "\n"
	}
	for _, content := range []string{
		env(), env("allow_http: true"), env(`allow_http: "true"`), env("allow_http: ${YES}"), env("allow_http: yes"), env("allow_http: 1"), env("allow_http:"),
		env("lease: 6s"), env("lease: 6"), env(`lease: "6s"`), env("lease: 1.5s"), env("lease: .5m"), env("lease: 1s500ms"), env("lease: 0s"), env("lease: 0"), env("lease: -1s"), env("lease: 6 s"),
		env("lease: six"), env("lease: [6s]"), env("lease: {a: 6s}"), env("lease: 6d"), env("lease: s"), env("lease: null"), env("lease: ''"), env("max_life: 99999µs99h"),
		env("refresh_at: 80%"), env("refresh_at: 0.8"), env(`refresh_at: "0.8"`), env("refresh_at: 80"), env("refresh_at: 10%"), env("refresh_at: 0.1"), env("refresh_at: 100%"), env("refresh_at: 1"),
		env("refresh_at: 50%"), env("refresh_at: 99.9%"), env("refresh_at: ${EIGHTY}%"), env("refresh_at: x"), env("refresh_at: true"),
		env("backoff: 2s"), env("backoff: {min: 2s}"), env("backoff: {min: 2s, max: 3s}"), env("backoff: {max: 3s, most: 1s}"), env("backoff: {}"), env("backoff: [1s]"), env("backoff: 2"), env("backoff: {min: 2}"),
		env("outage: fail"), env("outage: refresh_alone"), env("outage: FAIL"), env("outage: [fail]"), env("outage: true"),
		env("auth_method: client_secret_post"), env("auth_method: basic"), env("auth_method: none of them"), env("grant: client_credentials"), env("grant: password"), env("grant: 1"),
		env("scopes: a"), env("scopes: [a, b]"), env("scopes: []"), env("scopes: [a, '']"), env("scopes: {a: b}"), env("scopes: [[a]]"), env("scopes: 1"), env("scopes: [a, 1, true]"), env("scopes: [null]"),
		env("params: {a: b}"), env("params: {a: [b, c]}"), env("params: {a: {b: c}}"), env("params: {}"), env("params: a"), env("params: {a: []}"), env("params: {a: 1}"), env("params: {a: null}"), env("params: {a: '${'}"),
		env("secret_params: {a: b}"), env("secret_params: {a: [b]}"), env("headers: {X-A: b}"), env("headers: {X-A: [b]}"), env("headers: X-A"), env("secret_headers: {X-A: b}"), env("secret_headers: [a]"),
		env("origins: https://a.example"), env("origins: [https://a.example, x]"), env("origins: ['http://[::1]:80']"), env("origins: ${HTTPS}://${Y}"),
		env("token_url: https://x/token"), env("token_url: HTTPS://x:8443/token?a=b"), env("token_url: x/token"), env("token_url: ftp://x"), env("token_url: https:///x"), env("token_url: https://u:p@x/"), env("token_url: 1"),
		env("token_url: https://"), env("token_url: 'https://x y/'"), env("token_url: https://x:y/"), env("token_url: 'https://x/$${A}'"), env("token_url: 'https://x/${'"), env("token_url: [https://x]"),
		env("client_id: y"), env("client-id: y"), env("colour: red"), env("key_id: 1"), env("key_id: true"), env("key_id: [a]"), env("key_id: ''"), env("key_id: '${'"), env("key_id: '${1}'"), env("key_id: $${"),
		env("key_id: '${A}'"), env("key_id: 'a$b$'"), env("key_id: '${A'"), env("key_id: '$$${A'"), env("key_id: $"), env("key_id: '${A}${'"), env("key_id: '$a{}'"),
		env("client_secret_file: testdata/secret"), env("refresh_token: a", "refresh_token_file: testdata/secret"), env("refresh_token: a"), env("refresh_token: {a: b}"),
		env("issuer: https://a.example"), env("issuer: x"),
		env("assertion: {subject: a}"), env("assertion: {}"), env("assertion: a"), env("assertion: {sub: a}"), env("assertion: {life: 1}"), env("assertion: {life: 1m, claims: {a: [1, {b: null}, true, '', 1.5]}}"),
		env("assertion: {claims: a}"), env("assertion: {claims: {}}"), env("assertion: {claims: [a]}"),
		env("client_cert_file: testdata/secret"), env("client_key_file: testdata/secret"), env("client_cert_file: [a, b]"), env("actor_token_file: testdata/secret"),
		env("actor_token_file: testdata/secret", "subject_token_file: testdata/secret"), env("authorization_url: a"), env("revocation_url: https://a.example/r"), env("device_authorization_url: ''"),
		whole("base_url: https://a.example", "client_id: x"), whole("base_url: https://a.example", "client_secret: x"), whole("client_id: x", "client_secret: y"),
		whole("base_url: https://a.example", "client_id: x", "auth_method: client_secret_post"),
		"environments: {}\n", "environments: []\n", "environments: {prod: {}}\n", "environments:\n", "environments: {prod: x}\n", "enviroments: {}\n", "- a\n", "a\n", "{}\n",
		strings.Replace(env(), "prod", "pr od", 1), strings.Replace(env(), "prod", "'é'", 1), strings.Replace(env(), "prod", "A.b_c-1", 1), strings.Replace(env(), "prod", strings.Repeat("x", 129), 1),
		top("namespace: a.b"), top("namespace: a b"), top("namespace: 1"), top("namespace: [a]"), top("namespace: ''"), top("namespace: ${X}"), top("replica: a"), top("replica: {}"), top("unknown: 1"),
		top("redis: {url: redis://localhost}"), top("redis: redis://localhost"), top("redis: {}"), top("redis: {db: 1}"), top("redis: {url: [a:1, b:2]}"), top("redis: {url: []}"), top("redis: {url: redis://a, addresses: [a:1]}"),
		top("redis: {addresses: a:1}"), top("redis: {addresses: [a:1], master_name: m}"), top("redis: {url: redis://a, db: 3}"), top("redis: {url: redis://a, db: -1}"), top("redis: {url: redis://a, db: '3'}"), top("redis: {url: redis://a, db: 1.5}"), top("redis: {url: redis://a, db: x}"),
		top("redis: {url: redis://a, db: true}"), top("redis: {url: redis://a, password: a, password_file: testdata/secret}"), top("redis: {url: redis://a, password_file: testdata/secret}"), top("redis: {url: redis://a, password: 1}"), top("redis: {url: redis://a, passwort: a}"),
		top("redis: {url: redis://a, tls: true}"), top("redis: {url: redis://a, tls: maybe}"), top("redis: {url: redis://a, tls: {server_name: a}}"), top("redis: {url: redis://a, tls: {}}"), top("redis: {url: redis://a, tls: {insecure: true}}"),
		top("redis: {url: redis://a, tls: {key_file: testdata/secret}}"), top("redis: {url: redis://a, tls: [true]}"),
		top("sealing: {keyring_file: k}"), top("sealing: {keyring_file: k, accept_unsealed: true}"), top("sealing: {accept_unsealed: true}"), top("sealing: {}"), top("sealing: k"), top("sealing: {keyring_file: k, accept_unsealed: no}"),
		top("agent: {listen: a}"), top("agent: {listen: [a, b], allow_remote: false}"), top("agent: {}"), top("agent: {liste: a}"), top("agent: {hosts: []}"), top("agent: {clients: []}"), top("agent: {clients: [{id: a}]}"),
		top("agent: {clients: [{id: a, secret_file: b, environments: [prod]}]}"), top("agent: {clients: {id: a, secret_file: b, environments: prod}}"), top("agent: {clients: [{id: a, secret_file: b, environments: [prod], x: y}]}"), top("agent: {clients: a}"),
	} {
		bySchema, byParser := validate(schema, content), accepted(content)
		if byParser != nil && (onlyFilesAreMissing(byParser) || strings.Contains(byParser.Error(), "has no effect")) {
			byParser = nil // with the file, or with another grant, it would be fine: a schema can't know
		}
		if (bySchema == nil) != (byParser == nil) {
			t.Errorf("%s\nthe schema: %v\nonetoken: %v", content, bySchema, byParser)
		}
	}
	// What the manager then makes of these depends on files.
	for _, content := range []string{
		whole("token_url: https://a.example", "client_id: x", "client_secret_file: testdata/secret"),
		whole("issuer: https://a.example", "client_id: x", "auth_method: none", "grant: token_exchange", "subject_token_file: testdata/secret", "subject_token_type: access_token"),
		whole("issuer: https://a.example", "client_id: x", "auth_method: private_key_jwt", "private_key_file: testdata/secret", "key_id: 1", "signing_algorithm: ES256"),
		whole("issuer: https://a.example", "client_id: x", "auth_method: ${METHOD}", "client_secret: x"),
		whole("base_url: https://a.example", "client_id: x", "auth_method: tls_client_auth", "client_cert_file: testdata/secret", "client_key_file: testdata/secret", "ca_file: testdata/secret"),
		whole("base_url: https://a.example", "client_id: x", "client_secret: y", "grant: refresh_token", "refresh_token_file: testdata/secret"),
		whole("base_url: https://a.example", "client_id: x", "auth_method: none", "grant: jwt_bearer", "assertion: {file: testdata/secret}"),
		whole("base_url: https://a.example", "client_id: x", "auth_method: client_secret_basic"),
		whole("base_url: https://a.example", "client_id: x", "auth_method: [none]"),
		whole("base_url: https://a.example", "auth_method: none"),
		whole("base_url: https://a.example", "grant: jwt_bearer", "client_secret: x"),
		whole("base_url: https://a.example", "auth_method: none", "grant: jwt_bearer", "private_key_file: testdata/secret"),
		whole("token_url: https://a.example", "issuer: https://a.example", "auth_method: none", "grant: jwt_bearer", "private_key_file: testdata/secret"),
	} {
		bySchema := validate(schema, content)
		if _, byParser := parseAnything(strings.Replace(content, "${METHOD}", "none", 1)); (bySchema == nil) != (byParser == nil) {
			t.Errorf("%s\nthe schema: %v\nonetoken: %v", content, bySchema, byParser)
		}
	}
	for _, c := range []struct{ why, content string }{
		{"a variable's value", env("allow_http: ${X}")},
		{"YAML's merging", env("<<: {}")},
		{"two settings' values together", env("backoff: {min: 9s, max: 5s}")},
		{"a range that the manager knows", env("lease: 1h")},
		{"what is allowed elsewhere", strings.Replace(env(), "https://", "http://", 1)},
		{"the client's own rules", top("redis: {url: 'http://a'}")},
		{"the client's own rules", top("redis: {url: redis://a, master_name: m}")},
		{"other environments' names", top("agent: {clients: [{id: a, secret_file: b, environments: [test]}]}")},
		{"a list that must not repeat", top("agent: {clients: [{id: a, secret_file: b, environments: [prod]}, {id: a, secret_file: b, environments: [prod]}]}")},
		{"a file's content", env("private_key_file: /dev/null")},
		{"a file's absence", env("private_key_file: not-there")},
		{"a variable's value", env("lease: ${X}")},
		{"a scope's characters", env("scopes: [a b]")},
		{"names that have settings of their own", env("params: {scope: a}")},
		{"a number that is larger than any duration", env("max_life: 9999999999h")},
		{"a tag", env("key_id: !x a")},
		{"YAML's other ways to write true", env("keep_warm: True")},
		{"a replica's characters", top("replica: a|b")},
	} {
		if err := validate(schema, c.content); err != nil && !strings.Contains(c.content, "!x") {
			t.Errorf("%s: the schema knows: %v\n%s", c.why, err, c.content)
		}
		if err := accepted(c.content); err == nil {
			t.Errorf("%s: onetoken doesn't know\n%s", c.why, c.content)
		}
	}
}

// A file that needs more than one mend says so at once, and nothing twice.
func TestErrorsAreFoundTogether(t *testing.T) {
	_, err := parse(`redis: {url: 'redis://:hunter2@h:x', db: x}
environments:
  prod:
    base_ur: https://a.example
    client_id: ${NOT_THERE}
    lease: 6
    scopes: [a, '', {b: c}]
  pr od: {}
  test: [a]
  other: {client_id: x}
agent: {clients: [{id: a, secret_file: b, environments: [nope]}]}
`)
	first, ok := errors.AsType[*config.Error](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, e := range append([]*config.Error{first}, first.Others...) {
		got = append(got, e.Error())
	}
	want := []string{
		`onetoken.yaml:1: redis.db: "x" is no number from 0`,
		`onetoken.yaml:1: redis.url: no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; special characters in a password are percent-encoded)`,
		`onetoken.yaml:4: environments.prod.base_ur: unknown setting; did you mean base_url?`,
		`onetoken.yaml:5: environments.prod.client_id: the environment variable NOT_THERE is not set`,
		`onetoken.yaml:6: environments.prod.lease: "6" is no duration (6s, 500ms, 2m)`,
		`onetoken.yaml:7: environments.prod.scopes[1]: empty`,
		`onetoken.yaml:7: environments.prod.scopes[2]: a single value is expected here`,
		`onetoken.yaml:3: environments.prod.client_secret: missing (or client_secret_file); auth_method private_key_jwt, tls_client_auth or none needs none`,
		`onetoken.yaml:8: environments: "pr od": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`,
		`onetoken.yaml:9: environments.test: settings (name: value) are expected here`,
		`onetoken.yaml:10: environments.other.base_url: missing (or token_url, issuer)`,
		`onetoken.yaml:10: environments.other.client_secret: missing (or client_secret_file); auth_method private_key_jwt, tls_client_auth or none needs none`,
		`onetoken.yaml:11: agent.clients[0].environments: "nope" is none of the environments`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
