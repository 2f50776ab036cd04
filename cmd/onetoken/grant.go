package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A grantSite is an environment whose tokens are got with a refresh token, and its endpoints.
type grantSite struct {
	*opened
	env     string
	client  *endpoint.Client
	timeout time.Duration // of a request to one of them
}

// openGrant opens the configuration for a command that is about env's refresh token.
func (a *app) openGrant(env string) (*grantSite, error) {
	o, err := a.open(false)
	if err != nil {
		return nil, err
	}
	if _, err := o.manager.Env(env); err != nil {
		return nil, err
	}
	e := o.file.Environments[env]
	if e.Grant != manager.RefreshToken {
		return nil, &usageError{fmt.Errorf("environments.%s.grant is %s: nobody logs in to it, as with grant: %s",
			env, cmp.Or(e.Grant, manager.ClientCredentials), manager.RefreshToken)}
	}
	client, err := e.Endpoint()
	if err != nil {
		return nil, &usageError{fmt.Errorf("environments.%s.%w", env, err)}
	}
	return &grantSite{opened: o, env: env, client: client, timeout: cmp.Or(e.EndpointTimeout, 10*time.Second)}, nil
}

// describe says of an error which environment it is about, and of a setting that is missing where.
func (g *grantSite) describe(err error) error {
	missing, waiting := (*endpoint.MissingError)(nil), (*login.WaitError)(nil)
	switch {
	case err == nil || isA[*login.SettingError](err):
		return err
	case errors.As(err, &missing):
		return &usageError{fmt.Errorf("environments.%s.%w", g.env, missing)}
	case errors.As(err, &waiting):
		return &manager.WaitError{Environment: g.env, Waiting: waiting.Waiting, Err: waiting.Err}
	}
	return fmt.Errorf("%s: %w", g.env, err)
}

// keep stores a refresh token for the fleet and, to see that it works, has it used.
func (a *app) keep(ctx context.Context, g *grantSite, refreshToken manager.Secret, life time.Duration, prove bool) error {
	ctx, cancel, err := bounded(ctx, 30*time.Second)
	if err != nil {
		return err
	}
	defer cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	version, err := g.manager.ImportGrant(context.WithoutCancel(ctx), g.env, refreshToken, life) // no half of it
	if err != nil {
		return err
	}
	stored := loginAnswer{Environment: g.env, GrantVersion: version}
	if !prove {
		return a.answer(stored, fmt.Sprintf("%s: the refresh token is stored as version %d\n", g.env, version))
	}
	t, err := g.manager.Refresh(ctx, g.env)
	if err != nil {
		return &unprovenError{g.env, version, err}
	}
	stored.Token = new(answer.Of(g.manager, g.env, t).Refresh())
	return a.answer(stored, refreshLine(*stored.Token))
}

// An unprovenError says that a refresh token was stored, but not that it is good.
type unprovenError struct {
	env     string
	version manager.Version
	err     error
}

func (e *unprovenError) Error() string {
	return fmt.Sprintf("%s: the refresh token is stored as version %d, but using it failed: %s", e.env, e.version,
		strings.TrimPrefix(e.err.Error(), "onetoken: "+e.env+": "))
}

func (e *unprovenError) Unwrap() error { return e.err }

func (a *app) grantCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant",
		Short: "Store a refresh token that was got elsewhere",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.grantImportCommand())
	return cmd
}

func (a *app) grantImportCommand() *cobra.Command {
	var life time.Duration
	var noRefresh bool
	cmd := &cobra.Command{
		Use:   "import ENV",
		Short: "Store the refresh token that is on standard input, for the whole fleet",
		Long: `Store the refresh token that is on standard input for the whole fleet, in place of the one that was there. It is used once,
to see that it works, unless --no-refresh is given. On a terminal what is typed isn't shown. Nothing of it is printed.`,
		Example: "  onetoken grant import prod < refresh-token",
		Args:    oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			if life < 0 {
				return &usageError{fmt.Errorf("--expires-in: %v is below 0", life)}
			}
			g, err := a.openGrant(args[0])
			if err != nil {
				return err
			}
			token, err := a.readRefreshToken(cmd.Context(), os.Stdin)
			if err != nil {
				return err
			}
			return a.keep(cmd.Context(), g, token, life, !noRefresh)
		},
	}
	cmd.Flags().DurationVar(&life, "expires-in", 0, "`life` that the refresh token has left (default: it isn't known to end)")
	cmd.Flags().BoolVar(&noRefresh, "no-refresh", false, "store it without trying it")
	return cmd
}

// longestRefreshToken is more than any endpoint gives.
const longestRefreshToken = 64 << 10

// readRefreshToken reads one line; from a terminal without showing it.
func (a *app) readRefreshToken(ctx context.Context, in *os.File) (manager.Secret, error) {
	type line struct {
		text []byte
		err  error
	}
	read := func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, longestRefreshToken+2)) }
	if fd := int(in.Fd()); term.IsTerminal(fd) {
		state, err := term.GetState(fd)
		if err != nil {
			return manager.Secret{}, err
		}
		defer func() { _ = term.Restore(fd, state) }() // where it is interrupted, too
		_, _ = fmt.Fprint(a.stderr, "Refresh token (not shown): ")
		defer func() { _, _ = fmt.Fprintln(a.stderr) }()
		read = func() ([]byte, error) { return term.ReadPassword(fd) }
	}
	lines := make(chan line, 1)
	go func() { // ends with the program, where nobody ends the line
		text, err := read()
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return manager.Secret{}, fmt.Errorf("standard input: %w", l.err)
		}
		return parseRefreshToken(l.text)
	case <-ctx.Done():
		return manager.Secret{}, context.Cause(ctx)
	}
}

// parseRefreshToken takes the line break off. RFC 6749 appendix A.17 says what may be in a refresh token; a space, which may
// be, is in none that there is, and is what comes of pasting too much.
func parseRefreshToken(text []byte) (manager.Secret, error) {
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	problem := ""
	switch {
	case len(text) == 0:
		problem = "there is no refresh token"
	case len(text) > longestRefreshToken:
		problem = "that is longer than a refresh token is (64 KiB)"
	case bytes.ContainsAny(text, "\r\n"):
		problem = "there is more than one line, a refresh token has one"
	case bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		problem = "that is no refresh token: it has a space, or a character that isn't ASCII"
	default:
		return manager.NewSecret(string(text)), nil
	}
	return manager.Secret{}, &usageError{errors.New("standard input: " + problem)}
}
