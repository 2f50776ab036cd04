package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A site is the token endpoint with the resource server behind it.
type site struct {
	w     *world
	mood  mood
	ahead time.Duration // of its clock: the machines of the fleet were suspended for so long

	mu      sync.Mutex // guards what follows, which requests look at, too
	tokens  map[string]*issued
	current map[string]*issued // by environment and configuration

	// The scheduler's.
	refreshTokens map[string]*refreshToken
	logins        int
	traps         []func(*op) // each strikes once, when a refresh token is accepted
}

// A mood is how the endpoint answers.
type mood struct {
	fastest, slowest time.Duration
	status           int // 0: it gives tokens
	code             string
	retryAfter       time.Duration
	life             time.Duration
	hangs            bool
	bad              bool // its replies are no tokens
	same             bool // a token that has a third of its life left is given again
	revokes          bool // a new token ends the older ones
	lost             float64
}

// An issued token is the truth about it.
type issued struct {
	text    string
	env     string
	config  string
	at, end time.Duration // by the site's clock
	life    time.Duration
	revoked bool
}

func newSite(w *world) *site {
	s := &site{
		w: w, mood: w.setup.mood, tokens: map[string]*issued{}, current: map[string]*issued{}, refreshTokens: map[string]*refreshToken{},
	}
	for _, seed := range []string{"seed-old", "seed-new"} {
		s.login(seed, seed)
	}
	return s
}

// now is the site's clock.
func (s *site) now() time.Duration { return s.w.now() + s.ahead }

// ask is the token source of an environment. refreshToken is empty where none is used.
func (p *process) ask(ctx context.Context, env, refreshToken string, with settings) (*manager.Reply, error) {
	deadline, _ := ctx.Deadline()
	o := p.newOp("endpoint", env, "")
	o.token, o.settings = refreshToken, with
	switch v := p.wait(o, time.Until(deadline)+time.Hour, ctx.Done()).(type) {
	case *manager.Reply:
		return v, nil
	case error:
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, v
	}
	panic("no reply")
}

// admit decides what becomes of a request.
func (s *site) admit(o *op) {
	w, r := s.w, o.r
	if r.pausedUntil > w.now() {
		w.at(r.pausedUntil, func() { s.admit(o) })
		return
	}
	if o.over.Load() || isClosed(o.p.died) {
		return
	}
	if o.what == "revoke" {
		s.admitRevocation(o)
		return
	}
	w.say("%s", strings.TrimSpace(fmt.Sprintf("%s → endpoint %s %s", r.name, o.about, o.token)))
	w.check.asks(o)
	switch {
	case r.toSite.refused:
		w.in(time.Millisecond, func() {
			w.say("    … can't be reached by %s", r.name)
			o.answer(&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
		})
		return
	case r.toSite.swallows, o.rng.Float64() < s.mood.lost:
		return
	}
	took := s.mood.fastest + upTo(o.rng, s.mood.slowest-s.mood.fastest+1)
	part := o.rng.Float64()
	w.in(time.Duration(part*float64(took)), func() { s.serve(o, took-time.Duration(part*float64(took))) })
}

// serve makes the answer, which is on its way for the rest.
func (s *site) serve(o *op, rest time.Duration) {
	w := s.w
	answer := s.answer(o)
	lost := o.r.toSite.mute || o.rng.Float64() < s.mood.lost || o.use != nil && o.use.unanswered
	w.in(rest, func() { s.deliver(o, answer, lost) })
}

func (s *site) deliver(o *op, answer any, lost bool) {
	w := s.w
	switch {
	case isClosed(o.p.died):
	case o.r.pausedUntil > w.now():
		w.at(o.r.pausedUntil, func() { s.deliver(o, answer, lost) })
	case o.over.Load():
		s.undelivered(o)
		w.say("endpoint → %s: too late", o.r.name)
	case lost || answer == nil:
		s.undelivered(o)
		w.say("endpoint → %s: no answer", o.r.name)
	default:
		w.say("endpoint → %s: %s", o.r.name, describeAnswer(answer))
		s.delivered(o, answer)
		o.answer(answer)
	}
}

func describeAnswer(answer any) string {
	if reply, ok := answer.(*manager.Reply); ok {
		return reply.AccessToken.Reveal() + " for " + reply.ExpiresIn.String()
	}
	return fmt.Sprint(answer)
}

// answer is what the endpoint says now: a *manager.Reply, an error, or nil for silence.
func (s *site) answer(o *op) any {
	m := s.mood
	switch {
	case m.hangs:
		return s.silent(o)
	case o.settings.secret == "old" && s.w.setup.oldRefused:
		return &endpoint.Error{Code: "invalid_client", Status: 401}
	case m.status != 0:
		code := m.code
		if code == "" {
			code = fmt.Sprint("http_", m.status)
		}
		return s.fails(o, &endpoint.Error{Code: code, Status: m.status, RetryAfter: m.retryAfter})
	case m.bad:
		return s.garbled(o)
	}
	next := ""
	if o.token != "" {
		var refused error
		if next, refused = s.refreshes(o); refused != nil {
			return refused
		}
	}
	t := s.give(o.about, o.settings.config, o.rng)
	return &manager.Reply{
		AccessToken: manager.NewSecret(t.text), TokenType: "Bearer", ExpiresIn: (t.end - s.now()).Truncate(time.Second),
		RefreshToken: manager.NewSecret(next),
	}
}

// give issues a token, or gives the current one again.
func (s *site) give(env, config string, rng *rand.Rand) *issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := env + " " + config
	old := s.current[key]
	if s.mood.same && old != nil && !old.revoked && old.end-s.now() > old.life/3 {
		return old
	}
	life := s.mood.life.Truncate(time.Second) + time.Duration(rng.IntN(2))*time.Second
	t := &issued{
		text: fmt.Sprintf("%s-%s-%d", env, config, len(s.tokens)+1), env: env, config: config,
		at: s.now(), end: s.now() + life, life: life,
	}
	if s.mood.revokes && old != nil {
		old.revoked = true
	}
	s.tokens[t.text], s.current[key] = t, t
	return t
}

// accepts reports whether the resource server takes a token.
func (s *site) accepts(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[text]
	return t != nil && !t.revoked && s.now() < t.end
}

// revoke ends all tokens of an environment.
func (s *site) revoke(env string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.env == env {
			t.revoked = true
		}
	}
}

// token returns the truth about a token, nil where it never gave it.
func (s *site) token(text string) *issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[text]
}
