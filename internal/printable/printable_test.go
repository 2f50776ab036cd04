package printable_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/printable"
)

func TestLine(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain", "plain"},
		{"a\r\nb\tc", "a b c"},
		{"\x1b[31mred\x1b[0m", "[31mred [0m"},
		{"bad \xff utf8", "bad utf8"},
		{"right\u202eleft", "right left"},
		{strings.Repeat("x", 40), strings.Repeat("x", 17) + "…"},
		{strings.Repeat("é", 20), strings.Repeat("é", 8) + "…"},
	} {
		if got := printable.Line(c.in, 20); got != c.want {
			t.Errorf("Line(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\nb", 3)
	f.Add("\xff\xfe", 20)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 3 || limit > 1000 {
			t.Skip()
		}
		got := printable.Line(s, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("Line(%q, %d) = %q", s, limit, got)
		}
	})
}
