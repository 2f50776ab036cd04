package telemetry

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// gauges are observed when somebody reads the metrics, and only then.
type gauges struct {
	ttl, age, backoff                metric.Float64ObservableGauge
	usable, redisAway, subscriptions metric.Int64ObservableGauge
}

func (m *maker) gauges() gauges {
	return gauges{
		ttl:           m.seconds("onetoken.token.ttl", "How much longer this process's token lives; 0 where it has none"),
		age:           m.seconds("onetoken.token.age", "How long ago this process's token was issued; missing where it has none that lives"),
		backoff:       m.seconds("onetoken.refresh.backoff", "How long the token endpoint is not asked yet, after a failure, as far as this process knows; 0 where nothing keeps it from that"),
		usable:        m.flag("onetoken.token.usable", "{token}", "1 where this process has a token that it hands out, else 0"),
		redisAway:     m.flag("onetoken.redis.away", "{environment}", "1 where calls of Redis, all of them or those about the environment, have been failing for over 2 s, else 0"),
		subscriptions: m.flag("onetoken.subscription.up", "{subscription}", "1 where events of other replicas arrive, else 0"),
	}
}

func (m *maker) seconds(name, what string) metric.Float64ObservableGauge {
	g, err := m.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(what))
	m.note(err)
	return g
}

func (m *maker) flag(name, unit, what string) metric.Int64ObservableGauge {
	g, err := m.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
	m.note(err)
	return g
}

// A State is what an environment is in at one moment.
type State struct {
	TTL, Age time.Duration // of the token; Age is left out where TTL is 0
	Usable   bool
	Backoff  time.Duration
	Away     bool // Redis
}

// Observe has the states reported whenever the metrics are read, until stop is called: after that neither function is
// called any more. Both must be quick, and are called from any goroutine.
func (s *Signals) Observe(subscribed func() bool, states iter.Seq2[*Env, State]) (stop func(), err error) {
	g := s.gauges
	registered, err := s.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(g.subscriptions, flag(subscribed()))
		for e, state := range states {
			g.observe(o, e.own, state)
		}
		return nil
	}, g.ttl, g.age, g.backoff, g.usable, g.redisAway, g.subscriptions)
	if err != nil {
		return nil, fmt.Errorf("a callback of the meter provider: %w", err)
	}
	return sync.OnceFunc(func() { _ = registered.Unregister() }), nil
}

func (g gauges) observe(o metric.Observer, env metric.MeasurementOption, s State) {
	o.ObserveFloat64(g.ttl, s.TTL.Seconds(), env)
	if s.TTL > 0 {
		o.ObserveFloat64(g.age, s.Age.Seconds(), env)
	}
	o.ObserveFloat64(g.backoff, s.Backoff.Seconds(), env)
	o.ObserveInt64(g.usable, flag(s.Usable), env)
	o.ObserveInt64(g.redisAway, flag(s.Away), env)
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
