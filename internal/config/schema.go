package config

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Schema returns the JSON Schema (draft 2020-12) of the file, for editors and for checks before there are variables. What
// needs the variables' values, other files or two settings' values together is left to the parser.
func Schema() []byte {
	s := fileTable(new(File)).schema()
	s.Dialect = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "onetoken's configuration"
	s.Definitions = definitions()
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		panic(err) // it is made of nothing but text
	}
	return b.Bytes()
}

// A schema is as much of JSON Schema as is needed here.
type schema struct {
	Dialect     string `json:"$schema,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	WriteOnly   bool   `json:"writeOnly,omitempty"` // a secret

	Ref   string   `json:"$ref,omitempty"`
	Type  types    `json:"type,omitempty"`
	Enum  []any    `json:"enum,omitempty"`
	AnyOf []schema `json:"anyOf,omitempty"`
	AllOf []schema `json:"allOf,omitempty"`
	Not   *schema  `json:"not,omitempty"`
	If    *schema  `json:"if,omitempty"`
	Else  *schema  `json:"else,omitempty"`

	MinLength int    `json:"minLength,omitempty"`
	Pattern   string `json:"pattern,omitempty"`

	Minimum          *float64 `json:"minimum,omitempty"`
	ExclusiveMaximum *float64 `json:"exclusiveMaximum,omitempty"`

	Items    *schema `json:"items,omitempty"`
	MinItems int     `json:"minItems,omitempty"`

	Properties    properties          `json:"properties,omitempty"`
	PropertyNames *schema             `json:"propertyNames,omitempty"`
	Others        any                 `json:"additionalProperties,omitempty"` // a *schema, or false
	MinProperties int                 `json:"minProperties,omitempty"`
	Required      []string            `json:"required,omitempty"`
	With          map[string][]string `json:"dependentRequired,omitempty"`

	Default  any   `json:"default,omitempty"`
	Examples []any `json:"examples,omitempty"`

	Definitions properties `json:"$defs,omitempty"`
}

// types are one type, or several.
type types []string

// MarshalJSON implements [json.Marshaler].
func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// properties are schemas by their names, in an order of their own.
type properties []property

type property struct {
	name   string
	schema schema
}

// MarshalJSON implements [json.Marshaler].
func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	for i, each := range p {
		b.WriteByte("{,"[min(i, 1)])
		if err := encoder.Encode(each.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := encoder.Encode(each.schema); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// The patterns of values. A variable is written as ${NAME}; "$${" stands for "${" itself.
const (
	variableForm = `(^|[^$])\$\{[A-Za-z_][A-Za-z0-9_]*\}`
	textForm     = `^([^$]|\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$\$+\{|\$+[^${])*\$*$`
	urlForm      = `^[Hh][Tt][Tt][Pp][Ss]?://([^/?#@:\[\]\s]+|\[[^/?#@\s]+\])(:[0-9]*)?([/?#].*)?$`
	durationForm = `^\+?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`
	partForm     = `^(0*[5-9][0-9](\.[0-9]*)?%|0*\.[5-9][0-9]*)$`
	nameForm     = `^[A-Za-z0-9._-]{1,128}$`
)

// definitions are what the schemas of kinds refer to.
func definitions() properties {
	scalar := types{"string", "number", "boolean"} // a number that stands where text is expected is the text that it is
	orVariable := func(s ...schema) schema { return schema{AnyOf: append(s, ref("variable"))} }
	described := func(s schema, text string) schema { s.Description = text; return s }
	return properties{
		{"variable", described(schema{AllOf: []schema{{Pattern: textForm}, {Pattern: variableForm}}, Type: types{"string"}}, "text with the variables of the environment in it: ${NAME}")},
		{"text", described(schema{Type: scalar, MinLength: 1, Pattern: textForm}, "text that isn't empty; ${NAME} is a variable of the environment, $${ is ${ itself")},
		{"name", orVariable(schema{Type: scalar, Pattern: nameForm})},
		{"url", orVariable(schema{Type: types{"string"}, AllOf: []schema{{Pattern: urlForm}, {Pattern: textForm}}})},
		{"boolean", orVariable(schema{Enum: []any{true, false, "true", "false"}})},
		{"natural", orVariable(schema{Type: types{"integer"}, Minimum: new(0.0)}, schema{Type: types{"string"}, Pattern: `^\+?[0-9]+$`})},
		{"duration", described(orVariable(schema{Type: types{"string"}, AllOf: []schema{{Pattern: durationForm}, {Pattern: "[1-9]"}}}), "a duration above 0: 6s, 500ms, 1h30m")},
		{"part", described(orVariable(schema{Type: types{"number"}, Minimum: new(0.5), ExclusiveMaximum: new(1.0)}, schema{Type: types{"string"}, Pattern: partForm}), "a part of a whole: 80% or 0.8")},
	}
}

func ref(definition string) schema { return schema{Ref: "#/$defs/" + definition} }

// listSchema is one item, or a list of them.
func listSchema(item schema) schema {
	return schema{AnyOf: []schema{item, {Type: types{"array"}, Items: &item, MinItems: 1}}}
}

// mapSchema is items by names.
func mapSchema(item schema) schema {
	return schema{Type: types{"object"}, MinProperties: 1, PropertyNames: &schema{MinLength: 1}, Others: &item}
}

// schema is that of a section.
func (t table) schema() schema {
	s := schema{Type: types{"object"}, Others: false, MinProperties: 1}
	for _, each := range t.settings() {
		s.Properties = append(s.Properties, property{each.name, t.schemaOf(each)})
	}
	for _, r := range t.rules {
		switch {
		case r.exclusive:
			s.AllOf = append(s.AllOf, schema{Not: &schema{Required: r.names}})
		case r.given != "":
			if s.With == nil {
				s.With = map[string][]string{}
			}
			s.With[r.given] = r.names
		case len(r.waived) > 0:
			waived := &schema{}
			for _, c := range r.waived {
				holds := schema{AnyOf: []schema{{Enum: anys(c.values)}, ref("variable")}}
				waived.Properties = append(waived.Properties, property{c.name, holds})
				waived.Required = append(waived.Required, c.name)
			}
			s.AllOf = append(s.AllOf, schema{If: waived, Else: new(oneRequired(r.names))})
		case len(r.names) == 1:
			s.Required = append(s.Required, r.names...)
		default:
			s.AllOf = append(s.AllOf, oneRequired(r.names))
		}
	}
	return s
}

func oneRequired(names []string) schema {
	var s schema
	for _, name := range names {
		s.AnyOf = append(s.AnyOf, schema{Required: []string{name}})
	}
	return s
}

// schemaOf is that of one setting.
func (t table) schemaOf(each setting) schema {
	s := each.value.schema()
	s.Description, s.WriteOnly = plain(each.doc), each.value.secret
	if each.standard != "" {
		s.Default = decoded(each.standard)
	}
	if each.implied != "" {
		s.Description += ". Default: " + plain(each.implied)
	}
	if others := t.excludes(each.name); len(others) > 0 {
		s.Description += ". In place of " + enumerate(others, "or")
	}
	if each.example != "" {
		s.Examples = []any{decoded(each.example)}
	}
	return s
}

// plain is Markdown without its marks.
func plain(markdown string) string { return strings.NewReplacer("`", "", `\|`, "|").Replace(markdown) }

// decoded is what YAML stands for in JSON.
func decoded(text string) any {
	var v any
	if err := yaml.Load([]byte(text), &v); err != nil {
		panic("config: " + text + ": " + err.Error()) // it stands in a table here, and each is looked at by a test
	}
	return v
}

func anys[T any](list []T) []any {
	var all []any
	for item := range slices.Values(list) {
		all = append(all, item)
	}
	return all
}
