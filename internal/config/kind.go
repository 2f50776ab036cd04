package config

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager"
)

// simple is a kind whose schema is a definition.
func simple[T any](name, definition string, read func(value) T) kind[T] {
	return kind[T]{description{name: name, schema: func() schema { return ref(definition) }}, read}
}

func textKind() kind[string]            { return simple("text", "text", value.text) }
func nameKind() kind[string]            { return simple("name", "name", value.name) }
func urlKind() kind[string]             { return simple("URL", "url", value.url) }
func boolKind() kind[bool]              { return simple("`true` or `false`", "boolean", value.boolean) }
func naturalKind() kind[int]            { return simple("number", "natural", value.natural) }
func durationKind() kind[time.Duration] { return simple("duration", "duration", value.duration) }
func partKind() kind[float64]           { return simple("part", "part", value.part) }

func secretKind() kind[secret.Secret] {
	k := simple("secret", "text", value.secret)
	k.secret = true
	return k
}

// fileKind is a file that is named, and read by others.
func fileKind() kind[string] { return simple("file", "text", value.path) }

// secretFileKind is the same for one that nobody else should read.
func secretFileKind() kind[string] { return simple("file", "text", value.secretPath) }

func keyringKind() kind[string] { return simple("file", "text", value.keyringPath) }

// filledKind is a file that others read, and that must be there with something in it.
func filledKind() kind[string] { return simple("file", "text", value.filled) }

// filledSecretKind is the same for one that nobody else should read.
func filledSecretKind() kind[string] { return simple("file", "text", value.filledSecret) }

// oneOf is one of a few words.
func oneOf[T ~string](words ...T) kind[T] {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	return kind[T]{
		description{
			name:   enumerate(code(names), "or"),
			schema: func() schema { return schema{AnyOf: []schema{{Enum: anys(names)}, ref("variable")}} },
		},
		func(v value) T { return T(v.word(names)) },
	}
}

// word reads one of a few words.
func (v value) word(words []string) string {
	got := v.text()
	switch {
	case slices.Contains(words, got):
		return got
	case got == "": // text has failed
	case len(words) == 2:
		v.fail("%s is neither %s nor %s", v.quote(), words[0], words[1])
	default:
		v.fail("%s is none of %s", v.quote(), strings.Join(words, ", "))
	}
	return ""
}

// listKind is a list, or a lone item as a list of one.
func listKind[T any](item kind[T]) kind[[]T] {
	d := item.description
	d.name = item.name + ", or a list"
	if item.inner != nil {
		d.name = "a list of settings"
	}
	d.schema = func() schema { return listSchema(item.schema()) }
	return kind[[]T]{d, listOf(item.read)}
}

// mapKind is items by names.
func mapKind[T any](item kind[T]) kind[map[string]T] {
	return kind[map[string]T]{
		description{name: "a mapping: " + item.name + " each", schema: func() schema { return mapSchema(item.schema()) }, secret: item.secret},
		func(v value) map[string]T {
			m := map[string]T{}
			for name, v := range v.pairs() {
				m[name] = item.read(v)
			}
			return m
		},
	}
}

// paramsKind is texts, or lists of them, by names.
func paramsKind() kind[url.Values] {
	k := mapKind(listKind(textKind()))
	return kind[url.Values]{k.description, func(v value) url.Values { return k.read(v) }}
}

// claimsKind is any JSON values by names.
func claimsKind() kind[map[string]any] {
	return kind[map[string]any]{
		description{name: "a mapping of any JSON", schema: func() schema {
			return schema{Type: types{"object"}, MinProperties: 1, PropertyNames: &schema{MinLength: 1}}
		}},
		value.claims,
	}
}

func (v value) claims() map[string]any {
	m := map[string]any{}
	for name, item := range v.pairs() {
		m[name] = item.json(0)
	}
	return m
}

// The most that JSON in the file may be: what a few aliases of aliases stand for can be larger than any memory.
const (
	maxDepth  = 20
	maxValues = 10_000
)

// json reads any value that JSON has. Text is expanded.
func (v value) json(depth int) any {
	if v.d.values++; depth > maxDepth || v.d.values > maxValues {
		v.fail("too large: more than %d values, or more than %d within each other", maxValues, maxDepth)
		return nil
	}
	switch v.node.Kind {
	case yaml.SequenceNode:
		list := make([]any, 0, len(v.node.Content))
		for i, node := range v.node.Content {
			if v.d.values > maxValues {
				break
			}
			list = append(list, v.d.at(node, node.Line, fmt.Sprintf("%s[%d]", v.setting, i)).json(depth+1))
		}
		return list
	case yaml.MappingNode:
		m := map[string]any{}
		if len(v.node.Content) == 0 {
			return m
		}
		for name, item := range v.pairs() {
			if v.d.values > maxValues {
				break
			}
			m[name] = item.json(depth + 1)
		}
		return m
	default:
		return v.jsonScalar()
	}
}

