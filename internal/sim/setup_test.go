package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// A setup is all that a run depends on. It follows from the seed.
type setup struct {
	seed        uint64
	replicas    int
	envs        []string
	policy      manager.Policy
	mood        mood
	weather     weather
	oldConfigs  int // the first so many replicas have an old configuration
	oldSecrets  int // or an old secret
	oldRefused  bool
	length      time.Duration
	startSpread time.Duration
	gap         time.Duration // between a worker's calls, at most
	patience    time.Duration // of a call, at most
	mix         mix
	rotating    rotating
	changes     bool // environments are changed while the fleet runs
	faults      []fault
	without     map[int]bool // faults to leave out
	log         bool         // the managers' logs in the trace
}

// A mix is how often which call is made, out of 1000; the rest is Token.
type mix struct{ refresh, invalidate, request, longer int }

func (m mix) pick(rng *rand.Rand) string {
	switch n := rng.IntN(1000); {
	case n < m.refresh:
		return "refresh"
	case n < m.refresh+m.invalidate:
		return "invalidate"
	case n < m.refresh+m.invalidate+m.request:
		return "request"
	case n < m.refresh+m.invalidate+m.request+m.longer:
		return "longer"
	}
	return "token"
}

// newSetup draws a setup. A third of the seeds have no faults but the endpoint's, so that the strictest rules apply.
func newSetup(seed uint64) setup {
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // no secret depends on it
	one := func(of ...time.Duration) time.Duration { return of[rng.IntN(len(of))] }
	s := setup{
		seed: seed, replicas: 2 + rng.IntN(4), envs: []string{"prod"},
		length:      time.Duration(60+rng.IntN(240)) * time.Second,
		startSpread: one(0, time.Second, 20*time.Second),
		gap:         one(200*time.Millisecond, time.Second, 5*time.Second, 20*time.Second),
		patience:    one(500*time.Millisecond, 5*time.Second, 30*time.Second),
		mood: mood{
			fastest: one(time.Millisecond, 100*time.Millisecond), slowest: one(200*time.Millisecond, time.Second, 4*time.Second),
			life: one(5*time.Second, 12*time.Second, 30*time.Second, 2*time.Minute, 10*time.Minute),
		},
		weather: weather{fastest: 50 * time.Microsecond, slowest: one(time.Millisecond, 5*time.Millisecond, 40*time.Millisecond)},
		policy: manager.Policy{
			Lease: one(time.Second, 2*time.Second, 6*time.Second), EndpointTimeout: one(3*time.Second, 10*time.Second),
			Backoff:        manager.Backoff{Min: one(500*time.Millisecond, time.Second), Max: one(4*time.Second, 10*time.Second)},
			BackoffRefused: manager.Backoff{Min: one(2*time.Second, 5*time.Second), Max: one(5*time.Second, 15*time.Second)},
			RetryAfterMax:  20 * time.Second,
			KeepWarm:       rng.IntN(3) == 0,
		},
		mix: mix{refresh: rng.IntN(2) * rng.IntN(60), invalidate: rng.IntN(2) * rng.IntN(30), request: rng.IntN(2) * rng.IntN(300)},
	}
	if rng.IntN(4) == 0 {
		s.envs = append(s.envs, "test")
	}
	if rng.IntN(5) == 0 {
		s.policy.Outage = manager.OutageRefreshAlone
	}
	switch rng.IntN(10) {
	case 0:
		s.oldConfigs = 1 + rng.IntN(s.replicas-1)
	case 1:
		s.oldSecrets, s.oldRefused = 1+rng.IntN(s.replicas-1), true
	}
	if rng.IntN(6) == 0 { // callers who want a new token, and have gone before it comes
		s.mix.refresh, s.patience, s.gap = 300, 400*time.Millisecond, 300*time.Millisecond
		s.weather.slowest = 40 * time.Millisecond
	}
	if seed%7 == 4 { // callers who need a token for longer, in a part of the seeds, so that the others stay as they are
		s.mix.longer = 200
	}
	if seed%5 == 3 { // in a part of them, as above
		s.weather.copied = 0.1
	}
	s.mood.same, s.mood.revokes = rng.IntN(8) == 0, rng.IntN(8) == 0
	kinds := faultKinds[:siteFaults]
	if rng.IntN(3) > 0 {
		kinds = faultKinds
		s.storm(rng)
	}
	if rng.IntN(3) == 0 { // few kinds, so that what they do isn't hidden by the others
		kinds = pickSome(rng, kinds, 1+rng.IntN(3))
	}
	for range rng.IntN(1 + int(s.length/(8*time.Second))) {
		s.faults = append(s.faults, kinds[rng.IntN(len(kinds))].draw(rng, &s))
	}
	slices.SortStableFunc(s.faults, func(a, b fault) int { return int(a.at - b.at) })
	s.changing()
	return s
}

