package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A devSite is what serve --dev runs beside the agent: it is gone, with all it held, when the process ends.
type devSite struct {
	RedisURL     string `json:"redis_url"`
	TokenURL     string `json:"token_url"` // of the scripted endpoint
	Environment  string `json:"environment"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"` // made up, and printed for that reason
}

const devLife = 5 * time.Minute // of a token: long enough to look at, short enough to see the next one

// startDev starts a Redis and a token endpoint on free ports of loopback, and has the configuration describe them.
func (a *app) startDev(ctx context.Context) (*devSite, error) {
	if a.sources.Path != "" || a.sources.RedisURL != "" {
		return nil, &usageError{fmt.Errorf("--dev has a configuration of its own: without --config and --redis-url")}
	}
	redis := miniredis.NewMiniRedis()
	redis.ClockTTL(true)
	if err := redis.Start(); err != nil {
		return nil, fmt.Errorf("--dev: %w", err)
	}
	a.closers = append(a.closers, func() error { redis.Close(); return nil })
	site := &devSite{RedisURL: "redis://" + redis.Addr() + "/0", Environment: "dev", ClientID: "dev-client", ClientSecret: "dev-secret"}
	endpoint := mockendpoint.New(mockendpoint.Options{ClientID: site.ClientID, ClientSecret: site.ClientSecret, Life: devLife})
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("--dev: %w", err)
	}
	site.TokenURL = "http://" + l.Addr().String() + "/oauth2/v1/token"
	server := &http.Server{Handler: mockHandler(endpoint), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	a.closers = append(a.closers, func() error { endpoint.Close(); return server.Close() })
	return site, a.configureDev(site)
}

// configureDev writes the configuration to a file that is removed when the command ends: it is read like any other.
func (a *app) configureDev(site *devSite) error {
	dir, err := os.MkdirTemp("", "onetoken-dev-")
	if err != nil {
		return fmt.Errorf("--dev: %w", err)
	}
	a.closers = append(a.closers, func() error { return os.RemoveAll(dir) })
	a.sources.Path, a.sources.RedisURL = filepath.Join(dir, "onetoken.yaml"), site.RedisURL // whatever the variables say
	content := fmt.Sprintf("redis: {url: %q}\nenvironments:\n  %s: {token_url: %q, client_id: %s, client_secret: %s}\n",
		site.RedisURL, site.Environment, site.TokenURL, site.ClientID, site.ClientSecret)
	return os.WriteFile(a.sources.Path, []byte(content), 0o600)
}

// hints says what to try.
func (s *devSite) hints(w io.Writer, listen string) {
	curl := "curl -s "
	url := listen
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		curl, url = "curl -s --unix-socket "+path+" ", "http://localhost"
	}
	env := url + "/v1/environments/" + s.Environment
	_, _ = fmt.Fprintf(w, `
An embedded Redis (%[3]s) and a scripted token endpoint (%[4]s). Try:
  %[1]s%[2]s/token
  %[1]s-u %[5]s:%[6]s -d grant_type=client_credentials %[2]s/oauth2/token
  %[1]s%[2]s
  %[1]s-X POST %[2]s/refresh
  %[1]s-X POST -i %[2]s/invalidate
  onetoken status --redis-url %[3]s
`, curl, env, s.RedisURL, s.TokenURL, s.ClientID, s.ClientSecret)
}
