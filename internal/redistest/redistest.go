// Package redistest gives tests a Redis: a redis-server process of their own, or one contract run over miniredis and a
// real server alike.
//
// Where redis-server isn't installed a test that needs it is skipped; with ONETOKEN_REQUIRE_REDIS=1 it fails.
package redistest

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// RequireEnv is the environment variable that makes a missing redis-server a failure where it is "1".
const RequireEnv = "ONETOKEN_REQUIRE_REDIS"

// Start starts a redis-server on a free port of 127.0.0.1, without persistence, and kills it at the test's end. Each of
// config is a line of redis.conf: "requirepass secret", "user worker on >secret ~* +@all", "maxmemory 1"; "{port}" in it
// stands for the server's port. A server that is to take TLS alone has "port 0" and "tls-port {port}".
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	return begin(t, config, false)
}

// StartSentinel is [Start] for a Sentinel. Each of config is a line of sentinel.conf: "sentinel monitor main 127.0.0.1
// 6379 2".
func StartSentinel(t testing.TB, config ...string) *Server {
	t.Helper()
	return begin(t, config, true)
}

func begin(t testing.TB, config []string, sentinel bool) *Server {
	t.Helper()
	require(t)
	s, err := start(config, sentinel)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

func require(t testing.TB) {
	t.Helper()
	switch err := installed(); {
	case err == nil:
	case os.Getenv(RequireEnv) == "1":
		t.Fatalf("redistest: %s=1, but %v", RequireEnv, err)
	default:
		t.Skipf("redistest: %v", err)
	}
}

// Options returns client options for addr by which nothing blocks for long and nothing is tried twice unseen.
func Options(addr string) *redis.Options {
	return &redis.Options{
		Addr:                     addr,
		ContextTimeoutEnabled:    true,
		DialTimeout:              time.Second,
		ReadTimeout:              time.Second,
		WriteTimeout:             time.Second,
		MaxRetries:               -1,
		DialerRetries:            1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Client returns a client of the server with [Options], closed at the test's end.
func (s *Server) Client(t testing.TB) *redis.Client { return NewClient(t, Options(s.addr)) }

// NewClient returns a client that is closed at the test's end.
func NewClient(t testing.TB, o *redis.Options) *redis.Client {
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Each runs test over an empty miniredis, whose TTLs follow the clock, and over an empty redis-server. The latter is
// shared by the whole test binary and lent to one subtest at a time: test must not stop it, and must not call Each.
func Each(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Run("miniredis", func(t *testing.T) { test(t, Mini(t)) })
	t.Run("redis", func(t *testing.T) { test(t, Shared(t)) })
}

// Mini returns a client of an empty miniredis whose TTLs follow the clock.
func Mini(t testing.TB) *redis.Client {
	m := miniredis.RunT(t)
	m.ClockTTL(true)
	return NewClient(t, Options(m.Addr()))
}

// Shared returns a client of the test binary's shared redis-server, emptied, for the rest of the test. Meanwhile every
// other test that asks for it waits.
func Shared(t testing.TB) *redis.Client {
	t.Helper()
	require(t)
	lent.Lock()
	t.Cleanup(lent.Unlock)
	s, err := shared()
	if err != nil {
		t.Fatalf("redistest: the shared server: %v", err)
	}
	rdb := s.Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := rdb.FlushAll(ctx).Err(); err != nil {
		t.Fatalf("redistest: the shared server: %v", err)
	}
	return rdb
}

// The shared server starts with the first test that asks for it, and ends with the test binary.
var (
	shared = sync.OnceValues(func() (*Server, error) { return start(nil, false) })
	lent   sync.Mutex // held by the test that uses shared
)
