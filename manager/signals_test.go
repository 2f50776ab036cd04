package manager_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A meter is what one manager has recorded.
type meter struct {
	t        *testing.T
	reader   *sdkmetric.ManualReader
	provider *sdkmetric.MeterProvider
}

func newMeter(t *testing.T) *meter {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return &meter{t, reader, provider}
}

// of makes the i-th manager one that records here.
func (m *meter) of(i int) edit {
	return func(j int, c *manager.Config, _ *manager.Environment) {
		if i == j {
			c.MeterProvider = m.provider
		}
	}
}

// A point is one series: its attributes as "key=value", sorted by key, and its value; of a histogram that is the count.
type point struct {
	attrs string
	value float64
	sum   float64 // of a histogram
}

func pointOf(set attribute.Set, value, sum float64) point {
	var attrs []string
	for _, kv := range set.ToSlice() {
		attrs = append(attrs, string(kv.Key)+"="+kv.Value.String())
	}
	return point{strings.Join(attrs, ","), value, sum}
}

func points(data metricdata.Aggregation) (list []point) {
	switch d := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			list = append(list, pointOf(p.Attributes, float64(p.Value), 0))
		}
	case metricdata.Gauge[int64]:
		for _, p := range d.DataPoints {
			list = append(list, pointOf(p.Attributes, float64(p.Value), 0))
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			list = append(list, pointOf(p.Attributes, p.Value, 0))
		}
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			list = append(list, pointOf(p.Attributes, float64(p.Count), p.Sum))
		}
	}
	return list
}

// read returns all series by the name of their metric.
func (m *meter) read() map[string][]point {
	m.t.Helper()
	var all metricdata.ResourceMetrics
	if err := m.reader.Collect(context.Background(), &all); err != nil {
		m.t.Fatal(err)
	}
	byName := map[string][]point{}
	for _, scope := range all.ScopeMetrics {
		for _, metric := range scope.Metrics {
			byName[metric.Name] = points(metric.Data)
		}
	}
	return byName
}

// value returns a series' value, -1 where it isn't there.
func (m *meter) value(name, attrs string) float64 {
	m.t.Helper()
	for _, p := range m.read()[name] {
		if p.attrs == attrs {
			return p.value
		}
	}
	return -1
}

// becomes waits until a series has the value: an attempt is counted when its lease is released, after its callers have gone.
func (m *meter) becomes(name, attrs string, want float64) {
	m.t.Helper()
	got := 0.0
	limit := time.Now().Add(20 * time.Second)
	for got = m.value(name, attrs); got != want && time.Now().Before(limit); got = m.value(name, attrs) {
		pause(m.t, 5*time.Millisecond)
	}
	if got != want {
		m.t.Errorf("%s{%s} is %v, want %v; there is %v", name, attrs, got, want, m.read()[name])
	}
}

const ofEnv = "onetoken.environment=" + env

