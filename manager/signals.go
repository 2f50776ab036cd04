package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"

	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// This file gives package telemetry what it records, under names that are bounded.

// observe makes the instruments and, from here on, answers who reads the metrics.
func (m *Manager) observe(c Config) error {
	signals, err := telemetry.New(c.MeterProvider, c.TracerProvider)
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	m.signals = signals
	if m.unobserve, err = signals.Observe(m.subscribed.Load, m.states); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}

// serverOf is where the environment's token endpoint is, or its issuer, where only that is known. Nothing else of the URL is shown: a path or a query may be secret.
func serverOf(e Environment) telemetry.Server {
	u, err := url.Parse(cmp.Or(e.TokenEndpoint(), e.Issuer))
	if e.Source != nil || err != nil {
		return telemetry.Server{}
	}
	port, _ := strconv.Atoi(u.Port())
	return telemetry.Server{Address: u.Hostname(), Port: port}
}

// states yields what each environment is in. It takes no lock: whoever reads the metrics keeps nobody from a token.
func (m *Manager) states(yield func(*telemetry.Env, telemetry.State) bool) {
	now := m.now()
	for _, e := range m.envs.all() {
		if !yield(e.signals, e.state(now)) {
			return
		}
	}
}

func (e *Env) state(now time.Duration) telemetry.State {
	s := telemetry.State{
		Backoff: max(time.Duration(e.backsOff.Load())-now, 0),
		Away:    e.m.outage.lasts(e.m, now) || e.reads.outage.lasts(e.m, now) || e.writes.outage.lasts(e.m, now),
	}
	if snap := e.snap.Load(); snap != nil {
		s.TTL = max(snap.expires-now, 0)
		s.Age = max(snap.token.Life()-s.TTL, 0)
		s.Usable = now < snap.usableUntil
	}
	return s
}

// The outcomes of an attempt.
const (
	outcomeStored   = "stored"
	outcomeFailed   = "failed"        // the endpoint's, or the way to it
	outcomeObsolete = "obsolete"      // something newer is there, or it was invalidated: a late holder
	outcomeUnknown  = "store_unknown" // the callers have the token, others when the write has come through
	outcomeAlone    = "alone"         // without Redis, and not shared
	outcomeLost     = "lost"          // the lease, before the endpoint was asked
	outcomeChanged  = "changed"       // somebody else was faster
	outcomeUnwanted = "unwanted"      // nobody waits for it any more
	outcomeRedis    = "redis"         // it can't be asked for a version
)

// ends notes how the attempt ends; kind is the error's, "" where there is none.
func (a *attempt) ends(outcome, kind string) { a.outcome, a.kind = outcome, kind }

// outcomeOf is that of an attempt without a version.
func outcomeOf(err error) string {
	if errors.Is(err, store.ErrLost) {
		return outcomeLost
	}
	return outcomeChanged
}

// The outcomes of a wait.
const (
	waitedToken  = telemetry.GotToken
	waitedFailed = "failed"
	waitedGaveUp = telemetry.GaveUp
)

// waited is how a wait ended, and the kind of its error.
func waited(err error) (outcome, kind string) {
	switch kind = kindOf(err); kind {
	case "":
		return waitedToken, ""
	case telemetry.GaveUp:
		return waitedGaveUp, kind
	default:
		return waitedFailed, kind
	}
}

// kindOf names the error that a caller gets, "" for none.
func kindOf(err error) string {
	failed, isEndpoint := errors.AsType[*EndpointError](err)
	_, isRedis := errors.AsType[*RedisError](err)
	_, isConflict := errors.AsType[*ConflictError](err)
	_, gaveUp := errors.AsType[*WaitError](err)
	_, isLogin := errors.AsType[*LoginError](err)
	switch {
	case err == nil:
		return ""
	case isEndpoint:
		return telemetry.ErrorType(failed.Code)
	case isLogin:
		return telemetry.ErrorType(grantRefused)
	case isRedis:
		return telemetry.Redis
	case isConflict:
		return telemetry.Conflict
	case gaveUp:
		return telemetry.GaveUp
	case errors.Is(err, ErrClosed):
		return telemetry.Closed
	}
	return telemetry.Other
}

// storeFailed counts a call of Redis that failed.
func (e *Env) storeFailed(ctx context.Context, err error) {
	e.signals.StoreError(ctx, operationOf(err), redisKind(err))
}

// operationOf is what was asked of Redis.
func operationOf(err error) string {
	if status, ok := errors.AsType[*store.StatusError](err); ok {
		switch status.Op {
		case "issue a version":
			return "issue"
		case "record a failure":
			return "fail"
		}
		return status.Op
	}
	return "lock"
}

// redisKind names what went wrong with a call of Redis: the first word of its answer, or what befell the call.
func redisKind(err error) string {
	answer, answered := errors.AsType[redis.Error](err)
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case answered:
		word, _, _ := strings.Cut(answer.Error(), " ")
		return telemetry.ErrorType(strings.ToLower(word))
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return "timeout"
	case isNet, errors.Is(err, io.EOF):
		return "unreachable"
	}
	return telemetry.Other
}

// fenced counts a write that was refused because of something newer, where it was.
func (e *Env) fenced(ctx context.Context, record string, err error) {
	switch {
	case errors.Is(err, store.ErrOlder):
		e.signals.FenceRejected(ctx, record, "older")
	case errors.Is(err, store.ErrDropped):
		e.signals.FenceRejected(ctx, record, "dropped")
	}
}

// noteEventLocked notes that an event has told of a token, where that has it read.
func (e *Env) noteEventLocked(ev store.Event) {
	if ev.Kind == store.EventStored && (e.flight != nil || e.inUse()) {
		e.heard.Store(int64(ev.Version))
	}
}

// noteRead counts a token that can't be used here, and records how long another replica's, which an event has told of, took
// to be known: from the endpoint's answer there to this read, by Redis's clock.
func (e *Env) noteRead(ctx context.Context, r *store.Record) {
	switch t := r.Token; e.conf().judge(r) {
	case foreign:
		e.signals.Refused(ctx, "foreign")
	case unreadable:
		e.signals.Refused(ctx, "unreadable")
	case usable:
		if e.heard.CompareAndSwap(int64(t.Version), 0) && t.RefreshedBy != e.m.replica {
			e.m.signals.EventLag(ctx, min(r.Now.Sub(t.IssuedAt)-t.Took, t.Life()))
		}
	case missing, dropped, expiring:
	}
}

// noteBackoff notes until when the endpoint is not asked, for who reads the metrics; 0: nothing keeps from it.
func (e *Env) noteBackoff(until time.Duration) { e.backsOff.Store(int64(until)) }

// noteRefresh has who waits linked to the attempt.
func (f *flight) noteRefresh(c trace.SpanContext) {
	f.env.mu.Lock()
	f.refresh = c
	f.env.mu.Unlock()
}

// linked is the attempt that the flight has made last.
func (f *flight) linked() trace.SpanContext {
	f.env.mu.Lock()
	defer f.env.mu.Unlock()
	return f.refresh
}
