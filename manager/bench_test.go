package manager_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// warm returns a manager with a token in its snapshot.
func warm(tb testing.TB) *manager.Manager {
	tb.Helper()
	server := miniredis.RunT(tb)
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	m, err := manager.New(manager.Config{Redis: rdb, Environments: map[string]manager.Environment{
		env: {SourceID: "bench", Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return &manager.Reply{AccessToken: manager.NewSecret("token"), ExpiresIn: time.Hour}, nil
		})},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = m.Close(), rdb.Close() })
	if _, err := m.Token(context.Background(), env); err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestAWarmTokenCostsNoAllocation(t *testing.T) {
	m := warm(t)
	e, err := m.Env(env)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = e.Token(ctx) }); n != 0 {
		t.Errorf("by handle: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = m.Token(ctx, env) }); n != 0 {
		t.Errorf("by name: %v allocations", n)
	}
	req := httptest.NewRequest("GET", "/", nil)
	tok, _ := e.Token(ctx)
	tok.SetAuthHeader(req)
	if n := testing.AllocsPerRun(1000, func() { req.Header["Authorization"][0] = tok.AuthHeader() }); n != 0 {
		t.Errorf("the header: %v allocations", n)
	}
}

// The floor is what a checked snapshot must cost: an atomic load and a look at the monotonic clock.
func BenchmarkFloor(b *testing.B) {
	type snapshot struct{ until time.Duration }
	var p atomic.Pointer[snapshot]
	p.Store(&snapshot{until: time.Hour})
	base := time.Now()
	both(b, func() bool { return time.Since(base) < p.Load().until })
}

func BenchmarkTokenByHandle(b *testing.B) {
	e, err := warm(b).Env(env)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	both(b, func() bool { _, err := e.Token(ctx); return err == nil })
}

func BenchmarkTokenByName(b *testing.B) {
	m := warm(b)
	ctx := context.Background()
	both(b, func() bool { _, err := m.Token(ctx, env); return err == nil })
}

func BenchmarkReuseTokenSource(b *testing.B) {
	ts := oauth2.ReuseTokenSource(&oauth2.Token{AccessToken: "token", Expiry: time.Now().Add(time.Hour)}, nil)
	both(b, func() bool { _, err := ts.Token(); return err == nil })
}

func both(b *testing.B, ok func() bool) {
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !ok() {
				b.Fatal("no token")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if !ok() {
					b.Error("no token")
				}
			}
		})
	})
}

type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(http.NoBody)}, nil
}

func BenchmarkTransport(b *testing.B) {
	m := warm(b)
	for name, rt := range map[string]http.RoundTripper{
		"base": nowhere{}, "onetoken": m.Transport(env, nowhere{}),
		"x-oauth2": &oauth2.Transport{Base: nowhere{}, Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "token"})},
	} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest("GET", "https://api.example/", nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rt.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
