package peers_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/peers"
)

// redis returns the address of a redis-server that ends with the test. Where none is installed the test is skipped, or fails,
// as with package redistest.
func redis(tb testing.TB) string {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil && os.Getenv("ONETOKEN_REQUIRE_REDIS") != "1" {
		tb.Skip(err)
	}
	r, err := peers.StartRedis(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(r.Close)
	return r.Addr
}

func TestEveryStrategyGetsAllReplicasOneToken(t *testing.T) {
	addr := redis(t)
	for _, s := range peers.Strategies {
		h, err := peers.Herd{Replicas: 5, Latency: 20 * time.Millisecond}.Run(t.Context(), s, addr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Calls != 1 || h.Failures != 0 {
			t.Errorf("%s: %d calls of the endpoint, %d replicas without a token", s.Name, h.Calls, h.Failures)
		}
		if h.Max < h.P50 || h.P50 < -time.Millisecond {
			t.Errorf("%s: waits of %v at the median, %v at most", s.Name, h.P50, h.Max)
		}
		if h.Requests < h.Replicas || h.Connections < h.Replicas {
			t.Errorf("%s: %d requests by %d connections of %d replicas", s.Name, h.Requests, h.Connections, h.Replicas)
		}
	}
}

func TestEveryWayRotates(t *testing.T) {
	addr := redis(t)
	rotation := peers.Rotation{
		Replicas: 2, Callers: 4, Every: 10 * time.Millisecond, Latency: 10 * time.Millisecond, Life: time.Second, For: 1200 * time.Millisecond,
	}
	for _, w := range peers.Ways {
		r, err := rotation.Run(t.Context(), w, addr)
		if err != nil {
			t.Fatal(err)
		}
		if r.Calls == 0 || r.Failed != 0 || r.EndpointCalls == 0 {
			t.Errorf("%s: %d calls, %d of them failed, %d of the endpoint", w.Name, r.Calls, r.Failed, r.EndpointCalls)
		}
	}
}

func TestEveryCaseHasAToken(t *testing.T) {
	tokens, transports, end, err := peers.Warm(t.Context(), redis(t))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	for _, c := range append(tokens, transports...) {
		if err := c.Call(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func BenchmarkToken(b *testing.B) {
	tokens, _, end, err := peers.Warm(b.Context(), redis(b))
	if err != nil {
		b.Fatal(err)
	}
	defer end()
	bench(b, tokens)
}

func BenchmarkTransport(b *testing.B) {
	_, transports, end, err := peers.Warm(b.Context(), redis(b))
	if err != nil {
		b.Fatal(err)
	}
	defer end()
	bench(b, transports)
}

func bench(b *testing.B, cases []peers.Case) {
	for _, c := range cases {
		b.Run(c.Name+"/serial", c.Serial)
		b.Run(c.Name+"/parallel", c.Parallel)
	}
}
