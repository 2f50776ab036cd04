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

	grants         []string // as mockGrants has them
	authMethods    []string // as mockMethods has them
	keyFile        string
	rotate         bool
	reuseInterval  time.Duration
	refreshLife    time.Duration
	refreshFile    string
	approveDevices bool
	example        bool
}

// A mockAnswer is what mock prints as JSON once it listens.
type mockAnswer struct {
	BaseURL  string `json:"base_url"` // as an environment's setting; what is below /api wants a token
	TokenURL string `json:"token_url"`

	// Where the grants are those of a login.
	AuthorizationURL       string `json:"authorization_url,omitempty"`
	DeviceAuthorizationURL string `json:"device_authorization_url,omitempty"`
	RevocationURL          string `json:"revocation_url,omitempty"`
}

// answer is where everything is, at an origin.
func (f mockFlags) answer(origin string) mockAnswer {
	a := mockAnswer{BaseURL: origin + "/api/v2", TokenURL: origin + "/oauth2/v1/token"}
	for _, grant := range f.grants {
		switch grant {
		case "authorization_code":
			a.AuthorizationURL = origin + mockendpoint.AuthorizePath
		case "device_code":
			a.DeviceAuthorizationURL = origin + mockendpoint.DeviceAuthorizationPath
		case "refresh_token":
			a.RevocationURL = origin + mockendpoint.RevokePath
		}
	}
	return a
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
Each call is logged at --log-level info.

With --grant it is a small authorization server: refresh tokens that rotate, and whose reuse ends them all; a login at
/authorize (it says yes to everybody) or with a device (who opens the URL with its code says yes); /revoke; and the
metadata of RFC 8414. The refresh token to begin with comes from --refresh-token-file or $ONETOKEN_MOCK_REFRESH_TOKEN.
--example prints an environment for onetoken.yaml.`,
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
	flags.StringArrayVar(&f.grants, "grant", nil, "a `grant` that is accepted, as often as wanted: client_credentials (the default), refresh_token, jwt_bearer, token_exchange, authorization_code, device_code")
	flags.StringArrayVar(&f.authMethods, "auth-method", nil, "a `method` that a client may use, as often as wanted: client_secret_basic, client_secret_post, private_key_jwt, none")
	flags.StringVar(&f.keyFile, "client-key-file", "", "PEM `file` with the public key of private_key_jwt and jwt_bearer")
	flags.BoolVar(&f.rotate, "rotate", false, "a refresh token is good once, and gives the next one")
	flags.DurationVar(&f.reuseInterval, "reuse-interval", 0, "`time` for which a spent refresh token may be used again")
	flags.DurationVar(&f.refreshLife, "refresh-life", 0, "`life` of a refresh token (default: no end)")
	flags.StringVar(&f.refreshFile, "refresh-token-file", "", "`file` with a refresh token that is accepted from the start")
	flags.BoolVar(&f.approveDevices, "approve-devices", false, "a device needs nobody's approval")
	flags.BoolVar(&f.example, "example", false, "print an environment for onetoken.yaml in place of the URL")
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

// endpoint returns the endpoint that f describes with options, and what to do once its time of failing is over.
func (f mockFlags) endpoint(options mockendpoint.Options) (*mockendpoint.Endpoint, func()) {
	good := mockendpoint.Reply{Delay: f.latency, SameToken: f.sameToken}
	bad := mockendpoint.Reply{Delay: f.latency, Status: f.status, Error: f.errorCode, RetryAfter: f.retryAfter}
	if bad.Status == 0 && bad.Error == "" {
		bad.Status = http.StatusServiceUnavailable
	}
	always := (f.status != 0 || f.errorCode != "") && f.failFirst == 0 && f.failFor == 0
	options.Default = good
	if always || f.failFor > 0 {
		options.Default = bad
	}
	e := mockendpoint.New(options)
	for range f.failFirst {
		e.Push(bad)
	}
	return e, func() { e.SetDefault(good) }
}

// mockSecret is what a file has that a flag names, or else a variable; "": neither.
func mockSecret(flag, path, variable string, lookup func(string) (string, bool)) (string, error) {
	if path == "" {
		s, _ := lookup(variable)
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	s := strings.TrimRight(string(data), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s: %s is empty", flag, path)
	}
	return s, nil
}

// mockEndpoint is the endpoint that f describes, with its secrets.
func (a *app) mockEndpoint(f mockFlags) (endpoint *mockendpoint.Endpoint, recovered func(), err error) {
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	options, err := f.serverOptions()
	if err != nil {
		return nil, nil, err
	}
	options.ClientSecret, err = mockSecret("--client-secret-file", f.secretFile, "ONETOKEN_MOCK_CLIENT_SECRET", a.lookup)
	if err != nil {
		return nil, nil, err
	}
	refreshToken, err := mockSecret("--refresh-token-file", f.refreshFile, "ONETOKEN_MOCK_REFRESH_TOKEN", a.lookup)
	if err != nil {
		return nil, nil, err
	}
	options.Log = func(r mockendpoint.Request) {
		a.log.Info("call", "path", r.Path, "client_id", r.ClientID, "grant", r.Form.Get("grant_type"), "outcome", r.Outcome, "token", r.Token, "family", r.Family)
	}
	endpoint, recovered = f.endpoint(options)
	if refreshToken != "" {
		endpoint.AddRefreshToken(refreshToken)
	}
	return endpoint, recovered, nil
}

func (a *app) mock(ctx context.Context, f mockFlags) error {
	endpoint, recovered, err := a.mockEndpoint(f)
	if err != nil {
		return &usageError{err}
	}
	defer endpoint.Close()
	if f.failFor > 0 {
		defer time.AfterFunc(f.failFor, recovered).Stop()
	}
	var listener net.ListenConfig
	l, err := listener.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	answer := f.answer("http://" + l.Addr().String())
	text := answer.TokenURL + "\n"
	if f.example {
		text = f.configuration(answer)
	}
	if err := a.answer(answer, text); err != nil {
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
