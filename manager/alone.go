package manager

import (
	"context"
	"time"

	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// aloneEvery is how often a replica may fetch a token for itself while Redis is away.
const aloneEvery = 10 * time.Second

// alone fetches a token that isn't shared, while Redis is away, at a bounded rate, for a replica that has none. It reports
// whether the flight is over.
func (f *flight) alone(ctx context.Context) (over bool) {
	e := f.env
	start, at := e.m.wall(), e.m.now()
	if ok, over := f.sendAlone(at); !ok {
		return over
	}
	ctx, signal := e.signals.StartRefresh(context.WithoutCancel(ctx), time.Now())
	f.noteRefresh(signal.Context())
	reply, took, failed := e.ask(ctx, f.conf, f.conf.source)
	if failed != nil {
		signal.End(ctx, outcomeFailed, telemetry.ErrorType(failed.Code))
		e.mu.Lock()
		attempt := e.local.attempt + 1
		e.mu.Unlock()
		f.failHere(failed, 0, attempt)
		return true
	}
	life := f.conf.policy.life(reply.ExpiresIn)
	signal.End(ctx, outcomeAlone, "")
	e.log.Warn("refreshed without Redis", "outcome", outcomeAlone, "took_ms", took.Milliseconds())
	t := f.conf.newToken(e, reply, store.Issue{At: start}, life, took)
	e.mu.Lock()
	e.publishLocked(e.newSnapshot(t, at+life), at, notLost)
	e.mu.Unlock()
	return f.serveOwn(t, at)
}

// sendAlone is send in the one place in aloneEvery. Whoever is there wants what it is for: any token.
func (f *flight) sendAlone(now time.Duration) (ok, over bool) {
	e := f.env
	e.mu.Lock()
	defer e.mu.Unlock()
	if now < e.aloneAt || now < e.local.until || e.usableLocked(anyVersion) != nil {
		return false, false
	}
	if ok, over = f.sendLocked(true); ok {
		e.aloneAt = now + aloneEvery
	}
	return ok, over
}
