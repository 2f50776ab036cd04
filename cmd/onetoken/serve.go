package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/metrics"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/manager"
)

// serveFlags win over the file's section agent.
type serveFlags struct {
	config.Agent
	dev bool
}

// A serveAnswer is what serve prints as JSON once it listens.
type serveAnswer struct {
	Listen       []string `json:"listen"` // http://127.0.0.1:8085, unix:/path
	Environments []string `json:"environments"`
	Dev          *devSite `json:"dev,omitempty"`
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve tokens to programs in any language: the agent",
		Long: `Serve tokens to programs in any language: the agent. It answers

  GET  /v1/environments, /v1/environments/ENV           as onetoken status, in JSON
  GET  /v1/environments/ENV/token[?min_ttl=5m]          as onetoken get --output json
  POST /v1/environments/ENV/refresh, …/invalidate       as these commands
  POST /v1/environments/ENV/oauth2/token                a token endpoint (RFC 6749) for any OAuth2 client
  GET  /, /metrics, /healthz, /readyz

on loopback or a unix socket; elsewhere only with --allow-remote, TLS and a key. The settings are the file's section agent;
flags win. It runs until it is interrupted (SIGINT, SIGTERM, SIGHUP), and then finishes what it has begun; a second signal
ends it at once.`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{logLevelOf: "info"},
		RunE:        func(cmd *cobra.Command, _ []string) error { return a.serve(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.Listen, "listen", nil, "`address` to listen at: host:port or unix:/path; may be repeated (default 127.0.0.1:8085)")
	flags.BoolVar(&f.AllowRemote, "allow-remote", false, "permit addresses that aren't loopback; they need TLS and --key-file")
	flags.StringVar(&f.TLSCert, "tls-cert", "", "PEM `file` with the certificate: with it TCP addresses speak TLS")
	flags.StringVar(&f.TLSKey, "tls-key", "", "PEM `file` with its key")
	flags.StringVar(&f.ClientCA, "client-ca", "", "PEM `file` of the CA whose certificates clients must have")
	flags.StringVar(&f.KeyFile, "key-file", "", "`file` with bearer keys, one in each line: with it each request needs one")
	flags.StringSliceVar(&f.Hosts, "hosts", nil, "further `names` that the agent is asked by, without a port")
	flags.BoolVar(&f.dev, "dev", false, "no configuration: an embedded Redis and a scripted token endpoint, to try it out")
	return cmd
}

// settings returns the file's section with the flags that were given.
func (f serveFlags) settings(cmd *cobra.Command, file config.Agent) config.Agent {
	s := file
	given := cmd.Flags().Changed
	for name, to := range map[string]struct{ from, to *string }{
		"tls-cert":  {&f.TLSCert, &s.TLSCert},
		"tls-key":   {&f.TLSKey, &s.TLSKey},
		"client-ca": {&f.ClientCA, &s.ClientCA},
		"key-file":  {&f.KeyFile, &s.KeyFile},
	} {
		if given(name) {
			*to.to = *to.from
		}
	}
	if given("listen") {
		s.Listen = f.Listen
	}
	if given("allow-remote") {
		s.AllowRemote = f.AllowRemote
	}
	if given("hosts") {
		s.Hosts = f.Hosts
	}
	if len(s.Listen) == 0 {
		s.Listen = []string{"127.0.0.1:8085"}
	}
	return s
}

func (a *app) serve(cmd *cobra.Command, f serveFlags) error {
	ctx, stop := a.endSignals(cmd.Context()) // who sends SIGHUP wants files read again, which needs none, or has gone
	defer stop()
	a.stays = true
	var dev *devSite
	if f.dev {
		var err error
		if dev, err = a.startDev(ctx); err != nil {
			return err
		}
	}
	exporter, err := metrics.New(metrics.Options{Version: thisBuild().Version, Log: a.log})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, func() error { return exporter.Shutdown(context.WithoutCancel(ctx)) })
	o, err := a.open(false, func(c *manager.Config) { c.MeterProvider = exporter.MeterProvider() })
	if err != nil {
		return err
	}
	log := a.log.With("replica", o.manager.Replica())
	settings := f.settings(cmd, o.file.Agent)
	listen := agent.Listen{
		Addresses: settings.Listen, AllowRemote: settings.AllowRemote, HasKey: settings.KeyFile != "",
		TLSCert: settings.TLSCert, TLSKey: settings.TLSKey, ClientCA: settings.ClientCA, Log: log,
	}
	served, err := newAgent(o, settings, listen.Hosts(), exporter.Handler(), log)
	if err != nil {
		return serveError(err)
	}
	listeners, err := listen.Open(ctx)
	if err != nil {
		return serveError(err)
	}
	answer := serveAnswer{Environments: o.manager.Environments(), Dev: dev}
	for _, l := range listeners {
		answer.Listen = append(answer.Listen, l.URL())
	}
	if err := a.answer(answer, answer.text()); err != nil {
		for _, l := range listeners { // no socket stays behind
			_ = l.Close()
		}
		return err
	}
	log.Info("serving", "outcome", "serving", "listen", strings.Join(answer.Listen, " "), "environments", len(answer.Environments))
	defer log.Info("stopped", "outcome", "stopped")
	return served.Serve(ctx, listeners...)
}

// newAgent makes the agent of an opened configuration.
func newAgent(o *opened, s config.Agent, hosts []string, exported http.Handler, log *slog.Logger) (*agent.Agent, error) {
	view, csrf := overview.New(o.store, o.manager), rand.Text()
	options := agent.Options{
		Manager:      o.manager,
		Overview:     view.Cached(),
		Environments: o.file.Environments,
		KeyFile:      s.KeyFile,
		Hosts:        slices.Concat(s.Hosts, hosts),
		Page: page.New(page.Options{
			Overview: view, Watch: o.store.Watch, CSRFToken: csrf,
			Replica: o.manager.Replica(), Namespace: o.store.Namespace(), Version: thisBuild().Version, Log: log,
		}),
		Metrics:   exported,
		CSRFToken: csrf,
		Log:       log,
	}
	for _, c := range s.Clients {
		options.Clients = append(options.Clients, agent.Client(c))
	}
	return agent.New(options)
}

// serveError makes an error about a setting one of usage, unless it is the system that refuses an address.
func serveError(err error) error {
	var setting *agent.SettingError
	if errors.As(err, &setting) && !agent.IsAddressError(err) {
		return &usageError{err}
	}
	return err
}

// text is the address, and what to try where nothing is configured.
func (s serveAnswer) text() string {
	var b strings.Builder
	_, _ = fmt.Fprintln(&b, strings.Join(s.Listen, " "))
	if s.Dev != nil {
		s.Dev.hints(&b, s.Listen[0])
	}
	return b.String()
}
