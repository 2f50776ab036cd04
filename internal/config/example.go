package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Example returns a file with every setting, what it means and what holds without it. Those that aren't needed are commented
// out: without the "#" at the beginning of their lines they are valid, too.
func Example() []byte {
	var b strings.Builder
	b.WriteString("# yaml-language-server: $schema=onetoken.schema.json\n")
	comment(&b, 0, "onetoken's configuration: every setting there is. One that is commented out may be left out; take the \"#\" "+
		"at the beginning of its line away to set it. Values may hold variables of the environment: ${NAME}; $${ is ${ itself. "+
		"Durations are like 500ms, 6s, 1h30m. Files are relative to this file's folder. The schema in the first line, for "+
		"editors, is what onetoken config schema prints; onetoken config check says whether all is well.")
	fileTable(new(File)).example(&b, 0, false)
	return []byte(b.String())
}

// example writes the settings of a section.
func (t table) example(b *strings.Builder, depth int, out bool) {
	for _, g := range t.groups {
		if g.title != "" {
			fmt.Fprintf(b, "\n%s# ---- %s ----\n", strings.Repeat("  ", depth), g.title)
		}
		for _, s := range g.settings {
			if depth == 0 {
				b.WriteByte('\n')
			}
			t.exampleOf(b, s, depth, out || !s.shown)
		}
	}
}

// exampleOf writes one setting; out: commented out.
func (t table) exampleOf(b *strings.Builder, s setting, depth int, out bool) {
	comment(b, depth, t.remark(s))
	line := func(depth int, text string) {
		if out {
			b.WriteByte('#')
		}
		b.WriteString(strings.Repeat("  ", depth) + text + "\n")
	}
	switch one := cmp.Or(s.example, s.standard); {
	case one != "":
		line(depth, s.name+": "+one)
	case s.value.each:
		line(depth, s.name+":")
		line(depth+1, exampleName+":")
		s.value.inner.example(b, depth+2, out)
	default:
		line(depth, s.name+":")
		s.value.inner.example(b, depth+1, out)
	}
}

// exampleName is the name of the environment in the example.
const exampleName = "prod"

// remark is all that is to be said of a setting, in sentences.
func (t table) remark(s setting) string {
	sentences := []string{s.doc}
	if strings.HasPrefix(s.value.name, "`") && s.value.inner == nil && s.standard != "true" && s.standard != "false" {
		sentences = append(sentences, "one of "+strings.ReplaceAll(s.value.name, " or ", ", "))
	}
	sentences = append(sentences, t.relations(s.name)...)
	if without := cmp.Or(s.standard, s.implied); without != "" {
		sentences = append(sentences, "default: "+without)
	}
	for i, text := range sentences {
		text = plain(text)
		if !strings.HasPrefix(sentences[i], "`") {
			first, size := utf8.DecodeRuneInString(text)
			text = string(unicode.ToUpper(first)) + text[size:]
		}
		sentences[i] = text
	}
	return strings.Join(sentences, ". ") + "."
}

// relations says what else a setting has to do with.
func (t table) relations(name string) []string {
	var said []string
	excluded := t.excludes(name)
	if len(excluded) > 0 {
		said = append(said, "in place of "+enumerate(code(excluded), "or"))
	}
	alternatives, waiver, needed := t.needs(name)
	others := slices.DeleteFunc(slices.Clone(alternatives), func(n string) bool { return slices.Contains(excluded, n) })
	switch {
	case !needed:
	case waiver != "":
		said = append(said, "needed unless "+waiver)
	case len(alternatives) == 0:
		said = append(said, "needed")
	case len(others) > 0:
		said = append(said, "needed unless "+enumerate(code(alternatives), "or")+" is given")
	}
	return said
}

// code is words as Markdown has them that are to be taken literally.
func code(words []string) []string {
	marked := make([]string, len(words))
	for i, w := range words {
		marked[i] = "`" + w + "`"
	}
	return marked
}

// comment writes text as comments that aren't too long to read.
func comment(b *strings.Builder, depth int, text string) {
	const width = 110
	indent := strings.Repeat("  ", depth) + "#"
	length := 0
	for word := range strings.FieldsSeq(text) {
		switch n := utf8.RuneCountInString(word) + 1; {
		case length == 0:
			b.WriteString(indent + " " + word)
			length = len(indent) + n
		case length+n > width:
			b.WriteString("\n" + indent + " " + word)
			length = len(indent) + n
		default:
			b.WriteString(" " + word)
			length += n
		}
	}
	b.WriteByte('\n')
}