func TestAttemptsAreCountedByTheirOutcome(t *testing.T) {
	m, hour := newMeter(t), manager.Backoff{Min: time.Hour, Max: time.Hour}
	f := newFleet(t, redistest.Mini(t), 1, m.of(0), policy(manager.Policy{Backoff: hour, BackoffRefused: hour}))
	f.mustToken(f.managers[0])
	m.becomes("onetoken.refreshes", ofEnv+",onetoken.outcome=stored", 1)
	m.becomes("onetoken.endpoint.request.duration", ofEnv, 1)
	for i, c := range []struct {
		reply mockendpoint.Reply
		kind  string
	}{
		{mockendpoint.Reply{Status: 503}, "http_503"},
		{mockendpoint.Reply{Error: "invalid_client"}, "invalid_client"},
		{mockendpoint.Reply{Status: 400, Error: "a_code_of_its_own"}, "http_400"},
		{mockendpoint.Reply{Drop: true}, "bad_reply"},
	} {
		f.endpoint.Push(c.reply)
		if _, err := f.managers[0].Refresh(t.Context(), env); err == nil {
			t.Fatal("no error")
		}
		with := "error.type=" + c.kind + "," + ofEnv
		m.becomes("onetoken.refreshes", with+",onetoken.outcome=failed", 1)
		m.becomes("onetoken.endpoint.request.duration", with, 1)
		m.becomes("onetoken.caller.errors", with, 1)
		m.becomes("onetoken.wait.duration", ofEnv+",onetoken.outcome=failed", float64(i+1))
		if left := m.value("onetoken.refresh.backoff", ofEnv); left <= 0 {
			t.Errorf("after %s the backoff is %v s", c.kind, left)
		}
	}
	if _, err := f.managers[0].Refresh(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	m.becomes("onetoken.refresh.backoff", ofEnv, 0)
	m.becomes("onetoken.refreshes", ofEnv+",onetoken.outcome=stored", 2)
}

func TestErrorsOfASourceAreBounded(t *testing.T) {
	m := newMeter(t)
	f := newFleet(t, redistest.Mini(t), 1, m.of(0), func(_ int, _ *manager.Config, e *manager.Environment) {
		e.TokenURL, e.SourceID, e.Source = "", "test", manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return nil, &endpoint.Error{Code: "a secret, perhaps"}
		})
	})
	_, _ = f.managers[0].Token(t.Context(), env)
	m.becomes("onetoken.refreshes", "error.type=_OTHER,"+ofEnv+",onetoken.outcome=failed", 1)
	m.becomes("onetoken.endpoint.request.duration", "error.type=_OTHER,"+ofEnv, 1)
	m.becomes("onetoken.caller.errors", "error.type=_OTHER,"+ofEnv, 1)
}

func TestOnlyWhoWaitsIsMeasured(t *testing.T) {
	m, waits := newMeter(t), "onetoken.wait.duration"
	f := newFleet(t, redistest.Mini(t), 1, m.of(0))
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	const n = 5
	var started []<-chan outcome
	for range n {
		started = append(started, f.start(f.managers[0], token))
	}
	f.joined(f.managers[0], n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.managers[0].Token(ctx, env); err == nil { // he doesn't even begin to wait
		t.Error("no error for a ctx that is done")
	}
	close(gate)
	for _, s := range started {
		if o := <-s; o.err != nil {
			t.Fatal(o.err)
		}
	}
	for range 100 {
		f.mustToken(f.managers[0])
	}
	m.becomes(waits, ofEnv+",onetoken.outcome=token", n)
	if list := m.read()[waits]; len(list) != 1 {
		t.Errorf("others count, too: %v", list)
	}
	if list := m.read()["onetoken.caller.errors"]; len(list) != 0 { // nor does who had left before he came
		t.Errorf("errors: %v", list)
	}
}

func TestWhoGivesUpIsMeasuredAsSuch(t *testing.T) {
	m := newMeter(t)
	f := newFleet(t, redistest.Mini(t), 1, m.of(0))
	gate := make(chan struct{})
	defer close(gate)
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := f.managers[0].Token(ctx, env)
		ended <- err
	}()
	f.awaitCalls(1)
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("no error")
	}
	m.becomes("onetoken.wait.duration", ofEnv+",onetoken.outcome=gave_up", 1)
	m.becomes("onetoken.caller.errors", "error.type=gave_up,"+ofEnv, 1)
}

