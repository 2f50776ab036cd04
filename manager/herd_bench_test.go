package manager_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/herd"
	"github.com/onetoken/onetoken/internal/redistest"
)

// These run herds of replicas, each with a Redis client of its own, on a redis-server. Their figures are metrics: the time for
// an operation says little.

// herdOn returns a herd on a redis-server of its own, for the life of b.
func herdOn(b *testing.B, replicas int, latency time.Duration) herd.Options {
	server := redistest.Start(b, "maxclients 20000")
	return herd.Options{
		NewRedis: func() (redis.UniversalClient, error) { return redis.NewClient(redistest.Options(server.Addr())), nil },
		Replicas: replicas, Latency: latency,
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// benchmarkCold reports what replicas wait beyond the endpoint's latency, and send, until all have the first token.
func benchmarkCold(b *testing.B, o herd.Options) {
	var last, half, asked time.Duration
	var calls, failures, requests int
	for range b.N {
		r, err := herd.Cold(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		if r.FirstError != nil {
			b.Logf("%d failures, the first: %v", r.Failures, r.FirstError)
		}
		last, half, asked = last+r.Wait.Max, half+r.Wait.P50, asked+r.Asked
		calls, failures, requests = calls+r.Calls, failures+r.Failures, requests+r.Requests.Total()
	}
	n := float64(b.N)
	b.ReportMetric(milliseconds(last)/n, "wait-ms")
	b.ReportMetric(milliseconds(half)/n, "p50-ms")
	b.ReportMetric(milliseconds(asked)/n, "asked-ms") // of the wait, until the endpoint was called
	b.ReportMetric(float64(calls)/n, "calls/op")
	b.ReportMetric(float64(failures)/n, "failures/op")
	b.ReportMetric(float64(requests)/n/float64(o.Replicas), "requests/replica")
}

func BenchmarkColdHerd(b *testing.B) {
	for _, replicas := range []int{10, 100, 500} {
		for _, latency := range []time.Duration{200 * time.Millisecond} {
			b.Run(fmt.Sprintf("replicas=%d/latency=%v", replicas, latency), func(b *testing.B) {
				benchmarkCold(b, herdOn(b, replicas, latency))
			})
		}
	}
}

// With an endpoint that is slower than any lease.
func BenchmarkPatientHerd(b *testing.B) {
	for _, latency := range []time.Duration{5 * time.Second, 30 * time.Second} {
		b.Run(fmt.Sprintf("replicas=500/latency=%v", latency), func(b *testing.B) {
			benchmarkCold(b, herdOn(b, 500, latency))
		})
	}
}

// A deploy: the replicas start at once, connections and all.
func BenchmarkDeployedHerd(b *testing.B) {
	o := herdOn(b, 500, 200*time.Millisecond)
	o.Deploy = true
	benchmarkCold(b, o)
}

func BenchmarkThousandClients(b *testing.B) {
	benchmarkCold(b, herdOn(b, 1000, 200*time.Millisecond))
}

// 200 callers use tokens of 2 s, which an endpoint needs 600 ms for.
func BenchmarkRotation(b *testing.B) {
	const replicas, latency, life = 50, 600 * time.Millisecond, 2 * time.Second
	b.Run(fmt.Sprintf("replicas=%d/latency=%v/life=%v", replicas, latency, life), func(b *testing.B) {
		o := herdOn(b, replicas, latency)
		o.Life, o.Callers, o.Rotations = life, 4, 6
		var first, blocked, expired, failures, calls int
		var each float64
		for range b.N {
			r, err := herd.Rotation(context.Background(), o)
			if err != nil {
				b.Fatal(err)
			}
			first, blocked = first+r.Blocked(1)-r.Blocked(2), blocked+r.Blocked(2)
			expired, failures, each = expired+r.Expired, failures+r.Failures, each+r.RequestsEach()
			for _, l := range r.Lives {
				calls += l.Calls
			}
		}
		n := float64(b.N)
		b.ReportMetric(float64(first)/n, "blocked-at-first/op")
		b.ReportMetric(float64(blocked)/n, "blocked/op")
		b.ReportMetric(float64(expired)/n, "expired/op")
		b.ReportMetric(float64(failures)/n, "failures/op")
		b.ReportMetric(float64(calls)/n/float64(o.Rotations), "calls/life")
		b.ReportMetric(each/n, "requests/replica/rotation")
	})
}

// A minute in which nobody asks for a token that all have.
func BenchmarkAtRest(b *testing.B) {
	o := herdOn(b, 50, 0)
	var all, pings float64
	for range b.N {
		r, err := herd.Rest(context.Background(), o, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		a, p := r.PerMinute()
		all, pings = all+a, pings+p
	}
	n := float64(b.N)
	b.ReportMetric((all-pings)/n, "requests/replica/minute")
	b.ReportMetric(pings/n, "pings/replica/minute")
}
