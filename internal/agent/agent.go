// Package agent is onetoken for programs in any language, and for ops: an HTTP API over one [manager.Manager], with a token
// endpoint (RFC 6749) that answers from the shared token.
//
// What it gives away: tokens, to whoever may reach it. So it listens on loopback and unix sockets, elsewhere with TLS and
// a key only; and refuses what a browser sends for another site. Secrets, keys and tokens are in no log and no problem.
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/manager"
)

// Options configure an [Agent]. Zero fields mean the documented defaults.
type Options struct {
	Manager      *manager.Manager
	Overview     *overview.Cached               // of the same manager
	Environments map[string]manager.Environment // those of the manager: clients are compared with their ids and secrets
	Clients      []Client                       // who may have tokens from the token endpoints beside the environments' own clients

	KeyFile string   // bearer keys, one in each line; without one nobody needs a key
	Hosts   []string // allowed in Host, beside loopback addresses and localhost; without a port

	Page      Page         // default: there is none
	Metrics   http.Handler // of /metrics; default: there is none
	CSRFToken string       // what state-changing requests of a browser carry in X-Onetoken-CSRF; default: a random one

	Log     *slog.Logger  // default: nothing is logged
	MaxWait time.Duration // longest wait for a token; default 30 s
}

// A Page is what people look at in a browser: it registers "GET /{$}", "GET /assets/" and "GET /v1/events".
type Page interface {
	Register(*http.ServeMux)
	Close() // ends all streams
}

// An Agent answers requests. It is safe for concurrent use.
type Agent struct {
	options Options
	log     *slog.Logger
	current atomic.Pointer[Setup]
	keys    *watched[keys] // nil: no key is needed
	hosts   map[string]bool
	failed  *throttle
	ended   context.Context //nolint:containedctx // one that is over: for a look at a token without waiting
	handler http.Handler
}

// New returns an agent, or an error that names the setting at fault: a file that can't be read, for example.
func New(o Options) (*Agent, error) {
	if o.Manager == nil || o.Overview == nil {
		return nil, errors.New("agent: a manager and an overview are needed")
	}
	a, setup, err := build(o)
	if err != nil {
		return nil, err
	}
	a.Use(setup)
	a.handler = a.guarded(a.routes())
	return a, nil
}

// Check returns the error that New would return, before there is a manager.
func Check(o Options) error {
	o.Log = nil
	_, _, err := build(o)
	return err
}

func build(o Options) (*Agent, *Setup, error) {
	a := &Agent{
		options: o,
		log:     cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		hosts:   map[string]bool{},
		failed:  newThrottle(),
	}
	a.options.MaxWait = cmp.Or(o.MaxWait, 30*time.Second)
	a.options.CSRFToken = cmp.Or(o.CSRFToken, rand.Text())
	ended, end := context.WithCancel(context.Background())
	end()
	a.ended = ended
	for _, host := range o.Hosts {
		if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
			return nil, nil, &SettingError{Setting: "hosts", Err: fmt.Errorf("%.100q is no name of a host: without scheme, port and brackets", host)}
		}
		a.hosts[strings.ToLower(host)] = true
	}
	if o.KeyFile != "" {
		var err error
		if a.keys, err = watch(a.log, parseKeys, o.KeyFile); err != nil {
			return nil, nil, &SettingError{Setting: "key_file", Err: err}
		}
		warnIfReadable(a.log, o.KeyFile)
	}
	setup, err := a.Prepare(o.Environments, o.Clients)
	return a, setup, err
}

// A SettingError says which setting of the agent is at fault.
type SettingError struct {
	Setting string // as in the file: key_file
	Err     error
}

func (e *SettingError) Error() string { return "agent: " + e.Setting + ": " + e.Err.Error() }
func (e *SettingError) Unwrap() error { return e.Err }

// Handler returns the agent's API, with all its rules.
func (a *Agent) Handler() http.Handler { return a.handler }

// CSRFToken returns what state-changing requests of a browser must carry.
func (a *Agent) CSRFToken() string { return a.options.CSRFToken }

// A route is a path with the one method that it takes beside HEAD, where that is GET.
type route struct {
	method, path string
	serve        http.HandlerFunc
}

// routes returns the API. What is no path of it is a problem, too: 404, or 405 with Allow.
func (a *Agent) routes() http.Handler {
	routes := []route{
		{http.MethodGet, "/v1/environments", a.list},
		{http.MethodGet, "/v1/environments/{env}", a.one},
		{http.MethodGet, "/v1/environments/{env}/token", a.token},
		{http.MethodPost, "/v1/environments/{env}/refresh", a.refresh},
		{http.MethodPost, "/v1/environments/{env}/invalidate", a.invalidate},
		{http.MethodPost, "/v1/environments/{env}/oauth2/token", a.oauth2Token},
		{http.MethodGet, "/healthz", a.healthz},
		{http.MethodGet, "/readyz", a.readyz},
	}
	if a.options.Metrics != nil {
		routes = append(routes, route{http.MethodGet, "/metrics", a.options.Metrics.ServeHTTP})
	}
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.method+" "+r.path, r.serve)
		mux.HandleFunc(r.path, methodNotAllowed(r.method))
	}
	if a.options.Page != nil {
		a.options.Page.Register(mux)
		for _, path := range []string{"/{$}", "/assets/", "/v1/events"} {
			mux.HandleFunc(path, methodNotAllowed(http.MethodGet))
		}
	}
	mux.HandleFunc("/", notFound)
	return mux
}

func notFound(w http.ResponseWriter, r *http.Request) {
	problem{Status: http.StatusNotFound, Code: "not_found", Detail: "there is nothing at this path"}.send(w)
}

func methodNotAllowed(method string) http.HandlerFunc {
	methods := []string{method}
	if method == http.MethodGet {
		methods = append(methods, http.MethodHead)
	}
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(methods, r.Method) { // below a path that others are registered at
			notFound(w, r)
			return
		}
		w.Header().Set("Allow", allow)
		problem{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Detail: "this path takes " + allow}.send(w)
	}
}

// needsNoKey reports whether a request is for those without a key: probes, and token endpoints, which have their own clients.
func needsNoKey(r *http.Request) bool {
	return r.URL.Path == "/healthz" || r.URL.Path == "/readyz" || isTokenEndpoint(r)
}

// isTokenEndpoint looks at the path as it was sent, which is what the mux takes apart: an environment may have the name
// "oauth2", and a slash that is escaped (%2F) parts nothing.
func isTokenEndpoint(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/environments/")
	env, found := strings.CutSuffix(rest, "/oauth2/token")
	return ok && found && env != "" && !strings.Contains(env, "/")
}

// unknown is the problem of an environment that isn't there.
func (a *Agent) unknown(env string, known []string) problem {
	err := &manager.UnknownEnvironmentError{Environment: env, Known: slices.Sorted(slices.Values(known))}
	return a.problemOf(env, err)
}
