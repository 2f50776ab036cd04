// Package config reads onetoken's configuration file. Its errors name file, line and setting in one line, and never
// repeat the value of a variable or of a setting that may hold a secret.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A File is a configuration, read and checked.
type File struct {
	Path         string // as it was given; "" where there is none
	Redis        redisclient.Options
	Namespace    string // "" means the default, as in manager.Config
	Replica      string // the same
	Environments map[string]manager.Environment
	Sealing      Sealing
	Agent        Agent // for onetoken serve

	SecretFiles []string        // the files with secrets that it names
	Literals    []string        // the settings whose secrets stand in the file itself, in no variable and no other file
	Secrets     []secret.Secret // all that the file, its variables and the files that were read hold; those in a Redis URL are a part of it

	lines map[string]int // where each setting stands, by its path ("environments.prod.lease")
}

// An Error says what is wrong with a file, and where.
type Error struct {
	File    string
	Line    int    // 0 where it is about the whole file
	Setting string // "environments.prod.lease"; "" where the file isn't even YAML
	Err     error

	Others []*Error // what else is wrong with the file; none of it is in the text

	apart bool // it is about a part of Setting, and no other error is about that
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(printable.Line(e.File, 200))
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Setting != "" {
		b.WriteString(": " + e.Setting)
	}
	return b.String() + ": " + printable.Line(e.Err.Error(), 500)
}

func (e *Error) Unwrap() error { return e.Err }

// Sources say where a configuration comes from.
type Sources struct {
	Path      string // of the file; default $ONETOKEN_CONFIG, else onetoken.yaml
	RedisURL  string // in place of all that the file says of Redis; default $ONETOKEN_REDIS_URL
	Namespace string // in place of the file's
	NoFileOK  bool   // with a Redis URL a file that nobody named may be missing
	Lookup    func(string) (string, bool)
}

// Load reads the configuration. The error is an [*Error], or about the namespace and Redis URL in s.
func (s Sources) Load() (*File, error) {
	redisURL := cmp.Or(s.RedisURL, s.variable("ONETOKEN_REDIS_URL"))
	f, err := s.file(redisURL != "")
	if err != nil {
		return nil, err
	}
	if redisURL != "" {
		f.Redis = redisclient.Options{URL: secret.New(redisURL)}
		if err := f.Redis.Validate(); err != nil {
			return nil, fmt.Errorf("--redis-url or $ONETOKEN_REDIS_URL: %w", err)
		}
	}
	if s.Namespace != "" {
		if err := store.CheckName(s.Namespace); err != nil {
			return nil, fmt.Errorf("--namespace: %w", err)
		}
		f.Namespace = s.Namespace
	}
	return f, nil
}

// File returns the path of the file that is read.
func (s Sources) File() string {
	return cmp.Or(s.Path, s.variable("ONETOKEN_CONFIG"), "onetoken.yaml")
}

func (s Sources) variable(name string) string {
	v, _ := s.Lookup(name)
	return v
}

func (s Sources) file(haveRedis bool) (*File, error) {
	named := cmp.Or(s.Path, s.variable("ONETOKEN_CONFIG"))
	path := s.File()
	data, err := os.ReadFile(path)
	var pathError *fs.PathError
	switch {
	case err == nil:
		return Parse(path, data, s.Lookup)
	case errors.Is(err, fs.ErrNotExist) && named == "" && haveRedis && s.NoFileOK:
		return &File{}, nil
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("there is no such file; --config or $ONETOKEN_CONFIG names another")
	case errors.As(err, &pathError):
		err = pathError.Err
	}
	return nil, &Error{File: path, Err: err}
}

// Parse reads a file's content. Files that it names are relative to path's folder; variables are looked up by lookup. The
// error is an [*Error].
func Parse(path string, data []byte, lookup func(string) (string, bool)) (*File, error) {
	root, err := parseYAML(data)
	if err != nil {
		return nil, asError(path, err)
	}
	d := &decoder{file: path, lookup: lookup, lines: map[string]int{}}
	f := &File{Path: path, lines: d.lines}
	if root == nil {
		return nil, &Error{File: path, Setting: "environments", Err: errors.New("missing")}
	}
	d.at(root, root.Line, "").fill(fileTable(f))
	d.checkClients(f)
	if len(d.errs) > 0 {
		first := d.errs[0]
		first.Others = d.errs[1:]
		return nil, first
	}
	f.SecretFiles, f.Literals, f.Secrets = d.secretFiles, d.literals, d.secrets
	return f, nil
}

