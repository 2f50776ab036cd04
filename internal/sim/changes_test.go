package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Settings are what a replica's environments are configured with.
type settings struct {
	config    string // tokens of another are foreign to it
	secret    string
	refreshAt float64 // 0: the setup's
}

// A change of the settings, or a removal, is done before a replica's call of the number.
type change struct {
	call    int
	at      time.Duration
	from    settings // what it was before
	removes bool     // or else it changes or adds
	removed bool     // there was nothing before
}

// changing has some seeds change environments in place of some of their faults, by randomness of its own, so that the others stay as
// they are.
func (s *setup) changing() {
	if s.seed%4 != 3 {
		return
	}
	rng := rand.New(rand.NewPCG(s.seed, 3)) //nolint:gosec // no secret depends on it
	s.changes, s.oldConfigs, s.oldSecrets, s.oldRefused = true, 0, 0, false
	for i := range s.faults {
		if rng.IntN(3) == 0 {
			at := s.faults[i].at
			s.faults[i] = faultKind(changed).draw(rng, s)
			s.faults[i].at = at
		}
	}
	for range 1 + rng.IntN(3) {
		s.faults = append(s.faults, faultKind(changed).draw(rng, s))
	}
	slices.SortStableFunc(s.faults, func(a, b fault) int { return int(a.at - b.at) })
}

// changed: a replica's environments are changed while it runs.
func changed(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d := rng.IntN(s.replicas), someSeconds(rng)
	if rng.IntN(3) == 0 {
		d /= 50 // while what was under way is
	}
	to := settings{config: "new", secret: fmt.Sprint("secret-", rng.IntN(100)), refreshAt: 0.5 + rng.Float64()*0.4}
	switch rng.IntN(3) {
	case 0:
		text := fmt.Sprintf("r%d gets another secret and policy", i+1)
		return text, func(w *world) {
			w.strikes(text)
			w.fleet[i].set(to)
		}
	case 1:
		text := fmt.Sprintf("r%d is configured otherwise", i+1)
		return fmt.Sprintf("%s for %v", text, d), func(w *world) {
			r := w.fleet[i]
			w.forA(d, text, func(on bool) {
				to := r.settings
				if to.config = "new"; on {
					to.config = "other"
				}
				r.set(to)
			})
		}
	default:
		text := fmt.Sprintf("r%d's environments are removed", i+1)
		return fmt.Sprintf("%s for %v", text, d), func(w *world) {
			w.strikes(text)
			w.fleet[i].remove()
			w.in(d, func() {
				w.strikes("over: " + text)
				w.fleet[i].set(w.fleet[i].settings)
			})
		}
	}
}

// acceptedThenRemoved: the next replica whose refresh token is accepted can't write the new one, nor others anything, for so long that
// they take it for lost, and its environments are removed meanwhile, and added again.
func acceptedThenRemoved(rng *rand.Rand, s *setup) (string, func(*world)) {
	d := s.takenFor() + upTo(rng, 10*time.Second)
	text := fmt.Sprintf("the next one whose refresh token is accepted finds Redis read-only once it has the answer, for %v, and its environments are removed", d)
	return text, func(w *world) {
		w.say("(%s)", text)
		w.site.traps = append(w.site.traps, func(o *op) {
			r := o.r
			o.use.then = func() {
				if w.peace {
					return
				}
				w.forA(d, fmt.Sprintf("Redis is read-only: %s has a refresh token to write", r.name), func(on bool) {
					w.redis.readOnly = on
					w.redisTrouble()
				})
				w.in(time.Second, r.remove)
				w.in(d-time.Millisecond, func() { r.set(r.settings) })
			}
		})
	}
}

// set changes the environments' settings, and adds what was removed.
func (r *replica) set(to settings) {
	if r.silent {
		return
	}
	r.noteChange(false)
	foreign := r.config != to.config
	r.settings, r.removed = to, false
	if r.alive == nil {
		return
	}
	for _, env := range r.w.setup.envs {
		r.w.check.changed(r, env, foreign)
		if err := r.alive.manager.SetEnvironment(env, r.alive.environment(env)); err != nil {
			r.w.violated("an environment can be changed", "%s: %v", r.name, err)
		}
	}
}

func (r *replica) remove() {
	if r.alive == nil || r.removed || r.silent {
		return
	}
	r.noteChange(true)
	r.removed = true
	for _, env := range r.w.setup.envs {
		r.w.check.changed(r, env, true)
		if err := r.alive.manager.RemoveEnvironment(env); err != nil {
			r.w.violated("an environment can be removed", "%s: %v", r.name, err)
		}
	}
}

func (r *replica) noteChange(removes bool) {
	r.changes = append(r.changes, change{call: r.calls, at: r.w.now(), from: r.settings, removes: removes, removed: r.removed})
}

// changedSince reports whether the environments were changed, or removed, since the instant.
func (r *replica) changedSince(t time.Duration) bool {
	return len(r.changes) > 0 && r.changes[len(r.changes)-1].at >= t
}

// had reports whether the environments were there, with a configuration of which ok is true, at any time since the call began.
func (r *replica) had(c *call, ok func(config string) bool) bool {
	if !r.removed && ok(r.config) {
		return true
	}
	return slices.ContainsFunc(r.changes, func(x change) bool { return x.call > c.id && !x.removed && ok(x.from.config) })
}

// lacked reports whether the environments were removed at any time since the call began.
func (r *replica) lacked(c *call) bool {
	return r.removed || slices.ContainsFunc(r.changes, func(x change) bool { return x.call > c.id && (x.removed || x.removes) })
}

// changed notes that a replica's environment is changed: if it is another one, or none, from here on, what it has is not
// handed out any more. Without Redis it may ask at once.
func (c *checker) changed(r *replica, env string, other bool) {
	k := r.known[env]
	k.aloneAt = -time.Hour
	if other {
		k.token = nil
	}
}

// asksWith checks that who asks does so with the settings that he has.
func (c *checker) asksWith(o *op) {
	r := o.r
	if r.changedSince(o.born) || o.p != r.alive {
		return
	}
	if r.removed || o.settings != r.settings {
		c.w.violated("nobody asks with settings that were changed before", "%s, which is %+v (removed: %v), asks with %+v", r.name, r.settings, r.removed, o.settings)
	}
}
