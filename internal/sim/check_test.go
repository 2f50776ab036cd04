package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A checker holds every step against the rules.
type checker struct {
	w     *world
	first *violation
	stats stats

	envs  map[string]*truth
	under []*asked // calls of the endpoint under way
	rate  map[string]*rate
}

// stats are what a run consisted of.
type stats struct{ calls, asks, commands, stored, failures, served, rotations, reuses, logins, logouts int }

// truth is what is known of an environment.
type truth struct {
	issuedBy map[store.Version]*issue // versions, since Redis last lost its history
	texts    map[store.Version]string // of what each version is
	doubles  map[store.Version]bool   // given to two tokens: see mayRepeat
	stored   map[store.Version]bool   // whether it ever stood in Redis
	failures map[store.Version]time.Duration
	dropped  store.Version // the highest invalidation there ever was

	uses     map[store.Version]*use // of refresh tokens
	byToken  map[string][]*use
	personAt time.Duration // when somebody last logged in or out; 0: never
}

// An issue is a version with its attempt.
type issue struct {
	at    time.Duration
	lease string
	r     *replica
	with  settings // that the replica had
}

// An asked is a call of the endpoint.
type asked struct {
	o     *op
	alone bool // without Redis
}

// What a replica has shown to know of an environment.
type known struct {
	dropped    store.Version // it was told that versions up to here are invalid
	droppedAt  time.Duration
	token      *manager.Token // it handed out last
	tokenAt    time.Duration
	explicit   int           // calls of Refresh under way
	explicitAt time.Duration // when the last one began
	request    int
	longer     int           // calls of TokenFor under way
	left       time.Duration // the most that one of them has asked for
	begun      bool          // a version was issued to it, and not used yet
	lease      string        // with which
	aloneAt    time.Duration
	lastError  string
	needless   string        // why its attempt shouldn't have been made
	tooEarly   string        // or not now
	login      string        // or only a person may bring a refresh token
	loginDueAt time.Duration // when it last read that
	version    store.Version // that was issued to it last
	issuedAt   time.Duration
	renewedAt  time.Duration
	inPeace    bool // it got a token after the last fault
}

func newChecker(w *world) *checker {
	c := &checker{w: w, envs: map[string]*truth{}, rate: map[string]*rate{}}
	for _, env := range w.setup.envs {
		c.envs[env] = &truth{
			issuedBy: map[store.Version]*issue{}, texts: map[store.Version]string{}, doubles: map[store.Version]bool{},
			stored: map[store.Version]bool{}, failures: map[store.Version]time.Duration{}, uses: map[store.Version]*use{}, byToken: map[string][]*use{},
		}
	}
	return c
}

// booted forgets what the replica knew: it is a new process.
func (c *checker) booted(r *replica) {
	r.known = map[string]*known{}
	for _, env := range c.w.setup.envs {
		r.known[env] = &known{aloneAt: -time.Hour, loginDueAt: -time.Hour}
	}
}

// A state is what stands in Redis of an environment.
type state struct {
	token struct {
		version, text, config string
		number                store.Version
		ttl                   time.Duration
		life                  time.Duration
	}
	issued, stored, dropped store.Version
	failure                 struct {
		version, code, config, credential, reporters string
		number                                       store.Version
		retryAt                                      time.Time
		ttl                                          time.Duration
	}
	lock    string
	lockTTL time.Duration
	grant   grantState
}

