package metrics_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/metrics"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// An exported is the first of a fleet's managers, with what it exports.
type exported struct {
	t     *testing.T
	kit   *managertest.Kit
	url   string       // to scrape
	ahead atomic.Int64 // of the first manager's wall clock
}

const env = managertest.Environment

func newExported(t *testing.T, logged *records) *exported {
	t.Helper()
	e := newExporter(t, metrics.Options{Version: "v0.0.0-test"})
	x := &exported{t: t}
	x.kit = managertest.NewFleet(t, 2, managertest.Options{Logger: logged.logger(), Config: func(i int, c *manager.Config) {
		if i == 0 {
			c.MeterProvider = e.MeterProvider()
			c.WallClock = func() time.Time { return time.Now().Add(time.Duration(x.ahead.Load())) }
		}
	}})
	server := httptest.NewServer(e.Handler())
	t.Cleanup(server.Close)
	x.url = server.URL
	return x
}

// scrape returns what is exported now.
func (x *exported) scrape() families {
	x.t.Helper()
	resp, err := http.Get(x.url + "/metrics")
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		x.t.Fatalf("%d, %v: %s", resp.StatusCode, err, body)
	}
	return parse(x.t, string(body))
}

// until waits for what is recorded a moment after a caller has its answer.
func (x *exported) until(name string, above float64) {
	x.t.Helper()
	for limit := time.Now().Add(30 * time.Second); x.scrape().sum(name) <= above; <-time.After(10 * time.Millisecond) {
		if time.Now().After(limit) {
			x.t.Fatalf("%s is %v, want more than %v", name, x.scrape().sum(name), above)
		}
	}
}

func (x *exported) must(_ any, err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *exported) mustFail(_ any, err error) {
	x.t.Helper()
	if err == nil {
		x.t.Fatal("no error")
	}
}

// lives through what there is to be recorded, so that each metric has a sample.
func (x *exported) lives(ctx context.Context) {
	x.t.Helper()
	first, second := x.kit.Managers[0], x.kit.Managers[1]
	x.until("onetoken_subscription_up", 0)
	x.must(first.Token(ctx, env)) // a refresh, a wait, a request
	x.must(second.Refresh(ctx, env))
	x.until("onetoken_event_lag_seconds_count", 0)
	x.hasALateHolder(ctx)
	x.findsAForeignToken(ctx)
	x.ahead.Store(int64(time.Hour))
	x.until("onetoken_clock_steps_total", 0)
	x.kit.Miniredis.SetError("READONLY You can't write against a read only replica.")
	for limit := time.Now().Add(30 * time.Second); x.scrape().sum("onetoken_redis_away") == 0; {
		if x.mustFail(first.Refresh(ctx, env)); time.Now().After(limit) {
			x.t.Fatal("Redis doesn't count as away")
		}
	}
	x.kit.Miniredis.SetError("")
	x.must(first.Refresh(ctx, env))
	x.kit.Endpoint.Push(mockendpoint.Reply{Status: 503, RetryAfter: 5 * time.Minute})
	x.mustFail(first.Refresh(ctx, env))
	x.until("onetoken_refresh_backoff_seconds", 0)
}

// hasALateHolder has the first one's lease run out while it asks the endpoint.
func (x *exported) hasALateHolder(ctx context.Context) {
	x.t.Helper()
	gate := make(chan struct{})
	x.kit.Endpoint.Push(mockendpoint.Reply{Gate: gate})
	calls, done := x.kit.Endpoint.Calls(), make(chan error, 1)
	go func() {
		_, err := x.kit.Managers[0].Refresh(ctx, env)
		done <- err
	}()
	if err := x.kit.Endpoint.Await(ctx, calls+1); err != nil {
		x.t.Fatal(err)
	}
	x.must(x.kit.Redis.Del(ctx, x.kit.Store.Keys(env).Lock).Result())
	x.must(x.kit.Managers[1].Refresh(ctx, env))
	close(gate)
	x.must(nil, <-done)
	x.until("onetoken_fence_rejected_total", 0)
	x.until("onetoken_lease_lost_total", 0)
}

func (x *exported) findsAForeignToken(ctx context.Context) {
	x.t.Helper()
	x.must(x.kit.Redis.HSet(ctx, x.kit.Store.Keys(env).Token, "config", "0123456789abcdef").Result())
	x.must(x.kit.Managers[0].Refresh(ctx, env))
	x.until("onetoken_record_refused_total", 0)
}