func pickSome(rng *rand.Rand, kinds []faultKind, n int) []faultKind {
	some := make([]faultKind, n)
	for i := range some {
		some[i] = kinds[rng.IntN(len(kinds))]
	}
	return some
}

// storm makes bad weather.
func (s *setup) storm(rng *rand.Rand) {
	some := func(p float64) float64 {
		if rng.IntN(2) == 0 {
			return 0
		}
		return p * rng.Float64()
	}
	w := &s.weather
	w.late, w.lost, w.unanswered, w.twice = some(0.08), some(0.03), some(0.05), some(0.05)
	w.eventLost, w.eventTwice = some(0.6), some(0.3)
	s.mood.lost = some(0.1)
}

// convergence is how long after the last fault every replica must have a token, and the same one.
func (s *setup) convergence() time.Duration {
	d := s.longestBackoff() + s.policy.Lease + s.policy.EndpointTimeout + 45*time.Second
	if s.rotating.env != "" {
		d += s.takenFor()
	}
	if s.changes {
		d += 90 * time.Second // as below, where all have the same again
	}
	if s.oldConfigs > 0 {
		d += 3 * time.Minute // the longest pause before a token of another configuration is replaced, and its life
	}
	return d
}

func (s *setup) longestBackoff() time.Duration {
	return max(s.policy.Backoff.Max, s.policy.BackoffRefused.Max, s.policy.RetryAfterMax)
}

// closeLimit is how long Close may take: a request that was sent, its write twice, a release during a renewal.
func (s *setup) closeLimit() time.Duration {
	d := s.policy.EndpointTimeout + 8*time.Second
	if s.rotating.env != "" {
		d += 7 * time.Second // a refresh token that nobody else has
	}
	return d
}

// text is a setup for people, with the faults that struck until an instant.
func (s *setup) text(until time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d replicas (%d with an old configuration, %d with an old secret), %v, then %v of peace\n", s.seed, s.replicas,
		s.oldConfigs, s.oldSecrets, s.length, s.convergence())
	fmt.Fprintf(&b, "  lives %v, lease %v, endpoint %v–%v with time-out %v, calls every %v with patience %v\n  weather %+v\n", s.mood.life,
		s.policy.Lease, s.mood.fastest, s.mood.slowest, s.policy.EndpointTimeout, s.gap, s.patience, s.weather)
	if x := s.rotating; x.env != "" {
		fmt.Fprintf(&b, "  %s has refresh tokens (%s), %d configured (%d replicas have the older), people %v, somebody logs in after %v\n", x.env,
			x.kind, x.seeded, x.oldSeeds, x.people, x.relogin)
	}
	for i, f := range s.faults {
		if !s.without[i] && f.at <= until {
			fmt.Fprintf(&b, "  fault %d at %v: %s\n", i, f.at, f.text)
		}
	}
	return b.String()
}

// A downtime is how Redis is away.
type downtime int

const (
	up downtime = iota
	downRefusing
	downSilent
)

// A fault is something that strikes at an instant of a run.
type fault struct {
	at     time.Duration
	text   string
	strike func(w *world)
}

// A faultKind draws faults of a kind.
type faultKind func(rng *rand.Rand, s *setup) (text string, strike func(w *world))

func (k faultKind) draw(rng *rand.Rand, s *setup) fault {
	f := fault{at: upTo(rng, s.length)}
	f.text, f.strike = k(rng, s)
	return f
}

// siteFaults is how many kinds are the endpoint's own.
const siteFaults = 7

