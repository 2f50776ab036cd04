// Package demo shows in half a minute what onetoken does, with real replica processes on an embedded Redis and a scripted
// token endpoint. It measures what it shows, and fails where it didn't hold.
package demo

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

const (
	env     = "prod"
	latency = 300 * time.Millisecond // of the endpoint
	lease   = 2 * time.Second
	firstly = 8 * time.Second // the first token's life, so that the rotation comes soon
)

// Options configure a demonstration.
type Options struct {
	Out      io.Writer
	Worker   []string // the program that is run as a replica, and its first arguments: cmd/worker or the like
	Replicas int      // default 8, at least 3

	// Opened, if not nil, is called with the fleet's store before the first scene; what it returns is called before Redis goes.
	Opened func(*store.Store) (closed func())
}

// ErrDidNotHold says that something that was to be shown turned out otherwise; the output says what.
var ErrDidNotHold = errors.New("the demonstration did not hold: see above")

// Run shows all scenes. It takes about 15 s.
func Run(ctx context.Context, o Options) error {
	o.Replicas = max(cmp.Or(o.Replicas, 8), 3)
	s, err := newStage(ctx, o)
	defer s.close()
	if err != nil {
		return err
	}
	if o.Opened != nil {
		s.closers = append(s.closers, o.Opened(s.store))
	}
	for _, scene := range []func(context.Context) error{s.coldFleet, s.rotation, s.killedHolder, s.backoff, s.finale} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return s.summary()
}

// A stage is what the scenes play on.
type stage struct {
	out      *lines
	endpoint *mockendpoint.Endpoint
	rdb      redis.UniversalClient
	store    *store.Store
	fleet    *fleet
	replicas int
	figures  []string // for the summary
	failed   bool
	closers  []func()
}

// newStage sets everything up but the replicas. The stage must be closed, also after an error.
func newStage(ctx context.Context, o Options) (*stage, error) {
	s := &stage{out: &lines{w: o.Out, begun: time.Now()}, replicas: o.Replicas}
	clientSecret := rand.Text()
	endpointAddress, err := s.serveEndpoint(ctx, clientSecret)
	if err != nil {
		return s, err
	}
	redisAddress, err := s.serveRedis()
	if err != nil {
		return s, err
	}
	path, err := s.writeConfig(redisAddress, endpointAddress)
	if err != nil {
		return s, err
	}
	s.fleet = newFleet(s.out, o.Worker, path, clientSecret)
	s.closers = append(s.closers, s.fleet.kill)
	s.out.say("an embedded Redis on %s; a token endpoint on %s that takes %v for an answer", redisAddress, endpointAddress, latency)
	return s, nil
}

func (s *stage) writeConfig(redisAddress, endpointAddress string) (path string, err error) {
	dir, err := os.MkdirTemp("", "onetoken-demo-")
	if err != nil {
		return "", err
	}
	s.closers = append(s.closers, func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "onetoken.yaml")
	return path, os.WriteFile(path, fmt.Appendf(nil, `redis: {url: "redis://%s"}
environments:
  %s:
    base_url: http://%s/api/v2
    client_id: demo
    client_secret: ${ONETOKEN_DEMO_CLIENT_SECRET}
    lease: %v
`, redisAddress, env, endpointAddress, lease), 0o600)
}

func (s *stage) serveEndpoint(ctx context.Context, clientSecret string) (address string, err error) {
	s.endpoint = mockendpoint.New(mockendpoint.Options{
		ClientID: "demo", ClientSecret: clientSecret, Default: mockendpoint.Reply{Delay: latency},
	})
	s.endpoint.Push(mockendpoint.Reply{Delay: latency, ExpiresIn: int(firstly / time.Second)})
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: s.endpoint, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }() // until Close
	s.closers = append(s.closers, func() { s.endpoint.Close(); _ = server.Close() })
	return l.Addr().String(), nil
}

func (s *stage) serveRedis() (address string, err error) {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true) // else keys don't expire by themselves
	if err := server.Start(); err != nil {
		return "", err
	}
	s.closers = append(s.closers, server.Close)
	if s.rdb, err = redisclient.New(redisclient.Options{URL: secret.New("redis://" + server.Addr())}); err != nil {
		return "", err
	}
	s.closers = append(s.closers, func() { _ = s.rdb.Close() })
	s.store, err = store.New(s.rdb, store.Options{})
	return server.Addr(), err
}

func (s *stage) close() {
	for _, closer := range slices.Backward(s.closers) {
		closer()
	}
}

// check says whether a claim held, which is what the whole demonstration stands for.
func (s *stage) check(held bool, format string, args ...any) {
	mark := "held"
	if !held {
		mark, s.failed = "DID NOT HOLD", true
	}
	s.out.say("=> %s: %s", mark, fmt.Sprintf(format, args...))
}

// figure keeps a line for the summary.
func (s *stage) figure(title, format string, args ...any) {
	s.figures = append(s.figures, fmt.Sprintf("%-14s %s", title, fmt.Sprintf(format, args...)))
}

func (s *stage) summary() error {
	s.out.title("Measured")
	for _, f := range s.figures {
		s.out.plain(f)
	}
	if s.failed {
		return ErrDidNotHold
	}
	s.out.plain("All of it held.")
	return nil
}

// leaks reports whether text has the client secret or an access token in it.
func (s *stage) leaks(text string) bool {
	for _, hidden := range append(s.endpoint.Issued(), s.fleet.secret) {
		if strings.Contains(text, hidden) {
			return true
		}
	}
	return false
}
