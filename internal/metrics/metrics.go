// Package metrics exports the signals of this process's managers to Prometheus, with those of Go's runtime and of the
// process. Only programs import it: package manager knows OpenTelemetry's API alone.
package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Options configure an [Exporter]. Zero fields mean the defaults.
type Options struct {
	Version    string                 // of the program, for onetoken_build_info; default "unknown"
	Log        *slog.Logger           // of what goes wrong while metrics are collected; default: nothing is logged
	Collectors []prometheus.Collector // further metrics of the program's own
}

// An Exporter has what a manager records read by Prometheus. It is safe for concurrent use.
type Exporter struct {
	provider *sdk.MeterProvider
	registry *prometheus.Registry
	handler  http.Handler
}

// Of a collection: what a scraper that has given up, or many of them, may cost.
const (
	collectTimeout = 10 * time.Second
	maxCollections = 4
)

// New returns an Exporter with a registry of its own. The error names the metric that can't be registered.
func New(o Options) (*Exporter, error) {
	if o.Version == "" {
		o.Version = "unknown"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	registry := prometheus.NewRegistry()
	own := []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(o.Version),
	}
	for _, c := range append(own, o.Collectors...) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return &Exporter{
		provider: sdk.NewMeterProvider(
			sdk.WithReader(reader),
			sdk.WithResource(resource.Empty()),
			sdk.WithCardinalityLimit(0), // a manager's attributes are bounded by its configuration, which may have thousands
			sdk.WithExemplarFilter(exemplar.AlwaysOffFilter),
		),
		registry: registry,
		handler: tidied(promhttp.HandlerFor(registry, promhttp.HandlerOpts{
			ErrorLog: errorLog{o.Log}, ErrorHandling: promhttp.ContinueOnError,
			Timeout: collectTimeout, MaxRequestsInFlight: maxCollections,
		})),
	}, nil
}

// buildInfo is 1, with the version for a label.
func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "onetoken_build_info", Help: "1, with the version of onetoken and of Go",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

// errorLog is what the handler reports errors to.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.log.Warn("metrics are incomplete", "outcome", "metrics", "error", fmt.Sprint(v...))
}

// MeterProvider is for the Config of a manager.
func (e *Exporter) MeterProvider() metric.MeterProvider { return e.provider }

// Registry takes further collectors.
func (e *Exporter) Registry() *prometheus.Registry { return e.registry }

// Handler answers a scrape, in Prometheus's text format or OpenMetrics's.
func (e *Exporter) Handler() http.Handler { return e.handler }

// Shutdown ends the provider: what is recorded after it is lost. Managers that use it are to be closed before.
func (e *Exporter) Shutdown(ctx context.Context) error { return e.provider.Shutdown(ctx) }
