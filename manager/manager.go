// Package manager keeps one OAuth2 access token per environment, shared by a fleet through Redis.
//
// Any replica can refresh a token, exactly one does, and the others have the new one a moment later. A [Manager] answers
// from a snapshot in memory; behind it a token is refreshed before it ends, so that nobody waits for one while there is
// a valid one. A failing endpoint is asked once per backoff by the whole fleet, and a Redis that is gone doesn't take a
// valid token away.
//
//	m, err := manager.New(manager.Config{
//		Redis: rdb,
//		Environments: map[string]manager.Environment{
//			"prod": {BaseURL: "https://app.campaignflow.com.au/api/v2", ClientID: id, ClientSecret: manager.NewSecret(secret)},
//		},
//	})
//	defer m.Close()
//	tok, err := m.Token(ctx, "prod")
//
// The lock is a lease, not a fence: a paused holder can come back late. What orders the writes is the version that is
// issued to each attempt (see package store).
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// A Manager hands out the tokens of its environments. It is safe for concurrent use.
type Manager struct {
	store   *store.Store
	locker  *lock.Locker
	replica string
	log     *slog.Logger
	wall    func() time.Time
	base    time.Time // all instants in this package are durations since it, by the monotonic clock
	envs    registry

	resolve   func(ctx context.Context, name string) (Environment, error) // nil where none is looked up
	idleAfter time.Duration
	asking    places     // for calls of resolve
	lookupMu  sync.Mutex // guards lookups
	lookups   map[string]*lookup
	custody   custody

	clocks     atomic.Pointer[clocks] // as they were compared last
	awake      atomic.Int64           // the instant since when this process runs, as far as it was seen to have been stopped
	subscribed atomic.Bool            // whether events arrive
	outage     outage                 // of all calls of Redis
	reading    places                 // for reads of flights
	refreshing places                 // for flights at the lease or the token endpoint
	claimAfter atomic.Int64           // no look takes a lease before this instant
	looks      looks                  // reads that nobody waits for
	warming    warming                // refreshes that nobody waits for

	reads, writes trials

	subscribedAt atomic.Int64 // the instant since when events arrive or don't

	signals   *telemetry.Signals
	unobserve func() // ends the answers to who reads the metrics

	ctx    context.Context    //nolint:containedctx // the manager's own, which no caller's stands above
	cancel context.CancelFunc // ends the watch, and all that is looked up
	done   chan struct{}      // closed by Close
	work   sync.WaitGroup     // every goroutine of the manager

	mu sync.Mutex // guards the closing of done, and work.Add against Close's work.Wait
}

const (
	outageGrace   = 2 * time.Second  // of errors, before Redis counts as away
	learnt        = time.Second      // longest that an error is repeated without looking again
	sweepEvery    = 30 * time.Second // at most, for an environment in use
	sweepsASecond = 5
)

// New returns a manager of c, or a *[ConfigError] that names the setting at fault. It does no I/O and succeeds with Redis
// down. The manager keeps a subscription to Redis until it is closed.
func New(c Config) (*Manager, error) {
	m := &Manager{
		replica: cmp.Or(c.Replica, defaultReplica()),
		log:     cmp.Or(c.Logger, slog.New(slog.DiscardHandler)),
		wall:    c.WallClock,
		base:    time.Now(),
		done:    make(chan struct{}),

		reading:    make(places, maxReads),
		refreshing: make(places, maxRefreshing),

		resolve:   c.Resolve,
		idleAfter: cmp.Or(c.IdleAfter, defaultIdleAfter),
		asking:    make(places, maxLookups),
		lookups:   map[string]*lookup{},
		custody:   custody{kept: map[string]*inHand{}},
	}
	m.looks.m, m.warming.m = m, m
	if m.wall == nil {
		m.wall = time.Now
	}
	m.clocks.Store(&clocks{m.wall(), m.now()})
	if err := m.configure(c); err != nil {
		return nil, err
	}
	if err := m.observe(c); err != nil {
		return nil, &ConfigError{Err: err}
	}
	if err := m.addAll(c.Environments); err != nil {
		m.unobserve()
		return nil, err
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.spawn(func() { _ = m.store.Watch(m.ctx, watcher{m}) })
	m.spawn(func() { m.tick(m.ctx) })
	return m, nil
}

func (m *Manager) configure(c Config) error {
	var err error
	if c.Redis == nil {
		return &ConfigError{Err: errors.New("redis: no client")}
	}
	if err := checkReplica(m.replica); err != nil {
		return &ConfigError{Err: err}
	}
	if m.store, err = store.New(c.Redis, store.Options{Namespace: c.Namespace, Codec: c.Codec}); err != nil {
		return &ConfigError{Err: err}
	}
	if m.locker, err = lock.New(c.Redis, m.replica); err != nil {
		return &ConfigError{Err: err}
	}
	m.log = m.log.With("replica", m.replica)
	if len(c.Environments) == 0 && c.Resolve == nil {
		return &ConfigError{Err: errors.New("environments: none is configured")}
	}
	if m.idleAfter < 0 {
		return &ConfigError{Err: fmt.Errorf("idle_after: %v is negative", m.idleAfter)}
	}
	return nil
}

// addAll adds environments in the order of their names, so that of two errors it is always the same that is returned.
func (m *Manager) addAll(environments map[string]Environment) error {
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		e, err := m.newEnv(name, environments[name])
		if err != nil {
			return err
		}
		m.envs.add(e)
	}
	return nil
}

