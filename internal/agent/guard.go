package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// maxBody is what a request may send.
const maxBody = 64 << 10

// guarded puts the rules for all requests before next.
func (a *Agent) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer a.recovered(w, r)
		if a.log.Enabled(r.Context(), slog.LevelDebug) {
			seen := &watchedWriter{ResponseWriter: w}
			defer a.access(seen, r, time.Now())
			w = seen
		}
		h := w.Header()
		h["Cache-Control"] = noStore
		h["X-Content-Type-Options"] = noSniff
		if p := a.refusal(w, r); p != nil {
			p.send(w)
			return
		}
		if e := a.asksForToken(r); e != nil {
			a.answerToken(w, r, e)
			return
		}
		if !isClean(r.URL.Path) { // the mux would redirect
			notFound(w, r)
			return
		}
		if r.URL.Path == eventsPath && r.ContentLength == 0 { // a body that never comes must not be waited for without an end
			stream(w)
		}
		next.ServeHTTP(w, r)
	})
}

// isClean reports whether p begins with a slash and has no empty part, "." or "..".
func isClean(p string) bool {
	cleaned := path.Clean(p)
	return strings.HasPrefix(p, "/") && (p == cleaned || strings.TrimSuffix(p, "/") == cleaned)
}

// eventsPath is where answers have no end; the page sets a deadline for each event.
const eventsPath = "/v1/events"

// stream takes the deadlines of a whole request and its answer away.
func stream(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{}) // an error: there were none
	_ = c.SetWriteDeadline(time.Time{})
}

// refusal returns why a request isn't even looked at, nil where it is.
func (a *Agent) refusal(w http.ResponseWriter, r *http.Request) *problem {
	if p := a.foreign(r); p != nil {
		return p
	}
	if a.keys != nil && !needsNoKey(r) {
		if p := a.withoutKey(w, r); p != nil {
			return p
		}
	}
	if r.ContentLength > maxBody {
		w.Header().Set("Connection", "close")
		if isTokenEndpoint(r) { // it says so in its own way
			return nil
		}
		return &problem{Status: http.StatusRequestEntityTooLarge, Code: "too_large", Detail: "a body of at most 64 KiB is read"}
	}
	if r.ContentLength != 0 {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	return nil
}

// recovered answers for a handler that panicked. What it panicked with may hold anything: it is in the log alone.
func (a *Agent) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v) // the server's own way to cut a connection
	}
	a.log.Error("a request made the agent panic", "outcome", "panic", "path", printable.Line(r.URL.Path, 200),
		"panic", printable.Line(fmt.Sprint(v), 500))
	problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "an unexpected error; it is in the agent's log"}.send(w)
}

// access logs a request: no query, no header, no body.
func (a *Agent) access(w *watchedWriter, r *http.Request, begun time.Time) {
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	a.log.LogAttrs(context.WithoutCancel(r.Context()), slog.LevelDebug, "request", slog.String("outcome", "request"),
		slog.String("method", printable.Line(r.Method, 20)), slog.String("path", printable.Line(r.URL.Path, 200)),
		slog.Int("status", status), slog.Int64("took_ms", time.Since(begun).Milliseconds()))
}

// A watchedWriter notes the status.
type watchedWriter struct {
	http.ResponseWriter
	status int
}

func (w *watchedWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