var faultKinds = []faultKind{
	siteFails, siteRefuses, siteSlow, siteHangs, siteBad, siteRevokes, siteUnreachable,
	redisCut, redisCut, pauseReplica, pauseReplica, crashReplica, crashReplica, redisAway, redisEmpty, redisOld, keysGone,
	redisClock, wallClock, suspended, redisReadOnly, deafReplica, lockStuck, planted,
}

func (w *world) strikes(text string) { w.say("⚡ %s", text) }

// forA sets something now and sets it back after d.
func (w *world) forA(d time.Duration, text string, set func(on bool)) {
	w.strikes(fmt.Sprintf("%s, for %v", text, d))
	set(true)
	w.in(d, func() {
		w.strikes("over: " + text)
		set(false)
	})
}

func someSeconds(rng *rand.Rand) time.Duration {
	return time.Duration(100+rng.IntN(20_000)) * time.Millisecond
}

func moods(text string, d time.Duration, set func(*mood)) (string, func(*world)) {
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.forA(d, text, func(on bool) {
			if w.peace {
				return
			}
			m := w.setup.mood
			if on {
				m = w.site.mood
				set(&m)
			}
			w.site.mood = m
		})
	}
}

func siteFails(rng *rand.Rand, _ *setup) (string, func(*world)) {
	status := []int{500, 503, 429, 302, 404}[rng.IntN(5)]
	after := time.Duration(rng.IntN(2)*rng.IntN(30)) * time.Second
	return moods(fmt.Sprintf("the endpoint answers %d, Retry-After %v", status, after), someSeconds(rng), func(m *mood) {
		m.status, m.retryAfter = status, after
	})
}

func siteRefuses(rng *rand.Rand, _ *setup) (string, func(*world)) {
	return moods("the endpoint refuses everybody", someSeconds(rng), func(m *mood) { m.status, m.code = 401, "invalid_client" })
}

func siteSlow(rng *rand.Rand, _ *setup) (string, func(*world)) {
	slow := time.Duration(1+rng.IntN(12)) * time.Second
	return moods(fmt.Sprintf("the endpoint needs up to %v", slow), someSeconds(rng), func(m *mood) { m.slowest = max(m.slowest, slow) })
}

func siteHangs(rng *rand.Rand, _ *setup) (string, func(*world)) {
	return moods("the endpoint doesn't answer", someSeconds(rng), func(m *mood) { m.hangs = true })
}

func siteBad(rng *rand.Rand, _ *setup) (string, func(*world)) {
	return moods("the endpoint's answers are no tokens", someSeconds(rng), func(m *mood) { m.bad = true })
}

func siteRevokes(_ *rand.Rand, _ *setup) (string, func(*world)) {
	text := "the endpoint revokes all tokens"
	return text, func(w *world) {
		w.strikes(text)
		for _, env := range w.setup.envs {
			w.site.revoke(env)
		}
	}
}

func siteUnreachable(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d, how := rng.IntN(s.replicas), someSeconds(rng), rng.IntN(3)
	text := fmt.Sprintf("r%d can't reach the endpoint (%s)", i+1, []string{"refused", "swallowed", "mute"}[how])
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.forA(d, text, func(on bool) { setLink(&w.fleet[i].toSite, how, on) })
	}
}

func setLink(l *link, how int, on bool) {
	switch how {
	case 0:
		l.refused = on
	case 1:
		l.swallows = on
	case 2:
		l.mute = on
	case 3:
		l.slow = 0
		if on {
			l.slow = 400 * time.Millisecond
		}
	}
}

func redisCut(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d, how := rng.IntN(s.replicas), someSeconds(rng), rng.IntN(4)
	text := fmt.Sprintf("r%d's way to Redis is cut (%s)", i+1, []string{"refused", "swallowed", "mute", "slow"}[how])
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		r := w.fleet[i]
		w.forA(d, text, func(on bool) {
			setLink(&r.toRedis, how, on)
			r.trouble()
			if how == 0 && on && r.alive != nil {
				r.alive.cutAll()
			}
		})
	}
}

func (p *process) cutAll() {
	for _, c := range p.open() {
		c.cut()
	}
}