// look reads Redis from behind.
func (w *world) look(env string) state {
	var s state
	p := "onetoken:{" + env + "}:"
	latest := store.Version(w.redisTime().Add(24 * time.Hour).UnixMicro())
	plausible := func(digits string) store.Version {
		if v := number(digits); v <= latest {
			return v
		}
		return 0
	}
	ttl := func(key string) time.Duration {
		ms, _ := w.redis.do("pttl", p+key).(int64)
		return time.Duration(ms) * time.Millisecond
	}
	field := func(key, name string) string {
		v, _ := w.redis.at(p + key).field(name).(string)
		return v
	}
	if e := w.redis.at(p + "token"); e != nil && e.hash != nil {
		s.token.version, s.token.text, s.token.config = field("token", "version"), field("token", "access_token"), field("token", "config")
		s.token.number, s.token.ttl = plausible(s.token.version), ttl("token")
		from, err1 := time.Parse(time.RFC3339, field("token", "issued_at"))
		to, err2 := time.Parse(time.RFC3339, field("token", "expires_at"))
		if errors.Join(err1, err2) == nil {
			s.token.life = to.Sub(from)
		}
	}
	s.issued, s.stored, s.dropped = plausible(field("mark", "issued")), plausible(field("mark", "stored")), plausible(field("mark", "dropped"))
	if e := w.redis.at(p + "failure"); e != nil && e.hash != nil {
		f := &s.failure
		f.version, f.code, f.ttl = field("failure", "version"), field("failure", "code"), ttl("failure")
		f.config, f.credential, f.reporters = field("failure", "config"), field("failure", "credential"), field("failure", "reported_by")
		f.number = plausible(f.version)
		f.retryAt, _ = time.Parse(time.RFC3339, field("failure", "retry_at"))
	}
	if e := w.redis.at(p + "lock"); e != nil && e.hash == nil {
		s.lock, s.lockTTL = e.text, ttl("lock")
	}
	if w.setup.rotating.uses(env) {
		s.grant = w.lookAtGrant(env, plausible)
	}
	return s
}

func number(digits string) store.Version {
	n, _ := strconv.ParseInt(digits, 10, 64)
	return store.Version(n)
}

// executed checks what a replica's command has done to Redis.
func (c *checker) executed(o *op, reply any, before, after state) {
	c.stats.commands++
	t := c.envs[o.about]
	if t == nil {
		return
	}
	c.notTooMany(o)
	c.marksGrow(o, before, after)
	c.ownLock(o, before, after)
	if after.token.version != before.token.version && after.token.version != "" {
		t.stored[after.token.number] = true
		c.stats.stored++
		if after.token.number <= before.token.number || after.token.number < before.stored {
			c.w.violated("a late writer never overwrites a newer token", "%s's %s replaced %s (stored: %s) by %s", o.r.name, o,
				c.w.number(before.token.number), c.w.number(before.stored), c.w.number(after.token.number))
		}
		c.notLongerThanItsLife(o, after)
	}
	if after.token.version != "" && after.token.number <= after.dropped && before.token.version != after.token.version {
		c.w.violated("nothing invalidated is stored", "%s's %s left %s though all up to %s is dropped", o.r.name, o,
			c.w.number(after.token.number), c.w.number(after.dropped))
	}
	kind := kindOf(reply)
	if c.w.setup.rotating.uses(o.about) {
		c.granted(o, kind, before.grant, after.grant)
	}
	switch o.what {
	case "issue":
		if kind == "issued" {
			c.issued(o, number(reply.([]any)[1].(string)), before) //nolint:forcetypeassert // the script's
		}
	case "claim":
		if v := claimed(reply); v != 0 {
			if before.lock == "" {
				before.lock = after.lock // it was taken in the same step
			}
			c.issued(o, v, before)
		}
	case "put":
		c.put(o, kind, before, after)
	case "fail":
		c.failed(o, kind, before, after)
	case "invalidate", "adopt", "forget":
		if kind == "dropped" || kind == "done" {
			t.dropped = max(t.dropped, after.dropped)
			if after.token.version != "" && after.token.number <= after.dropped {
				c.w.violated("an invalidated token is deleted", "%s is still there", c.w.number(after.token.number))
			}
		}
	}
}

// claimed is the version that a read has brought, 0 where it has brought none.
func claimed(reply any) store.Version {
	if l, ok := reply.([]any); ok && len(l) > 11 {
		s, _ := l[11].(string)
		return number(s)
	}
	return 0
}

func kindOf(reply any) string {
	if l, ok := reply.([]any); ok && len(l) > 0 {
		s, _ := l[0].(string)
		return s
	}
	return ""
}

func (c *checker) marksGrow(o *op, before, after state) {
	if after.issued < before.issued || after.stored < before.stored || after.dropped < before.dropped {
		c.w.violated("marks only grow", "%s's %s: issued %s → %s, stored %s → %s, dropped %s → %s", o.r.name, o,
			c.w.number(before.issued), c.w.number(after.issued), c.w.number(before.stored), c.w.number(after.stored),
			c.w.number(before.dropped), c.w.number(after.dropped))
	}
}

