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

// margin is how much life a token must have left to be handed out. By default that is at most an eighth of the life: with more,
// an endpoint that needs a third of a life, and isn't asked before half of it, would have callers wait.
func (p Policy) margin(life time.Duration) time.Duration {
	if p.ExpiryMargin > 0 {
		return min(p.ExpiryMargin, life/2)
	}
	return min(10*time.Second, max(life/10, time.Second), life/8)
}

// refreshPoint is the age at which a token is refreshed behind the users of the replica that refreshed last. draw, in [0, 1),
// is one for a token, and spreads the environments, whose tokens may all have come at one time. took is how long the endpoint
// needed for this token: the lead over the moment at which the token isn't handed out any more (not just over its end) is at
// least three times that, and a twentieth of the life, so that nobody waits; and it never starts before half the life.
func (p Policy) refreshPoint(life, took time.Duration, draw float64) time.Duration {
	at := min(time.Duration(p.RefreshAt*float64(life)), life-p.margin(life)-max(3*took, life/20))
	return max(at-time.Duration(0.05*draw*float64(life)), life/2)
}

// standInPoint is the age at which the other replicas refresh a token whose refresh point is at the age first: they go on by
// themselves only where they haven't heard of a newer one, because whoever refreshed last is gone, is asked for nothing, or
// fails. That leaves time to hear, a quarter of what is left until the token isn't handed out any more, and more than the
// endpoint needs. draw, in [0, 1), is once for a token and replica: it spreads them over another quarter, but not into the
// time that the endpoint needs for them, unless there is none to spare.
func (p Policy) standInPoint(life, took, first time.Duration, draw float64) time.Duration {
	lead, needs := life-p.margin(life)-first, took+took/4
	wait := max(needs, lead/4)
	room := max(min(lead/4, lead-wait-needs), 0)
	return first + min(wait+time.Duration(draw*float64(room)), lead)
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
