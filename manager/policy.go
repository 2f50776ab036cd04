package manager

import (
	"errors"
	"time"

	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

// This file decides; it reads no clock and does no I/O.

// minLife is the shortest life that a token can be used with: less is over on arrival.
const minLife = time.Second

// margin is how much life a token must have left to be handed out.
func (p Policy) margin(life time.Duration) time.Duration {
	if p.ExpiryMargin > 0 {
		return min(p.ExpiryMargin, life/2)
	}
	return min(10*time.Second, max(life/10, time.Second), life/2)
}

// refreshPoint is the age at which a token is refreshed behind its users. draw, in [0, 1), spreads the replicas: it is
// drawn once per token and replica. took is how long the endpoint needed for this token: the lead over the moment at
// which the token isn't handed out any more (not just over its end) is at least three times that, and a twentieth of the
// life, so that nobody waits; and it never starts before half the life.
func (p Policy) refreshPoint(life, took time.Duration, draw float64) time.Duration {
	at := time.Duration((p.RefreshAt - 0.05*draw) * float64(life))
	return max(min(at, life-p.margin(life)-max(3*took, life/20)), life/2)
}

// life is how long a token with the endpoint's expires_in is believed to live.
func (p Policy) life(expiresIn time.Duration) time.Duration {
	if expiresIn <= 0 {
		expiresIn = p.DefaultLife
	}
	return min(expiresIn, p.MaxLife).Truncate(time.Millisecond)
}

// backoff is the pause after the attempt-th failure of a row.
func (p Policy) backoff(code string, attempt int, retryAfter time.Duration) time.Duration {
	b := p.Backoff
	if endpoint.IsRefusal(code) {
		b = p.BackoffRefused
	}
	return max(b.after(attempt), min(retryAfter, p.RetryAfterMax))
}

func (b Backoff) after(attempt int) time.Duration {
	pause := b.Min
	for ; attempt > 1 && pause < b.Max; attempt-- {
		pause *= 2
	}
	return min(pause, b.Max)
}

// longestOf is the longest backoff of failures with the code, Retry-After left aside.
func (p Policy) longestOf(code string) time.Duration {
	if endpoint.IsRefusal(code) {
		return p.BackoffRefused.Max
	}
	return p.Backoff.Max
}

// longest is the longest backoff there can be: no failure binds beyond it.
func (p Policy) longest() time.Duration {
	return max(p.Backoff.Max, p.BackoffRefused.Max, p.RetryAfterMax)
}

// verdict is what a record's token is worth to a replica.
type verdict int

const (
	usable verdict = iota
	missing
	unreadable
	dropped
	expiring
	foreign
)

func (v verdict) String() string {
	return [...]string{
		"usable", "no token is stored", "the stored token is unreadable", "the stored token was invalidated",
		"the stored token is about to expire", "the stored token is of another configuration",
	}[v]
}

// judge says what the token in rec is worth with these settings.
func (r *resolved) judge(rec *store.Record) verdict { return judge(rec, r.policy, r.fingerprint) }

// judge says what the token in r is worth to a replica with the fingerprint. With "", any will do: for those who look, and
// have no use for the token itself.
func judge(r *store.Record, p Policy, fingerprint string) verdict {
	switch t := r.Stored(); {
	case t == nil && r.TokenErr != nil:
		return unreadable
	case t == nil:
		return missing
	case t.Version <= r.Mark.Dropped:
		return dropped
	case min(r.TTL, t.Life()) <= p.margin(t.Life()):
		return expiring
	case fingerprint != "" && t.Config != fingerprint:
		return foreign
	case r.Sealed != nil && (fingerprint != "" || !errors.Is(r.TokenErr, seal.ErrNoKeys)):
		// Replicas with different keys must not replace each other's tokens in turn without a pause. Who has no keys, and only
		// looks, can't tell.
		return foreign
	}
	return usable
}
