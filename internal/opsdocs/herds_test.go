package opsdocs_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A meter counts what clients send to Redis, also by the second: commands but for those of handshakes and subscriptions, and
// connections.
type meter struct {
	commands, connections atomic.Int64

	fail atomic.Pointer[func(ctx context.Context, cmd redis.Cmder) error] // what becomes of a command in place of being sent

	// Places, fewer than connections in a pool: go-redis's waiters for one share timers with those of other bubbles.
	sending chan struct{}

	mu      sync.Mutex // guards what follows
	seconds map[int64]int
}

func newMeter(atOnce int) *meter {
	return &meter{sending: make(chan struct{}, atOnce), seconds: map[int64]int{}}
}

var _ redis.Hook = (*meter)(nil)

// DialHook implements [redis.Hook].
func (m *meter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		m.connections.Add(1)
		return next(ctx, network, addr)
	}
}

func (m *meter) count(cmds ...redis.Cmder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cmd := range cmds {
		if !isHandshake(cmd) {
			m.commands.Add(1)
			m.seconds[time.Now().Unix()]++
		}
	}
}

func isHandshake(cmd redis.Cmder) bool { return cmd.Name() == "hello" || cmd.Name() == "client" }

// ProcessHook implements [redis.Hook].
func (m *meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		m.count(cmd)
		if fail := m.fail.Load(); fail != nil {
			if err := (*fail)(ctx, cmd); err != nil {
				cmd.SetErr(err)
				return err
			}
		}
		if !isHandshake(cmd) { // which is sent by a command that has a place
			m.sending <- struct{}{}
			defer func() { <-m.sending }()
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (m *meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		m.count(cmds...)
		return next(ctx, cmds)
	}
}

// since returns the commands since the last call, and the most in one second.
func (m *meter) since() (all, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.seconds {
		all, most = all+n, max(most, n)
	}
	m.seconds = map[int64]int{}
	return all, most
}

// A herd is a fleet in a bubble, all of whose commands are counted.
type herd struct {
	*managertest.Kit
	*meter
	t      *testing.T
	before int // calls of the endpoint, until they were counted last
}

// inBubble runs f with a fleet of so many replicas with so many environments.
func inBubble(t *testing.T, replicas, environments int, o managertest.Options, f func(t *testing.T, h *herd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &herd{t: t, meter: newMeter(8)}
		for i := range environments {
			o.EnvironmentNames = append(o.EnvironmentNames, fmt.Sprintf("env-%d", i))
		}
		o.InMemory, o.Logger = true, slog.New(slog.DiscardHandler)
		config := o.Config
		o.Config = func(i int, c *manager.Config) {
			c.Redis.(*redis.Client).AddHook(h.meter)
			if config != nil {
				config(i, c)
			}
		}
		o.Endpoint.Life = cmp.Or(o.Endpoint.Life, time.Hour)
		o.Endpoint.Default.Delay = cmp.Or(o.Endpoint.Default.Delay, 200*time.Millisecond)
		h.Kit = managertest.NewFleet(t, replicas, o)
		synctest.Wait()
		f(t, h)
	})
}

// ask has each of the managers ask for each of its environments' tokens at once.
func (h *herd) ask(managers ...*manager.Manager) (failed int64) {
	var asking sync.WaitGroup
	var errs atomic.Int64
	for _, m := range managers {
		for _, env := range m.Environments() {
			asking.Go(func() {
				if _, err := m.Token(h.t.Context(), env); err != nil {
					errs.Add(1)
				}
			})
		}
	}
	asking.Wait()
	synctest.Wait()
	return errs.Load()
}

// spent returns how often the endpoint was called and how many commands were sent since the last time, and logs it.
func (h *herd) spent(what string) (calls, commands, most int) {
	h.t.Helper()
	calls, h.before = h.Endpoint.Calls()-h.before, h.Endpoint.Calls()
	commands, most = h.since()
	h.t.Logf("%s: %d calls, %d commands, at most %d in a second", what, calls, commands, most)
	return calls, commands, most
}

