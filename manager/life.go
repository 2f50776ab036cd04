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
		if err == nil {
			e, err = e.current(ctx)
		}
		if err != nil {
			return nil, err
		}
		s := e.snap.Load()
		if s == nil || s.token != t {
			continue // replaced meanwhile, and with it what is known of its end
		}
		if s.expires-e.m.now() >= left {
			return t, nil
		}
		if most := longestLeft(t); left > most {
			return nil, &LifeError{Environment: e.name, Asked: left, Most: most}
		}
		if _, err := e.await(ctx, ask{above: t.Version, longer: true}); err != nil {
			return nil, err
		}
	}
}

// longestLeft is the longest life that can be asked for, going by t. Its life counts from before the request, which took a
// part of it, and will again.
func longestLeft(t *Token) time.Duration {
	return max(t.Life()-t.Took-replaceableAge(t.Life()), 0).Truncate(time.Millisecond)
}
