package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// rotating is what a setup has beside, where refresh tokens are used. It is drawn from randomness of its own.
type rotating struct {
	env      string // the environment that uses them; "" where none does
	kind     familyKind
	seeded   int           // how many configured refresh tokens there are: 0, 1, or 2 in a rolling deploy
	oldSeeds int           // the first so many replicas have the older one of two
	people   []visit       // of people
	relogin  time.Duration // after which somebody logs in who has read that he must; 0: nobody does
}

// A visit is what a person does at an instant.
type visit struct {
	at      time.Duration
	replica int
	kind    string // "login", "logout"
	revokes bool   // a logout tells the endpoint, too
}

// newRotatingSetup draws a setup whose first environment uses refresh tokens; a second one doesn't.
func newRotatingSetup(seed uint64) setup {
	s := newSetup(seed)
	rng := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // no secret depends on it
	one := func(of ...time.Duration) time.Duration { return of[rng.IntN(len(of))] }
	s.oldConfigs, s.policy.Outage = 0, manager.OutageFail
	s.mood.life = one(4*time.Second, 4*time.Second, 6*time.Second, 8*time.Second, 12*time.Second, 30*time.Second)
	if s.mood.life < 12*time.Second {
		s.mood.same = false
	}
	s.gap, s.patience = min(s.gap, time.Second), max(s.patience, time.Second)
	x := &s.rotating
	x.env, x.kind = s.envs[0], []familyKind{strict, strict, strict, strict, lenient, constant}[rng.IntN(6)]
	x.seeded = rng.IntN(3)
	if x.seeded == 2 {
		x.oldSeeds = 1 + rng.IntN(s.replicas-1)
	}
	if x.seeded == 0 {
		x.people = append(x.people, visit{at: time.Second + upTo(rng, 3*time.Second), replica: rng.IntN(s.replicas), kind: "login"})
	}
	if rng.IntN(2) == 0 {
		for range rng.IntN(4) {
			v := visit{at: upTo(rng, s.length), replica: rng.IntN(s.replicas), kind: "login", revokes: rng.IntN(2) == 0}
			if rng.IntN(4) == 0 {
				v.kind = "logout"
			}
			x.people = append(x.people, v)
		}
	}
	if rng.IntN(3) > 0 {
		x.relogin = time.Second + upTo(rng, 20*time.Second)
	}
	if seed%3 > 0 {
		kinds := grantFaults
		if rng.IntN(2) == 0 { // what is between the endpoint's acceptance and the write alone
			kinds = grantFaults[:1]
		}
		for range rng.IntN(1 + int(s.length/(15*time.Second))) {
			s.faults = append(s.faults, kinds[rng.IntN(len(kinds))].draw(rng, &s))
		}
		slices.SortStableFunc(s.faults, func(a, b fault) int { return int(a.at - b.at) })
	}
	if s.changes && s.seed%8 == 3 {
		s.faults = append(s.faults, faultKind(acceptedThenRemoved).draw(rng, &s))
		slices.SortStableFunc(s.faults, func(a, b fault) int { return int(a.at - b.at) })
	}
	return s
}

// uses reports whether the environment uses refresh tokens.
func (x *rotating) uses(env string) bool { return env != "" && x.env == env }

// lease is how long one lasts.
func (s *setup) lease(env string) time.Duration {
	if s.rotating.uses(env) {
		return max(s.policy.Lease, s.policy.EndpointTimeout+2*time.Second)
	}
	return s.policy.Lease
}

// takenFor is how long others leave a refresh token alone whose use has no outcome.
func (s *setup) takenFor() time.Duration { return s.lease(s.rotating.env) + 30*time.Second }

var grantFaults = []faultKind{acceptedThen, acceptedThen, grantGone, grantPlanted, siteBad}

// acceptedThen strikes the next replica whose refresh token is accepted, while the answer is on its way.
func acceptedThen(rng *rand.Rand, s *setup) (string, func(*world)) {
	d := time.Duration(500+rng.IntN(int(s.takenFor()/time.Millisecond)*5/4)) * time.Millisecond
	how := rng.IntN(7)
	what := []string{"is killed", "is stopped", "can't reach Redis (refused)", "can't reach Redis (swallowed)", "hears nothing from Redis", "gets no answer", "can't reach Redis once it has the answer"}[how]
	text := fmt.Sprintf("the next one whose refresh token is accepted %s, for %v", what, d)
	return text, func(w *world) {
		w.say("(%s)", text)
		w.site.traps = append(w.site.traps, func(o *op) {
			r := o.r
			if w.peace {
				return
			}
			what := fmt.Sprintf("%s, whose refresh token was accepted, %s", r.name, what)
			switch how {
			case 0:
				w.strikes(what)
				r.kill()
				w.in(d, r.boot)
			case 1:
				w.strikes(fmt.Sprintf("%s for %v", what, d))
				r.pausedUntil = max(r.pausedUntil, w.now()+d)
			case 2, 3, 4:
				w.forA(d, what, func(on bool) { r.cutOff(how-2, on) })
			case 5:
				w.strikes(what)
				o.use.unanswered = true
			case 6:
				o.use.then = func() { w.forA(d, what, func(on bool) { r.cutOff(0, on) }) }
			}
		})
	}
}

