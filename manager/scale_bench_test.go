package manager_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
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

// BenchmarkRotationOfMany has a fleet's environments, whose tokens were all issued at one time, refreshed: as many a second as
// ten thousand with tokens of an hour are, by twenty replicas. It takes two minutes.
func BenchmarkRotationOfMany(b *testing.B) {
	const environments, replicas, life = 333, 20, 2 * time.Minute // 10,000 × 2 min / 60 min
	b.Run(fmt.Sprintf("environments=%d/replicas=%d/life=%v", environments, replicas, life), func(b *testing.B) {
		for b.Loop() {
			rotationOfMany(b, environments, replicas, life)
		}
	})
}

func rotationOfMany(b *testing.B, environments, replicas int, life time.Duration) {
	server := redistest.Start(b)
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	defer rdb.Close()
	var calls atomic.Int64
	source := manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
		calls.Add(1)
		return &manager.Reply{AccessToken: manager.NewSecret("token"), ExpiresIn: life}, nil
	})
	for i := range replicas {
		configured := map[string]manager.Environment{}
		for i := range environments {
			configured[fmt.Sprint("tenant-", i)] = manager.Environment{Source: source, SourceID: "scale", Policy: manager.Policy{KeepWarm: true}}
		}
		own := redis.NewClient(redistest.Options(server.Addr()))
		m, err := manager.New(manager.Config{Redis: own, Environments: configured, Replica: fmt.Sprint("replica-", i)})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _, _ = m.Close(), own.Close() }()
	}
	until := func(n int64) (at time.Time, cpu float64, commands float64) {
		for calls.Load() < n {
			<-time.After(10 * time.Millisecond)
		}
		info := infoOf(b, rdb)
		return time.Now(), info["used_cpu_user"] + info["used_cpu_sys"], info["total_commands_processed"]
	}
	until(int64(environments))
	began, cpu, commands := until(int64(environments) + 1)
	ended, cpuThen, commandsThen := until(2 * int64(environments))
	took := ended.Sub(began).Seconds()
	b.ReportMetric(took, "rotation-s")
	b.ReportMetric(float64(environments)/took, "refreshes/s")
	b.ReportMetric(100*(cpuThen-cpu)/took, "redis-cpu-%")
	b.ReportMetric((commandsThen-commands)/float64(environments), "commands/refresh")
}

// infoOf returns the numbers that the server tells of itself.
func infoOf(b *testing.B, rdb *redis.Client) map[string]float64 {
	b.Helper()
	text, err := rdb.Info(context.Background(), "cpu", "stats").Result()
	if err != nil {
		b.Fatal(err)
	}
	numbers := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			numbers[name] = n
		}
	}
	return numbers
}