func pauseReplica(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d := rng.IntN(s.replicas), someSeconds(rng)
	text := fmt.Sprintf("r%d is stopped", i+1)
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.strikes(fmt.Sprintf("%s for %v", text, d))
		w.fleet[i].pausedUntil = w.now() + d
	}
}

func crashReplica(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d := rng.IntN(s.replicas), someSeconds(rng)
	text := fmt.Sprintf("r%d is killed", i+1)
	return fmt.Sprintf("%s, and starts again after %v", text, d), func(w *world) {
		w.strikes(text)
		w.fleet[i].kill()
		w.in(d, w.fleet[i].boot)
	}
}

func redisAway(rng *rand.Rand, _ *setup) (string, func(*world)) {
	d, how := someSeconds(rng), downRefusing+downtime(rng.IntN(2))
	text := "Redis is away (" + []string{"", "refusing", "silent"}[how] + ")"
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.forA(d, text, func(on bool) {
			w.down = up
			if on {
				w.down = how
				if how == downRefusing {
					w.cutAll()
				}
			}
			w.redisTrouble()
		})
	}
}

func (w *world) cutAll() {
	for _, r := range w.fleet {
		if r.alive != nil {
			r.alive.cutAll()
		}
	}
}

func (w *world) redisTrouble() {
	w.downSince = w.now()
	for _, r := range w.fleet {
		r.trouble()
	}
}

func redisEmpty(_ *rand.Rand, _ *setup) (string, func(*world)) {
	text := "Redis starts again, empty"
	return text, func(w *world) {
		w.strikes(text)
		w.loseHistory()
		w.grantLostAt = w.now()
		w.redis.restart(map[string]*entry{})
		w.cutAll()
	}
}

func redisOld(rng *rand.Rand, _ *setup) (string, func(*world)) {
	d := someSeconds(rng)
	text := fmt.Sprintf("Redis falls back to what it was %v ago", d)
	return text, func(w *world) {
		w.say("(a backup of Redis is made)")
		kept := w.redis.copyKeys()
		w.in(d, func() {
			if w.peace {
				return
			}
			w.strikes(text)
			w.loseHistory()
			w.grantLostAt = w.now()
			w.redis.restart(kept)
			w.cutAll()
		})
	}
}

// loseHistory notes that Redis forgets something.
func (w *world) loseHistory() {
	w.history++
	w.historyLostAt = w.now()
	w.redisTrouble()
}

func (w *world) lostHistorySince(t time.Duration) bool { return w.history > 0 && w.historyLostAt >= t }

func keysGone(rng *rand.Rand, s *setup) (string, func(*world)) {
	key := []string{"token", "mark", "failure", "lock"}[rng.IntN(4)]
	env := s.envs[rng.IntN(len(s.envs))]
	text := fmt.Sprintf("Redis evicts the %s of %s", key, env)
	return text, func(w *world) {
		w.strikes(text)
		if key != "token" {
			w.loseHistory()
		}
		delete(w.redis.keys, "onetoken:{"+env+"}:"+key)
	}
}

func redisClock(rng *rand.Rand, _ *setup) (string, func(*world)) {
	d := time.Duration(rng.IntN(120_000)-60_000) * time.Millisecond
	text := fmt.Sprintf("Redis's clock jumps by %v", d)
	return text, func(w *world) {
		w.strikes(text)
		w.moveClock(d)
	}
}

// moveClock moves Redis's clock. Its keys end by that.
func (w *world) moveClock(d time.Duration) {
	w.ahead += d
	w.clockMoves = append(w.clockMoves, move{w.now(), d})
}

type move struct {
	at time.Duration
	by time.Duration
}

func (w *world) clockMovedSince(t time.Duration) bool {
	return slices.ContainsFunc(w.clockMoves, func(m move) bool { return m.at >= t })
}

// clockSetBackSince is by how much Redis's clock was set back in all.
func (w *world) clockSetBackSince(t time.Duration) (back time.Duration) {
	for _, m := range w.clockMoves {
		if m.at >= t && m.by < 0 {
			back -= m.by
		}
	}
	return back
}