// parseYAML returns the one document's root, nil where there is nothing in it.
func parseYAML(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var document, second yaml.Node
	if err := loader.Load(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := loader.Load(&second); err == nil {
		return nil, errors.New(`more than one YAML document ("---")`)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 || document.Content[0].ShortTag() == "!!null" {
		return nil, nil
	}
	return document.Content[0], nil
}

// asError takes line and message from the parser's error, and leaves out what could be a part of a secret.
func asError(path string, err error) error {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		return &Error{File: path, Err: err}
	}
	message := load.Message
	if load.Stage == yaml.ComposerStage { // it goes on with the text after the "*"
		message = `an alias ("*…") without its anchor: a value that begins with "*" needs quotes`
	}
	if load.ContextMsg != "" {
		message = fmt.Sprintf("%s, %s that begins in line %d", message, load.ContextMsg, load.ContextMark.Line)
	}
	return &Error{File: path, Line: load.Mark.Line, Err: errors.New("not YAML: " + message)}
}

// Client returns a client of the configured Redis. It does no I/O.
func (f *File) Client() (redis.UniversalClient, error) {
	if f.Redis.URL.IsEmpty() && len(f.Redis.Addresses) == 0 {
		return nil, &Error{File: f.Path, Setting: "redis.url", Err: errors.New("missing; --redis-url or $ONETOKEN_REDIS_URL gives one, too")}
	}
	return redisclient.New(f.Redis)
}

// Manager returns a manager of the configured environments on rdb, after the changes to what the file says, if any. An error
// about a setting is an [*Error] that says where it stands.
func (f *File) Manager(rdb redis.UniversalClient, logger *slog.Logger, changes ...func(*manager.Config)) (*manager.Manager, error) {
	c, err := f.config(rdb, logger, changes...)
	if err != nil {
		return nil, err
	}
	m, err := manager.New(c)
	return m, f.locate(err)
}

func (f *File) config(rdb redis.UniversalClient, logger *slog.Logger, changes ...func(*manager.Config)) (manager.Config, error) {
	codec, err := f.Codec(logger)
	if err != nil {
		return manager.Config{}, err
	}
	c := manager.Config{
		Redis:        rdb,
		Environments: f.Environments,
		Namespace:    f.Namespace,
		Replica:      f.Replica,
		Logger:       logger,
		Codec:        codec,
	}
	for _, change := range changes {
		change(&c)
	}
	return c, nil
}

// locate turns the manager's error about a setting into one that says where the setting stands.
func (f *File) locate(err error) error {
	var wrong *manager.ConfigError
	if !errors.As(err, &wrong) || f.Path == "" {
		return err
	}
	located := &Error{File: f.Path, Err: wrong.Err}
	if wrong.Environment != "" {
		located.Setting = "environments." + wrong.Environment
	}
	located.Line = f.lines[located.Setting]
	// The message begins with the setting, or settings, that it is about.
	names, rest, _ := strings.Cut(wrong.Err.Error(), ": ")
	if strings.Contains(strings.ReplaceAll(names, ", ", ""), " ") {
		names, rest, _ = strings.Cut(wrong.Err.Error(), " ") // "client_id is missing"
	}
	for name := range strings.SplitSeq(names, ", ") {
		candidates := append([]string{name}, standIns[name]...)
		for whole, nested := cutLast(name); nested; whole, nested = cutLast(whole) {
			candidates = append(candidates, whole)
		}
		for _, candidate := range candidates {
			setting := join(located.Setting, candidate)
			if line := f.lines[setting]; line > 0 && candidate != "" {
				located.Setting, located.Line, located.Err = setting, line, errors.New(rest)
				return located
			}
		}
	}
	first, _, _ := strings.Cut(names, ", ")
	if _, ok := environmentTable(new(manager.Environment)).find(first); ok && located.Line > 0 && !strings.HasPrefix(rest, "or ") {
		located.Setting, located.Err = join(located.Setting, first), errors.New(rest) // it isn't there: the line is the environment's
	}
	return located
}

// cutLast cuts a setting's name at its last dot: "assertion.claims" is a part of "assertion".
func cutLast(name string) (whole string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	return name[:max(i, 0)], i > 0
}

// standIns are the settings that the manager names otherwise than the file: one of several that end up in one place.
var standIns = map[string][]string{
	"token_url":     {"base_url", "issuer"},
	"params":        {"secret_params"},
	"headers":       {"secret_headers"},
	"client_secret": {"client_secret_file"},
	"refresh_token": {"refresh_token_file"},
}