func TestTheGaugesOfAToken(t *testing.T) {
	m := newMeter(t)
	f := newFleet(t, redistest.Mini(t), 1, m.of(0))
	m.becomes("onetoken.subscription.up", "", 1)
	for name, want := range map[string]float64{
		"onetoken.token.usable": 0, "onetoken.token.ttl": 0, "onetoken.token.age": -1, "onetoken.refresh.backoff": 0, "onetoken.redis.away": 0,
	} {
		if got := m.value(name, ofEnv); got != want {
			t.Errorf("before there is a token: %s is %v, want %v", name, got, want)
		}
	}
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 3600})
	f.mustToken(f.managers[0])
	m.becomes("onetoken.token.usable", ofEnv, 1)
	all := m.read() // at once: what one loses the other gains
	ttl, age := all["onetoken.token.ttl"][0].value, all["onetoken.token.age"][0].value
	if ttl <= 0 || ttl > 3600 || age < 0 || ttl+age < 3590 || ttl+age > 3601 {
		t.Errorf("of a life of 3600 s %v are left and %v over", ttl, age)
	}
	if _, err := f.managers[0].Invalidate(t.Context(), env, 0); err != nil {
		t.Fatal(err)
	}
	m.becomes("onetoken.token.usable", ofEnv, 0)
	_ = f.managers[0].Close()
	if after := m.read(); len(after["onetoken.token.usable"]) != 0 || len(after["onetoken.subscription.up"]) != 0 {
		t.Errorf("observed after Close: %v", after)
	}
}

func TestALateHolderIsCounted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		m := newMeter(t)
		f := newFleet(t, rdb, 2, m.of(0))
		gate := make(chan struct{})
		f.endpoint.Push(mockendpoint.Reply{Gate: gate})
		late := f.start(f.managers[0], token)
		f.awaitCalls(1)
		if err := rdb.Del(t.Context(), key("lock")).Err(); err != nil { // as if it had run out under a paused holder
			t.Fatal(err)
		}
		f.mustToken(f.managers[1])
		close(gate)
		if o := <-late; o.err != nil {
			t.Fatal(o.err)
		}
		m.becomes("onetoken.fence.rejected", ofEnv+",onetoken.reason=older,onetoken.record=token", 1)
		m.becomes("onetoken.lease.lost", ofEnv, 1)
		m.becomes("onetoken.refreshes", ofEnv+",onetoken.outcome=obsolete", 1)
	})
}

func TestWhatWasInvalidatedMeanwhileIsCounted(t *testing.T) {
	m := newMeter(t)
	f := newFleet(t, redistest.Mini(t), 1, m.of(0))
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	late := f.start(f.managers[0], token)
	f.awaitCalls(1)
	if _, err := f.managers[0].Invalidate(t.Context(), env, 0); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if o := <-late; o.err != nil {
		t.Fatal(o.err)
	}
	m.becomes("onetoken.fence.rejected", ofEnv+",onetoken.reason=dropped,onetoken.record=token", 1)
	m.becomes("onetoken.refreshes", ofEnv+",onetoken.outcome=stored", 1)
}

func TestTheLagOfAnEvent(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		hears := newMeter(t)
		f := newFleet(t, rdb, 2, hears.of(0))
		hears.becomes("onetoken.subscription.up", "", 1)
		f.mustToken(f.managers[0]) // from here on it is in use, and heard of
		if _, err := f.managers[1].Refresh(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		hears.becomes("onetoken.event.lag", "", 1)
	})
}

func TestRedisErrorsAreCounted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	m := newMeter(t)
	f := newFleet(t, server.Client(t), 1, m.of(0))
	m.becomes("onetoken.subscription.up", "", 1)
	f.mustToken(f.managers[0])
	server.Stop()
	eventually(t, 30*time.Second, "Redis counts as away", func() bool {
		if _, err := f.managers[0].Refresh(t.Context(), env); err == nil {
			t.Fatal("no error")
		}
		return m.value("onetoken.redis.away", ofEnv) == 1
	})
	m.becomes("onetoken.subscription.up", "", 0)
	if n := m.value("onetoken.caller.errors", "error.type=redis,"+ofEnv); n < 1 {
		t.Errorf("there is %v", m.read()["onetoken.caller.errors"])
	}
	if n := m.value("onetoken.store.errors", "error.type=unreachable,"+ofEnv+",onetoken.operation=read"); n < 1 {
		t.Errorf("there is %v", m.read()["onetoken.store.errors"])
	}
	server.Start(t)
	eventually(t, 20*time.Second, "a refresh", func() bool {
		_, err := f.managers[0].Refresh(t.Context(), env)
		return err == nil
	})
	m.becomes("onetoken.redis.away", ofEnv, 0)
	m.becomes("onetoken.subscription.up", "", 1)
}

