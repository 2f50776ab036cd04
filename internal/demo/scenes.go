package demo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// coldFleet starts all replicas at once, with no token anywhere.
func (s *stage) coldFleet(ctx context.Context) error {
	s.out.title(fmt.Sprintf("1. A cold fleet: %d processes want a token at once", s.replicas))
	begun := time.Now()
	if err := s.fleet.start(ctx, s.replicas); err != nil {
		return err
	}
	if err := s.fleet.await(ctx, func(r worker.Report) bool { return r.OK }); err != nil {
		return err
	}
	took, calls := time.Since(begun), s.endpoint.Calls()
	s.check(calls == 1, "%d replicas have a token %s after the first was started; calls of the endpoint: %d", s.replicas, short(took), calls)
	s.figure("cold fleet", "%d replicas, calls: %d, all served %s after the start of the first process", s.replicas, calls, short(took))
	return nil
}

// rotation waits for the first token's refresh point.
func (s *stage) rotation(ctx context.Context) error {
	s.out.title(fmt.Sprintf("2. A rotation: that token lives for %v, and is replaced before anybody waits", firstly))
	begun, calls := time.Now(), s.endpoint.Calls()
	first, err := s.version(ctx)
	if err != nil {
		return err
	}
	if err := s.fleet.await(ctx, above(first)); err != nil {
		return err
	}
	reports := s.fleet.since(begun)
	failed, longest := 0, 0.0
	for _, r := range reports {
		longest = max(longest, r.WaitedMS)
		if !r.OK {
			failed++
		}
	}
	calls = s.endpoint.Calls() - calls
	limit := float64(latency.Milliseconds()) / 2
	s.check(calls == 1 && failed == 0 && longest < limit,
		"calls: %d; the replicas asked for a token %d times, %d in vain, and waited %.2f ms at the most", calls, len(reports), failed, longest)
	s.figure("rotation", "calls: %d; longest wait for a token: %.2f ms, of an endpoint that takes %v", calls, longest, latency)
	return nil
}

// killedHolder has the token dropped, and kills the replica that asks for a new one.
func (s *stage) killedHolder(ctx context.Context) error {
	s.out.title(fmt.Sprintf("3. A holder of the lease (%v) is killed while it asks for a token", lease))
	calls := s.endpoint.Calls()
	s.endpoint.Push(mockendpoint.Reply{Hang: true})
	dropped, err := s.invalidate(ctx)
	if err != nil {
		return err
	}
	holder, err := s.holder(ctx, calls+1)
	if err != nil {
		return err
	}
	killed := time.Now()
	if err := s.fleet.killNamed(holder); err != nil {
		return err
	}
	s.out.say("%s holds the lease and has asked the endpoint: SIGKILL", holder)
	if err := s.fleet.await(ctx, above(dropped)); err != nil {
		return err
	}
	took := time.Since(killed)
	calls = s.endpoint.Calls() - calls
	// The lease, at most one sparse poll (2 s), and the call itself.
	limit := lease + 2*time.Second + latency + time.Second
	s.check(calls == 2 && took < limit, "another one took over: all %d that live have a token %s after the kill; calls: %d, one of them the dead one's",
		s.fleet.living(), short(took), calls)
	s.figure("holder killed", "%d replicas served %s after the SIGKILL, with a lease of %v; calls: %d", s.fleet.living(), short(took), lease, calls)
	return nil
}

// backoff has the token dropped while the endpoint is overloaded.
func (s *stage) backoff(ctx context.Context) error {
	const retryAfter = 3 * time.Second
	s.out.title(fmt.Sprintf("4. The endpoint answers 429 with Retry-After: %.0f", retryAfter.Seconds()))
	calls := s.endpoint.Calls()
	s.endpoint.Push(mockendpoint.Reply{Delay: latency, Status: 429, RetryAfter: retryAfter})
	begun := time.Now()
	dropped, err := s.invalidate(ctx)
	if err != nil {
		return err
	}
	if err := s.fleet.await(ctx, func(r worker.Report) bool { return r.Code == "http_429" }); err != nil {
		return err
	}
	told := spread(s.fleet.since(begun))
	failing := s.endpoint.Calls() - calls
	s.check(failing == 1 && told < time.Second, "all %d were told within %s of each other; calls: %d", s.fleet.living(), short(told), failing)
	if err := s.fleet.await(ctx, above(dropped)); err != nil {
		return err
	}
	requests := s.endpoint.Requests()[calls:]
	pause := requests[len(requests)-1].At.Sub(requests[0].At)
	s.check(len(requests) == 2 && pause >= retryAfter, "the next call came %s after the first, and brought a token for all; calls: %d", short(pause), len(requests))
	s.figure("429", "%d replicas told within %s of each other; the next call %s later; calls: %d", s.fleet.living(), short(told), short(pause), len(requests))
	return nil
}

// finale ends the replicas in good order, and looks through all that they wrote.
func (s *stage) finale(ctx context.Context) error {
	s.out.title("5. SIGTERM to all")
	living := s.fleet.living()
	err := s.fleet.stop(ctx)
	s.check(err == nil, "%d replicas ended in good order", living)
	if err != nil {
		s.out.say("%v", err)
	}
	written := s.fleet.everything()
	s.check(!s.leaks(written), "neither a token nor the client secret is in the %d bytes that they wrote", len(written))
	most := s.endpoint.MaxInFlight()
	s.check(most == 1, "there was never more than one call at once (%d)", most)
	s.figure("in all", "calls: %d, for %d times that a token was wanted", s.endpoint.Calls(), len(s.fleet.since(time.Time{})))
	return nil
}

// version returns that of the stored token.
func (s *stage) version(ctx context.Context) (store.Version, error) {
	record, err := s.store.Read(ctx, env)
	if err != nil {
		return 0, err
	}
	if record.Token == nil {
		return 0, fmt.Errorf("no token is stored: %w", record.TokenErr)
	}
	return record.Token.Version, nil
}

func (s *stage) invalidate(ctx context.Context) (store.Version, error) {
	s.out.say("the token is invalidated")
	return s.store.Invalidate(ctx, env, 0)
}

// holder waits for the endpoint's n-th call and returns the replica that makes it.
func (s *stage) holder(ctx context.Context, n int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.endpoint.Await(ctx, n); err != nil {
		return "", err
	}
	record, err := s.store.Read(ctx, env)
	if err != nil {
		return "", err
	}
	if record.Lock == nil {
		return "", fmt.Errorf("the endpoint is asked, and nobody holds the lease")
	}
	return record.Lock.Holder, nil
}

func above(v store.Version) func(worker.Report) bool {
	return func(r worker.Report) bool { return r.OK && r.Version > v }
}

// spread is the time between the first and the last replica's first failing report.
func spread(reports []worker.Report) time.Duration {
	first := map[string]time.Time{}
	var times []time.Time
	for _, r := range reports {
		if _, seen := first[r.Replica]; !r.OK && !seen {
			first[r.Replica] = r.At
			times = append(times, r.At)
		}
	}
	if len(times) == 0 {
		return 0
	}
	return slices.MaxFunc(times, time.Time.Compare).Sub(slices.MinFunc(times, time.Time.Compare))
}

func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