// ownLock: nobody takes a lock away from its holder, nor some of its time: not even a copy of the command that took it.
func (c *checker) ownLock(o *op, before, after state) {
	takes := o.what == "acquire" || o.what == "claim"
	if takes && after.lock == before.lock && after.lockTTL < before.lockTTL && before.lockTTL <= c.w.setup.lease(o.about) {
		c.w.violated("a lock is its holder's", "%s's %s left %v of the %v of %s", o.r.name, o, after.lockTTL, before.lockTTL, before.lock)
	}
	if before.lock == "" || after.lock == before.lock && (after.lockTTL <= before.lockTTL || before.lockTTL < 0) {
		return
	}
	if slices.Contains(o.args, before.lock) || o.what == "del" && strings.HasPrefix(before.lock, o.r.name+"|") {
		return
	}
	c.w.violated("a lock is its holder's", "%s's %s changed the lock of %s", o.r.name, o, before.lock)
}

// notLongerThanItsLife: a key doesn't outlive the token, by Redis's clock.
func (c *checker) notLongerThanItsLife(o *op, after state) {
	truth := c.w.site.token(after.token.text)
	if truth == nil || c.w.clockMovedSince(truth.at-c.w.site.ahead-c.w.setup.policy.EndpointTimeout) {
		return
	}
	left := truth.end - c.w.site.now()
	if after.token.ttl > left+time.Millisecond {
		c.w.violated("a key ends with its token", "%s stored %s for %v, but it lives for %v", o.r.name, after.token.text, after.token.ttl, left)
	}
}

// issued checks that the attempt which begins here has a reason.
func (c *checker) issued(o *op, v store.Version, before state) {
	t, w, r := c.envs[o.about], c.w, o.r
	lease := o.argv()[0]
	if before.lock != lease {
		w.violated("a version needs the lease", "%s got %s with %s, but the lock is %q", r.name, w.number(v), lease, before.lock)
	}
	if old := t.issuedBy[v]; old != nil && old.lease != lease && (!w.lostHistorySince(old.at) || len(w.clockMoves) == 0) {
		w.violated("a version is issued once", "%s was given to %s and %s", w.number(v), old.r.name, r.name)
	}
	if v <= before.issued || v <= before.stored || v <= before.dropped || v <= before.token.number {
		w.violated("versions grow", "%s after %s", w.number(v), w.number(max(before.issued, before.stored, before.dropped, before.token.number)))
	}
	t.issuedBy[v] = &issue{w.now(), lease, r, r.settings}
	k := r.known[o.about]
	// To be held against it if it asks: whoever wanted the attempt may go before it does.
	k.needless, k.tooEarly = c.needless(r, o.about, before), c.inBackoff(r, o.about, before)
	if r.changedSince(o.born - time.Second) { // it may have been decided with other settings: those must not ask
		k.needless, k.tooEarly = "", ""
	}
	if w.setup.rotating.uses(o.about) {
		if k.login = c.needsLogin(r, before.grant); k.explicit > 0 && before.grant.reason != "logout" && before.grant.number != 0 {
			k.login = ""
		}
	}
}

// sooner is how much a reader's end of a token may be before the key's: a read's way, up to a second.
const sooner = 1100 * time.Millisecond

// needless says why an attempt that begins now has no reason, "" where it has one.
func (c *checker) needless(r *replica, env string, s state) string {
	k, w := r.known[env], c.w
	truth := w.site.token(s.token.text)
	switch {
	case s.token.version == "", truth == nil, s.token.life <= 0, s.token.number <= k.dropped, truth.config != r.config, s.token.number <= s.dropped:
		return ""
	case k.explicit > 0, k.request > 0:
		return ""
	case k.longer > 0 && s.token.ttl <= k.left+sooner && s.token.life-s.token.ttl+sooner >= min(30*time.Second, s.token.life/10):
		return ""
	case s.token.ttl <= s.token.life/2+time.Second:
		return ""
	case c.envs[env].doubles[s.token.number]:
		return "" // who knows the other one by that version keeps it, and has an end for it
	case w.clockMovedSince(truth.at - w.site.ahead - w.setup.policy.EndpointTimeout), r.jumpedAt > 0 && w.now()-r.jumpedAt < s.token.life:
		return "" // by the clock that says less it may have ended
	}
	return fmt.Sprintf("%s, its own, has %v of %v left", w.number(s.token.number), s.token.ttl, s.token.life)
}

