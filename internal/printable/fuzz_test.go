package printable_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/printable"
)

// A line is shown as it is: made twice, it is the same; one that was fit to be shown stays as it was; and of one that is
// cut the beginning is kept.
func FuzzLineIsStable(f *testing.F) {
	f.Add("plain text", 20)
	f.Add("right\u202eleft\u2028next\u00a0one", 9)
	f.Add("e\u0301\u0301\u0301 \U0001F469\u200d\U0001F680", 7)
	f.Add("\xff\xfe\xed\xa0\x80\u00e9\u00e9", 3)
	f.Add("\x1b]0;title\x07\x1b[2J", 30)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 3 || limit > 1000 {
			t.Skip()
		}
		got := printable.Line(s, limit)
		if again := printable.Line(got, limit); again != got {
			t.Errorf("Line(%q, %d) = %q, and of that %q", s, limit, got, again)
		}
		if len(got) > limit || strings.Contains(got, "  ") || got != strings.TrimSpace(got) ||
			strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
			t.Errorf("Line(%q, %d) = %q", s, limit, got)
		}
		fit := !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) &&
			strings.Join(strings.Fields(s), " ") == s
		if kept, cut := strings.CutSuffix(got, "…"); fit && got != s && (!cut || len(s) <= limit || !strings.HasPrefix(s, kept)) {
			t.Errorf("Line(%q, %d) = %q", s, limit, got)
		}
	})
}

// A password that Redis repeats of a command that it doesn't know is not shown.
func FuzzRedis(f *testing.F) {
	f.Add("ERR unknown command 'AUTH'", "'hunter2'")
	f.Add("ERR unknown command `HELLO`", "`3`, `AUTH`, `default`, `hunter2`, ")
	f.Add("", "\r\n, with args beginning with:")
	f.Fuzz(func(t *testing.T, said, args string) {
		got := printable.Redis(errors.New(said + ", with args beginning with: " + args))
		if want := printable.Redis(errors.New(said)); got != want {
			t.Errorf("%q and args %q: %q; want %q", said, args, got, want)
		}
		if len(got) > 300 || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is no line", got)
		}
	})
}
