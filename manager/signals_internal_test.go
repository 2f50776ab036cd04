package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

// The lag of an event counts from the endpoint's answer, not from the version's issue, and for a token that was heard of.
func TestWhatTheLagCountsFrom(t *testing.T) {
	issued := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name  string
		heard Version
		by    string
		read  time.Duration // after the issue
		want  float64       // -1: not recorded
	}{
		{"heard of", 5, "other", 2300 * time.Millisecond, 0.3},
		{"the answer's time by another clock", 5, "other", 1900 * time.Millisecond, 0},
		{"not heard of", 0, "other", 2300 * time.Millisecond, -1},
		{"heard of another", 4, "other", 2300 * time.Millisecond, -1},
		{"its own", 5, "", 2300 * time.Millisecond, -1},
		{"planted, from long ago", 5, "other", 1000 * time.Hour, 3600},
	} {
		e, reader := quietEnv(t), sdkmetric.NewManualReader()
		if err := e.m.observe(Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}); err != nil {
			t.Fatal(err)
		}
		if c.by == "" {
			c.by = e.m.replica
		}
		e.heard.Store(int64(c.heard))
		r := &store.Record{Now: issued.Add(c.read), TTL: time.Hour, Token: store.NewToken(store.Token{
			AccessToken: NewSecret("a"), Version: 5, IssuedAt: issued, ExpiresAt: issued.Add(time.Hour),
			Took: 2 * time.Second, RefreshedBy: c.by, Config: e.conf().fingerprint,
		})}
		e.noteRead(t.Context(), r)
		e.noteRead(t.Context(), r) // once is enough
		if got := lagOf(t, reader); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// lagOf returns the one lag that was recorded, in seconds, -1 where there is none.
func lagOf(t *testing.T, reader sdkmetric.Reader) float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if d, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "onetoken.event.lag" {
				if len(d.DataPoints) != 1 || d.DataPoints[0].Count != 1 {
					t.Fatalf("recorded more than once: %+v", d)
				}
				return d.DataPoints[0].Sum
			}
		}
	}
	return -1
}

func TestRedisErrorsHaveNames(t *testing.T) {
	for _, c := range []struct {
		err             error
		operation, kind string
	}{
		{&store.StatusError{Op: "read", Err: answerError("READONLY You can't write")}, "read", "readonly"},
		{&store.StatusError{Op: "issue a version", Err: answerError("NOPERM no rights on key secret")}, "issue", "noperm"},
		{&store.StatusError{Op: "record a failure", Err: answerError("somethingelse altogether")}, "fail", "_OTHER"},
		{&store.StatusError{Op: "store", Err: fmt.Errorf("read: %w", context.DeadlineExceeded)}, "store", "timeout"},
		{&store.StatusError{Op: "seal", Err: errors.New("no key")}, "seal", "_OTHER"},
		{&store.StatusError{Op: "invalidate", Err: io.EOF}, "invalidate", "unreachable"},
		{&lock.UnavailableError{Err: redis.ErrClosed}, "lock", "_OTHER"},
	} {
		if op, kind := operationOf(c.err), redisKind(c.err); op != c.operation || kind != c.kind {
			t.Errorf("%v: %s, %s; want %s, %s", c.err, op, kind, c.operation, c.kind)
		}
	}
}

type answerError string

func (e answerError) Error() string { return string(e) }
func (answerError) RedisError()     {}

func TestAnOutageIsToldByItsSigns(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name       string
		failed     []time.Duration // when calls failed; -1: one that succeeded
		subscribed bool
		now        time.Duration
		want       bool
	}{
		{"none", nil, true, 10 * s, false},
		{"one error", []time.Duration{10 * s}, false, 100 * s, false},
		{"errors for 2 s", []time.Duration{10 * s, 12 * s}, true, 12 * s, true},
		{"a success after it", []time.Duration{10 * s, 12 * s, -1}, false, 12 * s, false},
		{"errors for 1 s, seen later", []time.Duration{10 * s, 11 * s}, false, 13 * s, false},
		{"nothing asked for a minute, and events arrive", []time.Duration{10 * s, 12 * s}, true, 73 * s, false},
		{"nothing asked for a minute, and no events", []time.Duration{10 * s, 12 * s}, false, 73 * s, true},
	} {
		e, at := healthEnv()
		e.m.subscribed.Store(c.subscribed)
		for _, now := range c.failed {
			if now < 0 {
				e.reads.ok(e)
				continue
			}
			at(now)
			e.reads.failed(e, now, io.EOF)
		}
		e.m.clocks.Store(&clocks{mono: c.now})
		for which, o := range map[string]*outage{"the environment's": &e.reads.outage, "all": &e.m.outage} {
			if got := o.lasts(e.m, c.now); got != c.want {
				t.Errorf("%s, %s: %v, want %v", c.name, which, got, c.want)
			}
		}
	}
}

func TestErrorsOfCallersHaveNames(t *testing.T) {
	for want, err := range map[string]error{
		"": nil, "http_503": &EndpointError{Code: "http_503"}, "_OTHER": &EndpointError{Code: "what ever"},
		"redis": &RedisError{Err: io.EOF}, "gave_up": &WaitError{Err: context.Canceled}, "closed": ErrClosed, "conflict": &ConflictError{},
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
