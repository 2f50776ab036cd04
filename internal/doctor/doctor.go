// Package doctor looks at all that onetoken depends on, and says of each thing that is wrong what to do about it. It
// changes nothing but scratch keys, which it removes, and which end by themselves after seconds.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A Level says how bad a finding is.
type Level string

// The levels.
const (
	LevelOK      Level = "ok"      // good, or worth knowing
	LevelWarning Level = "warning" // it works, and shouldn't be left so
	LevelFailure Level = "failure" // it doesn't work
)

// The groups of checks: what stands before the point in [Finding.Check].
const (
	GroupConfiguration = "configuration"
	GroupRedis         = "redis"
	GroupEndpoint      = "endpoint"
)

// storeTimeout bounds one look at a few hundred environments, where the client's own limits don't.
const storeTimeout = 10 * time.Second

// Groups are the groups in their order: each needs those before it.
func Groups() []string { return []string{GroupConfiguration, GroupRedis, GroupEndpoint} }

// A Finding is what a check has found of one subject. Its texts are one line each, never with a secret in them.
type Finding struct {
	Check   string `json:"check"` // "redis.version"
	Level   Level  `json:"level"`
	Subject string `json:"subject"` // what it is about: a file, an address, an environment, a key
	Message string `json:"message"`
	Mend    string `json:"mend"` // what to do; "" where there is nothing to do
}

// Group returns the group of the finding's check.
func (f Finding) Group() string {
	group, _, _ := strings.Cut(f.Check, ".")
	return group
}

// Worst returns the finding that decides how the whole ends: of the failures, or else of the warnings where they count
// (strict), the first in the order of the groups. nil where all is well.
func Worst(findings []Finding, strict bool) *Finding {
	levels := []Level{LevelFailure}
	if strict {
		levels = append(levels, LevelWarning)
	}
	for _, level := range levels {
		for _, group := range Groups() {
			if i := slices.IndexFunc(findings, func(f Finding) bool { return f.Level == level && f.Group() == group }); i >= 0 {
				return &findings[i]
			}
		}
	}
	return nil
}

// Options say what to look at.
type Options struct {
	Sources      config.Sources
	Environments []string      // empty: all that are configured
	Token        bool          // ask for a token, too
	RoundTrip    time.Duration // to Redis, above which there is a warning; default [DefaultRoundTrip]
	Log          *slog.Logger
}

// DefaultRoundTrip is a round trip to Redis that is too slow.
const DefaultRoundTrip = 50 * time.Millisecond

// Count is n of something: "1 key", "2 keys".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// An examination is one run. Each of its parts writes to a report of its own.
type examination struct {
	Options
	file    *config.File
	envs    []string // the chosen ones that are configured, sorted
	rdb     redis.UniversalClient
	store   *store.Store
	manager *manager.Manager // nil where nothing is configured
	now     func() time.Time
}

// report collects findings.
type report struct{ findings []Finding }

func (r *report) add(check string, level Level, subject, message, mend string) {
	r.findings = append(r.findings, Finding{
		Check: check, Level: level, Subject: printable.Line(subject, 300), Message: printable.Line(message, 600), Mend: printable.Line(mend, 600),
	})
}

func (r *report) ok(check, subject, format string, args ...any) {
	r.add(check, LevelOK, subject, fmt.Sprintf(format, args...), "")
}

// unknown is for what couldn't be looked at, which is no fault: mend says how to look.
func (r *report) unknown(check, subject, message, mend string) {
	r.add(check, LevelOK, subject, "not looked at: "+message, mend)
}

func (r *report) warn(check, subject, message, mend string) {
	r.add(check, LevelWarning, subject, message, mend)
}

func (r *report) fail(check, subject, message, mend string) {
	r.add(check, LevelFailure, subject, message, mend)
}

// Run examines all there is until ctx is done, which is a failure by itself. The error is about the environments that were
// asked for: a *[manager.UnknownEnvironmentError].
func Run(ctx context.Context, o Options) ([]Finding, error) {
	e := &examination{Options: o, now: time.Now}
	var configuration, rds, endpoints report
	defer e.close()
	if !e.open(&configuration) {
		return configuration.findings, nil
	}
	if err := e.choose(); err != nil {
		return nil, err
	}
	e.configuration(&configuration)
	var both sync.WaitGroup
	both.Go(func() { e.redis(ctx, &rds) })
	both.Go(func() { e.endpoints(ctx, &endpoints) })
	both.Wait()
	if e.Token {
		e.tokens(ctx, &endpoints)
	}
	for group, r := range map[string]*report{GroupRedis: &rds, GroupEndpoint: &endpoints} {
		if ctx.Err() != nil {
			r.fail(group+".time", "", fmt.Sprintf("%v before all was looked at", context.Cause(ctx)), "see what hangs above, or allow more by --timeout")
		}
	}
	return slices.Concat(configuration.findings, rds.findings, endpoints.findings), nil
}

// open reads the configuration and makes what it describes, and reports whether that worked.
func (e *examination) open(r *report) bool {
	const check = GroupConfiguration + ".file"
	sources := e.Sources
	sources.NoFileOK = true
	err := e.make(sources)
	switch {
	case err == nil && e.file.Path == "":
		r.ok(check, "none", "no file: only Redis is looked at")
	case err == nil:
		r.ok(check, e.file.Path, "%s, no unknown setting", Count(len(e.file.Environments), "environment"))
	default:
		subject := "configuration"
		if wrong, ok := errors.AsType[*config.Error](err); ok {
			subject = wrong.File
		}
		r.fail(check, subject, err.Error(), "mend the setting that is named; docs/configuration.md has them all")
	}
	return err == nil
}

func (e *examination) make(sources config.Sources) error {
	var err error
	if e.file, err = sources.Load(); err != nil {
		return err
	}
	if e.rdb, err = e.file.Client(); err != nil {
		return err
	}
	codec, err := e.file.Codec(e.logger())
	if err != nil {
		return err
	}
	// How slow Redis is is told by its round trips, and not by what can't be looked at.
	if e.store, err = store.New(e.rdb, store.Options{Namespace: e.file.Namespace, Timeout: storeTimeout, Codec: codec}); err != nil {
		return err
	}
	for name, environment := range e.file.Environments {
		environment.KeepWarm = false
		e.file.Environments[name] = environment
	}
	if len(e.file.Environments) > 0 {
		e.manager, err = e.file.Manager(e.rdb, e.logger())
	}
	return err
}

func (e *examination) logger() *slog.Logger { return cmp.Or(e.Log, slog.New(slog.DiscardHandler)) }

func (e *examination) close() {
	if e.manager != nil {
		_ = e.manager.Close()
	}
	if e.rdb != nil {
		_ = e.rdb.Close()
	}
}

// choose decides which environments are looked at.
func (e *examination) choose() error {
	var known []string
	if e.manager != nil {
		known = e.manager.Environments()
	}
	for _, name := range e.Environments {
		if !slices.Contains(known, name) {
			return &manager.UnknownEnvironmentError{Environment: name, Known: known}
		}
	}
	e.envs = known
	if len(e.Environments) > 0 {
		e.envs = slices.Compact(slices.Sorted(slices.Values(e.Environments)))
	}
	return nil
}