// inBackoff says which failure forbids an attempt that begins now.
func (c *checker) inBackoff(r *replica, env string, s state) string {
	f, k, w := s.failure, r.known[env], c.w
	rest := f.retryAt.Sub(w.redisTime())
	if f.version == "" || f.ttl <= 0 || rest <= 0 || f.number == 0 {
		return ""
	}
	switch {
	case f.code == "unreachable" && len(strings.Split(f.reporters, ",")) < 3:
		return ""
	case (f.code == "invalid_client" || f.code == "invalid_grant") && w.secretOf(f.number, env) != r.secret+r.config:
		return ""
	case rest > w.setup.longestBackoff(), w.clockMovedSince(w.now() - 5*time.Second): // it was over when it was read
		return ""
	}
	at, ours := c.envs[env].failures[f.number]
	// A replica knows how old a failure is to a read's way only, and takes it for older where that leaves it open.
	way := 2 * w.setup.weather.slowest
	if r.troubled(w.now() - 10*time.Second) {
		way += 4 * time.Second
	}
	if k.explicit > 0 && (!ours || k.explicitAt >= at-way) {
		return ""
	}
	return fmt.Sprintf("failure %s, %s, forbids it for another %v", w.number(f.number), f.code, rest)
}

// secretOf is the secret, and the configuration, of the attempt that failed.
func (w *world) secretOf(v store.Version, env string) string {
	if i := w.check.envs[env].issuedBy[v]; i != nil {
		return i.with.secret + i.with.config
	}
	return ""
}

func (c *checker) put(o *op, kind string, before, after state) {
	t := c.envs[o.about]
	v := o.version()
	if kind == "older" && v >= before.stored && v >= before.token.number {
		c.w.violated("only a newer token keeps one out", "%s's %s was refused, though %s is the last stored", o.r.name,
			c.w.number(v), c.w.number(before.stored))
	}
	if kind != "stored" {
		return
	}
	text := ""
	for i, a := range o.args {
		if a == "access_token" {
			text = o.args[i+1]
		}
	}
	if old, ok := t.texts[v]; ok && old != text {
		if !c.w.mayRepeat() {
			c.w.violated("a version is one token", "%s is %s and %s", c.w.number(v), old, text)
		}
		t.doubles[v] = true
	}
	t.texts[v] = text
	if after.failure.version != "" && after.token.version != before.token.version {
		c.w.violated("a token clears the failure", "%s is stored, and failure %s is there", c.w.number(v), c.w.number(after.failure.number))
	}
	if after.token.number != v {
		c.w.violated("stored is stored", "%s's put of %s was a success, but %s is there", o.r.name, c.w.number(v), c.w.number(after.token.number))
	}
}

func (c *checker) failed(o *op, kind string, before, after state) {
	v := o.version()
	if kind != "failed" || after.failure.number != v || before.failure.number == v {
		return
	}
	c.stats.failures++
	c.envs[o.about].failures[v] = c.w.now()
	if v < before.stored || v <= before.failure.number && before.failure.number <= before.issued {
		c.w.violated("a late failure never counts", "%s recorded %s after token %s, failure %s", o.r.name, c.w.number(v),
			c.w.number(before.stored), c.w.number(before.failure.number))
	}
	running := before.failure.version != "" && before.failure.retryAt.After(c.w.redisTime())
	if after.failure.code == "unreachable" && running && before.failure.code != "unreachable" {
		c.w.violated("who can't reach the endpoint takes no backoff away", "%s replaced %s", o.r.name, before.failure.code)
	}
}

// notTooMany: a replica doesn't turn in a circle.
type rate struct {
	since time.Duration
	n     int
}

const mostCommands = 60 // of a replica for one environment in a second

func (c *checker) notTooMany(o *op) {
	key := o.r.name + o.about
	x := c.rate[key]
	if x == nil || c.w.now()-x.since >= time.Second {
		x = &rate{since: c.w.now()}
		c.rate[key] = x
	}
	if x.n++; x.n > mostCommands {
		c.w.violated("no busy loop", "%s sent %d commands within %v", o.r.name, x.n, c.w.now()-x.since)
	}
}

