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
	return m.set(name, env, false)
}

func (m *Manager) set(name string, env Environment, resolved bool) error {
	e, err := m.newEnv(name, env, resolved)
	if err != nil {
		return err
	}
	for {
		m.mu.Lock()
		closed := m.closed
		var other *Env
		if !closed {
			other = m.envs.add(e) // under the mutex, so that Close closes it
		}
		m.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case other == nil, other.reconfigure(e.conf(), resolved):
			return nil
		}
	}
}

// newEnv makes an environment that isn't one of the manager's yet.
func (m *Manager) newEnv(name string, env Environment, resolved bool) (*Env, error) {
	if err := store.CheckName(name); err != nil {
		return nil, &ConfigError{Err: fmt.Errorf("environments: %w", err)}
	}
	log := m.log.With("env", name)
	conf, err := env.resolve(log)
	if err != nil {
		return nil, &ConfigError{Environment: name, Err: err}
	}
	conf.server = serverOf(env)
	e := &Env{m: m, name: name, base: m.base, log: log, signals: m.signals.Env(name), tenant: resolved, usedAt: m.now()}
	e.settings.Store(&conf)
	return e, nil
}

// reconfigure changes the settings. It returns false where the environment has been taken out meanwhile.
func (e *Env) reconfigure(conf *resolved, resolved bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired {
		return false
	}
	e.tenant = e.tenant && resolved
	e.settings.Store(conf)
	e.answer, e.local, e.conflict, e.closedUntil, e.aloneAt = nil, local{}, conflict{}, 0, 0
	e.noteBackoff(0)
	if f := e.flight; f != nil && f.sent {
		e.flight = nil // it ends by itself, for those who wait for it
		e.behindAt.Store(0)
	} else if f != nil {
		f.endLocked(errReconfigured)
	}
	if s := e.snap.Load(); s != nil && s.token.Config != conf.fingerprint {
		e.snap.Store(nil)
	} else if s != nil && !s.suspect {
		renewed := e.newSnapshot(s.token, s.expires)
		renewed.published, renewed.stored = s.published, s.stored
		e.showLocked(renewed)
	}
	e.tellLocked()
	return true
}

// errReconfigured ends a flight whose settings are no longer those of its environment: who waits for it joins another.
var errReconfigured = errors.New("onetoken: the environment was changed")

// errRetired ends the flights of an environment that was taken out.
var errRetired = errors.New("onetoken: the environment was removed")

// RemoveEnvironment takes an environment out: who waits for its token, and who asks for it later, gets an
// *[UnknownEnvironmentError]; its listeners are stopped. A request that was sent is finished, and its token stored. What is in
// Redis stays, for others. With a [Config.Resolve] its next use looks it up again. It returns an *[UnknownEnvironmentError]
// where there is none.
func (m *Manager) RemoveEnvironment(name string) error {
	if len(m.retire(func(e *Env) bool { return e.name == name })) == 0 {
		return m.unknown(name)
	}
	return nil
}

// retire takes environments out.
func (m *Manager) retire(gone func(*Env) bool) []*Env {
	retired := m.envs.remove(gone)
	for _, e := range retired {
		e.retire()
	}
	return retired
}

func (e *Env) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
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

// now returns the environment that has e's name now: e itself, unless it was taken out and there is another. The error is
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

func (e *Env) isRetired() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.retired
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

// lookUp asks Config.Resolve, under no caller's context, and adds what it returns.
func (m *Manager) lookUp(name string, l *lookup) {
	ctx, cancel := context.WithTimeout(m.ctx, lookupTimeout)
	defer cancel()
	err := m.ask(ctx, name)
	if err != nil && m.ctx.Err() != nil {
		err = ErrClosed
	}
	m.lookupMu.Lock()
	defer m.lookupMu.Unlock()
	m.endLookupLocked(name, l, err)
}

// ask has the environment of the name set as Config.Resolve has it.
func (m *Manager) ask(ctx context.Context, name string) error {
	select {
	case m.asking <- struct{}{}:
		defer func() { <-m.asking }()
	case <-ctx.Done():
		return &ResolveError{Environment: name, Err: context.Cause(ctx)}
	}
	env, err := m.resolve(ctx, name)
	switch {
	case errors.Is(err, ErrNoEnvironment):
		return m.unknown(name)
	case err != nil:
		m.log.Warn("the environment could not be looked up", "env", name, "outcome", "unresolved", "error", err)
		return &ResolveError{Environment: name, Err: err}
	}
	if err := m.set(name, env, true); err != nil { //nolint:contextcheck // the telemetry's own
		m.log.Warn("the environment's configuration can't be used", "env", name, "outcome", "unresolved", "error", err)
		return err
	}
	m.log.Debug("the environment was looked up", "env", name, "outcome", "resolved")
	return nil
}

// endLookupLocked gives everybody the outcome, and keeps an error for a second, so that no caller turns into a call.
func (m *Manager) endLookupLocked(name string, l *lookup, err error) {
	l.err, l.until = err, m.now()+learnt
	if err == nil {
		delete(m.lookups, name)
	}
	close(l.done)
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
	tenant := e.tenant && !e.retired
	e.mu.Unlock()
	if !tenant {
		return
	}
	e.m.spawn(func() {
		ctx, cancel := context.WithTimeout(e.m.ctx, lookupTimeout)
		defer cancel()
		_ = e.m.ask(ctx, e.name) // logged; the settings that there are go on to be used
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
		idle = e.watchUse(now) || idle
	}
	if idle {
		m.retire(func(e *Env) bool { return e.watchUse(now) })
	}
}

// watchUse has the next use noticed, and reports whether the environment can be let go.
func (e *Env) watchUse(now time.Duration) (idle bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.tenant || e.flight != nil || len(e.listeners) > 0 || e.unwritten > 0 || e.conf().policy.KeepWarm {
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
