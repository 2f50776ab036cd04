package config_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/internal/config"
)

const canary = "canary-7b1e" // a secret's text; must not show in any error

// checkError fails unless err is one short line about onetoken.yaml without what never may be in it.
func checkError(t *testing.T, err error, never string) {
	t.Helper()
	text := err.Error()
	if !strings.HasPrefix(text, "onetoken.yaml") || len(text) > 1000 || !utf8.ValidString(text) ||
		strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the error is %q", text)
	}
	if strings.Contains(text, never) {
		t.Errorf("the error shows a secret: %q", text)
	}
}

// secretSettings are the settings of an environment and of redis that hold a secret, or may: a URL's query, its user.
var secretSettings = []string{
	"client_secret", "token_url", "base_url", "redis.password", "redis.url", "redis.sentinel_password",
	"secret_params.assertion", "redis.addresses", "origins", "secret_headers.X-Key", "refresh_token", "issuer", "assertion.claims",
	"params.a", "headers.X-A", "revocation_url",
}

// fileWith is a valid file but for one setting, with its value in the syntax of YAML.
func fileWith(setting, value string) string {
	redis := "  url: redis://localhost\n"
	env := "    base_url: https://api.example.com\n    client_id: x\n    client_secret: y\n"
	switch name, ofRedis := strings.CutPrefix(setting, "redis."); {
	case name == "url" || name == "addresses":
		redis = "  " + name + ": " + value + "\n"
	case ofRedis:
		redis += "  " + name + ": " + value + "\n"
	case name == "client_secret":
		env = "    base_url: https://api.example.com\n    client_id: x\n    client_secret: " + value + "\n"
	case name == "base_url":
		env = "    client_id: x\n    client_secret: y\n    base_url: " + value + "\n"
	case strings.Contains(name, "."):
		outer, inner, _ := strings.Cut(name, ".")
		env += "    " + outer + ":\n      " + inner + ": " + value + "\n"
	default:
		env += "    " + name + ": " + value + "\n"
	}
	return "redis:\n" + redis + "environments:\n  prod:\n" + env
}

// However a secret is written, well or badly, in the file or in a variable: no error repeats it.
func FuzzSecretSettings(f *testing.F) {
	for i := range secretSettings {
		for _, around := range [][2]string{
			{"", ""},
			{`"`, `"`},
			{`"\q`, `"`},
			{"'", ""},
			{"!", ""},
			{"!a!", " x"},
			{"*", ""},
			{"&", " x"},
			{"@", ""},
			{"%", ""},
			{"|", ""},
			{"a: ", ""},
			{"[", "]"},
			{"{", "}"},
			{"https://user:", "@host/"},
			{"https://host/?q=", "%zz"},
			{"redis://:", "@host:port"},
			{"redis://host:6379/", ""},
			{"redis://host:6379?", "=1"},
			{"rediss://u:", "#@h:1"},
			{"unix://", "?db=x"},
			{"[h:1, ", ":x]"},
			{"${X", "}"},
			{"${", "}"},
		} {
			f.Add(uint8(i), around[0], around[1])
		}
	}
	nowhere := redis.NewClient(&redis.Options{
		Dialer:     func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
		MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	f.Cleanup(func() { _ = nowhere.Close() })
	f.Fuzz(func(t *testing.T, which uint8, before, after string) {
		setting := secretSettings[int(which)%len(secretSettings)]
		// On one line: what stands on further ones are other settings, whose names may be shown. So are variables' names.
		if strings.ContainsFunc(before+after, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) ||
			strings.Contains(before+after, "${") && strings.Contains(before+canary+after, "}") {
			t.Skip()
		}
		if strings.Contains(before+after, "file") {
			t.Skip() // would read files
		}
		for _, c := range []struct{ written, secret string }{
			{before + canary + after, ""},
			{before + "${SECRET}" + after, canary},
			{`"${SECRET}"`, before + canary + after},
		} {
			content := []byte(fileWith(setting, c.written))
			lookup := func(name string) (string, bool) { return c.secret, name == "SECRET" }
			file, err := config.Parse("onetoken.yaml", content, lookup)
			again, errAgain := config.Parse("onetoken.yaml", content, lookup)
			if err != nil {
				checkError(t, err, canary)
				if errAgain == nil || errAgain.Error() != err.Error() {
					t.Errorf("read again: %v; want %v", errAgain, err)
				}
				continue
			}
			if errAgain != nil || !reflect.DeepEqual(file.Environments, again.Environments) {
				t.Errorf("read again, it is another file (%v)", errAgain)
			}
			client, err := file.Client()
			if err != nil {
				t.Fatalf("a file that passes has no client: %v", err)
			}
			// The rest of the checks is the manager's; no environment of it is ever used.
			_ = client.Close()
			m, err := file.Manager(nowhere, nil)
			if err != nil {
				checkError(t, err, canary)
				continue
			}
			_ = m.Close()
		}
	})
}

// A secret file is the secret but for the line breaks at its end, whatever is in it.
func FuzzSecretFile(f *testing.F) {
	for _, content := range []string{
		"", "\n", "hunter2", "hunter2\n", "hunter2\r\n", "a\nb\n\n", " padded ", "\ufeffbom", "\xff\x00", "${SECRET}", "---\n- x\n",
	} {
		f.Add([]byte(content))
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "secret")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := config.Parse(filepath.Join(dir, "onetoken.yaml"), []byte(prod("client_secret_file: secret")), lookup)
		want := strings.TrimRight(string(content), "\r\n")
		switch {
		case err != nil && want != "":
			t.Errorf("%q: %v", content, err)
		case err == nil && want == "":
			t.Errorf("%q is no secret, and no error", content)
		case err == nil && (len(file.Secrets) != 1 || file.Secrets[0].Reveal() != want):
			t.Errorf("%q is read as %d secrets, of which the first is %q", content, len(file.Secrets), file.Secrets[0].Reveal())
		}
	})
}

