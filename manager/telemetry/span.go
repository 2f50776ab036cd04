package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// A Refresh is an attempt to refresh a token, under way.
type Refresh struct {
	env  *Env
	span trace.Span
}

// StartRefresh starts the trace of an attempt that began at the instant. It is no caller's: a refresh is everybody's.
func (e *Env) StartRefresh(ctx context.Context, began time.Time) (context.Context, Refresh) {
	ctx, span := e.signals.tracer.Start(ctx, "onetoken.refresh",
		trace.WithNewRoot(), trace.WithTimestamp(began), trace.WithAttributes(e.name))
	return ctx, Refresh{e, span}
}

// Context is what waits are linked to.
func (r Refresh) Context() trace.SpanContext { return r.span.SpanContext() }

// Event notes a step that is done.
func (r Refresh) Event(name string) { r.span.AddEvent(name) }

// Issued notes the attempt's version.
func (r Refresh) Issued(version int64) {
	r.span.AddEvent("version issued")
	r.span.SetAttributes(Version.Int64(version))
}

// End counts the attempt by its outcome; kind is the error's, "" where there is none.
func (r Refresh) End(ctx context.Context, outcome, kind string) {
	attrs := []attribute.KeyValue{Outcome.String(outcome)}
	if kind != "" {
		attrs = append(attrs, errorType.String(kind))
		r.span.SetStatus(codes.Error, kind)
	}
	r.env.signals.refreshes.Add(ctx, 1, r.env.with(attrs...))
	r.span.SetAttributes(attrs...)
	r.span.End()
}

// A Request is a request to the token endpoint, under way.
type Request struct {
	env  *Env
	span trace.Span
}

// StartRequest starts the span of a request, which is that of an HTTP client where it is one.
func (e *Env) StartRequest(ctx context.Context, server Server) (context.Context, Request) {
	name, attrs := "onetoken.fetch", []attribute.KeyValue{e.name}
	if server.Address != "" {
		name, attrs = "POST", append(attrs, requestMethod.String("POST"), serverAddress.String(server.Address))
		if server.Port != 0 {
			attrs = append(attrs, serverPort.Int(server.Port))
		}
	}
	ctx, span := e.signals.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...))
	return ctx, Request{e, span}
}

// End records that the request took so long. kind is the error's, "" where there is none; status is that of the response, 0
// where it isn't known.
func (r Request) End(ctx context.Context, took time.Duration, kind string, status int) {
	var attrs []attribute.KeyValue
	if kind != "" {
		attrs = append(attrs, errorType.String(kind))
		r.span.SetStatus(codes.Error, kind)
	}
	r.env.signals.request.Record(ctx, took.Seconds(), r.env.with(attrs...))
	r.span.SetAttributes(attrs...)
	if status != 0 {
		r.span.SetAttributes(statusCode.Int(status))
	}
	r.span.End()
}

// GotToken is the outcome of a wait that ends with a token.
const GotToken = "token"

// A Wait is a caller who waits.
type Wait struct {
	env   *Env
	span  trace.Span
	began time.Time
}

// StartWait starts the span of a wait, in the caller's trace.
func (e *Env) StartWait(ctx context.Context) (context.Context, Wait) {
	ctx, span := e.signals.tracer.Start(ctx, "onetoken.wait", trace.WithAttributes(e.name))
	return ctx, Wait{e, span, time.Now()}
}

// End records how long the wait took. kind is the error's, "" where there is none, and refresh what this process did for
// it, if anything.
func (w Wait) End(ctx context.Context, outcome, kind string, refresh trace.SpanContext) {
	with := w.env.got
	if outcome != GotToken {
		with = w.env.with(Outcome.String(outcome))
	}
	w.env.signals.wait.Record(ctx, time.Since(w.began).Seconds(), with)
	defer w.span.End()
	if !w.span.IsRecording() {
		return
	}
	w.span.SetAttributes(Outcome.String(outcome))
	if kind != "" {
		w.span.SetAttributes(errorType.String(kind))
		w.span.SetStatus(codes.Error, kind)
	}
	if refresh.IsValid() {
		w.span.AddLink(trace.Link{SpanContext: refresh})
	}
}
