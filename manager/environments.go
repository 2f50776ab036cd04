package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onetoken/onetoken/store"
)

// ErrNoEnvironment is what a [Config.Resolve] returns, or wraps, where it knows no environment of the name.
var ErrNoEnvironment = errors.New("onetoken: no such environment")

// SetEnvironment adds an environment or, where there is one of the name, changes it: handles, clients and listeners stay
// good. Callers who wait go on with the new settings; a request that was sent is finished with the old ones. Where these say
// that another token is wanted (another client, other scopes, …), the old one isn't handed out any more. An environment that
// came from [Config.Resolve] is no longer let go. Errors: a *[ConfigError], after which nothing has changed; [ErrClosed].
func (m *Manager) SetEnvironment(name string, env Environment) error {
	e, err := m.newEnv(name, env)
	if err != nil {
		return err
	}
	for {
		other, err := m.add(e)
		if err != nil {
			return err
		}
		if other == nil || other.reconfigure(e.conf(), nil) {
			m.endLookup(name)
			return nil
		}
	}
}

// add makes e one of the manager's, unless there is one of its name, which it returns. It is called with none of the locks held
// that a flight needs to start: whoever takes environments out holds the registry's while it looks at each. Errors: [ErrClosed].
func (m *Manager) add(e *Env) (other *Env, err error) {
	if m.isClosed() {
		return nil, ErrClosed
	}
	other = m.envs.add(e)
	if m.isClosed() { // Close may have passed it over
		e.close()
		return nil, ErrClosed
	}
	return other, nil
}

// newEnv makes an environment that isn't one of the manager's yet.
func (m *Manager) newEnv(name string, env Environment) (*Env, error) {
	if err := store.CheckName(name); err != nil {
		return nil, &ConfigError{Err: fmt.Errorf("environments: %w", err)}
	}
	log := m.log.With("env", name)
	conf, err := env.resolve(log)
	if err != nil {
		return nil, &ConfigError{Environment: name, Err: err}
	}
	conf.server = serverOf(env)
	e := &Env{m: m, name: name, base: m.base, log: log, signals: m.signals.Env(name), usedAt: m.now()}
	e.settings.Store(&conf)
	return e, nil
}

// reconfigure changes the settings, those from a lookup only where they are still instead of the ones that it was made for: who
// has set others since knows better. What is known of failures is forgotten, unless a lookup has brought what there was. It
// returns false where nothing has changed: the environment has been taken out meanwhile, or there are others.
func (e *Env) reconfigure(conf, instead *resolved) bool {
	same := instead != nil && conf.fingerprint == instead.fingerprint && conf.credential() == instead.credential()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired || instead != nil && instead != e.conf() {
		return false
	}
	e.tenant = e.tenant && instead != nil
	e.settings.Store(conf)
	if !same {
		e.answer, e.local, e.conflict, e.closedUntil, e.aloneAt = nil, local{}, conflict{}, 0, 0
		e.noteBackoff(0)
	}
	if f := e.flight; f != nil && f.sent {
		e.flight = nil // it ends by itself, for those who wait for it
		e.behindAt.Store(0)
	} else if f != nil {
		f.endLocked(errReconfigured)
	}
	if s := e.snap.Load(); s != nil && s.token.Config != conf.fingerprint {
		e.snap.Store(nil)
	} else if s != nil && !s.suspect {
		e.showLocked(e.renewed(s, s.expires))
	}
	e.tellLocked()
	return true
}

// errReconfigured ends a flight whose settings are no longer those of its environment: who waits for it joins another.
var errReconfigured = errors.New("onetoken: the environment was changed")

// errRetired ends the flights of an environment that was taken out.
var errRetired = errors.New("onetoken: the environment was removed")

// RemoveEnvironment takes an environment out: who waits for its token, and who asks for it later, gets an
// *[UnknownEnvironmentError]; its listeners are stopped. A request that was sent is finished, its token stored, and handed to
// those who wait for that request. What is in Redis stays, for others. With a [Config.Resolve] its next use looks it up again.
// It returns an *[UnknownEnvironmentError] where there is none.
func (m *Manager) RemoveEnvironment(name string) error {
	m.endLookup(name)
	if !m.envs.remove(func(e *Env) bool { return e.name == name && e.retire() }) {
		return m.unknown(name)
	}
	return nil
}