// costs fails unless the endpoint was called so often and no more than that many commands were sent since the last time.
func (h *herd) costs(what string, calls, commands int) {
	h.t.Helper()
	if c, n, _ := h.spent(what); c != calls || n > commands {
		h.t.Errorf("%s: %d calls and %d commands, want %d and at most %d", what, c, n, calls, commands)
	}
}

// keepAsking has callers of each manager ask for each environment's token, or what ask does instead, again and again until
// stop is called.
func (h *herd) keepAsking(every time.Duration, ask func(m *manager.Manager, env string)) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	var asking sync.WaitGroup
	for _, m := range h.Managers {
		for _, env := range m.Environments() {
			asking.Go(func() {
				for ctx.Err() == nil {
					ask(m, env)
					select {
					case <-time.After(every):
					case <-ctx.Done():
					}
				}
			})
		}
	}
	return func() { cancel(); asking.Wait() }
}

// forTokens is what callers do who put up with errors.
func forTokens(m *manager.Manager, env string) { _, _ = m.Token(context.Background(), env) }

// The bounds of docs/herds.md.
const (
	coldCommands  = 10     // of a replica that comes while another refreshes, on average
	alsoCommands  = 20     // of one that does
	trialCommands = 10 + 5 // a second, of a replica whose Redis fails: trials, and environments in use in turn
)

// A deploy starts as many new replicas at once as there are old ones.
func TestADeployAtOnce(t *testing.T) {
	t.Parallel()
	const replicas = 30
	inBubble(t, replicas, 1, managertest.Options{}, func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		h.costs("the first deploy", 1, replicas*coldCommands+alsoCommands)
		deploy := func() (fresh []*manager.Manager) {
			for range replicas {
				fresh = append(fresh, h.AddManager(t))
			}
			synctest.Wait()
			return fresh
		}
		h.ask(deploy()...)
		h.costs("one while a token is stored", 0, 2*replicas)
		must(t, h.Redis.FlushAll(t.Context()).Err())
		h.ask(deploy()...)
		h.costs("one while none is", 1, replicas*coldCommands+alsoCommands+2*2*replicas)
	})
}

// edited returns options by which the replicas from the n-th on have other settings, with lives of 5 minutes.
func edited(n int, edit func(e *manager.Environment)) managertest.Options {
	return managertest.Options{
		Endpoint: mockendpoint.Options{Life: 5 * time.Minute},
		Config: func(i int, c *manager.Config) {
			if e := c.Environments["env-0"]; i >= n {
				edit(&e)
				c.Environments["env-0"] = e
			}
		},
	}
}

// Half a fleet is deployed with other scopes, and each half goes on with a token of its own.
func TestADeployWithAnotherConfiguration(t *testing.T) {
	t.Parallel()
	const old, lives = 4, 3
	inBubble(t, old, 1, edited(old, func(e *manager.Environment) { e.Scopes = []string{"more"} }), func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		h.spent("before")
		for range old {
			h.AddManager(t)
		}
		stop := h.keepAsking(time.Second, forTokens)
		<-time.After(10 * time.Second)
		h.costs("the deploy", 1, 2*old*(coldCommands+alsoCommands))
		<-time.After(lives * 5 * time.Minute)
		stop()
		if calls, commands, _ := h.spent("three lives"); calls > 3*lives || commands > lives*5*60*2*old {
			t.Errorf("%d calls and %d commands, want about two calls in a life, and less than a command a second and replica", calls, commands)
		}
	})
}

