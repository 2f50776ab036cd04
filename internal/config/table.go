package config

import (
	"slices"
	"strings"
)

// A table is all that may stand in one section of the file. The parser, the JSON Schema, the example and the tables of
// docs/configuration.md are made from it. It is made anew for each struct that a section is read into.
type table struct {
	groups []group
	rules  []rule
}

// A group is settings that are about one thing.
type group struct {
	title    string // "" where the table has one group alone
	settings []setting
}

// A setting is one name of a section.
type setting struct {
	name     string
	doc      string // one line of Markdown
	value    description
	standard string // the default, in YAML; "" where there is none
	implied  string // the default in words, where no one value is it
	example  string // in YAML
	shown    bool   // the example file has it without the "#"
	to       any    // a pointer to what it sets; nil where it sets more than one thing
	read     func(value)
}

// A description is what may stand as a setting's value.
type description struct {
	name   string // "duration"
	schema func() schema
	secret bool
	inner  *table // its settings, where it is a section
	lone   bool   // … or a single value
	each   bool   // … or one for each name
}

// A kind of value is described, and read as a T.
type kind[T any] struct {
	description
	read func(value) T
}

// set is a setting that puts what it reads into to.
func set[T any](name string, to *T, k kind[T], doc string) setting {
	return setting{name: name, doc: doc, value: k.description, to: to, read: func(v value) { *to = k.read(v) }}
}

// byDefault has yaml stand for the setting where it isn't given.
func (s setting) byDefault(yaml string) setting { s.standard = yaml; return s }

// impliedly says what holds where the setting isn't given, and no one value does.
func (s setting) impliedly(words string) setting { s.implied = words; return s }

// like shows an example.
func (s setting) like(yaml string) setting { s.example = yaml; return s }

// show has the example file set it.
func (s setting) show() setting { s.shown = true; return s }

// A rule is about settings of one section that need, or exclude, each other.
type rule struct {
	names     []string
	exclusive bool   // at most one of them; else one at least
	given     string // … where this one is given; "" always

	waived []condition // … unless all of these hold; none: always
}

// A condition is that a setting has one of some values.
type condition struct {
	name   string
	values []string
	holds  func() bool
}

func needOne(names ...string) rule                { return rule{names: names} }
func atMostOne(a, b string) rule                  { return rule{names: []string{a, b}, exclusive: true} }
func needWith(given string, names ...string) rule { return rule{names: names, given: given} }

// unless waives a rule where all conditions hold.
func (r rule) unless(all ...condition) rule { r.waived = all; return r }

// is is the condition that a setting, which is read into at, has one of the values.
func is[T ~string](name string, at *T, values ...T) condition {
	c := condition{name: name, holds: func() bool { return slices.Contains(values, *at) }}
	for _, v := range values {
		c.values = append(c.values, string(v))
	}
	return c
}

// isWaived reports whether a rule doesn't count for what was read.
func (r rule) isWaived() bool {
	return len(r.waived) > 0 && !slices.ContainsFunc(r.waived, func(c condition) bool { return !c.holds() })
}

// settings returns all of a table's settings.
func (t table) settings() []setting {
	var all []setting
	for _, g := range t.groups {
		all = append(all, g.settings...)
	}
	return all
}

// find returns the setting of a name, which may be that of an inner section's ("assertion.claims").
func (t table) find(name string) (setting, bool) {
	name, rest, nested := strings.Cut(name, ".")
	for _, s := range t.settings() {
		switch {
		case s.name != name:
		case !nested:
			return s, true
		case s.value.inner != nil:
			return s.value.inner.find(rest)
		}
	}
	return setting{}, false
}

// excludes returns the settings that one excludes.
func (t table) excludes(name string) []string {
	var others []string
	for _, r := range t.rules {
		if r.exclusive && slices.Contains(r.names, name) {
			for _, other := range r.names {
				if other != name {
					others = append(others, other)
				}
			}
		}
	}
	return others
}

// needs reports whether a setting is needed, which others would do in its place, and what would make it needless.
func (t table) needs(name string) (others []string, waiver string, needed bool) {
	for _, r := range t.rules {
		if r.exclusive || r.given != "" || !slices.Contains(r.names, name) {
			continue
		}
		var waivers []string
		for _, c := range r.waived {
			waivers = append(waivers, "`"+c.name+"` is "+enumerate(code(c.values), "or"))
		}
		waiver = enumerate(waivers, "and")
		return slices.DeleteFunc(slices.Clone(r.names), func(n string) bool { return n == name }), waiver, true
	}
	return nil, "", false
}

// fill reads a mapping's settings by a table, and then looks at its rules.
func (v value) fill(t table) {
	settings := t.settings()
	for key, item := range v.pairs() {
		i := slices.IndexFunc(settings, func(s setting) bool { return s.name == key })
		if i >= 0 {
			settings[i].read(item)
			continue
		}
		names := make([]string, len(settings))
		for i, s := range settings {
			names[i] = s.name
		}
		slices.Sort(names)
		if near := nearest(key, names); near != "" {
			item.fail("unknown setting; did you mean %s?", near)
			v.d.lines[join(v.setting, near)] = item.line // so that it isn't missing, too
		} else {
			item.fail("unknown setting")
		}
	}
	for _, r := range t.rules {
		v.check(r)
	}
}

// check fails where a rule isn't kept in the mapping v.
func (v value) check(r rule) {
	given := func(name string) int { return v.d.lines[join(v.setting, name)] }
	if r.given != "" && given(r.given) == 0 || r.isWaived() {
		return
	}
	if r.exclusive {
		a, b := r.names[0], r.names[1]
		if first, second := given(a), given(b); first > 0 && second > 0 {
			v.setting, v.line = join(v.setting, b), second
			v.fail("%s is given in line %d: one of the two is enough", a, first)
		}
		return
	}
	if slices.ContainsFunc(r.names, func(name string) bool { return given(name) > 0 }) {
		return
	}
	if v.setting == "" {
		v.line = 0 // it is about the whole file
	}
	v.setting = join(v.setting, r.names[0])
	message := "missing"
	if len(r.names) > 1 {
		message += " (or " + strings.Join(r.names[1:], ", ") + ")"
	}
	if len(r.waived) == 1 { // more conditions than that are nobody's first guess
		message += "; " + r.waived[0].name + " " + enumerate(r.waived[0].values, "or") + " needs none"
	}
	v.fail("%s", message)
}

// enumerate is "a, b or c".
func enumerate(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

// section is the kind of a mapping whose settings are those of a table for a T.
func section[T any](of func(*T) table) kind[T] {
	return kind[T]{
		description: description{
			name:   "settings",
			schema: func() schema { return of(new(T)).schema() },
			inner:  new(of(new(T))),
		},
		read: func(v value) T {
			var t T
			v.fill(of(&t))
			return t
		},
	}
}
