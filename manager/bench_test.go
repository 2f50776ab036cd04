package manager_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// benched is an environment whose tokens come from nowhere.
var benched = manager.Environment{
	BaseURL: "https://api.example", SourceID: "bench", Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
		return &manager.Reply{AccessToken: manager.NewSecret("token"), ExpiresIn: time.Hour}, nil
	}),
}

// warm returns a manager with a token in its snapshot.
func warm(tb testing.TB) *manager.Manager {
	tb.Helper()
	server := miniredis.RunT(tb)
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	m, err := manager.New(manager.Config{Redis: rdb, Environments: map[string]manager.Environment{
		env: benched,
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

// Those of the request's copy, its header, and what the header holds.
func TestTheTransportAddsThreeAllocations(t *testing.T) {
	req := httptest.NewRequest("GET", "https://api.example/", nil)
	req.Header.Set("Accept", "application/json")
	by := func(rt http.RoundTripper) float64 {
		return testing.AllocsPerRun(1000, func() { _, _ = rt.RoundTrip(req) })
	}
	if n := by(warm(t).Transport(env, nowhere{})) - by(nowhere{}); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

// The floor is what a checked snapshot must cost: an atomic load and a look at the monotonic clock.
func floor() func(n int) error {
	type snapshot struct{ until time.Duration }
	var p atomic.Pointer[snapshot]
	p.Store(&snapshot{until: time.Hour})
	base := time.Now()
	return func(n int) error {
		for range n {
			if time.Since(base) >= p.Load().until {
				return errors.New("no token")
			}
		}
		return nil
	}
}

// reuse is what clients of golang.org/x/oauth2 have.
func reuse() oauth2.TokenSource {
	return oauth2.ReuseTokenSource(&oauth2.Token{AccessToken: "token", Expiry: time.Now().Add(time.Hour)}, nil)
}

func BenchmarkTokenByHandle(b *testing.B) {
	e, err := warm(b).Env(env)
	if err != nil {
		b.Fatal(err)
	}
	ctx, ts := context.Background(), reuse()
	handle := func(n int) error {
		for range n {
			if _, err := e.Token(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	oauth2s := func(n int) error {
		for range n {
			if _, err := ts.Token(); err != nil {
				return err
			}
		}
		return nil
	}
	serialAndParallel(b, func(b *testing.B, procs int) {
		t := inTurns(b, procs, 500_000, handle, floor(), oauth2s) // long ones: for a mutex, those who meet count
		b.ReportMetric(t.ratio(0, 1), "x-floor")
		b.ReportMetric(t.ratio(2, 0), "oauth2-x")
	})
}

// While some are added, a thousand a second are; what that takes of the machine slows the floor down, too.
func BenchmarkTokenByName(b *testing.B) {
	m := warm(b)
	ctx := context.Background()
	run := func(b *testing.B) {
		serialAndParallel(b, func(b *testing.B, procs int) {
			t := inTurns(b, procs, 10_000, func(n int) error {
				for range n {
					if _, err := m.Token(ctx, env); err != nil {
						return err
					}
				}
				return nil
			}, floor())
			b.ReportMetric(t.ratio(0, 1), "x-floor")
		})
	}
	added := 0
	add := func() {
		added++
		if err := m.SetEnvironment(fmt.Sprintf("tenant-%05d", added), benched); err != nil {
			b.Error(err)
		}
	}
	b.Run("environments=1", run)
	for range 10_000 {
		add()
	}
	b.Run("environments=10000", run)
	b.Run("while-added", func(b *testing.B) {
		done := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-ticker.C:
					add()
				case <-done:
					return
				}
			}
		})
		run(b)
		close(done)
		work.Wait()
	})
}

type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(http.NoBody)}, nil
}

// copying is what a transport costs at least that leaves the request as it is: a shallow copy, with a field that is ready.
type copying struct{ field []string }

func (c *copying) RoundTrip(req *http.Request) (*http.Response, error) {
	r := new(http.Request)
	*r = *req
	r.Header = make(http.Header, len(req.Header)+1)
	maps.Copy(r.Header, req.Header)
	r.Header["Authorization"] = c.field
	return nowhere{}.RoundTrip(r)
}

func BenchmarkTransport(b *testing.B) {
	m := warm(b)
	by := func(rt http.RoundTripper) func(n int) error {
		return func(n int) error {
			req := httptest.NewRequest("GET", "https://api.example/campaigns", nil)
			req.Header.Set("Accept", "application/json")
			req.Header.Set("User-Agent", "worker")
			for range n {
				if _, err := rt.RoundTrip(req); err != nil {
					return err
				}
			}
			return nil
		}
	}
	ours, base, oauth2s := by(m.Transport(env, nowhere{})), by(nowhere{}), by(&oauth2.Transport{Base: nowhere{}, Source: reuse()})
	copied := by(&copying{[]string{"Bearer token"}})
	program := make([]byte, 64<<20) // an empty heap would be collected every few thousand calls
	defer runtime.KeepAlive(program)
	serialAndParallel(b, func(b *testing.B, procs int) {
		t := inTurns(b, procs, 1000, ours, base, oauth2s, copied)
		b.ReportMetric(t.difference(0, 1), "ns-over-base")
		_, with := memory(ours)
		_, without := memory(base)
		b.ReportMetric(with-without, "allocs-over-base")
		b.ReportMetric(t.ratio(2, 0), "oauth2-x")
		b.ReportMetric(t.difference(0, 1)/t.difference(3, 1), "x-copy")
	})
}

func serialAndParallel(b *testing.B, run func(b *testing.B, procs int)) {
	b.Run("serial", func(b *testing.B) { run(b, 1) })
	b.Run("parallel", func(b *testing.B) { run(b, runtime.GOMAXPROCS(0)) })
}

// turns are the times that functions took for a call, in ns: of each one, in each turn.
type turns [][]float64

// inTurns runs each of fs in turn, so many calls at a time on so many processors: what slows the machine down slows all of them
// down. It reports the first.
func inTurns(b *testing.B, procs, calls int, fs ...func(n int) error) turns {
	t := make(turns, len(fs))
	for b.Loop() {
		for i, f := range fs {
			var work sync.WaitGroup
			began := time.Now()
			for range procs {
				work.Go(func() {
					if err := f(calls); err != nil {
						b.Error(err)
					}
				})
			}
			work.Wait()
			t[i] = append(t[i], float64(time.Since(began))/float64(calls*procs))
		}
	}
	b.ReportMetric(median(t[0]), "ns/op")
	bytes, allocs := memory(fs[0])
	b.ReportMetric(bytes, "B/op")
	b.ReportMetric(allocs, "allocs/op")
	return t
}

// ratio is how many times as long as function j function i took.
func (t turns) ratio(i, j int) float64 {
	return t.each(i, j, func(a, b float64) float64 { return a / b })
}

// difference is how much longer than function j function i took.
func (t turns) difference(i, j int) float64 {
	return t.each(i, j, func(a, b float64) float64 { return a - b })
}

// each is the median over the turns: some hit upon another process.
func (t turns) each(i, j int, of func(a, b float64) float64) float64 {
	var all []float64
	for turn := range t[i] {
		all = append(all, of(t[i][turn], t[j][turn]))
	}
	return median(all)
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// memory is what a call allocates.
func memory(f func(n int) error) (bytes, allocs float64) {
	const calls = 10_000
	_ = f(calls)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = f(calls)
	runtime.ReadMemStats(&after)
	return math.Round(float64(after.TotalAlloc-before.TotalAlloc) / calls), math.Round(float64(after.Mallocs-before.Mallocs) / calls)
}
