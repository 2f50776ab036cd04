package config

import (
	"fmt"
	"iter"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/store"
)

// A decoder walks a file. It goes on after an error: what is at fault is read as its zero value.
type decoder struct {
	file   string
	lookup func(string) (string, bool)
	lines  map[string]int
	errs   []*Error
	values int // of JSON, so far

	secretFiles, literals []string // as in File
	secrets               []secret.Secret
}

// maxErrors is how many errors are kept.
const maxErrors = 20

// A value is a node with the path of its setting. Its methods read it as what is expected there, or fail.
type value struct {
	d       *decoder
	node    *yaml.Node
	line    int // the key's, where there is one
	setting string
}

// fail records an error about v, unless there is one about it, a part of it or what it is a part of: the first is the cause
// of the others. args must not hold what may be secret: quote is for the others.
func (v value) fail(format string, args ...any) {
	if len(v.d.errs) == maxErrors || slices.ContainsFunc(v.d.errs, func(e *Error) bool {
		return !e.apart && (within(e.Setting, v.setting) || within(v.setting, e.Setting))
	}) {
		return
	}
	v.d.errs = append(v.d.errs, v.error(format, args...))
}

// failApart records an error about a part of v that has no name of its own, whatever else there is about v.
func (v value) failApart(format string, args ...any) {
	if len(v.d.errs) < maxErrors {
		e := v.error(format, args...)
		e.apart = true
		v.d.errs = append(v.d.errs, e)
	}
}

func (v value) error(format string, args ...any) *Error {
	return &Error{File: v.d.file, Line: v.line, Setting: v.setting, Err: fmt.Errorf(format, args...)}
}

// within reports whether a setting is another, or a part of it.
func within(part, whole string) bool {
	rest, ok := strings.CutPrefix(part, whole)
	return ok && (whole == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// quote returns v as it stands in the file, with its variables unexpanded.
func (v value) quote() string { return strconv.Quote(printable.Line(v.node.Value, 60)) }

// at returns the value of a node, or of what it is an alias of.
func (d *decoder) at(node *yaml.Node, line int, setting string) value {
	if node.Kind == yaml.AliasNode {
		node = node.Alias // which is never an alias
	}
	return value{d: d, node: node, line: line, setting: setting}
}

// is reports whether v is of a kind, and fails for nothing at all.
func (v value) is(kind yaml.Kind) bool {
	if v.node.Kind == yaml.ScalarNode && v.node.ShortTag() == "!!null" {
		v.fail("empty")
	}
	return v.node.Kind == kind
}

// pairs yields the keys of a mapping, and fails where it is none, is empty or has a key twice.
func (v value) pairs() iter.Seq2[string, value] {
	return func(yield func(string, value) bool) {
		if !v.is(yaml.MappingNode) {
			v.fail("settings (name: value) are expected here")
			return
		}
		if len(v.node.Content) == 0 {
			v.fail("empty")
		}
		seen := map[string]int{}
		for i := 0; i+1 < len(v.node.Content) && len(v.d.errs) < maxErrors; i += 2 {
			key := v.node.Content[i]
			item := v.d.at(v.node.Content[i+1], key.Line, join(v.setting, printable.Line(key.Value, 60)))
			switch first := seen[key.Value]; {
			case key.Kind != yaml.ScalarNode || key.Value == "":
				item.fail("a name is expected here")
				continue
			case first > 0:
				item.fail("given twice, first in line %d", first)
				continue
			}
			seen[key.Value] = key.Line
			v.d.lines[item.setting] = key.Line
			if !yield(key.Value, item) {
				return
			}
		}
	}
}

func join(setting, name string) string {
	if setting == "" {
		return name
	}
	return setting + "." + name
}

// text reads text that isn't empty, with its variables expanded. Its errors don't repeat it.
func (v value) text() string {
	if !v.is(yaml.ScalarNode) {
		v.fail("a single value is expected here")
		return ""
	}
	if v.node.Style&yaml.TaggedStyle != 0 && v.node.ShortTag() != "!!str" {
		v.fail("a YAML tag (!…) means nothing here; a value that begins with ! needs quotes")
		return ""
	}
	s, err := expand(v.node.Value, v.d.lookup)
	switch {
	case err != nil:
		v.fail("%w", err)
	case s == "" && v.node.Value != "":
		v.fail("empty once its variables are expanded")
	case s == "":
		v.fail("empty")
	}
	return s
}

func (v value) secret() secret.Secret {
	s := v.text()
	if s == v.node.Value { // no variable was expanded
		v.d.literals = append(v.d.literals, v.setting)
	}
	v.d.secrets = append(v.d.secrets, secret.New(s))
	return secret.New(s)
}

// listOf returns a reader of a list, or of a lone item as a list of one.
func listOf[T any](read func(value) T) func(value) []T {
	return func(v value) []T {
		if !v.is(yaml.SequenceNode) {
			return []T{read(v)}
		}
		if len(v.node.Content) == 0 {
			v.fail("empty")
		}
		list := make([]T, 0, len(v.node.Content))
		for i, node := range v.node.Content {
			list = append(list, read(v.d.at(node, node.Line, fmt.Sprintf("%s[%d]", v.setting, i))))
		}
		return list
	}
}

func (v value) name() string {
	s := v.text()
	if s != "" && store.CheckName(s) != nil {
		v.fail("%s: %w", v.quote(), store.ErrName)
	}
	return s
}

func (v value) boolean() bool {
	switch v.text() {
	case "true":
		return true
	case "false", "": // text has failed for ""
		return false
	}
	v.fail("%s is neither true nor false", v.quote())
	return false
}

func (v value) natural() int {
	s := v.text()
	n, err := strconv.Atoi(s)
	if s != "" && (err != nil || n < 0) {
		v.fail("%s is no number from 0", v.quote())
	}
	return n
}

// duration reads a duration above 0: in the manager 0 would mean the default.
func (v value) duration() time.Duration {
	s := v.text()
	d, err := time.ParseDuration(s)
	switch {
	case s == "":
	case err != nil:
		v.fail("%s is no duration (6s, 500ms, 2m)", v.quote())
	case d <= 0:
		v.fail("%s is not above 0", v.quote())
	}
	return d
}

// part reads a part of a whole: "80%" or 0.8.
func (v value) part() float64 {
	s := v.text()
	number, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		f /= 100
	}
	if s != "" && (err != nil || math.IsNaN(f) || f <= 0 || f >= 1) {
		v.fail("%s is no part of a life (80%% or 0.8)", v.quote())
	}
	return f
}

// url reads an absolute http or https URL. One with credentials in it is refused, and none is repeated.
func (v value) url() string {
	s := v.text()
	u, err := url.Parse(s)
	switch {
	case s == "":
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		v.fail("no absolute http or https URL")
	case u.User != nil:
		v.fail("a URL must not hold credentials: client_id and client_secret do")
	}
	return s
}

// path reads a file's name, relative to the configuration file's folder.
func (v value) path() string {
	s := v.text()
	if s == "" || filepath.IsAbs(s) {
		return s
	}
	return filepath.Join(filepath.Dir(v.d.file), s)
}
