package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// An app is one run of the command.
type app struct {
	stdout, stderr io.Writer
	lookup         func(string) (string, bool) // of the process's environment

	interruptIgnored bool // SIGINT was ignored when the process was started

	sources          config.Sources
	replica          string // in place of the file's
	stays            bool   // the command stays, and keeps tokens warm where that is configured
	output, logLevel string
	started          bool // the command line was understood
	log              *slog.Logger
	closers          []func() error
}

// logLevelOf is a command's annotation with its own default of --log-level.
const logLevelOf = "log-level"

// start checks the flags that all commands share.
func (a *app) start(cmd *cobra.Command) error {
	var level slog.Level
	if own := cmd.Annotations[logLevelOf]; own != "" && !cmd.Flags().Changed("log-level") {
		a.logLevel = own
	}
	known := []string{"debug", "info", "warn", "error"}
	if !slices.Contains(known, a.logLevel) {
		return fmt.Errorf("--log-level: %.40q is none of %s", a.logLevel, strings.Join(known, ", "))
	}
	if a.output != "table" && a.output != "json" {
		return fmt.Errorf("--output: %.40q is neither table nor json", a.output)
	}
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	a.log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	a.sources.Lookup = a.lookup
	a.started = true
	return nil
}

// close releases what the command has opened, last first. It waits for a request to a token endpoint that was sent.
func (a *app) close() {
	for _, closer := range slices.Backward(a.closers) {
		_ = closer()
	}
}

// An opened configuration: the store, and the manager of the environments where there are any.
type opened struct {
	file    *config.File
	store   *store.Store
	codec   store.Codec      // nil where nothing is sealed
	manager *manager.Manager // nil without a file
}

// open reads the configuration and makes what it describes, without I/O to Redis.
func (a *app) open(noFileOK bool) (*opened, error) {
	a.sources.NoFileOK = noFileOK
	file, err := a.load()
	if err != nil {
		return nil, &usageError{err}
	}
	return a.openFile(file)
}

// openFile makes what a configuration describes; changes are for its manager.
func (a *app) openFile(file *config.File, changes ...func(*manager.Config)) (*opened, error) {
	rdb, err := file.Client()
	if err != nil {
		return nil, &usageError{err}
	}
	a.closers = append(a.closers, rdb.Close)
	o := &opened{file: file}
	if o.codec, err = file.Codec(a.log); err != nil {
		return nil, &usageError{err}
	}
	if o.store, err = store.New(rdb, store.Options{Namespace: file.Namespace, Codec: o.codec}); err != nil {
		return nil, &usageError{err}
	}
	if len(file.Environments) == 0 {
		return o, nil
	}
	if o.manager, err = file.Manager(rdb, a.log, changes...); err != nil {
		return nil, &usageError{err}
	}
	a.closers = append(a.closers, o.manager.Close)
	return o, nil
}

// load reads the configuration as this command wants it.
func (a *app) load() (*config.File, error) {
	file, err := a.sources.Load()
	if err != nil {
		return nil, err
	}
	file.Replica = cmp.Or(a.replica, file.Replica)
	for name, e := range file.Environments {
		e.KeepWarm = e.KeepWarm && a.stays
		file.Environments[name] = e
	}
	return file, nil
}

// answer writes v as JSON or, for people, text.
func (a *app) answer(v any, text string) error {
	if a.output != "json" {
		_, err := io.WriteString(a.stdout, text)
		return err
	}
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// waitFlag adds the flag that bounds how long a command waits.
func waitFlag(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", 30*time.Second, "longest `time` to wait for the answer; a request that was sent is finished all the same")
}

// oneEnvironment checks the arguments of a command that takes one.
func oneEnvironment(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one environment, not %d: %s", cmd.Name(), len(args), cmd.UseLine())
	}
	return nil
}
