package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onetoken/onetoken/store"
)

// State is what an environment is doing, in one word.
type State string

// The states, in the order in which they are looked for: the first that holds is the state.
const (
	StateRefreshing State = "refreshing" // somebody holds the lease
	StateConflict   State = "conflict"   // the stored token is of another configuration, or sealed with other keys
	StateFailing    State = "failing"    // the last attempt failed, and no newer token is there
	StateMissing    State = "missing"    // no usable token
	StateStale      State = "stale"      // usable, and past its refresh point
	StateFresh      State = "fresh"
)

// A Status is what Redis holds of an environment, for people and scripts; it has no secret in it. In JSON every key is
// always there: what has no value is null, a duration 0.
type Status struct {
	Environment string        `json:"environment"`
	State       State         `json:"state"`
	Usable      bool          `json:"usable"` // whether a replica with this configuration can use the stored token
	Reason      *string       `json:"reason"` // why not
	TTL         Milliseconds  `json:"ttl_ms"` // the stored token's remaining life
	ExpiresAt   *time.Time    `json:"expires_at"`
	Version     *Version      `json:"version"`
	RefreshedBy *string       `json:"refreshed_by"`
	Lock        LockStatus    `json:"lock"`
	Failure     FailureStatus `json:"failure"`

	// For views that count down; in JSON they have no key.
	ReadAt time.Time     `json:"-"` // Redis's clock when it was read: the instants above are of the same clock
	Life   time.Duration `json:"-"` // the stored token's whole life

	// Login is why no further token can be had until a person logs in, "" where none must. A stored one may still be usable.
	Login string `json:"-"`
}

// LockStatus is who is refreshing.
type LockStatus struct {
	Holder *string      `json:"holder"`
	TTL    Milliseconds `json:"ttl_ms"`
}

// FailureStatus is the last failure, while no newer token is stored.
type FailureStatus struct {
	Code    *string    `json:"code"`
	Status  *int       `json:"status"`
	Message *string    `json:"message"`
	Attempt *int       `json:"attempt"`
	RetryAt *time.Time `json:"retry_at"`
}

// Milliseconds is a duration that marshals as a number of milliseconds.
type Milliseconds time.Duration

// MarshalJSON implements [encoding/json.Marshaler].
func (m Milliseconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%d", time.Duration(m).Milliseconds()), nil
}

// Status reads what Redis holds of an environment. Errors: an *[UnknownEnvironmentError], a *[RedisError].
func (m *Manager) Status(ctx context.Context, env string) (Status, error) {
	e, err := m.lookup(ctx, env)
	if err != nil {
		return Status{}, err
	}
	r, err := m.store.Read(ctx, env)
	if err != nil {
		return Status{}, &RedisError{Environment: env, Err: err}
	}
	conf := e.conf()
	return describe(env, r, conf.policy, conf.fingerprint, e.loginReason(r)), nil
}

// StatusOf describes a record of env that somebody else has read: as Status does where env is configured here, else as the
// function StatusOf.
func (m *Manager) StatusOf(env string, r *store.Record) Status {
	e := m.envs.find(env)
	if e == nil {
		return StatusOf(env, r)
	}
	conf := e.conf()
	return describe(env, r, conf.policy, conf.fingerprint, e.loginReason(r))
}

// StatusOf describes a record whose environment isn't configured here: by the default policy, and without knowing
// whether its configuration is the right one.
func StatusOf(env string, r *store.Record) Status {
	p, err := Policy{}.withDefaults()
	if err != nil {
		panic(err) // the defaults are valid
	}
	return describe(env, r, p, "", grantView{used: true}.refusal(r.Grant))
}

// describe makes a status of r. login says why a person must log in, "" where none must.
func describe(env string, r *store.Record, p Policy, fingerprint, login string) Status {
	s := Status{Environment: env, ReadAt: r.Now, Login: login}
	if r.Lock != nil {
		s.Lock = LockStatus{Holder: some(r.Lock.Holder), TTL: Milliseconds(max(r.Lock.TTL, 0))}
	}
	if f := r.Failure; f != nil && (r.Stored() == nil || f.Version > r.Stored().Version) {
		s.Failure = FailureStatus{Code: some(f.Code), Status: some(f.Status), Message: some(f.Message), Attempt: some(f.Attempt), RetryAt: some(f.RetryAt)}
	}
	if g := r.Grant; g != nil && login != "" && g.Refused != 0 && g.Reason != store.ReasonLogout && (r.Stored() == nil || g.Refused > r.Stored().Version) {
		s.Failure.Code, s.Failure.Message = some(g.Reason), some("a person must log in: "+login)
		s.Failure.RetryAt = nil // nobody tries
		login = ""              // it is said
	}
	verdict := judge(r, p, fingerprint)
	s.Usable = verdict == usable
	if t := r.Stored(); t != nil {
		s.TTL, s.ExpiresAt, s.Version, s.RefreshedBy = Milliseconds(r.TTL), some(t.ExpiresAt), some(t.Version), some(t.RefreshedBy)
		s.Life = t.Life()
	}
	if !s.Usable {
		reason := reasonOf(verdict, r)
		if login != "" {
			reason += "; a person must log in: " + login
		}
		s.Reason = &reason
	}
	switch {
	case r.Lock != nil:
		s.State = StateRefreshing
	case verdict == foreign:
		s.State = StateConflict
	case s.Failure.Code != nil:
		s.State = StateFailing
	case !s.Usable:
		s.State = StateMissing
	case r.TTL <= s.Life-p.refreshPoint(s.Life, r.Stored().Took, 0):
		s.State = StateStale
	default:
		s.State = StateFresh
	}
	return s
}

// reasonOf says why the token in r can't be used.
func reasonOf(v verdict, r *store.Record) string {
	e, ok := errors.AsType[*store.UnreadableError](r.TokenErr)
	switch {
	case ok && v == foreign:
		return "the stored token can't be read here: " + whySealed(e)
	case ok && v == unreadable:
		return v.String() + ": " + e.Reason
	}
	return v.String()
}

// whySealed says why a token doesn't open, as shortly as it is known.
func whySealed(e *store.UnreadableError) string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return e.Reason
}

// some returns a pointer to v, nil where v has no value.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
