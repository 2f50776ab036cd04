package manager

import (
	"context"
	"time"
)

// TokenFor returns a token with a life of at least left ahead of it: for a request, or a job, that takes long. Where the
// token at hand has less it waits for a new one, which obeys a running backoff, and callers at the same time are one call.
//
// A token is replaced for that reason no sooner than a 401 would have it replaced, 30 s or a tenth of its life after it
// came: asking for more than the rest is a *[LifeError], at once, and never a call of the endpoint for each caller.
// Other errors are those of [Env.Token], though there may be a token with less life, which Token returns; and a
// *[ConflictError] during a deploy that changes the configuration.
func (e *Env) TokenFor(ctx context.Context, left time.Duration) (*Token, error) {
	for {
		t, err := e.Token(ctx)
		if err != nil {
			return nil, err
		}
		a, tooMuch := e.askFor(t, left)
		if tooMuch != nil {
			return nil, tooMuch
		}
		if !a.longer {
			return t, nil
		}
		if t, err = e.await(ctx, a); err != nil {
			return nil, err
		}
		if a, err := e.askFor(t, left); err == nil && !a.longer {
			return t, nil
		}
	}
}

// askFor returns what to ask for where t, the usable token, has less than that left: a newer one, unless that would not do.
func (e *Env) askFor(t *Token, left time.Duration) (ask, error) {
	rest := e.m.ExpiresIn(e.name, t)
	if rest >= left {
		return ask{}, nil
	}
	// Its life counts from before the request: that took a part of it, and will again.
	if most := t.Life() - t.Took - replaceableAge(t.Life()); left > most {
		return ask{}, &LifeError{Environment: e.name, Asked: left, Most: max(most, 0).Truncate(time.Second)}
	}
	return ask{above: t.Version, longer: true}, nil
}
