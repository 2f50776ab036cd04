package opsdocs_test

import (
	"regexp"
	"strings"
	"testing"
)

// A section of a page: a heading of the second level and what follows it.
type section struct {
	anchor   string // as GitHub makes it of the heading
	commands []command
}

// A command is a line of a console block that begins with "$ ", and the answer that is shown below it.
type command struct {
	line   int
	text   string
	answer string
}

// readPage returns the sections of a page in docs/. A line of a console block that belongs to no command fails the test.
func readPage(t *testing.T, name string) []section {
	t.Helper()
	sections := []section{{}}
	inside, other, indent := false, false, ""
	for i, line := range strings.Split(readDoc(t, name), "\n") {
		current := &sections[len(sections)-1]
		if strings.TrimLeft(line, " ") == "```console" && !inside && !other {
			inside, indent = true, strings.TrimSuffix(line, "```console")
			continue
		}
		if inside { // a block in a list is indented as a whole
			line = strings.TrimPrefix(line, indent)
		}
		prompt, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```") && inside:
			inside = false
		case strings.HasPrefix(strings.TrimLeft(line, " "), "```"):
			other = !other
		case !inside && !other && strings.HasPrefix(line, "## "):
			sections = append(sections, section{anchor: anchor(strings.TrimPrefix(line, "## "))})
		case inside && isCommand:
			current.commands = append(current.commands, command{line: i + 1, text: prompt})
		case inside && len(current.commands) == 0:
			t.Errorf("%s:%d: an answer without a command", name, i+1)
		case inside:
			current.commands[len(current.commands)-1].answer += line + "\n"
		}
	}
	if inside || other {
		t.Errorf("%s: a block has no end", name)
	}
	return sections
}

var dropped = regexp.MustCompile(`[^a-z0-9 _-]`)

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}
