package readme

import (
	"regexp"
	"strings"
	"testing"
)

// The code of docs/using.md and docs/environments.md is that of examples, which are compiled and run where they are.
func TestTheCodeOfUsingIsThatOfTheExamples(t *testing.T) {
	page := read(t, "../../docs", "using.md") + read(t, "../../docs", "environments.md")
	examples := unindented(read(t, "../../manager", "example_use_test.go") + read(t, "../../manager", "grpccreds", "example_test.go"))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(page, -1)
	if len(blocks) != 9 {
		t.Errorf("%d blocks of Go were found, want 9", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, unindented(b[1])) {
			t.Errorf("no example has this:\n%s", b[1])
		}
	}
}

// unindented is text without what stands before its lines.
func unindented(text string) string {
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(text, "")
}
