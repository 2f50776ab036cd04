package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// loginFlags are the flags of login.
type loginFlags struct {
	timeout             time.Duration
	listen, redirectURL string
	params              []string
	device, noBrowser   bool
}

// A loginAnswer is what login and grant import print as JSON.
type loginAnswer struct {
	Environment  string          `json:"environment"`
	GrantVersion manager.Version `json:"grant_version"` // of the refresh token that was stored
	Token        *answer.Refresh `json:"token"`         // what came of using it; null where it wasn't
}

func (a *app) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login ENV",
		Short: "Log in to an environment with grant: refresh_token, for the whole fleet",
		Long: `Log in to an environment with grant: refresh_token: a person does so in a browser (the authorization code flow with PKCE,
on a redirect to loopback), and the refresh token that comes of it is stored for the whole fleet in place of the one that
was there. It is used once, to see that it works. Neither it nor an access token is printed.

With --device no browser is needed on this machine: the person enters a code on another one (RFC 8628).

What else the authorization request must say, such as access_type=offline, comes by --param; it may stand in the query of
the setting authorization_url as well. A login that is interrupted or fails leaves everything as it was.`,
		Example: "  onetoken login prod\n  onetoken login prod --device\n  onetoken login prod --redirect-url http://localhost:8400/callback",
		Args:    oneEnvironment,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.login(cmd, f, args[0]) },
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", 5*time.Minute, "longest `time` to wait for the person (with --device: as long as the code is good)")
	flags.BoolVar(&f.device, "device", false, "log in on another device, by a code")
	flags.BoolVar(&f.noBrowser, "no-browser", false, "open no browser; the address is shown in any case")
	flags.StringVar(&f.listen, "listen", "", "`address` that the browser comes back to (default 127.0.0.1 and any free port)")
	flags.StringVar(&f.redirectURL, "redirect-url", "", "`URL` that the endpoint sends the browser to (default http://LISTEN/callback); port 0 is any free one")
	flags.StringArrayVar(&f.params, "param", nil, "further `name=value` of the authorization request; may be repeated")
	return cmd
}

// parameters returns the values of --param.
func (f loginFlags) parameters() (url.Values, error) {
	params := url.Values{}
	for _, p := range f.params {
		name, value, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("--param: %.60q has no \"=\"", name)
		}
		if err := endpoint.CheckLoginParam(name); err != nil {
			return nil, fmt.Errorf("--param: %w", err)
		}
		params.Add(name, value)
	}
	return params, nil
}

func (f loginFlags) check() error {
	switch {
	case f.device && (f.listen != "" || f.redirectURL != ""):
		return errors.New("--device: no browser comes back to --listen or --redirect-url")
	case f.device && f.noBrowser:
		return errors.New("--device opens no browser: leave --no-browser out")
	}
	return nil
}

// login has a person log in, and stores what comes of it.
func (a *app) login(cmd *cobra.Command, f loginFlags, env string) error {
	if err := f.check(); err != nil {
		return &usageError{err}
	}
	params, err := f.parameters()
	if err != nil {
		return &usageError{err}
	}
	ctx, cancel, err := bounded(cmd.Context(), f.timeout)
	if err != nil {
		return err
	}
	defer cancel()
	if f.device && !cmd.Flags().Changed("timeout") { // the code's end is the person's
		ctx = cmd.Context()
	}
	g, err := a.openGrant(env)
	if err != nil {
		return err
	}
	if _, err := g.manager.Status(ctx, env); err != nil { // nobody should log in for nothing
		return err
	}
	var reply *endpoint.Reply
	if f.device {
		reply, err = login.Device{Client: g.client, Timeout: g.timeout, Params: params, Show: func(d *endpoint.Device) {
			a.say(deviceLine(env, d))
		}}.Run(ctx)
	} else {
		reply, err = login.Browser{
			Client: g.client, Timeout: g.timeout, Params: params, Listen: f.listen, RedirectURL: f.redirectURL,
			Show: func(address string) { a.say(g.browserLine(address, f.noBrowser)) },
		}.Run(ctx)
	}
	if err != nil {
		return g.describe(err)
	}
	return a.keep(cmd.Context(), g, reply.RefreshToken, reply.RefreshExpiresIn, true)
}

// say tells a person what to do next. Answers go elsewhere.
func (a *app) say(line string) { _, _ = fmt.Fprintln(a.stderr, "onetoken: "+line) }

// browserLine opens a browser, unless there shall be none, and says so.
func (g *grantSite) browserLine(address string, none bool) string {
	if none || login.Open(address, withoutSecrets(os.Environ(), g.file)) != nil {
		return fmt.Sprintf("to log in to %s, open this address in a browser on this machine: %s", g.env, address)
	}
	return fmt.Sprintf("to log in to %s, go on in the browser that opens; if none does, open %s", g.env, address)
}

func deviceLine(env string, d *endpoint.Device) string {
	line := fmt.Sprintf("to log in to %s, open %s and enter the code %s within %v", env, d.URL, d.UserCode, d.ExpiresIn.Round(time.Second))
	if d.CompleteURL != "" {
		line += ", or open " + d.CompleteURL
	}
	return line
}
