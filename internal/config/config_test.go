package config_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager"
)

const hidden = "hunter2" // must not show in any error

func lookup(name string) (string, bool) {
	v, ok := map[string]string{
		"ID": "the-id", "SECRET": hidden, "EMPTY": "", "LEASE": "6x" + hidden, "TRICKY": "a: b # ${ID}\n",
	}[name]
	return v, ok
}

func parse(content string) (*config.File, error) {
	return config.Parse("onetoken.yaml", []byte(content), lookup)
}

// prod is a valid file with one more line in its environment, the sixth.
func prod(line string) string {
	return `redis: {url: "redis://localhost"}
environments:
  prod:
    base_url: https://api.example.com/api/v2
    client_id: x
    ` + line + "\n"
}

func TestWholeFile(t *testing.T) {
	f, err := parse(`
redis:
  url: redis://${ID}:${SECRET}@127.0.0.1:6379/0
  username: me
  password: $${SECRET}
  db: 3
namespace: team.a
replica: worker-7
environments:
  prod:
    base_url: https://app.campaignflow.com.au/api/v2
    token_url: https://auth.example.com/token
    allow_http: true
    client_id: ${ID}
    client_secret: a${SECRET}b$c
    auth_method: client_secret_post
    scopes: [campaigns.read, "${ID}"]
    params: {audience: campaigns, resource: [a, b]}
    secret_params: {assertion: "${SECRET}"}
    origins: [https://app.campaignflow.com.au, "https://other:8443"]
    expiry_margin: 5s
    refresh_at: 75%
    lease: 2s
    endpoint_timeout: 7s
    connect_timeout: 1500ms
    backoff: {min: 2s, max: 30s}
    backoff_refused: 3m
    retry_after_max: 10m
    default_life: 4m
    max_life: 720h
    keep_warm: true
    outage: refresh_alone
  test: &test
    token_url: http://localhost:1/token
    client_id: 0123
    client_secret: "${TRICKY}"
    refresh_at: 0.9
    backoff: {min: 2m}
    scopes: one
  third: *test
`)
	if err != nil {
		t.Fatal(err)
	}
	if f.Path != "onetoken.yaml" || f.Namespace != "team.a" || f.Replica != "worker-7" || len(f.Environments) != 3 {
		t.Errorf("got %q %q %q, %d environments", f.Path, f.Namespace, f.Replica, len(f.Environments))
	}
	if r := f.Redis; r.URL.Reveal() != "redis://the-id:hunter2@127.0.0.1:6379/0" || r.Username != "me" || r.Password.Reveal() != "${SECRET}" || r.DB != 3 {
		t.Errorf("redis: %q %q %q %d", r.URL.Reveal(), r.Username, r.Password.Reveal(), r.DB)
	}
	want := manager.Environment{
		BaseURL:      "https://app.campaignflow.com.au/api/v2",
		TokenURL:     "https://auth.example.com/token",
		AllowHTTP:    true,
		ClientID:     "the-id",
		ClientSecret: secret.New("ahunter2b$c"),
		AuthMethod:   manager.ClientSecretPost,
		Scopes:       []string{"campaigns.read", "the-id"},
		Params:       map[string][]string{"audience": {"campaigns"}, "resource": {"a", "b"}},
		SecretParams: map[string]manager.Secret{"assertion": secret.New("hunter2")},
		Origins:      []string{"https://app.campaignflow.com.au", "https://other:8443"},
		Policy: manager.Policy{
			ExpiryMargin: 5 * time.Second, RefreshAt: 0.75, Lease: 2 * time.Second, EndpointTimeout: 7 * time.Second,
			ConnectTimeout: 1500 * time.Millisecond,
			Backoff:        manager.Backoff{Min: 2 * time.Second, Max: 30 * time.Second},
			BackoffRefused: manager.Backoff{Min: 3 * time.Minute, Max: 3 * time.Minute},
			RetryAfterMax:  10 * time.Minute, DefaultLife: 4 * time.Minute, MaxLife: 720 * time.Hour,
			KeepWarm: true, Outage: manager.OutageRefreshAlone,
		},
	}
	if got := f.Environments["prod"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// What a variable holds is never YAML, and numbers stay the text that they are.
	test := f.Environments["test"]
	if test.ClientID != "0123" || test.ClientSecret.Reveal() != "a: b # ${ID}\n" || test.Scopes[0] != "one" || test.RefreshAt != 0.9 {
		t.Errorf("got %q %q %q %v", test.ClientID, test.ClientSecret.Reveal(), test.Scopes, test.RefreshAt)
	}
	if test.Backoff != (manager.Backoff{Min: 2 * time.Minute, Max: 2 * time.Minute}) {
		t.Errorf("backoff: %v", test.Backoff)
	}
	if !reflect.DeepEqual(f.Environments["third"], test) {
		t.Errorf("an alias differs from its anchor")
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"empty file", "", "onetoken.yaml: environments: missing"},
		{"only a comment", "# nothing\n", "onetoken.yaml: environments: missing"},
		{"only a separator", "---\n", "onetoken.yaml: environments: missing"},
		{"no environments", "namespace: x\n", "onetoken.yaml: environments: missing"},
		{"environments without value", "environments:\n", "onetoken.yaml:1: environments: empty"},
		{"empty environments", "\nenvironments: {}\n", "onetoken.yaml:2: environments: empty"},
		{"environments as a list", "environments: [prod]\n", "onetoken.yaml:1: environments: settings (name: value) are expected here"},
		{"a list", "- a\n", "onetoken.yaml:1: settings (name: value) are expected here"},
		{"environment without settings", "environments:\n  prod:\n", "onetoken.yaml:2: environments.prod: empty"},
		{"bad environment name", "environments:\n  pr od: {}\n", `onetoken.yaml:2: environments: "pr od": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"environment name with a line break", "environments:\n  \"a\\nb\": {}\n", `onetoken.yaml:2: environments: "a\nb": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"bad namespace", "namespace: a b\nenvironments: {}\n", `onetoken.yaml:1: namespace: "a b": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"unknown key", "enviroments: {}\n", "onetoken.yaml:1: enviroments: unknown setting; did you mean environments?"},
		{"unknown key, nothing near", prod("colour: red"), "onetoken.yaml:6: environments.prod.colour: unknown setting"},
		{"unknown key in an environment", prod("client-secret: hunter2"), "onetoken.yaml:6: environments.prod.client-secret: unknown setting; did you mean client_secret?"},
		{"unknown key in a backoff", prod("backoff: {minimum: 1s}"), "onetoken.yaml:6: environments.prod.backoff.minimum: unknown setting"},
		{"unknown key in redis", "redis: {adresses: [a]}\n", "onetoken.yaml:1: redis.adresses: unknown setting; did you mean addresses?"},
		{"merge key", prod("<<: {}"), "onetoken.yaml:6: environments.prod.<<: unknown setting"},
		{"duplicate key", prod("client_id: y"), "onetoken.yaml:6: environments.prod.client_id: given twice, first in line 5"},
		{"key that is no text", prod("[a, b]: c"), "onetoken.yaml:6: environments.prod.: a name is expected here"},
		{"missing client_id", "environments:\n  prod:\n    base_url: https://x\n    client_secret: x\n", "onetoken.yaml:2: environments.prod.client_id: missing"},
		{"missing client_secret", prod(""), "onetoken.yaml:3: environments.prod.client_secret: missing (or client_secret_file); auth_method private_key_jwt, tls_client_auth or none needs none"},
		{"missing base_url", "environments: {prod: {client_id: x, client_secret: hunter2}}", "onetoken.yaml:1: environments.prod.base_url: missing (or token_url, issuer)"},
		{"empty client_id", "environments:\n  prod:\n    client_id:\n", "onetoken.yaml:3: environments.prod.client_id: empty"},
		{"empty client_secret", prod(`client_secret: ""`), "onetoken.yaml:6: environments.prod.client_secret: empty"},
		{"client_secret from an empty variable", prod("client_secret: ${EMPTY}"), "onetoken.yaml:6: environments.prod.client_secret: empty once its variables are expanded"},
		{"unset variable", prod("client_secret: ${SECRET}-${NOT_THERE}"), "onetoken.yaml:6: environments.prod.client_secret: the environment variable NOT_THERE is not set"},
		{"variable without an end", prod("client_secret: hunter2${SECRET"), `onetoken.yaml:6: environments.prod.client_secret: "${" without a variable's name and "}" after it ("$${" stands for "${" itself)`},
		{"variable with a bad name", prod("client_secret: ${hunter2 x}"), `onetoken.yaml:6: environments.prod.client_secret: "${" without a variable's name and "}" after it ("$${" stands for "${" itself)`},
		{"client_secret as settings", prod("client_secret: {hunter2: x}"), "onetoken.yaml:6: environments.prod.client_secret: a single value is expected here"},
		{"client_secret with a tag", prod("client_secret: !hunter2 x"), "onetoken.yaml:6: environments.prod.client_secret: a YAML tag (!…) means nothing here; a value that begins with ! needs quotes"},
		{"client_secret like an alias", prod("client_secret: *hunter2"), `onetoken.yaml:6: not YAML: an alias ("*…") without its anchor: a value that begins with "*" needs quotes`},
		{"client_secret like a directive", prod("client_secret: %hunter2"), "onetoken.yaml:6: not YAML: found character that cannot start any token, while scanning for the next token that begins in line 6"},
		{"secret and file", prod("client_secret: hunter2\n    client_secret_file: testdata/secret"), "onetoken.yaml:7: environments.prod.client_secret_file: client_secret is given in line 6: one of the two is enough"},
		{"no such secret file", prod("client_secret_file: not-there"), `onetoken.yaml:6: environments.prod.client_secret_file: "not-there": no such file or directory`},
		{"empty secret file", prod("client_secret_file: /dev/null"), "onetoken.yaml:6: environments.prod.client_secret_file: the file is empty"},
		{"bad duration", prod(`lease: "6x"`), `onetoken.yaml:6: environments.prod.lease: "6x" is no duration (6s, 500ms, 2m)`},
		{"bad duration from a variable", prod(`lease: ${LEASE}`), `onetoken.yaml:6: environments.prod.lease: "${LEASE}" is no duration (6s, 500ms, 2m)`},
		{"duration without unit", prod("max_life: 60"), `onetoken.yaml:6: environments.prod.max_life: "60" is no duration (6s, 500ms, 2m)`},
		{"duration of 0", prod("expiry_margin: 0s"), `onetoken.yaml:6: environments.prod.expiry_margin: "0s" is not above 0`},
		{"negative duration", prod("backoff: {max: -1s}"), `onetoken.yaml:6: environments.prod.backoff.max: "-1s" is not above 0`},
		{"bad part", prod("refresh_at: 80"), `onetoken.yaml:6: environments.prod.refresh_at: "80" is no part of a life (80% or 0.8)`},
		{"part that is no number", prod("refresh_at: NaN%"), `onetoken.yaml:6: environments.prod.refresh_at: "NaN%" is no part of a life (80% or 0.8)`},
		{"bad boolean", prod("keep_warm: yes"), `onetoken.yaml:6: environments.prod.keep_warm: "yes" is neither true nor false`},
		{"bad auth_method", prod("auth_method: basic"), `onetoken.yaml:6: environments.prod.auth_method: "basic" is none of client_secret_basic, client_secret_post, private_key_jwt, tls_client_auth, none`},
		{"bad outage", prod("outage: ignore"), `onetoken.yaml:6: environments.prod.outage: "ignore" is neither fail nor refresh_alone`},
		{"bad URL", prod("token_url: example.com/token"), "onetoken.yaml:6: environments.prod.token_url: no absolute http or https URL"},
		{"URL with credentials", prod("token_url: https://u:hunter2@x/"), "onetoken.yaml:6: environments.prod.token_url: a URL must not hold credentials: client_id and client_secret do"},
		{"URL that can't be parsed", prod("token_url: https://u:hunter2@x:y/"), "onetoken.yaml:6: environments.prod.token_url: no absolute http or https URL"},
		{"bad origin", prod("origins: [https://x, y]"), "onetoken.yaml:6: environments.prod.origins[1]: no absolute http or https URL"},
		{"empty scopes", prod("scopes: []"), "onetoken.yaml:6: environments.prod.scopes: empty"},
		{"empty scope", prod(`scopes: [a, ""]`), "onetoken.yaml:6: environments.prod.scopes[1]: empty"},
		{"empty params", prod("params:"), "onetoken.yaml:6: environments.prod.params: empty"},
		{"secret_params of settings", prod("secret_params: {a: {b: hunter2}}"), "onetoken.yaml:6: environments.prod.secret_params.a: a single value is expected here"},
		{"redis without an address", "redis: {db: 1}\n", "onetoken.yaml:1: redis.url: missing (or addresses)"},
		{"bad Redis URL", "redis: {url: 'redis://:hunter2@h:x'}\n", "onetoken.yaml:1: redis.url: no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; special characters in a password are percent-encoded)"},
		{"URL and addresses", "redis:\n  url: redis://a\n  addresses: [a:1]\n", "onetoken.yaml:3: redis.addresses: url is given in line 2: one of the two is enough"},
		{"bad address", "redis:\n  url: [a:1, hunter2]\n", "onetoken.yaml:2: redis.url: an address is not host:port"},
		{"master_name without Sentinels", "redis:\n  url: redis://a\n  master_name: m\n", "onetoken.yaml:2: redis.url: a master name needs the list of the Sentinels' addresses"},
		{"two passwords", "redis:\n  url: redis://a\n  password: hunter2\n  password_file: testdata/secret\n", "onetoken.yaml:4: redis.password_file: password is given in line 3: one of the two is enough"},
		{"bad db", "redis: {url: 'redis://a', db: -1}\n", `onetoken.yaml:1: redis.db: "-1" is no number from 0`},
		{"CA file without certificates", "redis: {url: 'redis://a', tls: {ca_file: testdata/secret}}\n", `onetoken.yaml:1: redis.tls.ca_file: "testdata/secret" has no PEM certificates`},
		{"cert without key", "redis: {url: 'redis://a', tls: {cert_file: testdata/secret}}\n", "onetoken.yaml:1: redis.tls.key_file: missing"},
		{"cert and key that aren't", "redis: {url: 'redis://a', tls: {cert_file: testdata/secret, key_file: testdata/secret}}\n", "onetoken.yaml:1: redis.tls: cert_file and key_file are no pair of PEM files"},
		{"not YAML", "redis: [\nnamespace: x\n", "onetoken.yaml:3: not YAML: did not find expected ',' or ']', while parsing a flow sequence that begins in line 1"},
		{"tab", "environments:\n\tprod: x\n", "onetoken.yaml:2: not YAML: found character that cannot start any token, while scanning for the next token that begins in line 2"},
		{"not UTF-8", "a: \xff", "onetoken.yaml: not YAML: invalid leading UTF-8 octet (value: 255)"},
		{"two documents", "namespace: a\n---\nnamespace: b\n", `onetoken.yaml: more than one YAML document ("---")`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := parse(c.content)
			if err == nil {
				t.Fatalf("no error; got %+v", f)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// What the manager finds is located, too.
func TestErrorsOfTheManager(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() { _ = rdb.Close() }()
	with := func(line string) string { return prod("client_secret: hunter2\n    " + line) }
	for _, c := range []struct{ name, content, want string }{
		{"plain http", strings.Replace(with(""), "https://", "http://", 1), "onetoken.yaml:4: environments.prod.base_url: plain http to api.example.com would show the client secret to the network: use https, or set allow_http"},
		{"lease out of range", with("lease: 1h"), "onetoken.yaml:7: environments.prod.lease: 1h0m0s is not between 1s and 10m0s"},
		{"refresh_at out of range", with("refresh_at: 10%"), "onetoken.yaml:7: environments.prod.refresh_at: 0.1 is not between 0.5 and 1 (50% and 100% of the life)"},
		{"backoff the wrong way round", with("backoff: {min: 9s, max: 5s}"), "onetoken.yaml:7: environments.prod.backoff: max 5s is shorter than min 9s"},
		{"bad scope", with("scopes: [a b]"), `onetoken.yaml:7: environments.prod.scopes: "a b" is no scope (RFC 6749 §3.3)`},
		{"parameter with a setting of its own", with("secret_params: {scope: a}"), `onetoken.yaml:7: environments.prod.secret_params: "scope" has a setting of its own`},
		{"short life", with("max_life: 1ms"), "onetoken.yaml:7: environments.prod.max_life: at least 1s"},
		{"bad replica", "replica: a|b\n" + with(""), `onetoken.yaml:1: replica: "a|b" is not 1 to 128 printable ASCII characters without space, "|", "," or quotes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := parse(c.content)
			if err != nil {
				t.Fatal(err)
			}
			m, err := f.Manager(rdb, slog.New(slog.DiscardHandler))
			if err == nil {
				_ = m.Close()
				t.Fatal("no error")
			}
			var located *config.Error
			if got := err.Error(); got != c.want || !errors.As(err, &located) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFilesAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "s3cret with spaces \r\n")
	write(t, filepath.Join(dir, "onetoken.yaml"), prod("client_secret_file: secret"))
	f, err := config.Sources{Path: filepath.Join(dir, "onetoken.yaml"), Lookup: lookup}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Environments["prod"].ClientSecretFile; got != filepath.Join(dir, "secret") {
		t.Errorf("got %q", got)
	}
	if got := f.Secrets; len(got) != 1 || got[0].Reveal() != "s3cret with spaces " {
		t.Errorf("%d secrets, %q", len(got), got[0].Reveal())
	}
}

// Every file that nobody else should read is one that doctor looks at, and is there with something in it.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	var lines, want []string
	for _, name := range []string{
		"client_secret_file", "private_key_file", "client_assertion_file", "client_key_file", "refresh_token_file", "subject_token_file",
		"actor_token_file",
	} {
		lines, want = append(lines, "    "+name+": "+name), append(want, in(name))
	}
	want = append(want, in("assertion"), in("keyring"), in("password"), in("keys"))
	for _, path := range append(want, in("cert"), in("ca")) {
		write(t, path, "content of "+filepath.Base(path)+"\n")
	}
	write(t, in("keyring"), "first "+base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n")
	content := "redis: {url: redis://a, password_file: password}\nsealing: {keyring_file: keyring, accept_unsealed: true}\nagent: {key_file: keys}\n" +
		"environments:\n  prod:\n    base_url: https://a.example\n    client_id: x\n    client_cert_file: cert\n    ca_file: ca\n    assertion: {file: assertion}\n" +
		strings.Join(lines, "\n") + "\n"
	path := in("onetoken.yaml")
	f, err := config.Parse(path, []byte(content), lookup)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(f.SecretFiles)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if f.Sealing.KeyringFile != in("keyring") || !f.Sealing.AcceptUnsealed {
		t.Errorf("sealing: %+v", f.Sealing)
	}
	e := f.Environments["prod"]
	if e.ClientSecretFile != in("client_secret_file") || !e.ClientSecret.IsEmpty() || e.Assertion.File != in("assertion") || e.CAFile != in("ca") || e.ClientCertFile != in("cert") {
		t.Errorf("got %+v", e)
	}
	for _, each := range f.SecretFiles {
		name := filepath.Base(each)
		if name == "keyring" || name == "keys" {
			continue // others read these, and say what is wrong with them
		}
		write(t, each, "\n")
		if _, err := config.Parse(path, []byte(content), lookup); err == nil || !strings.HasSuffix(err.Error(), ": the file is empty") {
			t.Errorf("%s, empty: %v", name, err)
		}
		write(t, each, "content of "+name+"\n")
	}
}

// Claims are any JSON; what is text has its variables expanded.
func TestClaims(t *testing.T) {
	f, err := parse(prod(`client_secret: y
    assertion:
      life: 90s
      claims: {text: "${ID}", number: 1, large: 18446744073709551615, part: 1.5, yes: true, nothing: null, empty: "", quoted: "1", date: 2026-01-02, list: [1, "${ID}", [], {}], map: {a: {b: "$${c}"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(f.Environments["prod"].Assertion.Claims)
	const want = `{"date":"2026-01-02","empty":"","large":18446744073709551615,"list":[1,"the-id",[],{}],"map":{"a":{"b":"${c}"}},"nothing":null,"number":1,"part":1.5,"quoted":"1","text":"the-id","yes":true}`
	if string(got) != want || err != nil {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	bomb := "a0: &a0 [x, x]\n"
	for i := 1; i < 40; i++ {
		bomb += fmt.Sprintf("        a%[1]d: &a%[1]d [*a%[2]d, *a%[2]d]\n", i, i-1)
	}
	for claims, want := range map[string]string{
		"{a: .nan}":           `environments.prod.assertion.claims.a: ".nan" is no value of JSON; text needs quotes`,
		"{a: [{b: !x c}]}":    "environments.prod.assertion.claims.a[0].b: a YAML tag (!…) means nothing here; a value that begins with ! needs quotes",
		"{a: {b: '${NOPE}'}}": "environments.prod.assertion.claims.a.b: the environment variable NOPE is not set",
		"{a: {b: 1, b: 2}}":   "environments.prod.assertion.claims.a.b: given twice, first in line 7",
		"&a {a: *a}":          "too large: more than 10000 values, or more than 20 within each other",
		"\n        " + bomb:   "too large: more than 10000 values, or more than 20 within each other",
		"{? [a] : b}":         "environments.prod.assertion.claims.: a name is expected here",
	} {
		_, err := parse(prod("client_secret: y\n    assertion: {claims: " + claims + "}"))
		if strings.HasPrefix(claims, "\n") {
			_, err = parse(prod("client_secret: y\n    assertion:\n      claims:" + claims))
		}
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%.40s: %v, want %s", claims, err, want)
		}
	}
}

func TestRedisSettings(t *testing.T) {
	const rest = "\nenvironments: {prod: {base_url: 'https://x', client_id: a, client_secret: b}}\n"
	for _, c := range []struct {
		content string
		check   func(redisclient.Options) bool
	}{
		{"redis: {url: [a:1, b:2]}", func(o redisclient.Options) bool { return len(o.Addresses) == 2 && o.URL.IsEmpty() }},
		{"redis: {addresses: a:1, tls: true}", func(o redisclient.Options) bool { return o.Addresses[0] == "a:1" && o.TLS != nil }},
		{"redis: {url: 'redis://a', tls: false}", func(o redisclient.Options) bool { return o.TLS == nil }},
		{"redis: {url: 'redis://a', tls: {server_name: r}}", func(o redisclient.Options) bool {
			return o.TLS.ServerName == "r" && !o.TLS.InsecureSkipVerify
		}},
		{"redis: {addresses: [a:1], master_name: m, sentinel_username: u, sentinel_password: '${SECRET}'}", func(o redisclient.Options) bool {
			return o.MasterName == "m" && o.SentinelUsername == "u" && o.SentinelPassword.Reveal() == hidden
		}},
		{"redis: {url: 'redis://a', password_file: testdata/secret}", func(o redisclient.Options) bool { return o.Password.Reveal() == "from a file" }},
	} {
		f, err := parse(c.content + rest)
		if err != nil {
			t.Errorf("%s: %v", c.content, err)
			continue
		}
		client, err := f.Client()
		if err != nil || !c.check(f.Redis) {
			t.Errorf("%s: got %+v, %v", c.content, f.Redis, err)
			continue
		}
		_ = client.Close()
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := func(namespace string) string {
		return "namespace: " + namespace + "\nredis: {url: 'redis://from-file'}\nenvironments: {prod: {base_url: 'https://x', client_id: a, client_secret: b}}\n"
	}
	write(t, "named.yaml", file("named"))
	write(t, "variable.yaml", file("variable"))
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1], true
				}
			}
			return "", false
		}
	}
	nothing := env()
	withConfig := env("ONETOKEN_CONFIG", "variable.yaml")
	withRedis := env("ONETOKEN_REDIS_URL", "redis://from-env")
	const noFile = "onetoken.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another"
	for _, c := range []struct {
		name    string
		sources config.Sources
		want    string // namespace and Redis, or the error
	}{
		{"nothing", config.Sources{Lookup: nothing, NoFileOK: true}, noFile},
		{"flag", config.Sources{Path: "named.yaml", Lookup: withConfig}, "named redis://from-file"},
		{"variable", config.Sources{Lookup: withConfig}, "variable redis://from-file"},
		{"Redis by flag", config.Sources{Path: "named.yaml", RedisURL: "redis://from-flag", Lookup: withRedis}, "named redis://from-flag"},
		{"Redis by variable", config.Sources{Path: "named.yaml", Lookup: withRedis}, "named redis://from-env"},
		{"namespace", config.Sources{Path: "named.yaml", Namespace: "mine", Lookup: nothing}, "mine redis://from-file"},
		{"no file needed", config.Sources{Lookup: withRedis, NoFileOK: true}, " redis://from-env"},
		{"file needed", config.Sources{Lookup: withRedis}, noFile},
		{"named file missing", config.Sources{Path: "nope.yaml", Lookup: withRedis, NoFileOK: true}, "nope.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another"},
		{"folder", config.Sources{Path: ".", Lookup: nothing}, ".: is a directory"},
		{"bad namespace", config.Sources{Path: "named.yaml", Namespace: "a b", Lookup: nothing}, `--namespace: "a b": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"bad Redis URL", config.Sources{Path: "named.yaml", RedisURL: "hunter2", Lookup: nothing}, "--redis-url or $ONETOKEN_REDIS_URL: no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; special characters in a password are percent-encoded)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := c.sources.Load()
			var got string
			if err != nil {
				got = err.Error()
			} else {
				got = f.Namespace + " " + f.Redis.URL.Reveal()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestClientNeedsRedis(t *testing.T) {
	f, err := parse("environments: {prod: {base_url: 'https://x', client_id: a, client_secret: b}}\n")
	if err != nil {
		t.Fatal(err)
	}
	const want = "onetoken.yaml: redis.url: missing; --redis-url or $ONETOKEN_REDIS_URL gives one, too"
	if _, err := f.Client(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whatever the file holds: no panic, and an error is one line that names the file.
func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(prod("client_secret: ${SECRET}"))
	f.Add(prod("client_secret: &a [*a]\n    params: *a"))
	f.Add("environments: &a {prod: *a}")
	f.Add("redis: {url: [a:1], tls: {ca_file: x}}\nenvironments:\n  ? [a]\n  : b\n")
	f.Add("a: \"\\u2028\": b\n--- !!x\n%YAML 1.2\n")
	f.Fuzz(func(t *testing.T, content string) {
		if strings.Contains(content, "file") {
			t.Skip("would read files")
		}
		file, err := parse(content)
		switch {
		case err == nil && len(file.Environments) == 0:
			t.Error("no error, and no environment")
		case err != nil && (strings.ContainsAny(err.Error(), "\n\r\x1b\u2028") || !strings.HasPrefix(err.Error(), "onetoken.yaml:")):
			t.Errorf("the error is %q", err)
		}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
