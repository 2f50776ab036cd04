package grantdocs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/manager"
)

const docs = "../../docs"

// Each block of YAML is a configuration that a manager can be made of.
func TestTheConfigurationsMakeManagers(t *testing.T) {
	t.Parallel()
	found := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			found++
			t.Run(filepath.ToSlash(page), func(t *testing.T) {
				t.Parallel()
				f := parse(t, b)
				m, err := manager.New(manager.Config{Redis: nobody(t), Environments: f.Environments})
				if err != nil {
					t.Fatalf("docs/%s:%d: %v", page, b.line, err)
				}
				if err := m.Close(); err != nil {
					t.Errorf("docs/%s:%d: %v", page, b.line, err)
				}
			})
		}
	}
	if found < 30 {
		t.Errorf("only %d configurations were found", found)
	}
}

// A setting that nobody knows is noticed: else the test above would show nothing.
func TestAnUnknownSettingIsNoticed(t *testing.T) {
	t.Parallel()
	for _, b := range blocks(t, filepath.Join("providers", "google.md")) {
		b.text = strings.Replace(b.text, "    grant:", "    grants:", 1)
		if _, err := read(t, b); err == nil || !strings.Contains(err.Error(), "unknown setting") {
			t.Errorf("line %d: got %v, want an unknown setting", b.line, err)
		}
	}
}

// A provider's page says which grants it is about and how clients authenticate, and has a configuration for each.
func TestProvidersShowWhatTheyClaim(t *testing.T) {
	t.Parallel()
	table := text(t, filepath.Join("providers", "README.md"))
	for _, page := range pages(t) {
		dir, name := filepath.Split(page)
		if dir != "providers/" || name == "README.md" {
			continue
		}
		var grants, methods []string
		for _, b := range blocks(t, page) {
			for _, e := range parse(t, b).Environments {
				grants = append(grants, or(string(e.Grant), "client_credentials"))
				methods = append(methods, or(string(e.AuthMethod), "client_secret_basic"))
			}
		}
		claimed := claim(t, page, "Grants")
		same(t, page, "grants", claimed, grants)
		same(t, page, "ways to authenticate", claim(t, page, "Client authentication"), methods)

		row := regexp.MustCompile(`(?m)^\|[^|]*\(` + regexp.QuoteMeta(name) + `\) (\|.*)$`).FindStringSubmatch(table)
		if row == nil {
			t.Errorf("docs/providers/README.md has no row for %s", name)
			continue
		}
		cells := strings.Split(row[1], "|")
		for i, grant := range []string{"client_credentials", "refresh_token", "jwt_bearer", "token_exchange"} {
			if got, want := strings.TrimSpace(cells[i+1]) == "yes", slices.Contains(claimed, grant); got != want {
				t.Errorf("docs/providers/README.md says of %s and %s: %t, its page: %t", name, grant, got, want)
			}
		}
	}
}

// A grant's page has a configuration with it, that of client authentication one for each method.
func TestGrantsAreShown(t *testing.T) {
	t.Parallel()
	for page, grant := range map[string]string{
		"client-credentials.md": "",
		"refresh-token.md":      "refresh_token",
		"jwt-bearer.md":         "jwt_bearer",
		"token-exchange.md":     "token_exchange",
	} {
		page = filepath.Join("grants", page)
		for _, b := range blocks(t, page) {
			for _, e := range parse(t, b).Environments {
				if got := string(e.Grant); got != grant {
					t.Errorf("docs/%s:%d: the grant is %q, want %q", page, b.line, got, grant)
				}
			}
		}
	}
	page := filepath.Join("grants", "client-authentication.md")
	var methods []string
	for _, b := range blocks(t, page) {
		for _, e := range parse(t, b).Environments {
			methods = append(methods, string(e.AuthMethod))
		}
	}
	head, _, _ := strings.Cut(text(t, page), "\n## ")
	rows := regexp.MustCompile("(?m)^\\| `(\\w+)`").FindAllStringSubmatch(head, -1)
	for _, m := range rows {
		if m[1] != "auth_method" && m[1] != "client_secret_basic" && !slices.Contains(methods, m[1]) {
			t.Errorf("docs/%s has no configuration with %s", page, m[1])
		}
	}
	if len(rows) < 6 { // with the head
		t.Errorf("docs/%s: only %d methods were found", page, len(rows))
	}
}

// A block is a configuration in a page.
type block struct {
	page string
	line int
	text string
}

// blocks returns a page's blocks that are marked as yaml. Those marked as yml are somebody else's (Kubernetes).
func blocks(t *testing.T, page string) (list []block) {
	t.Helper()
	all := text(t, page)
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatchIndex(all, -1) {
		list = append(list, block{page, strings.Count(all[:m[2]], "\n") + 1, all[m[2]:m[3]]})
	}
	return list
}

func pages(t *testing.T) []string {
	t.Helper()
	list := []string{"refresh-tokens.md"}
	for _, dir := range []string{"grants", "providers"} {
		found, err := filepath.Glob(filepath.Join(docs, dir, "*.md"))
		must(t, err)
		for _, path := range found {
			list = append(list, filepath.Join(dir, filepath.Base(path)))
		}
	}
	if len(list) < 13 {
		t.Fatalf("only %d pages were found: %q", len(list), list)
	}
	return list
}

func text(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(docs, page))
	must(t, err)
	return string(b)
}

// claim returns the names in the line of a page that begins with what and a colon.
func claim(t *testing.T, page, what string) (list []string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + what + `: (.*)\.$`).FindStringSubmatch(text(t, page))
	if line == nil {
		t.Fatalf("docs/%s has no line that begins with %q", page, what+":")
	}
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(line[1], -1) {
		list = append(list, m[1])
	}
	return list
}

// same compares what a page claims with what its configurations have.
func same(t *testing.T, page, what string, claimed, shown []string) {
	t.Helper()
	slices.Sort(shown)
	shown = slices.Compact(shown)
	claimed = slices.Sorted(slices.Values(claimed))
	if !slices.Equal(claimed, shown) {
		t.Errorf("docs/%s claims the %s %q, its configurations have %q", page, what, claimed, shown)
	}
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// parse reads a block, with made-up variables and the files that it names.
func parse(t *testing.T, b block) *config.File {
	t.Helper()
	f, err := read(t, b)
	if err != nil {
		t.Fatalf("docs/%s:%d: %v", b.page, b.line, err)
	}
	return f
}

// nobody is a Redis that nobody asks: making a manager takes none.
func nobody(t *testing.T) redis.UniversalClient {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
