// Command performance measures what docs/performance.md shows: see package peers.
//
//	performance                      prints tables, after about a minute
//	performance -write ../../docs    measures more and writes the page's tables and plots
//	performance -redraw ../../docs   writes them again from what was measured last
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/peers"
	"github.com/onetoken/onetoken/internal/peers/report"
)

func main() {
	write := flag.String("write", "", "the `directory` with performance.md to measure for")
	redraw := flag.String("redraw", "", "the `directory` with performance.md to write without measuring")
	flag.Parse()
	testing.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *write, *redraw); err != nil {
		fmt.Fprintln(os.Stderr, "performance:", err)
		os.Exit(1)
	}
}

// A plan is how much is measured.
type plan struct {
	benchtime string
	rounds    int // of benchmarks
	runs      int // of a herd, of which the median counts
	herds     []int
	slow      []int // sizes of herds with an endpoint that takes seconds
	rotation  time.Duration
}

var (
	brief = plan{benchtime: "100ms", rounds: 2, runs: 1, herds: []int{50, 200}, rotation: 6 * time.Second}
	full  = plan{
		benchtime: "200ms", rounds: 4, runs: 3, herds: []int{10, 50, 100, 200, 500}, slow: []int{500}, rotation: 10 * time.Second,
	}
)

func run(ctx context.Context, write, redraw string) error {
	if redraw != "" {
		results, err := report.Read(redraw)
		if err != nil {
			return err
		}
		return results.Write(redraw)
	}
	p := brief
	if write != "" {
		p = full
	}
	redis, err := peers.StartRedis(ctx)
	if err != nil {
		return err
	}
	defer redis.Close()
	results, err := p.measure(ctx, redis.Addr)
	if err != nil {
		return err
	}
	fmt.Print(results.Text())
	if write == "" {
		return nil
	}
	return results.Write(write)
}

func (p plan) measure(ctx context.Context, redisAddr string) (report.Results, error) {
	r := report.Results{Machine: report.ThisMachine(ctx)}
	if err := flag.Set("test.benchtime", p.benchtime); err != nil {
		return r, err
	}
	tokens, transports, end, err := peers.Warm(ctx, redisAddr)
	if err != nil {
		return r, err
	}
	progress("tokens that are there")
	r.Tokens = peers.Measure(tokens, p.rounds)
	progress("requests with a token")
	r.Transports = peers.Measure(transports, p.rounds)
	end()
	if r.Herds, err = p.stampede(ctx, redisAddr, p.herds, 200*time.Millisecond); err != nil {
		return r, err
	}
	if r.Slow, err = p.stampede(ctx, redisAddr, p.slow, 5*time.Second); err != nil {
		return r, err
	}
	for _, latency := range []time.Duration{200 * time.Millisecond, 600 * time.Millisecond} {
		for _, w := range peers.Ways {
			progress("rotation, %v: %s", latency, w.Name)
			rotation := peers.Rotation{
				Replicas: 10, Callers: 200, Every: 20 * time.Millisecond, Latency: latency, Life: 2 * time.Second, For: p.rotation,
			}
			result, err := rotation.Run(ctx, w, redisAddr)
			if err != nil {
				return r, err
			}
			r.Rotations = append(r.Rotations, result)
		}
	}
	return r, nil
}

// stampede runs herds of each size by each strategy, one after the other.
func (p plan) stampede(ctx context.Context, redisAddr string, sizes []int, latency time.Duration) ([]peers.HerdResult, error) {
	var results []peers.HerdResult
	for _, n := range sizes {
		for _, s := range peers.Strategies {
			progress("herd of %d, %v: %s", n, latency, s.Name)
			var runs []peers.HerdResult
			for range p.runs {
				h, err := peers.Herd{Replicas: n, Latency: latency}.Run(ctx, s, redisAddr)
				if err != nil {
					return nil, err
				}
				runs = append(runs, h)
			}
			results = append(results, peers.Median(runs))
		}
	}
	return results, nil
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