func TestRefusedTokensAreCounted(t *testing.T) {
	for name, edit := range map[string]map[string]string{
		"foreign": {"config": "ffffffffffffffff"}, "unreadable": {"version": "never"},
	} {
		m, mini := newMeter(t), redistest.Mini(t)
		f := newFleet(t, mini, 1, m.of(0))
		f.mustToken(f.managers[0])
		if err := mini.HSet(t.Context(), key("token"), edit).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.managers[0].Refresh(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		with := ofEnv + ",onetoken.reason=" + name
		if n := m.value("onetoken.record.refused", with); n < 1 {
			t.Errorf("%s: %v", name, m.read()["onetoken.record.refused"])
		}
	}
}

func TestAStepOfTheClockIsCounted(t *testing.T) {
	var ahead atomic.Int64
	m := newMeter(t)
	newFleet(t, redistest.Mini(t), 1, m.of(0), func(_ int, c *manager.Config, _ *manager.Environment) {
		c.WallClock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	ahead.Store(int64(time.Hour))
	m.becomes("onetoken.clock.steps", "", 1)
}

func TestAThousandEnvironmentsAreReadAtOnce(t *testing.T) {
	const n = 1000
	m := newMeter(t)
	newFleet(t, redistest.Mini(t), 1, m.of(0), func(_ int, c *manager.Config, e *manager.Environment) {
		c.Environments = map[string]manager.Environment{}
		for i := range n {
			c.Environments[fmt.Sprintf("env-%d", i)] = *e
		}
	})
	if got := len(m.read()["onetoken.token.usable"]); got != n {
		t.Errorf("%d environments, want %d", got, n)
	}
}

// refuses is a provider that makes no histogram.
type refuses struct{ noop.MeterProvider }

func (refuses) Meter(string, ...metric.MeterOption) metric.Meter { return refusesAHistogram{} }

type refusesAHistogram struct{ noop.Meter }

func (refusesAHistogram) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return nil, errors.New("no histograms here")
}

func TestAProviderThatRefusesAnInstrument(t *testing.T) {
	_, err := manager.New(manager.Config{
		Redis: redistest.Mini(t), MeterProvider: refuses{},
		Environments: map[string]manager.Environment{env: {BaseURL: "https://a.example", ClientID: "a", ClientSecret: manager.NewSecret("b")}},
	})
	var bad *manager.ConfigError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "no histograms here") {
		t.Errorf("got %v, want a ConfigError with the provider's", err)
	}
}

// traced has the i-th manager's spans recorded.
func traced(t *testing.T, i int) (*tracetest.InMemoryExporter, *sdktrace.TracerProvider, edit) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return spans, provider, func(j int, c *manager.Config, _ *manager.Environment) {
		if i == j {
			c.TracerProvider = provider
		}
	}
}

// named returns the spans of that name.
func named(spans *tracetest.InMemoryExporter, name string) (list []tracetest.SpanStub) {
	for _, s := range spans.GetSpans() {
		if s.Name == name {
			list = append(list, s)
		}
	}
	return list
}

// one returns the only span of that name, once it has ended.
func one(t *testing.T, spans *tracetest.InMemoryExporter, name string) tracetest.SpanStub {
	t.Helper()
	eventually(t, 20*time.Second, "the span "+name, func() bool { return len(named(spans, name)) > 0 })
	if list := named(spans, name); len(list) == 1 {
		return list[0]
	}
	t.Fatalf("not one span %s: %v", name, spans.GetSpans())
	return tracetest.SpanStub{}
}

func attributes(s tracetest.SpanStub) string {
	return pointOf(attribute.NewSet(s.Attributes...), 0, 0).attrs
}