// Close stops the manager: callers that wait get [ErrClosed], but a request that was sent to a token endpoint is finished
// and its token stored. It returns when no goroutine of the manager is left, and always nil.
func (m *Manager) Close() error {
	m.mu.Lock()
	if !m.isClosed() {
		close(m.done)
		m.cancel()
	}
	m.mu.Unlock()
	m.unobserve()
	for _, e := range m.envs.all() {
		e.close()
	}
	m.work.Wait()
	return nil
}

func (m *Manager) isClosed() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// spawn runs f in a goroutine that Close waits for. After Close it does nothing and returns false.
func (m *Manager) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isClosed() {
		return false
	}
	m.work.Go(f)
	return true
}

// now is the instant, by the monotonic clock.
func (m *Manager) now() time.Duration { return time.Since(m.base) }

// Replica returns this process's name in Redis and in logs.
func (m *Manager) Replica() string { return m.replica }

// Environments returns the names of the environments that there are now, sorted.
func (m *Manager) Environments() []string {
	envs := m.envs.all()
	names := make([]string, len(envs))
	for i, e := range envs {
		names[i] = e.name
	}
	slices.Sort(names)
	return names
}

// Env returns the handle of an environment, for hot loops. The handle stays good when the environment is changed, and finds
// one that was removed, or let go, again by its name. The error is an *[UnknownEnvironmentError]; with a [Config.Resolve], which
// is waited for, also a *[ResolveError], a *[ConfigError] or [ErrClosed].
func (m *Manager) Env(name string) (*Env, error) {
	return m.lookup(context.Background(), name)
}

func (m *Manager) unknown(name string) error {
	return &UnknownEnvironmentError{Environment: name, Known: m.Environments()}
}

// Token returns a token of env that can be used for a while: see [Env.Token]. Errors are those, and those of [Manager.Env].
func (m *Manager) Token(ctx context.Context, env string) (*Token, error) {
	e, err := m.lookup(ctx, env)
	if err != nil {
		return nil, err
	}
	return e.Token(ctx)
}

// TokenFor returns a token of env with at least a life of left ahead of it: see [Env.TokenFor].
func (m *Manager) TokenFor(ctx context.Context, env string, left time.Duration) (*Token, error) {
	e, err := m.lookup(ctx, env)
	if err != nil {
		return nil, err
	}
	return e.TokenFor(ctx, left)
}

// Refresh returns a new token of env: see [Env.Refresh].
func (m *Manager) Refresh(ctx context.Context, env string) (*Token, error) {
	e, err := m.lookup(ctx, env)
	if err != nil {
		return nil, err
	}
	return e.Refresh(ctx)
}

// Invalidate drops tokens of env, everywhere: see [Env.Invalidate].
func (m *Manager) Invalidate(ctx context.Context, env string, v Version) (Version, error) {
	e, err := m.lookup(ctx, env)
	if err != nil {
		return 0, err
	}
	return e.Invalidate(ctx, v)
}

// ExpiresIn returns how much longer t, a token of env, lives: by the monotonic clock where this process holds it, else by
// t.ExpiresAt and the wall clock. It is never below 0.
func (m *Manager) ExpiresIn(env string, t *Token) time.Duration {
	if e := m.envs.find(env); e != nil {
		if s := e.snap.Load(); s != nil && s.token == t {
			return max(s.expires-m.now(), 0)
		}
	}
	return max(t.ExpiresAt.Sub(m.wall()), 0)
}