// asks checks a call of the endpoint that begins now.
func (c *checker) asks(o *op) {
	c.stats.asks++
	c.asksWith(o)
	w := c.w
	k := o.r.known[o.about]
	alone := !k.begun
	k.begun = false
	if alone {
		c.asksAlone(o, k)
	} else if k.needless != "" {
		w.violated("nobody asks for what is there", "%s asks the endpoint, but when it began %s", o.r.name, k.needless)
	} else if k.tooEarly != "" {
		w.violated("nobody asks within a backoff", "%s asks the endpoint, but when it began %s", o.r.name, k.tooEarly)
	}
	if o.token != "" {
		c.presents(o, k)
	}
	under := c.under[:0]
	for _, a := range c.under {
		if !a.o.over.Load() {
			under = append(under, a)
		}
	}
	c.under = under
	for _, a := range c.under {
		if a.o.about != o.about || a.alone || alone || c.excused(a) || c.excused(&asked{o: o}) {
			continue
		}
		w.violated("one call of the endpoint at a time", "%s asks for %s while %s does, since %v, though nothing took its lease away",
			o.r.name, o.about, a.o.r.name, a.o.begun)
	}
	c.under = append(c.under, &asked{o: o, alone: alone})
}

// asksAlone checks a call that is made without Redis.
func (c *checker) asksAlone(o *op, k *known) {
	w := c.w
	switch {
	case w.setup.policy.Outage != manager.OutageRefreshAlone:
		w.violated("nobody asks without the lease", "%s asks the endpoint, and has no version", o.r.name)
	case !o.r.troubled(w.now()-10*time.Second) && w.downSince < w.now()-10*time.Second && !w.redis.readOnly && w.down == up:
		w.violated("nobody goes alone while Redis answers", "%s asks the endpoint by itself", o.r.name)
	case o.born-k.aloneAt < 10*time.Second:
		w.violated("who goes alone goes slowly", "%s asks the endpoint again after %v", o.r.name, o.born-k.aloneAt)
	}
	k.aloneAt = o.born
}

// excused reports whether something took the lease of a call away, or its replica may do without.
func (c *checker) excused(a *asked) bool {
	w, since := c.w, a.o.begun-c.w.setup.lease(a.o.about)-time.Second
	return isClosed(a.o.p.died) || a.o.r.troubled(since) || w.lostHistorySince(since) || w.clockMovedSince(since)
}

// delivered notes what a replica knows from a reply on.
func (c *checker) delivered(o *op, reply any) {
	k := o.r.known[o.about]
	if n, _ := reply.(int64); o.what == "renew" && n == 1 && k != nil {
		k.renewedAt = o.executed
	}
	l, ok := reply.([]any)
	if k == nil || !ok {
		return
	}
	switch {
	case (o.what == "read" || o.what == "claim") && len(l) >= 8:
		mark := func(i int) store.Version { s, _ := l[i].(string); return number(s) }
		if mark(2) < k.dropped {
			k.dropped = 0 // Redis lost its history
		}
		k.learnDropped(mark(4), o.executed)
		if v := claimed(reply); v != 0 {
			k.begun, k.lease, k.version, k.issuedAt = true, o.argv()[0], v, o.executed
		}
	case o.what == "issue" && kindOf(reply) == "issued":
		s, _ := l[1].(string)
		k.begun, k.lease, k.version, k.issuedAt = true, o.argv()[0], number(s), o.executed
	case o.what == "invalidate" && kindOf(reply) == "dropped", (o.what == "adopt" || o.what == "forget") && kindOf(reply) == "done":
		v, _ := l[1].(string)
		k.learnDropped(number(v), o.executed)
	}
}

func (k *known) learnDropped(v store.Version, at time.Duration) {
	if v > k.dropped {
		k.dropped, k.droppedAt = v, at
	}
}

// arrived notes what a replica is about to do: a version whose lease it gives back isn't used any more.
func (c *checker) arrived(o *op) {
	if k := o.r.known[o.about]; o.what == "release" && k != nil && slices.Contains(o.args, k.lease) {
		k.begun = false
	}
}