// Half a fleet is deployed with a wrong secret. It uses what the other half has fetched.
func TestADeployWithAWrongSecret(t *testing.T) {
	t.Parallel()
	const old, lives = 4, 4
	inBubble(t, old, 1, edited(old, func(e *manager.Environment) { e.ClientSecret = manager.NewSecret("wrong") }), func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		h.spent("before")
		for range old {
			h.AddManager(t)
		}
		stop := h.keepAsking(time.Second, func(m *manager.Manager, env string) {
			if _, err := m.Token(t.Context(), env); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
		<-time.After(10 * time.Second)
		h.costs("the deploy", 0, 2*old)
		<-time.After(lives * 5 * time.Minute)
		stop()
		h.spent("four lives")
		refused := 0
		for _, r := range h.Endpoint.Requests() {
			if r.Outcome != "200" {
				refused++
			}
		}
		if refused > 2*(lives+1) {
			t.Errorf("%d refusals in %d lives", refused, lives)
		}
	})
}

// All environments' tokens end at the same moment, while nobody asks, and then all are asked for at once.
func TestAllEnvironmentsExpireTogether(t *testing.T) {
	t.Parallel()
	const replicas, environments = 3, 10
	const most = environments * (replicas*coldCommands + alsoCommands)
	inBubble(t, replicas, environments, managertest.Options{Endpoint: mockendpoint.Options{Life: 30 * time.Second}}, func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		h.costs("a start", environments, most)
		<-time.After(29 * time.Second)
		h.since()
		h.ask(h.Managers...)
		h.costs("after a night", environments, most)
		must(t, h.Redis.FlushAll(t.Context()).Err())
		h.ask(h.Managers...)
		h.costs("after FLUSHALL", 0, 0)
		for _, env := range h.Manager.Environments() {
			_, err := h.Manager.Invalidate(t.Context(), env, 0)
			must(t, err)
		}
		<-time.After(time.Second)
		h.ask(h.Managers...)
		h.costs("after all were invalidated", environments, most+environments*(1+replicas))
	})
}

// In a replica, environments take turns at Redis and at the endpoint, and one that hangs keeps nobody for long.
func TestEnvironmentsTakeTurns(t *testing.T) {
	t.Parallel()
	const environments, reads, asks = 140, 16, 128
	o := managertest.Options{Endpoint: mockendpoint.Options{Default: mockendpoint.Reply{Delay: 5 * time.Second}}}
	inBubble(t, 1, environments, o, func(t *testing.T, h *herd) {
		slow := func(context.Context, redis.Cmder) error { <-time.After(time.Millisecond); return nil }
		h.fail.Store(&slow)
		stop := h.keepAsking(time.Minute, forTokens)
		synctest.Wait()
		if n, _ := h.since(); n != reads {
			t.Errorf("%d reads at once, want %d", n, reads)
		}
		<-time.After(900 * time.Millisecond)
		if n := h.Endpoint.Calls(); n != asks {
			t.Errorf("%d requests at once, want %d", n, asks)
		}
		<-time.After(time.Second)
		if n := h.Endpoint.Calls(); n != environments {
			t.Errorf("%d requests after those before have hung for a second, want %d", n, environments)
		}
		stop()
	})
}

// An outage, in which tokens end, and its end.
func TestRedisComesBack(t *testing.T) {
	t.Parallel()
	const replicas, environments, long = 3, 20, 30
	inBubble(t, replicas, environments, managertest.Options{Endpoint: mockendpoint.Options{Life: 30 * time.Second}}, func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		<-time.After(26 * time.Second)
		h.spent("before")
		h.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
		stop := h.keepAsking(50*time.Millisecond, forTokens)
		<-time.After(long * time.Second)
		h.costs("the outage", 0, replicas*(environments+long*trialCommands))
		h.Miniredis.SetError("")
		<-time.After(2 * time.Second)
		h.costs("within 2 s of its end", environments, environments*(replicas*coldCommands+alsoCommands)+2*replicas*trialCommands)
		stop()
		if failed := h.ask(h.Managers...); failed != 0 {
			t.Errorf("%d have no token yet", failed)
		}
	})
}

