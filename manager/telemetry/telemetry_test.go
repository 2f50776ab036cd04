package telemetry_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/manager/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestErrorTypesAreBounded(t *testing.T) {
	for code, want := range map[string]string{
		"invalid_client": "invalid_client", "timeout": "timeout", "readonly": "readonly", "http_300": "http_300", "http_599": "http_599",
		"": "_OTHER", "http_200": "_OTHER", "http_600": "_OTHER", "http_0503": "_OTHER", "http_+503": "_OTHER", "http_": "_OTHER",
		"Invalid_Client": "_OTHER", "what an endpoint says": "_OTHER",
	} {
		if got := telemetry.ErrorType(code); got != want {
			t.Errorf("%q is %q, want %q", code, got, want)
		}
	}
}

// The one test that sets the global providers, which are for the whole process.
func TestWithoutProvidersTheGlobalOnesAreUsed(t *testing.T) {
	meters, tracers := otel.GetMeterProvider(), otel.GetTracerProvider()
	defer func() { otel.SetMeterProvider(meters); otel.SetTracerProvider(tracers) }()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewInMemoryExporter()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	s, err := telemetry.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	env := s.Env("prod")
	ctx, request := env.StartRequest(t.Context(), telemetry.Server{})
	request.End(ctx, time.Second, "", 0)
	if !trace.SpanContextFromContext(ctx).IsValid() || len(spans.GetSpans()) != 1 {
		t.Error("no span by the global provider")
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.ScopeMetrics) != 1 || all.ScopeMetrics[0].Scope.Name != telemetry.Scope {
		t.Errorf("recorded: %+v", all.ScopeMetrics)
	}
}

func TestASourceOfTheUsersOwnIsNoHTTPRequest(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	s, err := telemetry.New(nil, sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, request := s.Env("prod").StartRequest(t.Context(), telemetry.Server{})
	request.End(ctx, time.Second, "", 0)
	if got := spans.GetSpans()[0]; got.Name != "onetoken.fetch" || len(got.Attributes) != 1 {
		t.Errorf("%s with %v", got.Name, got.Attributes)
	}
}

func TestNothingIsObservedAfterTheEnd(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	s, err := telemetry.New(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), nil)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	stop, err := s.Observe(func() bool { calls++; return true }, func(func(*telemetry.Env, telemetry.State) bool) { calls++ })
	if err != nil {
		t.Fatal(err)
	}
	collect := func() {
		if err := reader.Collect(context.Background(), &metricdata.ResourceMetrics{}); err != nil {
			t.Fatal(err)
		}
	}
	if collect(); calls != 2 {
		t.Errorf("%d calls, want each once", calls)
	}
	stop()
	stop() // Close may be called twice
	if collect(); calls != 2 {
		t.Errorf("%d calls after the end", calls-2)
	}
}