// retire ends what an environment does. It is called while the registry takes it out: who sets it anew, or changes it, comes
// before or after both.
func (e *Env) retire() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retireLocked()
	return true
}

func (e *Env) retireLocked() {
	e.retired = true
	e.snap.Store(nil)
	for l := range e.listeners {
		l.leaveLocked()
	}
	if f := e.flight; f != nil && !f.sent {
		f.endLocked(errRetired)
	}
	e.flight = nil
}

// current returns the environment that has e's name now: e itself, unless it was taken out and there is another. The error is
// that of [Manager.lookup].
func (e *Env) current(ctx context.Context) (*Env, error) {
	if !e.isRetired() {
		return e, nil
	}
	return e.m.lookup(ctx, e.name)
}

// present is current without looking anything up: e itself where there is none.
func (e *Env) present() *Env {
	if !e.isRetired() {
		return e
	}
	if other := e.m.envs.find(e.name); other != nil {
		return other
	}
	return e
}

// isRetired reports whether e was taken out. Where it was, it can't be found any more.
func (e *Env) isRetired() bool {
	e.mu.Lock()
	retired := e.retired
	e.mu.Unlock()
	if retired {
		e.m.envs.settle()
	}
	return retired
}

// A lookup is a call of Config.Resolve for one name, shared by all who wait for it.
type lookup struct {
	done  chan struct{} // closed when err is set
	err   error         // the answer until the instant; nil where the environment is there
	until time.Duration
}

const (
	defaultIdleAfter = 10 * time.Minute

	lookupTimeout = 10 * time.Second // of one call of Config.Resolve
	maxLookups    = 64               // at once
)

// lookup returns the environment of the name. Where there is none it is looked up, if there is a Config.Resolve. A caller's end
// is its own, not the call's.
func (m *Manager) lookup(ctx context.Context, name string) (*Env, error) {
	if e := m.envs.find(name); e != nil {
		return e, nil
	}
	return m.lookupMissing(ctx, name)
}

func (m *Manager) lookupMissing(ctx context.Context, name string) (*Env, error) {
	for {
		if e := m.envs.find(name); e != nil {
			return e, nil
		}
		if m.resolve == nil || store.CheckName(name) != nil {
			return nil, m.unknown(name)
		}
		m.lookupMu.Lock()
		l := m.lookups[name]
		if l == nil || l.until != 0 && m.now() >= l.until {
			l = &lookup{done: make(chan struct{})}
			m.lookups[name] = l
			if !m.spawn(func() { m.lookUp(name, l) }) { //nolint:contextcheck // under no caller's
				m.endLookupLocked(name, l, ErrClosed)
			}
		}
		m.lookupMu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, &WaitError{Environment: name, Waiting: "for its configuration to be looked up", Err: context.Cause(ctx)}
		}
		if l.err != nil {
			return nil, l.err
		}
	}
}

// lookUp asks Config.Resolve, under no caller's context, and adds what it returns. Who has set an environment of the name since
// it was called knows better.
func (m *Manager) lookUp(name string, l *lookup) {
	e, err := m.ask(name)
	m.lookupMu.Lock()
	defer m.lookupMu.Unlock()
	if m.lookups[name] != l {
		return // it is over: what it has brought may be what there was before
	}
	if err == nil {
		e.tenant = true
		_, err = m.add(e)
	}
	m.endLookupLocked(name, l, err)
}

// ask makes an environment, which isn't one of the manager's yet, of what Config.Resolve has of the name. One that ignores its
// context, or ends its goroutine, must not keep callers, or Close, for ever.
func (m *Manager) ask(name string) (*Env, error) {
	ctx, cancel := context.WithTimeout(m.ctx, lookupTimeout)
	defer cancel()
	e, err := m.askWithin(ctx, name)
	switch _, unknown := errors.AsType[*UnknownEnvironmentError](err); {
	case err == nil:
		m.log.Debug("the environment was looked up", "env", name, "outcome", "resolved")
	case m.ctx.Err() != nil:
		return nil, ErrClosed
	case !unknown:
		m.log.Warn("the environment could not be looked up", "env", name, "outcome", "unresolved", "error", err)
	}
	return e, err
}

