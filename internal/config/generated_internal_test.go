package config

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

//go:generate go test . -run TestGeneratedFiles -update

var update = flag.Bool("update", false, "write the files that are made from the tables of settings")

// The schema, the example and the tables of the documentation are those that the tables of settings give. go generate
// writes them.
func TestGeneratedFiles(t *testing.T) {
	for path, want := range map[string]string{
		"../../docs/onetoken.schema.json":  string(Schema()),
		"../../docs/onetoken.example.yaml": string(Example()),
		"../../docs/configuration.md":      withTables(t, read(t, "../../docs/configuration.md")),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, path); got != want {
			t.Errorf("%s isn't what the settings give; go generate ./internal/config writes it", path)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	return string(data)
}

var place = regexp.MustCompile(`(?s)<!-- settings: ([^\n]*) -->\n.*?<!-- end -->`)

// withTables is a page with its tables filled in, each of which must be in it once.
func withTables(t *testing.T, page string) string {
	t.Helper()
	tables := map[string]string{}
	collect(fileTable(new(File)), "", tables)
	page = place.ReplaceAllStringFunc(page, func(old string) string {
		name := place.FindStringSubmatch(old)[1]
		text, ok := tables[name]
		if !ok {
			t.Errorf("there is no table %q, or it is there twice", name)
		}
		delete(tables, name)
		return "<!-- settings: " + name + " -->\n" + text + "<!-- end -->"
	})
	for name := range tables {
		t.Errorf("the table %q isn't in the documentation", name)
	}
	return page
}

// collect makes the tables of a section and of those in it, by their names.
func collect(of table, path string, tables map[string]string) {
	for _, g := range of.groups {
		name := cmp.Or(path, "the file")
		if g.title != "" {
			name += ": " + g.title
		}
		tables[name] = of.markdown(g)
		for _, s := range g.settings {
			inner := join(path, s.name)
			if s.value.each {
				inner += ".NAME"
			}
			if s.value.inner != nil && !strings.HasPrefix(s.name, "backoff") {
				collect(*s.value.inner, inner, tables)
			}
		}
	}
}

// markdown is one group as a table.
func (t table) markdown(g group) string {
	var b strings.Builder
	b.WriteString("| setting | value | default | meaning |\n|---|---|---|---|\n")
	for _, s := range g.settings {
		def := s.implied
		if s.standard != "" {
			def = "`" + s.standard + "`"
		}
		meaning := strings.Join(append([]string{s.doc}, t.relations(s.name)...), "; ")
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.name, s.value.name, def, meaning)
	}
	return b.String()
}

// Every setting can be shown: what stands in its table is YAML, and one line.
func TestSettingsAreDescribed(t *testing.T) {
	var look func(of table, path string)
	look = func(of table, path string) {
		seen := map[string]bool{}
		for _, s := range of.settings() {
			name := join(path, s.name)
			if s.name == "" || s.doc == "" || s.value.name == "" || s.value.schema == nil || s.read == nil || seen[s.name] {
				t.Errorf("%s: something is missing, or it is there twice: %+v", name, s)
			}
			seen[s.name] = true
			if strings.ContainsAny(s.doc+s.implied+s.standard+s.example, "\n|") || strings.HasSuffix(s.doc, ".") {
				t.Errorf("%s: no line of a table: %q", name, s.doc)
			}
			if s.standard != "" && s.implied != "" || s.standard == "" && s.example == "" && s.value.inner == nil {
				t.Errorf("%s: needs one default at most, and an example where there is none", name)
			}
			for _, text := range []string{s.standard, s.example} {
				if text != "" {
					_ = decoded(text) // panics where it is no YAML
				}
			}
			if s.value.inner != nil {
				look(*s.value.inner, name)
			}
		}
		for _, r := range of.rules {
			names := append(slices.Clone(r.names), cmp.Or(r.given, r.names[0]))
			for _, c := range r.waived {
				names = append(names, c.name)
			}
			for _, name := range names {
				if _, ok := of.find(name); !ok {
					t.Errorf("%s: a rule is about %q, which isn't there", path, name)
				}
			}
		}
	}
	look(fileTable(new(File)), "")
}

// What is secret, or may be, is known as such: the documentation says so, and no error repeats it.
func TestSecretSettings(t *testing.T) {
	var got []string
	var look func(of table, path string)
	look = func(of table, path string) {
		for _, s := range of.settings() {
			if s.value.secret {
				got = append(got, join(path, s.name))
			}
			if s.value.inner != nil {
				look(*s.value.inner, join(path, s.name))
			}
		}
	}
	look(fileTable(new(File)), "")
	want := []string{
		"redis.url", "redis.password", "redis.sentinel_password", "environments.client_secret", "environments.secret_params",
		"environments.secret_headers", "environments.refresh_token",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