// cutOff cuts the way to Redis, or mends it.
func (r *replica) cutOff(how int, on bool) {
	setLink(&r.toRedis, how, on)
	r.trouble()
	if how == 0 && on && r.alive != nil {
		r.alive.cutAll()
	}
}

func grantGone(_ *rand.Rand, s *setup) (string, func(*world)) {
	env := s.rotating.env
	text := "Redis evicts the grant of " + env
	return text, func(w *world) {
		w.strikes(text)
		w.loseHistory()
		w.grantLostAt = w.now()
		delete(w.redis.keys, "onetoken:{"+env+"}:grant")
	}
}

// grantPlanted: somebody writes nonsense to the grant.
func grantPlanted(rng *rand.Rand, s *setup) (string, func(*world)) {
	key := "onetoken:{" + s.rotating.env + "}:grant"
	type plant struct{ field, value string }
	all := []plant{
		{"version", "9999999999999999"},
		{"version", ""},
		{"taken", "9999999999999999"},
		{"taken_until", "2999-01-01T00:00:00.000Z"},
		{"taken_until", "soon"},
		{"refused", "nan"},
		{"seed", ",,,"},
		{"", "a string"},
	}
	x := all[rng.IntN(len(all))]
	text := fmt.Sprintf("somebody sets %q of the grant to %q", x.field, x.value)
	return text, func(w *world) {
		e := w.redis.at(key)
		if e == nil || e.hash == nil {
			return
		}
		w.strikes(text)
		w.loseHistory()
		w.grantLostAt = w.now()
		if x.field == "" {
			w.redis.keys[key] = &entry{text: x.value}
			return
		}
		e.hash[x.field] = x.value
	}
}

// grantLostSince reports whether Redis lost what it knew of the refresh token.
func (w *world) grantLostSince(t time.Duration) bool { return w.grantLostAt >= t && w.grantLostAt > 0 }

// seed is the replica's configured refresh token, "" where it has none.
func (r *replica) seed() string {
	x := r.w.setup.rotating
	switch {
	case x.seeded == 0:
		return ""
	case r.number <= x.oldSeeds:
		return "seed-old"
	}
	return "seed-new"
}

// visits makes people do what they do.
func (w *world) visits() {
	for _, v := range w.setup.rotating.people {
		w.at(v.at, func() { w.visit(v) })
	}
}

// visit has a person use a replica's manager, the next one's that runs.
func (w *world) visit(v visit) {
	for i := range w.fleet {
		r := w.fleet[(v.replica+i)%len(w.fleet)]
		if r.alive == nil || r.silent || r.pausedUntil > w.now() {
			continue
		}
		kind := v.kind
		if kind == "logout" && v.revokes {
			kind = "revoke"
		}
		r.start(kind, w.setup.rotating.env, 20*time.Second)
		return
	}
}

// readLoginError has somebody log in who reads that he must, unless somebody is about to.
func (w *world) readLoginError(r *replica) {
	x := w.setup.rotating
	if x.relogin == 0 || w.loggingIn || w.now() > w.setup.length+10*time.Second {
		return
	}
	w.loggingIn = true
	w.in(x.relogin, func() {
		w.loggingIn = false
		if w.check.loginDue(r) {
			w.visit(visit{kind: "login", replica: r.number - 1})
		}
	})
}

// A refresher is the endpoint of a process for an environment that uses refresh tokens.
type refresher struct {
	p        *process
	env      string
	settings settings
}

func (s refresher) Fetch(ctx context.Context) (*manager.Reply, error) {
	return s.p.ask(ctx, s.env, "", s.settings)
}

func (s refresher) Refresh(ctx context.Context, refreshToken manager.Secret) (*manager.Reply, error) {
	return s.p.ask(ctx, s.env, refreshToken.Reveal(), s.settings)
}

// revoke tells the endpoint that a refresh token is no more.
func (p *process) revoke(ctx context.Context, env string, refreshToken manager.Secret) error {
	o := p.newOp("revoke", env, "")
	o.token = refreshToken.Reveal()
	deadline, _ := ctx.Deadline()
	if err, ok := p.wait(o, time.Until(deadline), ctx.Done()).(error); ok {
		return &revokeError{err}
	}
	return nil
}

// A revokeError says that a revocation failed.
type revokeError struct{ err error }

func (e *revokeError) Error() string { return "revocation: " + e.err.Error() }