// Where each replica fetches for itself, it does so once in a token's life.
func TestRefreshAloneInAnOutage(t *testing.T) {
	t.Parallel()
	const replicas, environments = 3, 5
	o := managertest.Options{Environment: manager.Environment{Policy: manager.Policy{Outage: manager.OutageRefreshAlone}}}
	inBubble(t, replicas, environments, o, func(t *testing.T, h *herd) {
		h.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
		stop := h.keepAsking(100*time.Millisecond, forTokens)
		<-time.After(time.Minute)
		h.costs("the outage", replicas*environments, replicas*(environments+60*trialCommands))
		h.Miniredis.SetError("")
		<-time.After(10 * time.Second)
		stop()
		h.costs("after it", 0, 10*replicas*trialCommands)
	})
}

// While Redis hangs, callers of many environments are told so about as soon as one would be.
func TestAHerdIsToldThatRedisHangs(t *testing.T) {
	t.Parallel()
	const environments = 100
	inBubble(t, 1, environments, managertest.Options{}, func(t *testing.T, h *herd) {
		hang := func(ctx context.Context, _ redis.Cmder) error { <-ctx.Done(); return ctx.Err() }
		h.fail.Store(&hang)
		start := time.Now()
		if failed := h.ask(h.Manager); failed != environments {
			t.Errorf("%d of %d got an error", failed, environments)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the last was told after %v", took)
		}
		if n, _ := h.since(); n > 3*16+5*10 {
			t.Errorf("%d commands were sent", n)
		}
	})
}

// One environment for which Redis fails, with callers, keeps no other one waiting.
func TestAFailingEnvironmentKeepsNoOther(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 10, managertest.Options{}, func(t *testing.T, h *herd) {
		denied := func(_ context.Context, cmd redis.Cmder) error {
			if strings.Contains(cmd.String(), "{env-0}") {
				return errors.New("NOPERM no permissions to access a key")
			}
			return nil
		}
		h.fail.Store(&denied)
		stop := h.keepAsking(10*time.Millisecond, func(m *manager.Manager, env string) {
			if env == "env-0" {
				forTokens(m, env)
			}
		})
		<-time.After(10 * time.Second)
		start := time.Now()
		if failed := h.ask(h.Manager); failed != 1 || time.Since(start) > 250*time.Millisecond {
			t.Errorf("%d got an error, after %v", failed, time.Since(start))
		}
		stop()
	})
}

// unauthorized is an API that answers 401 to everything.
type unauthorized struct{ requests atomic.Int64 }

func (u *unauthorized) RoundTrip(req *http.Request) (*http.Response, error) {
	u.requests.Add(1)
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

func TestAStormOf401s(t *testing.T) {
	t.Parallel()
	const replicas, long = 6, 120 // seconds
	inBubble(t, replicas, 1, managertest.Options{}, func(t *testing.T, h *herd) {
		h.ask(h.Managers...)
		<-time.After(time.Minute)
		h.spent("before")
		var api unauthorized
		var asked atomic.Int64
		stop := h.keepAsking(100*time.Millisecond, func(m *manager.Manager, env string) {
			asked.Add(1)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com/", http.NoBody)
			must(t, err)
			resp, err := m.Transport(env, &api).RoundTrip(req)
			must(t, err)
			must(t, resp.Body.Close())
		})
		<-time.After(long * time.Second)
		const replaced = long / 30
		calls, commands, _ := h.spent("401 to everything")
		if most := replaced*(replicas*(coldCommands+1)+alsoCommands) + replicas*long*2/60; calls != replaced || commands > most {
			t.Errorf("%d calls and %d commands, want %d and at most %d", calls, commands, replaced, most)
		}
		if again := api.requests.Load() - asked.Load(); again > replaced*replicas {
			t.Errorf("%d requests were repeated, want at most one of each caller for a token replaced", again)
		}
		h.Endpoint.SetDefault(mockendpoint.Reply{Status: 503})
		<-time.After(long * time.Second)
		stop()
		calls, commands, _ = h.spent("and 503 of the endpoint")
		if calls > 8 || commands > replicas*long { // after 0, 1, 3, 7, 15, 31, 63 s
			t.Errorf("%d calls and %d commands, want those of the backoff and at most one a second and replica", calls, commands)
		}
	})
}