func wallClock(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d := rng.IntN(s.replicas), time.Duration(rng.IntN(7_200_000)-3_600_000)*time.Millisecond
	text := fmt.Sprintf("r%d's clock jumps by %v", i+1, d)
	return text, func(w *world) {
		w.strikes(text)
		w.fleet[i].jumpedAt = w.now()
		w.fleet[i].wallAhead.Add(int64(d))
	}
}

// suspended: the machines sleep, all but Redis's and the endpoint's.
func suspended(rng *rand.Rand, _ *setup) (string, func(*world)) {
	d := time.Duration(rng.IntN(600)) * time.Second
	text := fmt.Sprintf("all replicas' machines are suspended for %v", d)
	return text, func(w *world) {
		w.strikes(text)
		w.moveClock(d)
		w.site.ahead += d
		w.awakeAt = w.now() + time.Second + time.Millisecond
		w.redisTrouble()
		w.cutAll()
		for _, r := range w.fleet {
			r.jumpedAt = w.now()
			r.wallAhead.Add(int64(d))
		}
	}
}

func redisReadOnly(rng *rand.Rand, _ *setup) (string, func(*world)) {
	d, text := someSeconds(rng), "Redis is read-only"
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.forA(d, text, func(on bool) {
			w.redis.readOnly = on
			w.redisTrouble()
		})
	}
}

func deafReplica(rng *rand.Rand, s *setup) (string, func(*world)) {
	i, d := rng.IntN(s.replicas), someSeconds(rng)
	text := fmt.Sprintf("no event reaches r%d", i+1)
	return fmt.Sprintf("%s for %v", text, d), func(w *world) {
		w.forA(d, text, func(on bool) { w.fleet[i].deaf = on })
	}
}

func lockStuck(rng *rand.Rand, s *setup) (string, func(*world)) {
	env := s.envs[rng.IntN(len(s.envs))]
	foreign, text := rng.IntN(2) == 0, "somebody leaves a lock without an end on "+env
	return text, func(w *world) {
		w.strikes(text)
		w.loseHistory()
		key := "onetoken:{" + env + "}:lock"
		if foreign {
			w.redis.keys[key] = &entry{hash: map[string]string{"a": "b"}}
		} else {
			w.redis.keys[key] = &entry{text: "somebody|else"}
		}
	}
}

// planted: somebody writes nonsense to the keys.
func planted(rng *rand.Rand, s *setup) (string, func(*world)) {
	env := s.envs[rng.IntN(len(s.envs))]
	p := "onetoken:{" + env + "}:"
	type plant struct{ key, field, value string }
	all := []plant{
		{"token", "access_token", "line\nbreak"},
		{"token", "version", "9007199254740993"},
		{"token", "expires_at", "soon"},
		{"mark", "issued", "9999999999999999"},
		{"mark", "stored", "nan"},
		{"mark", "dropped", "1e300"},
		{"failure", "version", "9999999999999999"},
		{"failure", "retry_at", "2999-01-01T00:00:00.000Z"},
		{"failure", "attempt", "-1"},
	}
	x := all[rng.IntN(len(all))]
	text := fmt.Sprintf("somebody sets %s of the %s of %s to %q", x.field, x.key, env, x.value)
	return text, func(w *world) {
		e := w.redis.at(p + x.key)
		if e == nil || e.hash == nil {
			return
		}
		w.strikes(text)
		w.loseHistory()
		e.hash[x.field] = x.value
	}
}

// heal ends every fault.
func (w *world) heal() {
	w.say("☀ peace")
	w.peace = true
	w.redisTrouble() // until now
	w.weather = weather{fastest: w.weather.fastest, slowest: w.weather.slowest}
	w.site.mood = w.setup.mood
	w.site.mood.lost, w.site.mood.slowest = 0, min(w.site.mood.slowest, time.Second)
	w.down, w.redis.readOnly = up, false
	w.site.traps = nil
	for _, r := range w.fleet {
		r.toRedis, r.toSite, r.deaf = link{}, link{}, false
		r.pausedUntil = min(r.pausedUntil, w.now())
		if r.config == "other" || r.removed {
			r.set(settings{config: "new", secret: r.secret, refreshAt: r.refreshAt})
		}
		r.boot()
	}
}