// An expectation is that a call is served at once, from what the replica has.
type expectation struct {
	version store.Version
	left    time.Duration
}

// begins notes a call that is about to be made.
func (c *checker) begins(call *call) {
	c.stats.calls++
	r := call.p.r
	k := r.known[call.env]
	call.dropped, call.droppedAt = k.dropped, k.droppedAt
	call.after = k.token
	switch call.kind {
	case "refresh":
		k.explicit++
		k.explicitAt = c.w.now()
	case "request":
		k.request++
	case "longer":
		call.left = time.Duration(r.rng.Int64N(int64(c.w.setup.mood.life)))
		k.longer, k.left = k.longer+1, max(k.left, call.left)
	case "invalidate":
		if r.rng.IntN(2) == 0 && k.token != nil {
			call.version = k.token.Version
		}
		c.w.say("%s: invalidate %s %s", r.name, call.env, c.w.number(call.version))
	case "login":
		call.refreshToken = c.w.site.loginAgain()
	case "token":
		call.expect = c.expects(r, call.env, k)
	}
	if call.kind != "token" && call.kind != "invalidate" {
		c.w.say("%s: %s %s", r.name, call.kind, call.env)
	}
}

// expects says what a replica must have to hand out, nil where that isn't sure.
func (c *checker) expects(r *replica, env string, k *known) *expectation {
	w, t := c.w, k.token
	if t == nil || t.Version == 0 || c.forgotten(env, t.Version) || w.setup.mood.same {
		return nil // a token that is given once more may have a shorter life then, and a newer version
	}
	truth := w.site.token(t.AccessToken.Reveal())
	since := truth.at - w.site.ahead - w.setup.policy.EndpointTimeout
	if w.clockMovedSince(since) || r.jumpedAt > 0 && r.jumpedAt >= since || c.envs[env].dropped >= t.Version {
		return nil
	}
	margin := min(10*time.Second, max(t.Life()/10, time.Second), t.Life()/8)
	left := t.ExpiresAt.Sub(w.redisTime()) - margin - sooner
	if left <= 0 {
		return nil
	}
	if r.removed {
		return nil
	}
	return &expectation{t.Version, left}
}

// mayRepeat reports whether versions may have been given once more: Redis forgot them, and its clock was set back.
func (w *world) mayRepeat() bool { return w.history > 0 && len(w.clockMoves) > 0 }

// forgotten reports whether Redis lost some of its history since the version was issued.
func (c *checker) forgotten(env string, v store.Version) bool {
	i := c.envs[env].issuedBy[v]
	return i == nil || c.w.lostHistorySince(i.at)
}

// answered checks what a caller got.
func (c *checker) answered(call *call) {
	w, r := c.w, call.p.r
	k := r.known[call.env]
	call.settled = true
	if isClosed(call.p.died) || w.stop {
		return
	}
	switch call.kind {
	case "refresh":
		k.explicit--
	case "request":
		k.request--
	case "longer":
		if k.longer--; k.longer == 0 {
			k.left = 0
		}
	}
	if call.ended > call.deadline+call.grace() {
		w.violated("a call ends with its ctx", "%s's %s ended %v after its deadline", r.name, call.kind, call.ended-call.deadline)
	}
	if call.err != nil {
		c.answeredWithError(call)
		return
	}
	if call.token != nil {
		c.answeredWithToken(call, k)
	}
}

// mustHaveEnded checks a call whose deadline has passed.
func (c *checker) mustHaveEnded(call *call) {
	if !call.settled && !isClosed(call.p.died) {
		c.w.violated("a call ends with its ctx", "%s's %s for %s still waits after its deadline", call.p.r.name, call.kind, call.env)
	}
}

