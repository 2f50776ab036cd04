// Package telemetry holds a manager's signals: metrics and traces of OpenTelemetry, by its API alone. What becomes of them
// is up to the program, which brings the providers; without them nothing is done.
//
// Names and units are those of OpenTelemetry's semantic conventions, docs/signals.md says what each means. No attribute
// holds a secret, and of a metric's attributes none is without bound: environments are configured, and what an endpoint
// or a Redis calls its errors is reduced to the names known here (see [ErrorType]).
package telemetry

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the name of the instrumentation scope, which is the package that a program imports.
const Scope = "github.com/onetoken/onetoken/manager"

// The attributes. Those of HTTP, error.type and server.* are OpenTelemetry's own.
const (
	Environment   = attribute.Key("onetoken.environment")
	Outcome       = attribute.Key("onetoken.outcome")
	Reason        = attribute.Key("onetoken.reason")
	RecordKind    = attribute.Key("onetoken.record")
	Operation     = attribute.Key("onetoken.operation")
	Version       = attribute.Key("onetoken.version") // of spans alone: it is without bound
	errorType     = attribute.Key("error.type")
	requestMethod = attribute.Key("http.request.method")
	statusCode    = attribute.Key("http.response.status_code")
	serverAddress = attribute.Key("server.address")
	serverPort    = attribute.Key("server.port")
)

// Signals are the instruments of a manager.
type Signals struct {
	tracer trace.Tracer
	meter  metric.Meter

	refreshes    metric.Int64Counter
	callerErrors metric.Int64Counter
	leasesLost   metric.Int64Counter
	fenced       metric.Int64Counter
	storeErrors  metric.Int64Counter
	refused      metric.Int64Counter
	clockSteps   metric.Int64Counter
	wait         metric.Float64Histogram
	request      metric.Float64Histogram
	eventLag     metric.Float64Histogram
	gauges       gauges
}

// Bounds of the histograms, in seconds. A request may take the endpoint timeout (10 s by default), a wait a refresh of
// another replica that dies before it, and an event what Redis's pub/sub takes, or a poll where it was lost. Those of an
// environment are few: with a thousand of them each is a thousand series.
var (
	waitBounds    = metric.WithExplicitBucketBoundaries(0.01, 0.05, 0.25, 1, 2.5, 5, 10, 30)
	requestBounds = metric.WithExplicitBucketBoundaries(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
	lagBounds     = metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
)

// New makes the instruments; nil providers are OpenTelemetry's global ones, which do nothing until the program sets
// others. The error is the provider's, about an instrument that it refuses.
func New(mp metric.MeterProvider, tp trace.TracerProvider) (*Signals, error) {
	if mp == nil {
		mp = otel.GetMeterProvider()
	}
	if tp == nil {
		tp = otel.GetTracerProvider()
	}
	s := &Signals{tracer: tp.Tracer(Scope), meter: mp.Meter(Scope)}
	m := maker{meter: s.meter}
	s.refreshes = m.counter("onetoken.refreshes", "{refresh}", "Attempts of this process to refresh a token, by how they ended")
	s.callerErrors = m.counter("onetoken.caller.errors", "{error}", "Errors that callers got in place of a token")
	s.leasesLost = m.counter("onetoken.lease.lost", "{lease}", "Leases that ended, or were another's, before they were given back")
	s.fenced = m.counter("onetoken.fence.rejected", "{write}", "Writes of a late holder that Redis refused")
	s.storeErrors = m.counter("onetoken.store.errors", "{error}", "Calls of Redis that failed")
	s.refused = m.counter("onetoken.record.refused", "{read}", "Reads that found a stored token of another configuration, or an unreadable one")
	s.clockSteps = m.counter("onetoken.clock.steps", "{step}", "How often wall clock and monotonic clock have parted")
	s.wait = m.histogram("onetoken.wait.duration", "How long callers waited who did not get a token at once", waitBounds)
	s.request = m.histogram("onetoken.endpoint.request.duration", "How long requests to the token endpoint took", requestBounds)
	s.eventLag = m.histogram("onetoken.event.lag", "Time from the token endpoint's answer, at another replica, to the read in which this one found the token that an event had told it of", lagBounds)
	s.gauges = m.gauges()
	if m.err != nil {
		return nil, fmt.Errorf("an instrument of the meter provider: %w", m.err)
	}
	s.clockSteps.Add(context.Background(), 0) // see Env
	return s, nil
}

// A maker makes instruments, until one can't be made.
type maker struct {
	meter metric.Meter
	err   error
}

func (m *maker) note(err error) {
	if m.err == nil {
		m.err = err
	}
}

func (m *maker) counter(name, unit, what string) metric.Int64Counter {
	c, err := m.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
	m.note(err)
	return c
}

func (m *maker) histogram(name, what string, bounds metric.HistogramOption) metric.Float64Histogram {
	h, err := m.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), bounds)
	m.note(err)
	return h
}

// ClockStep counts a wall clock that has parted from the monotonic one.
func (s *Signals) ClockStep(ctx context.Context) { s.clockSteps.Add(ctx, 1) }

// EventLag records how long after the endpoint's answer a token became known here that an event had told of.
func (s *Signals) EventLag(ctx context.Context, d time.Duration) {
	s.eventLag.Record(ctx, max(d, 0).Seconds())
}

// A Server is where the token endpoint is, for spans; Address is "" where that isn't known, as with a source of the
// user's own.
type Server struct {
	Address string
	Port    int // 0: the scheme's
}

// An Env records the signals of one environment.
type Env struct {
	signals *Signals
	name    attribute.KeyValue
	own     metric.MeasurementOption // the name alone
	got     metric.MeasurementOption // of waits that end with a token: a herd's all end at once
}

// Env returns what records the signals of the environment. Counters that are looked at for a first increase begin at 0:
// one that begins at 1 has had none.
func (s *Signals) Env(name string) *Env {
	e := &Env{signals: s, name: Environment.String(name)}
	e.own, e.got = e.with(), e.with(Outcome.String(GotToken))
	s.leasesLost.Add(context.Background(), 0, e.own)
	return e
}

// with are the attributes of a measurement: the environment's name and more.
func (e *Env) with(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(append(more, e.name)...))
}

// CallerError counts an error that a caller gets in place of a token.
func (e *Env) CallerError(ctx context.Context, kind string) {
	e.signals.callerErrors.Add(ctx, 1, e.with(errorType.String(kind)))
}

// LeaseLost counts a lease that was lost before its release.
func (e *Env) LeaseLost(ctx context.Context) { e.signals.leasesLost.Add(ctx, 1, e.own) }

// FenceRejected counts a write, of a token or a failure, that was refused because of something newer.
func (e *Env) FenceRejected(ctx context.Context, record, reason string) {
	e.signals.fenced.Add(ctx, 1, e.with(RecordKind.String(record), Reason.String(reason)))
}

// StoreError counts a call of Redis that failed.
func (e *Env) StoreError(ctx context.Context, operation, kind string) {
	e.signals.storeErrors.Add(ctx, 1, e.with(Operation.String(operation), errorType.String(kind)))
}

// Refused counts a read of a token that can't be used here for that reason.
func (e *Env) Refused(ctx context.Context, reason string) {
	e.signals.refused.Add(ctx, 1, e.with(Reason.String(reason)))
}
