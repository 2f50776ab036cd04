package manager_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// BenchmarkScale starts a fleet, each replica of which keeps ten thousand environments warm, on a real Redis. The first one
// fetches the tokens; of the others it is measured how long a start takes until all tokens are there, and what a replica
// has at rest.
func BenchmarkScale(b *testing.B) {
	const environments, replicas = 10_000, 20
	b.Run(fmt.Sprintf("environments=%d/replicas=%d", environments, replicas), func(b *testing.B) {
		for b.Loop() {
			scale(b, environments, replicas)
		}
	})
}

func scale(b *testing.B, environments, replicas int) {
	server := redistest.Start(b)
	source := manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
		return &manager.Reply{AccessToken: manager.NewSecret(strings.Repeat("t", 1000)), ExpiresIn: time.Hour}, nil
	})
	start := func() (*manager.Manager, *redis.Client, time.Duration) {
		configured := make(map[string]manager.Environment, environments)
		for i := range environments {
			configured[fmt.Sprintf("tenant-%05d", i)] = manager.Environment{
				TokenURL: "https://auth.example/token", ClientID: fmt.Sprint("client-", i), Scopes: []string{"read", "write"},
				Source: source, SourceID: "scale", Policy: manager.Policy{KeepWarm: true},
			}
		}
		rdb := redis.NewClient(redistest.Options(server.Addr()))
		began := time.Now()
		m, err := manager.New(manager.Config{Redis: rdb, Environments: configured, Replica: fmt.Sprint("replica-", time.Now().UnixNano())})
		if err != nil {
			b.Fatal(err)
		}
		for m.Health().Usable < environments {
			<-time.After(5 * time.Millisecond)
		}
		return m, rdb, time.Since(began)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	var fleet []*manager.Manager
	var clients []*redis.Client
	var slowest time.Duration
	before, goroutines := heap(), runtime.NumGoroutine()
	for i := range replicas {
		m, rdb, took := start()
		fleet, clients = append(fleet, m), append(clients, rdb)
		if i > 0 {
			slowest = max(slowest, took)
		}
	}
	<-time.After(2 * time.Second) // at rest
	b.ReportMetric(float64(slowest.Milliseconds()), "start-ms")
	b.ReportMetric(float64(heap()-before)/float64(environments*replicas), "B/environment")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/float64(replicas), "goroutines/replica")
	connected, err := clients[0].ClientList(context.Background()).Result()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(strings.Count(connected, "\n"))/float64(replicas), "connections/replica")
	for i, m := range fleet {
		_, _ = m.Close(), clients[i].Close()
	}
}
