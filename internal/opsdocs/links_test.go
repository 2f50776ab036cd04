package opsdocs_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var pages = []string{"operations.md", "runbook.md", "sizing.md", "upgrading.md", "leaks.md", "sealing.md", "using.md", "herds.md"}

// A link leads to a file that is there and, where it names a section, to one that it has.
func TestLinks(t *testing.T) {
	t.Parallel()
	found := 0
	for _, page := range pages {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`).FindAllStringSubmatch(readDoc(t, page), -1) {
			found++
			target := page
			if m[1] != "" {
				target = m[1]
			}
			if _, err := os.Stat(filepath.Join("../../docs", target)); err != nil {
				t.Errorf("docs/%s links to %s, which isn't there", page, target)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(readDoc(t, target)), m[2][1:]) {
				t.Errorf("docs/%s links to %s%s, but there is no such section", page, target, m[2])
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d links were found", found)
	}
}

// A test that a page names as proof must be there.
func TestProofs(t *testing.T) {
	t.Parallel()
	var tests strings.Builder
	must(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil // other packages' tests make files, and remove them
		case err == nil && d.IsDir() && d.Name() == "node_modules":
			return filepath.SkipDir
		case err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return err
		}
		text, err := os.ReadFile(path)
		tests.Write(text)
		return err
	}))
	found := 0
	for _, page := range pages {
		for _, name := range regexp.MustCompile("`(Test[A-Z]\\w+)`").FindAllStringSubmatch(readDoc(t, page), -1) {
			if found++; !strings.Contains(tests.String(), "func "+name[1]+"(") {
				t.Errorf("docs/%s names %s, which isn't there", page, name[1])
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d names of tests were found", found)
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	must(t, err)
	return string(text)
}

// anchors are those of a page's headings.
func anchors(text string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		list = append(list, anchor(m[1]))
	}
	return list
}

// The alert rules and the runbook name each other.
func TestAlertsAndRunbook(t *testing.T) {
	t.Parallel()
	rules, err := filepath.Glob("../../docs/alerts/*.yml")
	must(t, err)
	var text strings.Builder
	for _, path := range rules {
		b, err := os.ReadFile(path)
		must(t, err)
		text.Write(b)
	}
	runbook := readDoc(t, "runbook.md")
	alerts := regexp.MustCompile(`alert: (Onetoken\w+)\n`).FindAllStringSubmatch(text.String(), -1)
	for _, m := range alerts {
		if !strings.Contains(runbook, "`"+m[1]+"`") {
			t.Errorf("docs/runbook.md doesn't know the alert %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(Onetoken\\w+)`").FindAllStringSubmatch(runbook, -1) {
		if !strings.Contains(text.String(), "alert: "+m[1]+"\n") {
			t.Errorf("docs/runbook.md names %s, which is no alert", m[1])
		}
	}
	links := regexp.MustCompile(`docs/runbook\.md#([a-z-]+)`).FindAllStringSubmatch(text.String(), -1)
	for _, m := range links {
		if !slices.Contains(anchors(runbook), m[1]) {
			t.Errorf("an alert links to docs/runbook.md#%s, which isn't there", m[1])
		}
	}
	if len(alerts) == 0 || len(links) == 0 {
		t.Errorf("%d alerts and %d links were found in %q", len(alerts), len(links), rules)
	}
}
