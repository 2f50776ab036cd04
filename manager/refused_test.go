package manager_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// A Redis that answers reads, or answers for other environments, is away all the same.
func TestARedisThatIsPartlyAway(t *testing.T) {
	t.Parallel()
	server := func(config ...string) func() *redis.Options {
		return func() *redis.Options { return redistest.Options(redistest.Start(t, config...).Addr()) }
	}
	kinds := []struct {
		name  string
		redis func() *redis.Options
	}{
		{"OOM", server("maxmemory 1")},
		{"READONLY", server("replicaof 127.0.0.1 1")},
		{"NOPERM", server("user default on nopass ~* &* +@read +@scripting +@connection +@pubsub +time +publish")},
		{"no HSET", server("user default on nopass ~* &* +@all -hset")},
		{"CLUSTERDOWN", func() *redis.Options { return redistest.Mini(t).Options() }},
	}
	options := make([]*redis.Options, len(kinds))
	for i, kind := range kinds {
		options[i] = redistest.Options(kind.redis().Addr)
	}
	f := newFleet(t, redistest.NewClient(t, options[0]), 2*len(kinds), func(i int, c *manager.Config, e *manager.Environment) {
		rdb := redistest.NewClient(t, options[i/2])
		if kinds[i/2].name == "CLUSTERDOWN" { // for one environment; another one is read meanwhile
			rdb.AddHook(tap(func(cmd redis.Cmder) error {
				if strings.Contains(fmt.Sprint(cmd.Args()...), "{"+env+"}") {
					return errors.New("CLUSTERDOWN Hash slot not served")
				}
				return nil
			}))
		}
		c.Redis = rdb
		other := *e
		other.ClientSecret = manager.NewSecret("a wrong one")
		if i%2 == 1 {
			e.Outage = manager.OutageRefreshAlone
		}
		c.Environments = map[string]manager.Environment{env: *e, "other": other}
	})
	done := make(chan struct{})
	others := make(chan struct{})
	go func() {
		defer close(others)
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			for _, m := range f.managers[len(f.managers)-2:] {
				_, _ = m.Token(t.Context(), "other")
			}
		}
	}()
	out := f.all(token)
	close(done)
	<-others
	for i, kind := range kinds {
		o := out[2*i]
		if _, away := errors.AsType[*manager.RedisError](o.err); !away || o.took > 20*time.Second {
			t.Errorf("%s: %v, %v after %v, want a RedisError after about the 2 s of grace", kind.name, o.token, o.err, o.took)
		}
		if o = out[2*i+1]; o.err != nil || o.token.Version != 0 || o.took > 20*time.Second {
			t.Errorf("%s, refresh_alone: %v, %v after %v", kind.name, o.token, o.err, o.took)
		}
	}
	if n := len(f.endpoint.Issued()); n != len(kinds) {
		t.Errorf("%d tokens were fetched, want one for each that refreshes alone", n)
	}
}

func TestCloseDoesNotWaitForManyLooksAtAHungRedis(t *testing.T) {
	t.Parallel()
	var w wall
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 1, w.edit, func(_ int, c *manager.Config, e *manager.Environment) {
		c.Environments = map[string]manager.Environment{}
		for i := range 40 {
			c.Environments[fmt.Sprint("env-", i)] = *e
		}
	})
	m := f.managers[0]
	for _, name := range m.Environments() {
		if _, err := m.Token(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	server.Pause(t)
	w.step(time.Minute) // all are read again, a few at once
	eventually(t, 5*time.Second, "the step is noticed", w.noticedFor(200*time.Millisecond))
	start := time.Now()
	_ = m.Close()
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("Close took %v, with nothing sent to the endpoint", took)
	}
}
