package grantdocs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A link leads to a file that is there and, where it names a section, to one that it has.
func TestLinks(t *testing.T) {
	t.Parallel()
	found := 0
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`).FindAllStringSubmatch(text(t, page), -1) {
			found++
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(filepath.Join(docs, target)); err != nil {
				t.Errorf("docs/%s links to %s, which isn't there", page, m[1])
			} else if m[2] != "" && !strings.Contains(anchors(text(t, target)), m[2]+"\n") {
				t.Errorf("docs/%s links to %s%s, but there is no such section", page, m[1], m[2])
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d links were found", found)
	}
}

// anchors are those that GitHub makes of a page's headings, each as "#anchor\n".
func anchors(page string) string {
	var b strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		b.WriteString("#" + strings.ReplaceAll(name, " ", "-") + "\n")
	}
	return b.String()
}
