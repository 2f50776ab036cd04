package manager_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A program brings OpenTelemetry's SDK and whatever exports from it, here to Prometheus. docs/signals.md has this example.
func Example_signals() {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	defer rdb.Close()
	tokens := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientSecret: "secret"})
	defer tokens.Close()
	endpoint := httptest.NewServer(tokens)
	defer endpoint.Close()
	environments := map[string]manager.Environment{
		"prod": {TokenURL: endpoint.URL, ClientID: "id", ClientSecret: manager.NewSecret("secret")},
	}

	handler, err := run(context.Background(), rdb, environments)
	if err != nil {
		panic(err)
	}
	scraped := httptest.NewRecorder()
	handler.ServeHTTP(scraped, httptest.NewRequest("GET", "/metrics", nil))
	for lines := bufio.NewScanner(scraped.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "onetoken_refreshes_total") {
			fmt.Println(lines.Text())
		}
	}
	// Output: onetoken_refreshes_total{onetoken_environment="prod",onetoken_outcome="stored"} 1
}

func run(ctx context.Context, rdb redis.UniversalClient, environments map[string]manager.Environment) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	reader, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	meters := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(reader),
		sdkmetric.WithCardinalityLimit(0), // else the SDK folds what is beyond 2000 series of a metric into one
	)
	m, err := manager.New(manager.Config{Redis: rdb, Environments: environments, MeterProvider: meters})
	if err != nil {
		return nil, err
	}
	defer m.Close() // before the provider is shut down

	_, err = m.Token(ctx, "prod")
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), err
}