func (v value) jsonScalar() any {
	if v.node.Style&yaml.TaggedStyle == 0 {
		switch v.node.ShortTag() {
		case "!!null":
			return nil
		case "!!bool", "!!int", "!!float":
			var scalar any
			err := v.node.Decode(&scalar)
			if err == nil {
				_, err = json.Marshal(scalar)
			}
			if err != nil { // .inf, .nan
				v.fail("%s is no value of JSON; text needs quotes", v.quote())
			}
			return scalar
		}
	}
	if v.node.Value == "" { // which text refuses
		return ""
	}
	return v.text()
}

// secretPath is path of a file that nobody else should read.
func (v value) secretPath() string {
	path := v.path()
	if path != "" {
		v.d.secretFiles = append(v.d.secretFiles, path)
	}
	return path
}

// filled is path of a file that is there, and not empty. Who uses it reads it, again when it changes; here an error has a line.
func (v value) filled() string {
	path := v.path()
	if path != "" {
		v.look(path)
	}
	return path
}

// filledSecret is filled of a file that nobody else should read.
func (v value) filledSecret() string {
	path := v.secretPath()
	if path != "" {
		v.look(path)
	}
	return path
}

// look fails where a file can't be read or is empty. What is in a pipe is left to who uses it: it can be read once.
func (v value) look(path string) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return
	}
	s := strings.TrimRight(string(v.read(path)), "\r\n")
	if s == "" {
		v.fail("the file is empty")
	}
	v.d.secrets = append(v.d.secrets, secret.New(s))
}

// secretFromFile reads a secret from the file that v names, without the line break at its end.
func (v value) secretFromFile() secret.Secret {
	s := strings.TrimRight(string(v.secretContent()), "\r\n")
	if s == "" {
		v.fail("the file is empty")
	}
	v.d.secrets = append(v.d.secrets, secret.New(s))
	return secret.New(s)
}

// secretContent is content of a file that nobody else should read.
func (v value) secretContent() []byte { return v.read(v.secretPath()) }

// content reads the file that v names.
func (v value) content() []byte { return v.read(v.path()) }

// read reads a file: a secret or certificates, so at most 1 MiB.
func (v value) read(path string) []byte {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err == nil {
		defer func() { _ = f.Close() }()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, 1<<20)); err == nil {
			return data
		}
	}
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err // the setting says which file
	}
	v.fail("%s: %w", v.quote(), err)
	return nil
}

func (v value) certPool() *x509.CertPool {
	pool := x509.NewCertPool()
	if pem := v.content(); pem != nil && !pool.AppendCertsFromPEM(pem) {
		v.fail("%s has no PEM certificates", v.quote())
	}
	return pool
}

// backoffKind is {min: 1s, max: 1m}, or a lone duration, which is the shortest pause. A longest that isn't given is the
// manager's default, or the shortest where that is longer.
func backoffKind(standard manager.Backoff) kind[manager.Backoff] {
	k := section(backoffTable)
	k.name, k.lone = "duration, or `{min, max}`", true
	inner := k.schema
	k.schema = func() schema { return schema{AnyOf: []schema{ref("duration"), inner()}} }
	settings := k.read
	k.read = func(v value) manager.Backoff {
		var b manager.Backoff
		if v.is(yaml.MappingNode) {
			b = settings(v)
		} else {
			b.Min = v.duration()
		}
		if b.Max == 0 {
			b.Max = max(b.Min, standard.Max)
		}
		return b
	}
	return k
}

func backoffTable(b *manager.Backoff) table {
	return table{groups: []group{{settings: []setting{
		set("min", &b.Min, durationKind(), "the first pause").like("1s"),
		set("max", &b.Max, durationKind(), "the longest pause, to which it doubles").like("1m"),
	}}}}
}

// written is a duration without the zeros that say nothing: 15m, not 15m0s.
func written(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func writtenBackoff(b manager.Backoff) string {
	return "{min: " + written(b.Min) + ", max: " + written(b.Max) + "}"
}

func writtenPart(f float64) string { return strconv.FormatFloat(f*100, 'g', -1, 64) + "%" }
