package manager_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// clientsAt are as many environments, each of a client of its own at the endpoint.
func clientsAt(n int, endpoint string) map[string]manager.Environment {
	all := make(map[string]manager.Environment, n)
	for i := range n {
		all[fmt.Sprintf("tenant-%05d", i)] = manager.Environment{
			TokenURL:     endpoint,
			ClientID:     fmt.Sprintf("client-%05d", i),
			ClientSecret: manager.NewSecret(fmt.Sprintf("a-secret-of-thirty-two-bytes-%05d", i)),
			Scopes:       []string{"campaigns.read", "campaigns.write"},
		}
	}
	return all
}

// What a process has of each of ten thousand environments: its name, settings, logger, and a token of 600 bytes, about a JWT's
// that is signed by RSA. What a token takes is measured by five hundred: Redis is in this process, and slow.
func BenchmarkTenThousandEnvironments(b *testing.B) {
	const n, some, more = 10_000, 500, 500
	reply := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, strings.Repeat("x", 600))
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, reply) }))
	defer endpoint.Close()
	server := miniredis.RunT(b)
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	defer rdb.Close()
	logger := slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // DiscardHandler keeps nothing of an environment
	heap := func() float64 {
		server.FlushAll()
		endpoint.CloseClientConnections()
		runtime.GC()
		runtime.GC() // what a sync.Pool holds survives one
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		environments := clientsAt(n, endpoint.URL)
		began := time.Now()
		m, err := manager.New(manager.Config{Redis: rdb, Logger: logger, Environments: environments})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Since(began)
		cold := heap()
		names := m.Environments()
		askAll(b, m, names[:some]) // which brings what the way to a token takes in any case
		without := heap()
		askAll(b, m, names[some:some+more])
		token := (heap() - without) / more
		b.ReportMetric(float64(start.Milliseconds()), "ms/start")
		b.ReportMetric(token, "B/token")
		b.ReportMetric((cold-before)/n+token, "B/environment")
		_ = m.Close()
	}
}

// askAll gets a token of each.
func askAll(b *testing.B, m *manager.Manager, names []string) {
	b.Helper()
	var work sync.WaitGroup
	for part := range slices.Chunk(names, len(names)/8) {
		work.Go(func() {
			for _, name := range part {
				if _, err := m.Token(context.Background(), name); err != nil {
					b.Error(err)
				}
			}
		})
	}
	work.Wait()
}
