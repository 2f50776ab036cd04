package peers

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/herd"
)

// A Herd is replicas that want their first token at the same instant. They have clients of their own, which are connected
// and subscribed by then.
type Herd struct {
	Replicas int
	Latency  time.Duration // of the endpoint
}

// A HerdResult is what became of a herd.
type HerdResult struct {
	Strategy string
	Herd
	Calls       int           // of the token endpoint
	P50, Max    time.Duration // that a replica waited beyond the endpoint's latency
	Requests    int           // that the replicas sent to Redis from then on, but for those that set a connection up
	Connections int           // that they made, from the beginning
	Failures    int           // replicas without a token
}

const (
	patience = 30 * time.Second       // beyond the endpoint's latency; who has no token then has failed
	quiet    = 100 * time.Millisecond // without a request: nothing is under way
)

// Run runs the herd on an emptied Redis.
func (h Herd) Run(ctx context.Context, s Strategy, redisAddr string) (HerdResult, error) {
	if err := empty(ctx, redisAddr); err != nil {
		return HerdResult{}, err
	}
	endpoint := StartEndpoint(h.Latency, time.Hour)
	defer endpoint.Close()
	var counter herd.Counter
	members, err := s.gather(ctx, h.Replicas, Replica{Redis: redisAddr, TokenURL: endpoint.URL, counter: &counter})
	if err != nil {
		return HerdResult{}, err
	}
	settle(ctx, &counter)
	before := counter.Requests()
	waits := h.start(ctx, members, endpoint)
	settle(ctx, &counter)
	for _, m := range members {
		err = errors.Join(err, m.Close())
	}
	r := HerdResult{
		Strategy: s.Name, Herd: h, Calls: endpoint.Calls(),
		Requests: counter.Requests().Since(before).Total(), Connections: counter.Connections(), Failures: h.Replicas - len(waits),
	}
	if len(waits) > 0 {
		slices.Sort(waits)
		r.P50, r.Max = waits[len(waits)/2], waits[len(waits)-1]
	}
	return r, err
}

// gather returns n members, numbered from 0.
func (s Strategy) gather(ctx context.Context, n int, r Replica) ([]member, error) {
	members := make([]member, n)
	for i := range members {
		var err error
		r.Number = i
		if members[i], err = s.join(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: replica %d: %w", s.Name, i, err)
		}
	}
	return members, nil
}

// start returns how long those waited, beyond the endpoint's latency, who got a token that the endpoint knows.
func (h Herd) start(ctx context.Context, members []member, endpoint *Endpoint) []time.Duration {
	ctx, cancel := context.WithTimeout(ctx, h.Latency+patience)
	defer cancel()
	var (
		ready, asking sync.WaitGroup
		gate          = make(chan struct{})
		began         time.Time
		mu            sync.Mutex // guards waits
		waits         []time.Duration
	)
	ready.Add(len(members))
	for _, m := range members {
		asking.Go(func() {
			ready.Done()
			<-gate
			tok, err := m.Token(ctx)
			wait := time.Since(began) - h.Latency
			if err == nil && endpoint.Accepts(tok) {
				mu.Lock()
				defer mu.Unlock()
				waits = append(waits, wait)
			}
		})
	}
	ready.Wait()
	runtime.GC()
	began = time.Now()
	close(gate)
	asking.Wait()
	return waits
}

// settle waits until no request is sent for a while.
func settle(ctx context.Context, counter *herd.Counter) {
	for last := -1; last != counter.Requests().Total() && ctx.Err() == nil; {
		last = counter.Requests().Total()
		<-time.After(quiet)
	}
}

func empty(ctx context.Context, redisAddr string) error {
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr})
	defer rdb.Close()
	return rdb.FlushAll(ctx).Err()
}

// Median returns the result of the run with the median of the longest waits.
func Median(runs []HerdResult) HerdResult {
	slices.SortFunc(runs, func(a, b HerdResult) int { return int(a.Max - b.Max) })
	return runs[len(runs)/2]
}