func (m *Manager) askWithin(ctx context.Context, name string) (*Env, error) {
	if _, err := m.asking.take(ctx, nil); err != nil {
		return nil, &ResolveError{Environment: name, Err: err}
	}
	env, err := guarded(ctx, func(ctx context.Context) (Environment, error) { return m.resolve(ctx, name) }, m.asking.leave)
	switch {
	case errors.Is(err, ErrNoEnvironment):
		return nil, m.unknown(name)
	case err != nil:
		return nil, &ResolveError{Environment: name, Err: err}
	}
	return m.newEnv(name, env) //nolint:contextcheck // the telemetry's own
}

// endLookupLocked gives everybody the outcome, and keeps an error for a second, so that no caller turns into a call.
func (m *Manager) endLookupLocked(name string, l *lookup, err error) {
	l.err, l.until = err, m.now()+learnt
	if err == nil {
		delete(m.lookups, name)
	}
	close(l.done)
}

// endLookup ends a lookup of the name, whose outcome may be older than what is there now: who waits for it looks again. An
// error is forgotten.
func (m *Manager) endLookup(name string) {
	m.lookupMu.Lock()
	defer m.lookupMu.Unlock()
	if l := m.lookups[name]; l != nil && l.until == 0 {
		m.endLookupLocked(name, l, nil)
	}
	delete(m.lookups, name)
}

// forgetLookups drops the errors that are no answers any more.
func (m *Manager) forgetLookups(now time.Duration) {
	m.lookupMu.Lock()
	defer m.lookupMu.Unlock()
	for name, l := range m.lookups {
		if l.until != 0 && now >= l.until {
			delete(m.lookups, name)
		}
	}
}

// lookUpAgain has the settings of an environment that was looked up looked up once more, behind the callers: the endpoint has
// refused it, and its secret may have been replaced meanwhile.
func (e *Env) lookUpAgain() {
	e.mu.Lock()
	tenant, conf := e.tenant && !e.retired, e.conf()
	e.mu.Unlock()
	if !tenant {
		return
	}
	e.m.spawn(func() {
		if found, err := e.m.ask(e.name); err == nil { // else it is logged, and the settings that there are go on to be used
			e.reconfigure(found.conf(), conf)
		}
	})
}

// letGo takes out what came from Config.Resolve and was not asked for a while.
//
// Whether a token is asked for can't be seen where it comes from a warm snapshot: nothing is written there. So after half the
// while the snapshot is replaced by one that sends its first user past the warm path, where it is noted (see [Env.noteUseLocked]).
func (m *Manager) letGo(now time.Duration) {
	if m.resolve == nil {
		return
	}
	idle := false
	for _, e := range m.envs.all() {
		e.mu.Lock()
		idle = e.watchUseLocked(now) || idle
		e.mu.Unlock()
	}
	if idle {
		m.envs.remove(func(e *Env) bool { return e.retireIfIdle(now) })
	}
}

func (e *Env) retireIfIdle(now time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.watchUseLocked(now) {
		return false
	}
	e.retireLocked()
	return true
}

// watchUseLocked has the next use noticed, and reports whether the environment can be let go.
func (e *Env) watchUseLocked(now time.Duration) (idle bool) {
	if !e.tenant || e.flight != nil || len(e.listeners) > 0 || e.m.custody.of(e.name).unwritten > 0 || e.conf().policy.KeepWarm {
		e.noteUseLocked()
		return false
	}
	unseen, s := now-e.usedAt, e.snap.Load()
	if s != nil && now < s.usableUntil && !e.watched {
		if unseen >= e.m.idleAfter/2 {
			e.watched, e.usedAt = true, now // it may have been used until now
			e.showLocked(s)
		}
		return false
	}
	return unseen >= e.m.idleAfter
}

// noteUseLocked notes that the token is asked for.
func (e *Env) noteUseLocked() {
	e.usedAt = e.m.now()
	if !e.watched {
		return
	}
	e.watched = false
	if s := e.snap.Load(); s != nil && !s.suspect {
		seen := *s
		seen.quietUntil = s.refreshAt
		e.snap.Store(&seen)
	}
}
