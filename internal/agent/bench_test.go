package agent_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// constant is a page that answers all but at once: the floor for anything that this server serves.
type constant struct{ text []byte }

func (c constant) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(c.text)
}

// benchAgent returns an agent whose one environment has a token.
func benchAgent(b *testing.B) *agent.Agent {
	b.Helper()
	server := miniredis.RunT(b)
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	environments := map[string]manager.Environment{"prod": {
		SourceID: "bench", Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return &manager.Reply{AccessToken: manager.NewSecret("mock-1-PVG5XLTPCNH4ZK6AWASNSEMVZ7"), TokenType: "Bearer", ExpiresIn: 1 << 40}, nil
		}),
	}}
	m, err := manager.New(manager.Config{Redis: rdb, Environments: environments})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = m.Close(), rdb.Close() })
	if _, err := m.Token(context.Background(), "prod"); err != nil {
		b.Fatal(err)
	}
	s, err := store.New(rdb, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	a, err := agent.New(agent.Options{
		Manager: m, Overview: overview.New(s, m).Cached(), Environments: environments,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// hammer asks a server over connections that stay, as fast as it goes.
func hammer(b *testing.B, address, path string) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var d net.Dialer
		conn, err := d.DialContext(context.Background(), "tcp", address)
		if err != nil {
			b.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		answers := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				b.Errorf("%v: %v", resp, err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

// BenchmarkTokenPath is to be compared with BenchmarkConstantReply: the difference is what the agent adds.
func BenchmarkTokenPath(b *testing.B) {
	a := benchAgent(b)
	listeners, err := agent.Listen{Addresses: []string{"127.0.0.1:0"}}.Open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, listeners...) }()
	b.Cleanup(func() { cancel(); <-ended })
	hammer(b, listeners[0].Addr().String(), "/v1/environments/prod/token")
}

func BenchmarkConstantReply(b *testing.B) {
	var c net.ListenConfig
	l, err := c.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := agent.PlainServer(constant{make([]byte, 205)})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	b.Cleanup(func() { _ = server.Close(); <-ended })
	hammer(b, l.Addr().String(), "/")
}

// A sink takes an answer without a connection.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}

// BenchmarkTokenHandler is what the agent does for a request, without the server.
func BenchmarkTokenHandler(b *testing.B) {
	h := benchAgent(b).Handler()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1:8085/v1/environments/prod/token", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(&sink{http.Header{}}, r)
	}
}
