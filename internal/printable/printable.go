// Package printable makes text of foreign origin fit to be shown on one line.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line of at most limit bytes: control, format and invalid characters become a space, runs of
// white space one space, and what is cut off is marked by "…".
func Line(s string, limit int) string {
	more := len(s) > 8*limit+64
	if more { // don't walk through megabytes for a line
		s = s[:8*limit+64]
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= limit && !more {
		return s
	}
	const mark = "…"
	if len(s)+len(mark) <= limit {
		return s + mark
	}
	cut := max(limit-len(mark), 0)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}

// Redis returns what Redis said, without the arguments that it repeats of a command that it doesn't know: those of AUTH
// are a password.
func Redis(err error) string {
	text, _, _ := strings.Cut(err.Error(), ", with args beginning with:")
	return Line(text, 300)
}
