package opsdocs_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A rule says what an answer may differ in.
type rule struct {
	command *regexp.Regexp // of which commands; nil: of all
	varies  *regexp.Regexp
	becomes string
}

var rules = []rule{
	{nil, regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "<time>"},
	{nil, regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+(\.\d+)?(h|m|s|ms)\b`), "<span>"},
	{nil, regexp.MustCompile(` \(in <span>\)`), ""}, // it is left out once the time has come
	{nil, regexp.MustCompile(`\|[A-Z2-7]{26}\b`), "|<random>"},
	{nil, regexp.MustCompile(`\b(took_ms=|"took_ms": )\d+\b`), "$1<ms>"},
	{nil, regexp.MustCompile(`"(ttl_ms|expires_in)": [1-9]\d*\b`), `"$1": <n>`},
	{regexp.MustCompile(`took_ms`), regexp.MustCompile(`"\d{1,4}"`), `"<ms>"`},
	{regexp.MustCompile(`PTTL|CLIENT KILL`), regexp.MustCompile(`\(integer\) [1-9]\d*\b`), "(integer) <n>"},
	{regexp.MustCompile(`TIME`), regexp.MustCompile(`"\d{10}"`), `"<seconds>"`},
	{regexp.MustCompile(`TIME`), regexp.MustCompile(`"\d{1,6}"`), `"<µs>"`},
	{nil, regexp.MustCompile(`  +`), "  "}, // the columns of a table
	{nil, regexp.MustCompile(`(?m)^Reading messages.*\n`), ""},
	{nil, regexp.MustCompile(`(?m) +$`), ""},
}

// named are what is different each time, but must be the same wherever it is the same in the page.
var named = []struct {
	what   string
	varies *regexp.Regexp
}{
	{"version", regexp.MustCompile(`\b1[7-9]\d{14}\b`)}, // as long as years begin with 20[2-3]; a fingerprint may be all digits
	{"key", regexp.MustCompile(`\bk-[a-z2-7]{8}\b`)},
	{"fingerprint", regexp.MustCompile(`\b[0-9a-f]{16}\b`)},
}

// normal is an answer to a command without what must vary.
func normal(command, answer string) string {
	for _, n := range named {
		seen := map[string]string{}
		answer = n.varies.ReplaceAllStringFunc(answer, func(s string) string {
			if seen[s] == "" {
				seen[s] = fmt.Sprintf("<%s-%c>", n.what, 'a'+len(seen))
			}
			return seen[s]
		})
	}
	for _, r := range rules {
		if r.command == nil || r.command.MatchString(command) {
			answer = r.varies.ReplaceAllString(answer, r.becomes)
		}
	}
	return strings.TrimSpace(answer)
}

// compare fails the test where got isn't what is shown, and where the comparison would have let a wrong page pass: one in
// which a word is another, or a line is missing or doubled.
func compare(t *testing.T, page string, c command, got string) {
	t.Helper()
	want, real := normal(c.text, c.answer), normal(c.text, got)
	if want != real {
		t.Errorf("docs/%s:%d: $ %s\nshows\n%s\nbut the answer is\n%s\n(compared as %q and %q)", page, c.line, c.text, c.answer, got, want, real)
		return
	}
	for _, wrong := range mistakes(c.answer) {
		if normal(c.text, wrong) == real {
			t.Errorf("docs/%s:%d: $ %s\nit would go unnoticed if the page had\n%s", page, c.line, c.text, wrong)
		}
	}
}

var word = regexp.MustCompile(`[^\s]+`)

// mistakes are answers that a page might show by mistake.
func mistakes(answer string) []string {
	list := []string{answer + "one more line\n"}
	for _, at := range word.FindAllStringIndex(answer, -1) {
		list = append(list, answer[:at[1]]+"x"+answer[at[1]:])
	}
	lines := strings.SplitAfter(answer, "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != "" {
			list = append(list, strings.Join(lines[:i], "")+strings.Join(lines[i+1:], ""))
		}
	}
	return list
}
