package e2e_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestRedisStopped(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(2, "worker")
	f.version()
	s.redis.Stop()
	s.withoutRedis(f, 6*time.Second)
}

func TestRedisHung(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(2, "worker")
	v := f.version()
	s.redis.Pause(t)
	s.withoutRedis(f, 12*time.Second)
	s.redis.Continue(t)
	if got := s.get(); got.Version != v {
		t.Errorf("get has version %d, want %d", got.Version, v)
	}
	// It listens again, too.
	refreshed := s.refresh()
	f.all(patience, "everybody has the refreshed token", has(refreshed.Version))
	f.neverFailed()
	s.calls(2)
}

// withoutRedis checks what is promised while Redis is away: commands fail within limit, without a call of the endpoint,
// and replicas that have a token serve on.
func (s *site) withoutRedis(f fleet, limit time.Duration) {
	s.t.Helper()
	away := time.Now()
	var all []*process
	for _, args := range [][]string{{"get", env}, {"refresh", env}, {"invalidate", env}, {"status"}, {"status", "elsewhere"}} {
		all = append(all, s.onetoken(strings.Join(args, "-"), args...))
	}
	for _, p := range all {
		r := p.wait()
		r.fails(3)
		if r.took > limit {
			s.t.Errorf("%s took %v, want at most %v", r.name, r.took, limit)
		}
		s.t.Logf("%s: exit code 3 after %v", r.name, r.took)
	}
	// Past the 2 s that it takes until Redis counts as away, and a bit more.
	eventually(s.t, patience, "Redis has been away for long", func() bool { return time.Since(away) > 4*time.Second })
	f.all(patience, "everybody serves on", func(r worker.Report) bool { return r.OK && r.At.After(away.Add(4*time.Second)) })
	f.neverFailed()
	s.calls(1)
}

func TestRedisRestartedEmpty(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(4, "worker")
	first := f.version()
	s.redis.Stop()
	s.redis.Start(t)
	restarted := time.Now()
	// Whoever has a token keeps it. One who hasn't gets a new one, which is then everybody's.
	got := s.get()
	if got.Version <= first {
		t.Errorf("version %d after %d", got.Version, first)
	}
	f.all(patience, "everybody has the new token", has(got.Version))
	t.Logf("everybody has the new token %v after the restart", time.Since(restarted))
	f.neverFailed()
	s.calls(2)
}

func TestAColdFleetIsServedOnceRedisIsBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond})
	s.redis.Stop()
	f := s.workers(4, "worker")
	f.all(patience, "everybody says that Redis is away", func(r worker.Report) bool { return r.Code == "redis" })
	s.calls(0)
	s.redis.Start(t)
	restarted := time.Now()
	f.version()
	t.Logf("everybody has a token %v after the start", time.Since(restarted))
	s.calls(1)
}

func TestATokenThatComesWhileRedisIsAwayIsStoredLater(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	w := s.worker("worker-1")
	s.awaitCall()
	s.redis.Stop()
	close(gate)
	v := (fleet{w}).version()
	s.redis.Start(t)
	// One who comes later has that one, or waits for it: nobody asks the endpoint for what is there already.
	eventually(t, patience, "the token is stored", func() bool { return s.status()[env].Usable })
	if got := s.get(); got.Version != v || got.RefreshedBy != w.name {
		t.Errorf("get has %+v, the fleet version %d", got, v)
	}
	fleet{w}.neverFailed()
	s.calls(1)
}

func TestRedisHungInMidCallForLongerThanTheLease(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	f := s.workers(4, "worker")
	s.awaitCall()
	eventually(t, patience, "everybody waits", func() bool { return s.waiting() == len(f) })
	holder := f.named(s.holder())
	s.redis.Pause(t)
	paused := time.Now()
	eventually(t, patience, "the lease is over", func() bool { return time.Since(paused) > 2*lease })
	close(gate)
	eventually(t, patience, "the holder has its token", func() bool { return holder.last().OK })
	s.redis.Continue(t)
	// Whether another has taken over meanwhile or not, it is one token in the end, and the stored one.
	eventually(t, patience, "everybody has the stored token", func() bool {
		version := s.rdb.HGet(t.Context(), key(env, "token"), "version").Val() // "" until it is there
		return !slices.ContainsFunc(f, func(r *replica) bool { return !r.last().OK || r.last().Version.String() != version })
	})
	if n := s.endpoint.Calls(); n > 2 {
		t.Errorf("%d calls, want 1, or 2 where another took over", n)
	}
	t.Logf("%d calls", s.endpoint.Calls())
}

func TestAGetWhoseTokenCannotBeStoredPrintsIt(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	p := s.onetoken("get-1", "get", env)
	s.awaitCall()
	s.redis.Stop()
	close(gate)
	r := p.wait()
	if got, want := r.succeeds(), s.endpoint.Issued()[0]+"\n"; got != want {
		t.Errorf("it printed %q, want %q", got, want)
	}
	if r.took > 6*time.Second {
		t.Errorf("it took %v", r.took)
	}
	s.calls(1)
}

func TestRefreshAfterFlushAll(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(4, "worker")
	first := f.version()
	ctx, cancel := s.within(patience, "Redis forgets all")
	defer cancel()
	if err := s.rdb.FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	refreshed := s.refresh()
	took := f.all(3*time.Second, "everybody has the refreshed token", has(refreshed.Version))
	if refreshed.Version <= first {
		t.Errorf("version %d after %d", refreshed.Version, first)
	}
	f.neverFailed()
	s.calls(2)
	t.Logf("everybody has the new token %v after refresh's end", took)
}