func (c *checker) answeredWithToken(call *call, k *known) {
	w, r, t := c.w, call.p.r, call.token
	c.stats.served++
	truth := w.site.token(t.AccessToken.Reveal())
	if truth == nil || truth.env != call.env {
		w.violated("only tokens of the endpoint", "%s got %q", r.name, t.AccessToken.Reveal())
		return
	}
	if call.kind == "refresh" || k.token == nil || k.token.Version != t.Version {
		w.say("%s: %s %s brings %s %s", r.name, call.kind, call.env, w.number(t.Version), truth.text)
	}
	if !r.had(call, func(config string) bool { return config == truth.config }) {
		w.violated("no token of another configuration", "%s, which is %s, got %s", r.name, r.config, truth.text)
	}
	if left := truth.end - w.site.now() + w.clockSetBackSince(truth.at-w.site.ahead-w.setup.policy.EndpointTimeout); left <= 0 && w.now() > w.awakeAt {
		w.violated("no token past its life", "%s got %s, which ended %v ago", r.name, truth.text, -left)
	}
	if left := truth.end - w.site.now() + w.clockSetBackSince(truth.at-w.site.ahead-w.setup.policy.EndpointTimeout) + w.now() - call.ended; left < call.left && w.now() > w.awakeAt {
		w.violated("who needs a token for longer gets one", "%s got %s, which has %v left, for %v", r.name, truth.text, left, call.left)
	}
	if t.Version != 0 && t.Version <= call.dropped && !w.lostHistorySince(call.droppedAt) {
		w.violated("no token after its invalidation is known", "%s got %s, and knew before that all up to %s is dropped", r.name,
			w.number(t.Version), w.number(call.dropped))
	}
	if old := call.after; old != nil && t.Version != 0 && t.Version < old.Version && !c.forgotten(call.env, old.Version) && c.envs[call.env].stored[old.Version] &&
		!w.mayRepeat() {
		w.violated("versions don't go back", "%s got %s after %s", r.name, w.number(t.Version), w.number(old.Version))
	}
	if call.kind == "refresh" && call.after != nil && t.Version != 0 && t.Version <= call.after.Version && !c.forgotten(call.env, call.after.Version) &&
		!w.clockMovedSince(0) {
		w.violated("a refresh brings a newer token", "%s got %s, and had %s", r.name, w.number(t.Version), w.number(call.after.Version))
	}
	if r.changedSince(call.begun) {
		call.expect = nil
	}
	if e := call.expect; e != nil && (call.ended > call.begun || t.Version < e.version && c.envs[call.env].stored[e.version]) && !c.forgotten(call.env, e.version) {
		w.violated("nobody waits when a valid token exists", "%s waited %v and got %s, though %s was usable for another %v", r.name,
			call.ended-call.begun, w.number(t.Version), w.number(e.version), e.left)
	}
	k.inPeace = k.inPeace || w.peace
	if truth.config == r.config && !r.removed && !r.changedSince(call.begun) && (k.token == nil || k.token.Version <= t.Version || call.begun >= k.tokenAt) {
		k.token, k.tokenAt = t, w.now()
	}
}

