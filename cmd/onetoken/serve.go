package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"

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
	dev, watch bool
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
flags win. It runs until it is interrupted (SIGINT, SIGTERM), and then finishes what it has begun; a second signal ends it
at once.

SIGHUP has it read the configuration again: environments and agent.clients are added, changed and removed; other settings
count after a restart. A file with a mistake changes nothing.`,
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
	flags.BoolVar(&f.watch, "watch-config", false, "read the configuration again when its file has changed, as after SIGHUP")
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
	ctx, end := context.WithCancel(cmd.Context())
	defer end()
	if a.interruptIgnored {
		signal.Ignore(os.Interrupt)
	}
	signals := hearHangups()
	defer signals.stop()
	a.stays = true
	var dev *devSite
	if f.dev {
		var err error
		if dev, err = a.startDev(ctx); err != nil {
			return err
		}
	}
	content, _ := contentOf(a.sources.File()) // before it is read
	exporter, err := metrics.New(metrics.Options{Version: thisBuild().Version, Log: a.log})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, func() error { return exporter.Shutdown(context.WithoutCancel(ctx)) })
	file, err := a.load()
	if err != nil {
		return &usageError{err}
	}
	file.Agent = f.settings(cmd, file.Agent)
	listen := agent.Listen{
		Addresses: file.Agent.Listen, AllowRemote: file.Agent.AllowRemote, HasKey: file.Agent.KeyFile != "",
		TLSCert: file.Agent.TLSCert, TLSKey: file.Agent.TLSKey, ClientCA: file.Agent.ClientCA, Log: a.log,
	}
	options := agentOptions(file, listen.Hosts())
	if err := agent.Check(options); err != nil {
		return serveError(err)
	}
	listeners, err := listen.Open(ctx)
	if err != nil {
		return serveError(err)
	}
	closeAll := func() { // no socket stays behind
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	// The manager is made last: it may begin to refresh at once.
	o, err := a.openFile(file, func(c *manager.Config) { c.MeterProvider = exporter.MeterProvider() })
	if err != nil {
		closeAll()
		return err
	}
	log := a.log.With("replica", o.manager.Replica())
	view := overview.New(o.store, o.manager)
	options.Metrics, options.Log = exporter.Handler(), log
	served, err := newAgent(o, view, options)
	if err != nil {
		closeAll()
		return serveError(err)
	}
	answer := serveAnswer{Environments: o.manager.Environments(), Dev: dev}
	for _, l := range listeners {
		answer.Listen = append(answer.Listen, l.URL())
	}
	if err := a.answer(answer, answer.text()); err != nil {
		closeAll()
		return err
	}
	log.Info("serving", "outcome", "serving", "listen", strings.Join(answer.Listen, " "), "environments", len(answer.Environments))
	defer log.Info("stopped", "outcome", "stopped")
	r := newReloader(o, served, view, log, end)
	r.path, r.content = a.sources.File(), content
	r.load = func() (*config.File, error) {
		file, err := a.load()
		if err == nil {
			file.Agent = f.settings(cmd, file.Agent)
		}
		return file, err
	}
	var reloading sync.WaitGroup
	reloading.Go(func() { r.run(ctx, signals, f.watch) })
	defer func() { end(); reloading.Wait() }()
	return served.Serve(ctx, listeners...)
}

// agentOptions are those that the file says.
func agentOptions(file *config.File, hosts []string) agent.Options {
	return agent.Options{
		Environments: file.Environments, Clients: clients(file.Agent),
		KeyFile: file.Agent.KeyFile, Hosts: slices.Concat(file.Agent.Hosts, hosts),
	}
}

// newAgent makes the agent of an opened configuration.
func newAgent(o *opened, view *overview.Overview, options agent.Options) (*agent.Agent, error) {
	options.Manager, options.Overview, options.CSRFToken = o.manager, view.Cached(), rand.Text()
	options.Page = page.New(page.Options{
		Overview: view, Watch: o.store.Watch, CSRFToken: options.CSRFToken, Log: options.Log,
		Replica: o.manager.Replica(), Namespace: o.store.Namespace(), Version: thisBuild().Version,
	})
	return agent.New(options)
}

func clients(s config.Agent) (clients []agent.Client) {
	for _, c := range s.Clients {
		clients = append(clients, agent.Client(c))
	}
	return clients
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
