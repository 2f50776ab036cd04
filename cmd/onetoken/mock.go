package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// mockFlags script the endpoint.
type mockFlags struct {
	listen     string
	clientID   string
	secretFile string
	life       time.Duration
	latency    time.Duration
	status     int
	errorCode  string
	retryAfter time.Duration
	failFirst  int
	failFor    time.Duration
	sameToken  bool
}

// A mockAnswer is what mock prints as JSON once it listens.
type mockAnswer struct {
	BaseURL  string `json:"base_url"` // as an environment's setting; what is below /api wants a token
	TokenURL string `json:"token_url"`
}

func (a *app) mockCommand() *cobra.Command {
	var f mockFlags
	cmd := &cobra.Command{
		Use:   "mock",
		Short: "Serve a scripted token endpoint, and an API that wants its tokens",
		Long: `Serve a scripted token endpoint (any path, such as /oauth2/v1/token), and an API that wants its tokens (/api and below).
The token URL is printed once it listens. It runs until it is interrupted.

The client secret that is accepted comes from --client-secret-file or $ONETOKEN_MOCK_CLIENT_SECRET; without one, any is.
Calls fail always where --status or --error is given alone, else as --fail-first and --fail-for say (by default with 503).
Each call is logged at --log-level info.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.mock(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8086", "`address` to listen at; port 0 is any free one")
	flags.StringVar(&f.clientID, "client-id", "", "the client `id` that is accepted (default: any)")
	flags.StringVar(&f.secretFile, "client-secret-file", "", "`file` with the client secret that is accepted")
	flags.DurationVar(&f.life, "life", time.Hour, "`life` of a token")
	flags.DurationVar(&f.latency, "latency", 0, "`time` that each answer takes")
	flags.IntVar(&f.status, "status", 0, "HTTP `status` of failing calls")
	flags.StringVar(&f.errorCode, "error", "", "RFC 6749 error `code` of failing calls, such as invalid_client")
	flags.DurationVar(&f.retryAfter, "retry-after", 0, "Retry-After `time` of failing calls, in whole seconds")
	flags.IntVar(&f.failFirst, "fail-first", 0, "the first `N` calls fail")
	flags.DurationVar(&f.failFor, "fail-for", 0, "calls fail for that `time` from the start")
	flags.BoolVar(&f.sameToken, "same-token", false, "the same token again and again")
	return cmd
}

func (f mockFlags) check() error {
	fails := f.status != 0 || f.errorCode != "" || f.failFirst > 0 || f.failFor > 0
	switch {
	case f.life <= 0:
		return fmt.Errorf("--life: %v is not above 0", f.life)
	case f.latency < 0 || f.retryAfter < 0 || f.failFor < 0 || f.failFirst < 0:
		return errors.New("--latency, --retry-after, --fail-for, --fail-first: below 0")
	case f.failFirst > 1_000_000:
		return errors.New("--fail-first: more than a million")
	case f.status != 0 && (f.status < 200 || f.status > 599):
		return fmt.Errorf("--status: %d is not between 200 and 599", f.status)
	case f.retryAfter > 0 && !fails:
		return errors.New("--retry-after needs one of --status, --error, --fail-first, --fail-for")
	}
	return nil
}

// endpoint returns the endpoint that f describes, and what to do once its time of failing is over.
func (f mockFlags) endpoint(secret string, log func(mockendpoint.Request)) (*mockendpoint.Endpoint, func()) {
	good := mockendpoint.Reply{Delay: f.latency, SameToken: f.sameToken}
	bad := mockendpoint.Reply{Delay: f.latency, Status: f.status, Error: f.errorCode, RetryAfter: f.retryAfter}
	if bad.Status == 0 && bad.Error == "" {
		bad.Status = http.StatusServiceUnavailable
	}
	always := (f.status != 0 || f.errorCode != "") && f.failFirst == 0 && f.failFor == 0
	options := mockendpoint.Options{ClientID: f.clientID, ClientSecret: secret, Life: f.life, Default: good, Log: log}
	if always || f.failFor > 0 {
		options.Default = bad
	}
	e := mockendpoint.New(options)
	for range f.failFirst {
		e.Push(bad)
	}
	return e, func() { e.SetDefault(good) }
}

func (f mockFlags) secret(lookup func(string) (string, bool)) (string, error) {
	if f.secretFile == "" {
		s, _ := lookup("ONETOKEN_MOCK_CLIENT_SECRET")
		return s, nil
	}
	data, err := os.ReadFile(f.secretFile)
	if err != nil {
		return "", fmt.Errorf("--client-secret-file: %w", err)
	}
	s := strings.TrimRight(string(data), "\r\n")
	if s == "" {
		return "", fmt.Errorf("--client-secret-file: %s is empty", f.secretFile)
	}
	return s, nil
}

func (a *app) mock(ctx context.Context, f mockFlags) error {
	if err := f.check(); err != nil {
		return &usageError{err}
	}
	secret, err := f.secret(a.lookup)
	if err != nil {
		return &usageError{err}
	}
	endpoint, recovered := f.endpoint(secret, func(r mockendpoint.Request) {
		a.log.Info("call", "path", r.Path, "client_id", r.ClientID, "outcome", r.Outcome, "token", r.Token)
	})
	defer endpoint.Close()
	if f.failFor > 0 {
		defer time.AfterFunc(f.failFor, recovered).Stop()
	}
	var listener net.ListenConfig
	l, err := listener.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	base := "http://" + l.Addr().String()
	answer := mockAnswer{BaseURL: base + "/api/v2", TokenURL: base + "/oauth2/v1/token"}
	if err := a.answer(answer, answer.TokenURL+"\n"); err != nil {
		return err
	}
	return serveUntil(ctx, l, mockHandler(endpoint), endpoint.Close)
}

func mockHandler(endpoint *mockendpoint.Endpoint) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", endpoint)
	api := endpoint.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"path": r.URL.Path, "message": "the token is good"})
	}))
	mux.Handle("/api", api)
	mux.Handle("/api/", api)
	return mux
}

// serveUntil serves until ctx is done, which is no error. release lets go of requests that would wait longer.
func serveUntil(ctx context.Context, l net.Listener, handler http.Handler, release func()) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	shutdown := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(shutdown)
		release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
	err := server.Serve(l)
	if stop() {
		return err // it has ended by itself
	}
	<-shutdown
	return nil
}
