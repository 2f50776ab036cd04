package config

import (
	"strings"
	"testing"
)

// literally is s as it must be written so that expand leaves it alone.
func literally(s string) string { return strings.ReplaceAll(s, "${", "$${") }

// A variable's value is put in as it is, once, and is never in an error; all else stays as it was.
func FuzzExpand(f *testing.F) {
	f.Add("redis://", "p@ss:${word}", ":6379/0")
	f.Add("a$", "", "}b")
	f.Add("$${", "$", "{X}")
	f.Add("${", "${V}", "${V")
	f.Add("${1}${V }", "v", "$$$${V}")
	f.Fuzz(func(t *testing.T, before, variable, after string) {
		const canary = "value-of-the-variable"
		value := canary + variable
		lookup := func(name string) (string, bool) { return value, name == "V" }
		for _, plain := range []string{before, after, variable} {
			if got, err := expand(literally(plain), lookup); err != nil || got != plain {
				t.Errorf("%q stands for %q, %v", literally(plain), got, err)
			}
		}
		// A "$" right before a variable makes it a literal: there is no way to write the two side by side.
		if !strings.HasSuffix(before, "$") {
			written := literally(before) + "${V}" + literally(after)
			if got, err := expand(written, lookup); err != nil || got != before+value+after {
				t.Errorf("%q stands for %q, %v; want %q", written, got, err, before+value+after)
			}
		}
		// Written without any care, it is an error that doesn't tell, or has the value in place of every "${V}".
		raw := before + "${V}" + after
		got, err := expand(raw, lookup)
		switch {
		case err != nil && strings.Contains(err.Error(), canary):
			t.Errorf("%q: %v", raw, err)
		case err != nil && got != "":
			t.Errorf("%q: %q beside the error %v", raw, got, err)
		case err == nil && strings.Contains(strings.ReplaceAll(got, value, ""), "${V}") && !strings.Contains(raw, "$${"):
			t.Errorf("%q became %q", raw, got)
		}
	})
}
