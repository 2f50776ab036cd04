package opsdocs_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

// A bigHerd is a fleet on a real Redis, all in this process, whose endpoint takes 200 ms.
type bigHerd struct {
	*meter
	t        *testing.T
	server   *redistest.Server
	managers []*manager.Manager

	calls, under, most atomic.Int64
}

func newBigHerd(t *testing.T, replicas, environments int, life time.Duration) *bigHerd {
	t.Helper()
	h := &bigHerd{t: t, meter: newMeter(1e6), server: redistest.Start(t)}
	settings := map[string]manager.Environment{}
	source := manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
		n, under := h.calls.Add(1), h.under.Add(1)
		defer h.under.Add(-1)
		for most := h.most.Load(); under > most && !h.most.CompareAndSwap(most, under); most = h.most.Load() {
		}
		<-time.After(200 * time.Millisecond)
		return &manager.Reply{AccessToken: manager.NewSecret(fmt.Sprint("token ", n)), ExpiresIn: life}, nil
	})
	for i := range environments {
		settings[fmt.Sprint("env-", i)] = manager.Environment{ClientID: "id", SourceID: "test", Source: source}
	}
	for i := range replicas {
		rdb := h.server.Client(t)
		rdb.AddHook(h.meter)
		m, err := manager.New(manager.Config{Redis: rdb, Environments: settings, Replica: fmt.Sprint("replica-", i)})
		must(t, err)
		t.Cleanup(func() { _ = m.Close() })
		h.managers = append(h.managers, m)
	}
	return h
}

// ask has each manager asked for each environment's token at once, until it has it, and logs what that took.
func (h *bigHerd) ask(what string) {
	h.t.Helper()
	h.since()
	h.most.Store(0)
	calls, connections, start := h.calls.Load(), h.connections.Load(), time.Now()
	var mu sync.Mutex
	var took []time.Duration
	var asking sync.WaitGroup
	var failed atomic.Int64
	for _, m := range h.managers {
		for _, env := range m.Environments() {
			asking.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
					_, err := m.Token(ctx, env)
					cancel()
					if err == nil || h.t.Context().Err() != nil {
						break
					}
					failed.Add(1)
					<-time.After(100 * time.Millisecond)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(start))
			})
		}
	}
	asking.Wait()
	slices.Sort(took)
	commands, peak := h.since()
	h.t.Logf("%s: %d calls, %d at once, %d commands, %d in a second, %d connections made, %d errors, half have a token after %v, all after %v",
		what, h.calls.Load()-calls, h.most.Load(), commands, peak, h.connections.Load()-connections, failed.Load(), took[len(took)/2], took[len(took)-1])
}

// The figures of docs/herds.md that depend on the machine.
func TestHerdsMeasured(t *testing.T) {
	if !*measure {
		t.Skip("-measure measures")
	}
	newBigHerd(t, 500, 1, time.Hour).ask("500 replicas start")
	newBigHerd(t, 5, 1000, time.Hour).ask("5 replicas with 1,000 environments start")
	newBigHerd(t, 4, 10000, time.Hour).ask("4 replicas with 10,000 environments start")
	h := newBigHerd(t, 20, 100, 20*time.Second)
	h.ask("20 replicas with 100 environments start")
	h.server.Stop()
	<-time.After(20 * time.Second)
	var waiting sync.WaitGroup
	waiting.Go(func() { h.ask("Redis is away for 10 s with all tokens expired, and comes back empty") })
	<-time.After(10 * time.Second)
	commands, peak := h.since()
	t.Logf("of these, while it was away: %d commands, %d in a second", commands, peak)
	h.server.Start(t)
	waiting.Wait()
}
