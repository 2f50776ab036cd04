package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/child"
	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/internal/tokenfile"
	"github.com/onetoken/onetoken/manager"
)

// fileVariable is where a command finds the path of its token file.
const fileVariable = "ONETOKEN_TOKEN_FILE"

// A commandError is the exit code of a command that was run. It is this program's, too, and there is nothing to say of it.
type commandError struct{ code int }

func (e *commandError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// execOptions are the flags of exec.
type execOptions struct {
	timeout  time.Duration
	file     string
	fd       int
	variable string
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec ENV [flags] -- COMMAND [ARG...]",
		Short: "Run a command with the token in a file that is kept fresh",
		Long: `Run a command with ENV's access token in a file that is kept fresh while the command runs. The file's path is in the
command's variable ` + fileVariable + `. It holds the token and nothing else, has mode 0600 and is replaced as a whole:
read it anew for each use, and never half a token is read. Its folder is made in $XDG_RUNTIME_DIR, or where temporary
files are, and both are gone when the command has ended. The token never stands among a command's arguments.

A refresh that fails is logged (with --log-level warn while the token at hand can still be used), leaves the file as it
is, and doesn't end the command.

Signals go to the command; what a terminal sends to everything in its foreground isn't sent twice. On Linux the command
dies with this process. Variables whose value is one of the configuration's secrets aren't handed on to it.

The exit code is the command's, 128 + n where signal n ended it; 127 where there is no such command, 126 where it can't
be executed. Before it is started: 2, 3, 4 or 5 as for get, 1 where it was interrupted.`,
		Example: `  onetoken exec prod -- sh -c 'curl -H "Authorization: Bearer $(cat "$ONETOKEN_TOKEN_FILE")" https://api.example.com/'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("exec takes one environment and, behind --, a command: onetoken exec ENV -- COMMAND [ARG...]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exec(cmd.Context(), o, args[0], args[1], args[2:])
		},
	}
	waitFlag(cmd, &o.timeout)
	cmd.Flags().StringVar(&o.file, "file", "", "`path` of the token file, in a folder that is there; a file there is replaced")
	cmd.Flags().IntVar(&o.fd, "fd", 0, "hand over the token as file descriptor `number`, from 3 on, in place of a file: a pipe, to be read once, with the token of the start, which is not refreshed")
	cmd.Flags().StringVar(&o.variable, "env", "", "put the token of the start, which is not refreshed, into the variable `name`, too; others of the same user can read it there")
	return cmd
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (o execOptions) check() error {
	switch {
	case o.variable != "" && !variableName.MatchString(o.variable):
		return fmt.Errorf("--env: %.60q is no name of a variable", o.variable)
	case o.variable == fileVariable:
		return fmt.Errorf("--env: %s holds the file's path", fileVariable)
	case o.fd != 0 && (o.fd < 3 || o.fd > 99):
		return fmt.Errorf("--fd: %d is not between 3 and 99", o.fd)
	case o.fd != 0 && !child.Descriptors:
		return errors.New("--fd: this system hands over no descriptors; use --file")
	}
	return nil
}

// exec runs a command with env's token. The error is a *[commandError] once the command has run.
func (a *app) exec(ctx context.Context, o execOptions, env, name string, args []string) error {
	if err := o.check(); err != nil {
		return &usageError{err}
	}
	waiting, cancel, err := bounded(ctx, o.timeout)
	if err != nil {
		return err
	}
	defer cancel()
	opened, err := a.open(false)
	if err != nil {
		return err
	}
	path, err := child.Find(name)
	if err != nil {
		return err
	}
	run := &execution{
		app: a, env: env, manager: opened.manager,
		command: child.Command{Name: name, Path: path, Args: args, Env: withoutSecrets(os.Environ(), opened.file)},
	}
	defer run.end()
	if err := run.makeFile(o); err != nil {
		return err
	}
	tok, err := opened.manager.Token(waiting, env)
	if err != nil {
		return err
	}
	if err := run.handOver(o, tok); err != nil {
		return err
	}
	return run.run(ctx)
}

// An execution is a command that runs with a token.
type execution struct {
	app     *app
	env     string
	manager *manager.Manager
	command child.Command
	file    *tokenfile.File // nil where there is none
	pipe    *os.File        // the end that is written to; nil where there is none
	work    sync.WaitGroup
}

// set sets a variable of the command's, in place of one that is inherited.
func (e *execution) set(name, value string) {
	inherited := slices.DeleteFunc(e.command.Env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
	e.command.Env = append(inherited, name+"="+value)
}

// makeFile decides on the file, if there is to be one.
func (e *execution) makeFile(o execOptions) (err error) {
	switch {
	case o.file != "":
		if e.file, err = tokenfile.At(o.file); err != nil {
			return &usageError{fmt.Errorf("--file: %w", err)}
		}
	case o.fd == 0:
		e.file, err = tokenfile.Temporary(e.app.lookup)
	}
	return err
}

// handOver puts the token where the command finds it.
func (e *execution) handOver(o execOptions, tok *manager.Token) error {
	if o.variable != "" {
		e.set(o.variable, tok.AccessToken.Reveal())
	}
	if o.fd != 0 {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		e.command.Descriptor, e.command.Number, e.pipe = r, o.fd, w
		e.work.Go(func() { // a token may be longer than a pipe holds
			_, _ = io.WriteString(w, tok.AccessToken.Reveal())
			_ = w.Close()
		})
	}
	if e.file == nil {
		return nil
	}
	e.set(fileVariable, e.file.Path())
	return e.file.Write(tok)
}

func (e *execution) run(ctx context.Context) error {
	signals := child.Catch()
	defer signals.Release()
	if ctx.Err() != nil { // a signal that came before is nobody's but ours
		return fmt.Errorf("%s: %w before the command was started", e.env, context.Cause(ctx))
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx)) // which ends with the first signal
	defer stop()
	code, err := signals.Run(e.command, func() {
		if e.command.Descriptor != nil {
			_ = e.command.Descriptor.Close() // the command's alone now
			e.command.Descriptor = nil
		}
		if e.file != nil {
			e.work.Go(func() {
				e.file.Keep(keep, e.app.log.With("env", e.env), func(ctx context.Context) (*manager.Token, error) {
					return e.manager.Token(ctx, e.env)
				})
			})
		}
	})
	if err != nil {
		return err
	}
	return &commandError{code}
}

// end removes what holds the token.
func (e *execution) end() {
	if e.pipe != nil {
		_ = e.pipe.Close() // ends a write that nobody reads
	}
	if e.command.Descriptor != nil {
		_ = e.command.Descriptor.Close()
	}
	e.work.Wait()
	if e.file == nil {
		return
	}
	if err := e.file.Remove(); err != nil {
		e.app.log.Error("the token file isn't removed", "outcome", "left", "error", err)
	}
}

// withoutSecrets leaves out the variables whose values are secrets of the configuration: a command that is given a token
// doesn't need what tokens are made of.
func withoutSecrets(environ []string, file *config.File) []string {
	hidden := append([]secret.Secret{file.Redis.URL}, file.Secrets...)
	if u, err := url.Parse(file.Redis.URL.Reveal()); err == nil {
		password, _ := u.User.Password()
		hidden = append(hidden, secret.New(password))
	}
	return slices.DeleteFunc(environ, func(entry string) bool {
		_, value, _ := strings.Cut(entry, "=")
		return value != "" && slices.ContainsFunc(hidden, secret.New(value).Equal)
	})
}