func TestTheSpansOfARefresh(t *testing.T) {
	spans, provider, edit := traced(t, 0)
	f := newFleet(t, redistest.Mini(t), 1, edit)
	ctx, caller := provider.Tracer("test").Start(t.Context(), "caller")
	tok, err := f.managers[0].Token(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	refresh, request, wait := one(t, spans, "onetoken.refresh"), one(t, spans, "POST"), one(t, spans, "onetoken.wait")
	if refresh.Parent.IsValid() || refresh.SpanContext.TraceID() == caller.SpanContext().TraceID() {
		t.Error("the refresh is in its caller's trace")
	}
	if got, want := attributes(refresh), fmt.Sprintf("%s,onetoken.outcome=stored,onetoken.version=%d", ofEnv, tok.Version); got != want {
		t.Errorf("the refresh has %s, want %s", got, want)
	}
	if request.Parent.SpanID() != refresh.SpanContext.SpanID() || request.SpanKind != trace.SpanKindClient {
		t.Errorf("the request is no client's within the refresh: %+v", request)
	}
	host := strings.TrimPrefix(f.url, "http://127.0.0.1:")
	if got, want := attributes(request), "http.request.method=POST,"+ofEnv+",server.address=127.0.0.1,server.port="+host; got != want {
		t.Errorf("the request has %s, want %s", got, want)
	}
	if wait.Parent.SpanID() != caller.SpanContext().SpanID() || len(wait.Links) != 1 || !wait.Links[0].SpanContext.Equal(refresh.SpanContext) {
		t.Errorf("the wait isn't its caller's, with a link to the refresh: %+v", wait)
	}
	spans.Reset()
	f.mustToken(f.managers[0])
	if left := spans.GetSpans(); len(left) != 0 {
		t.Errorf("a token at hand makes spans: %v", left)
	}
}

func TestTheSpansOfAFailure(t *testing.T) {
	spans, _, edit := traced(t, 0)
	f := newFleet(t, redistest.Mini(t), 1, edit)
	f.endpoint.Push(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "not a word of this"})
	if _, err := f.managers[0].Token(t.Context(), env); err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{"onetoken.refresh", "POST", "onetoken.wait"} {
		s := one(t, spans, name)
		if s.Status.Code != codes.Error || s.Status.Description != "invalid_client" {
			t.Errorf("%s: status %v", name, s.Status)
		}
	}
	if s := one(t, spans, "POST"); !strings.Contains(attributes(s), "http.response.status_code=401") {
		t.Errorf("the request has %s", attributes(s))
	}
	if text := fmt.Sprintf("%+v", spans.GetSpans()); strings.Contains(text, "not a word") || strings.Contains(text, secret) {
		t.Error("a span repeats what the endpoint said, or the secret")
	}
}

// Whose last caller leaves while its version is issued says nothing of Redis.
func TestAnAttemptThatIsLeftIsNoErrorOfRedis(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	ctx, cancel := context.WithCancel(t.Context())
	f := newFleet(t, redistest.Mini(t), 1, m.of(0), func(_ int, c *manager.Config, _ *manager.Environment) {
		c.Redis.AddHook(&leaver{leave: cancel})
	})
	if _, err := f.managers[0].Refresh(ctx, env); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	m.becomes("onetoken.refreshes", ofEnv+",onetoken.outcome=unwanted", 1)
	if all := m.read(); len(all["onetoken.refreshes"]) != 1 || len(all["onetoken.store.errors"]) != 0 {
		t.Errorf("got %v and %v", all["onetoken.refreshes"], all["onetoken.store.errors"])
	}
}

// A leaver has the caller leave while the first script after the lease runs: the one that issues a version.
type leaver struct {
	leave context.CancelFunc
	taken atomic.Bool
}

func (l *leaver) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *leaver) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (l *leaver) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch {
		case isAcquire(cmd):
			l.taken.Store(true)
		case strings.HasPrefix(cmd.Name(), "eval") && l.taken.CompareAndSwap(true, false):
			l.leave()
			<-ctx.Done()
			cmd.SetErr(ctx.Err())
			return ctx.Err()
		}
		return next(ctx, cmd)
	}
}