// Settings that are spelt in two ways mean the same: as a list of one or alone, quoted or not, in flow style or block.
func FuzzSpellings(f *testing.F) {
	f.Add("backoff", "2s")
	f.Add("scopes", "campaigns.read")
	f.Add("refresh_at", "80%")
	f.Add("refresh_at", "0.8")
	f.Add("lease", "6s")
	f.Add("retry_after_max", "15m0.5s")
	f.Add("keep_warm", "true")
	f.Add("outage", "refresh_alone")
	f.Add("max_life", "2562047h47m16.854775807s")
	f.Add("max_life", "9999999h")
	f.Add("refresh_at", "1e-400")
	f.Add("refresh_at", "0x1p-1")
	f.Add("auth_method", "client_secret_post")
	f.Add("scopes", "0o17")
	f.Add("params", "1_0")
	f.Fuzz(func(t *testing.T, name, text string) {
		switch name {
		case "client_secret", "base_url", "client_id":
			t.Skip() // given already
		}
		if strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) || strings.Contains(name, "file") ||
			!utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == '\'' || r == '$' }) {
			t.Skip()
		}
		quoted := "'" + text + "'"
		first, err := parse(fileWith(name, quoted))
		second, errSecond := parse("{redis: {url: redis://localhost}, environments: {prod: {base_url: https://api.example.com, " +
			"client_id: x, client_secret: y, " + name + ": " + quoted + "}}}")
		if (err == nil) != (errSecond == nil) {
			t.Fatalf("%s: %v in a block, %v in flow style", name, err, errSecond)
		}
		if err != nil {
			checkError(t, err, "\n")
			return
		}
		if !reflect.DeepEqual(first.Environments, second.Environments) {
			t.Errorf("%s: %+v in a block, %+v in flow style", name, first.Environments, second.Environments)
		}
		e := first.Environments["prod"]
		for _, d := range []int64{
			int64(e.ExpiryMargin), int64(e.Lease), int64(e.EndpointTimeout), int64(e.ConnectTimeout), int64(e.Backoff.Min),
			int64(e.BackoffRefused.Min), int64(e.RetryAfterMax), int64(e.DefaultLife), int64(e.MaxLife),
		} {
			if d < 0 {
				t.Errorf("%s: %s gives %+v", name, quoted, e.Policy)
			}
		}
		if e.RefreshAt < 0 || e.RefreshAt >= 1 || e.Backoff.Max < e.Backoff.Min || e.BackoffRefused.Max < e.BackoffRefused.Min {
			t.Errorf("%s: %s gives %+v", name, quoted, e.Policy)
		}
	})
}
