package metrics_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/metrics"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newExporter(t *testing.T, o metrics.Options) *metrics.Exporter {
	t.Helper()
	e, err := metrics.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// scrape returns what the handler answers.
func scrape(t *testing.T, e *metrics.Exporter) string {
	t.Helper()
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func mustHave(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line) {
			t.Errorf("no line begins with %q", line)
		}
	}
}

func TestItExportsAManagersSignals(t *testing.T) {
	e := newExporter(t, metrics.Options{Version: "v1.2.3"})
	kit := managertest.New(t, managertest.Options{Config: func(_ int, c *manager.Config) { c.MeterProvider = e.MeterProvider() }})
	if _, err := kit.Manager.Token(t.Context(), managertest.Environment); err != nil {
		t.Fatal(err)
	}
	_ = kit.Manager.Close() // an attempt is counted when its lease has been released
	text := scrape(t, e)
	mustHave(t, text,
		`onetoken_refreshes_total{onetoken_environment="test",onetoken_outcome="stored"} 1`,
		`onetoken_endpoint_request_duration_seconds_count{onetoken_environment="test"} 1`,
		`onetoken_build_info{goversion="go1.`,
		"go_goroutines ",
		"process_resident_memory_bytes ",
	)
	if !strings.Contains(text, `version="v1.2.3"} 1`) {
		t.Error("the version isn't exported")
	}
	for _, never := range []string{"otel_scope", "target_info", "onetoken_token_ttl_seconds{"} { // the last: it is closed
		if strings.Contains(text, never) {
			t.Errorf("exported: %s", never)
		}
	}
}

func TestItHasNoLimitOfEnvironments(t *testing.T) {
	e := newExporter(t, metrics.Options{})
	c, err := e.MeterProvider().Meter("test").Int64Counter("series")
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	for i := range n {
		c.Add(t.Context(), 1, metric.WithAttributes(attribute.Int("n", i)))
	}
	text := scrape(t, e)
	if got := strings.Count(text, "\nseries_total{"); got != n || strings.Contains(text, "overflow") {
		t.Errorf("%d series, want %d", got, n)
	}
}

func TestAProgramHasMetricsOfItsOwn(t *testing.T) {
	gauge := func(name string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "A test's"})
	}
	e := newExporter(t, metrics.Options{Collectors: []prometheus.Collector{gauge("one")}})
	if err := e.Registry().Register(gauge("two")); err != nil {
		t.Fatal(err)
	}
	mustHave(t, scrape(t, e), "one 0", "two 0")
	if _, err := metrics.New(metrics.Options{Collectors: []prometheus.Collector{gauge("go_goroutines")}}); err == nil {
		t.Error("no error for a name that is taken")
	}
}