func (c *checker) answeredWithError(call *call) {
	w, r := c.w, call.p.r
	if k := r.known[call.env]; k.lastError != call.err.Error() {
		k.lastError = call.err.Error()
		w.say("%s: %s %s brings an error: %v", r.name, call.kind, call.env, call.err)
	}
	if e := call.expect; e != nil && !r.changedSince(call.begun) {
		w.violated("nobody waits when a valid token exists", "%s got an error, though %s was usable for another %v: %v", r.name,
			w.number(e.version), e.left, call.err)
	}
	var failed *manager.EndpointError
	var redisAway *manager.RedisError
	var waited *manager.WaitError
	var short *manager.LifeError
	var conflict *manager.ConflictError
	var login *manager.LoginError
	var revocation *revokeError
	var unknown *manager.UnknownEnvironmentError
	switch {
	case errors.As(call.err, &unknown):
		if !r.lacked(call) {
			w.violated("only a removed environment is unknown", "%s got %v", r.name, call.err)
		}
	case errors.As(call.err, &login):
		if k := r.known[call.env]; k.loginDueAt < call.begun-10*time.Second && !r.troubled(call.begun-10*time.Second) {
			w.violated("nobody must log in while a refresh token is good", "%s got %v", r.name, call.err)
		}
		w.readLoginError(r)
	case call.kind == "revoke" && errors.As(call.err, &revocation):
	case call.byPerson() && errors.Is(call.err, store.ErrOlder):
	case errors.As(call.err, &failed):
		if failed.Code == "unreachable" && failed.ReportedBy != r.name && len(strings.Split(failed.ReportedBy, ",")) < 3 {
			w.violated("one replica's broken way binds nobody else", "%s got %v", r.name, call.err)
		}
		if failed.RetryAfter > w.setup.longestBackoff() {
			w.violated("a backoff is bounded", "%s got %v", r.name, call.err)
		}
	case errors.As(call.err, &redisAway):
		if !r.troubled(call.begun-10*time.Second) && w.downSince < call.begun-10*time.Second && !w.redis.readOnly {
			w.violated("Redis isn't away while it answers", "%s got %v", r.name, call.err)
		}
	case errors.As(call.err, &waited), errors.Is(call.err, context.DeadlineExceeded):
		if call.ended < call.deadline {
			w.violated("a wait ends with its ctx", "%s's wait ended %v before: %v", r.name, call.deadline-call.ended, call.err)
		}
	case errors.Is(call.err, manager.ErrClosed):
		if !r.silent {
			w.violated("only Close closes", "%s got %v", r.name, call.err)
		}
	case errors.Is(call.err, store.ErrImplausible):
	case errors.As(call.err, &short):
		if call.kind != "longer" || short.Asked != call.left || short.Most >= short.Asked {
			w.violated("only what no token has is refused", "%s's %s for %v got %v", r.name, call.kind, call.left, call.err)
		}
	case errors.As(call.err, &conflict) && call.kind == "longer" && (w.setup.oldConfigs > 0 || w.setup.changes):
	default:
		w.violated("errors are known ones", "%s got %T: %v", r.name, call.err, call.err)
	}
}

// converged checks what a replica gets long after the last fault, when a token that all must know stood in Redis.
func (c *checker) converged(call *call, stored state) {
	w, r := c.w, call.p.r
	var login *manager.LoginError
	switch {
	case w.setup.rotating.uses(call.env) && errors.As(call.err, &login):
		if !c.loginDue(r) {
			w.violated("all converge", "%s gets no token for %s after %v of peace: %v", r.name, call.env, w.setup.convergence(), call.err)
		}
	case w.setup.oldConfigs > 0, w.setup.changes:
		// Two configurations replace each other's tokens, more and more rarely.
		if !r.known[call.env].inPeace {
			w.violated("all converge", "%s got no token for %s in %v of peace", r.name, call.env, w.setup.convergence())
		}
	case !call.settled:
		w.violated("all converge", "%s waits for %s", r.name, call.env)
	case call.err != nil && w.setup.oldRefused && r.secret == "old":
	case call.err != nil && w.setup.mood.same && w.setup.mood.life <= 12*time.Second:
		// What is given once more has so little life left that it may be over on arrival.
	case call.err != nil:
		w.violated("all converge", "%s gets no token for %s after %v of peace: %v", r.name, call.env, w.setup.convergence(), call.err)
	case call.token.Version < stored.token.number:
		w.violated("all converge", "%s has %s, though %s stood in Redis %v before", r.name, w.number(call.token.Version),
			w.number(stored.token.number), w.now()-call.begun+5*time.Second)
	default:
		// Where nothing is stored, what a replica has is as good as before; better than what is, where Redis has forgotten an
		// invalidation of that, and the replica hasn't.
		s := w.look(call.env)
		if s.token.number > c.envs[call.env].dropped && call.token.Version > max(s.stored, s.token.number) && !w.clockMovedSince(0) {
			w.violated("all converge", "%s has %s, though %s is the last that Redis knows of", r.name, w.number(call.token.Version),
				w.number(max(s.stored, s.token.number)))
		}
	}
}

// ended checks that nothing is left open.
func (c *checker) ended() {
	for _, r := range c.w.fleet {
		for env, k := range r.known {
			if k.explicit > 0 || k.request > 0 || k.longer > 0 {
				c.w.violated("every call ends", "%s still waits for %s", r.name, env)
			}
		}
	}
}

func (s *stats) add(o stats) {
	s.calls += o.calls
	s.asks += o.asks
	s.commands += o.commands
	s.stored += o.stored
	s.failures += o.failures
	s.served += o.served
	s.rotations += o.rotations
	s.reuses += o.reuses
	s.logins += o.logins
	s.logouts += o.logouts
}
