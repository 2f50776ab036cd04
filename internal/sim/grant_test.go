package sim

import (
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/digest"
	"github.com/onetoken/onetoken/store"
)

// A use is one request with a refresh token.
type use struct {
	o       *op
	version store.Version // of its attempt
	issued  time.Duration // when that was
	until   time.Duration // others leave the refresh token alone while there is no outcome

	accepted   time.Duration // when the endpoint took it; 0: it didn't
	next       string        // which one is good after it, "" where that is the same
	unanswered bool          // the answer gets lost
	then       func()        // strikes when the answer has arrived
	lost       bool          // the answer didn't arrive in time
	delivered  time.Duration // it did; 0: not yet
	settled    time.Duration // when its outcome was written; 0: not yet
}

// A grantState is what stands in Redis of a refresh token.
type grantState struct {
	kind           string // "", "hash", or that which isn't ours
	version, text  string
	number         store.Version
	taken, refused store.Version
	takenBy        string
	reason         string
	labels         string
	takenUntil     time.Time
	implausible    bool // its version is
	refusedBy      string
}

// lookAtGrant reads the grant from behind.
func (w *world) lookAtGrant(env string, plausible func(string) store.Version) grantState {
	e := w.redis.at("onetoken:{" + env + "}:grant")
	switch {
	case e == nil:
		return grantState{}
	case e.hash == nil:
		return grantState{kind: "string"}
	}
	g := grantState{
		kind: "hash", version: e.hash["version"], text: e.hash["refresh_token"], number: plausible(e.hash["version"]),
		taken: plausible(e.hash["taken"]), refused: plausible(e.hash["refused"]), refusedBy: e.hash["refused"],
		takenBy: e.hash["taken_by"], reason: e.hash["reason"], labels: e.hash["seed"],
	}
	g.implausible = g.version != "" && g.number == 0
	g.takenUntil, _ = time.Parse(time.RFC3339, e.hash["taken_until"])
	return g
}

func (g grantState) has(label string) bool { return label != "" && strings.Contains(g.labels, label) }

// needsLogin says why a replica can't use a refresh token, "" where it can.
func (c *checker) needsLogin(r *replica, g grantState) string {
	label := ""
	if seed := r.seed(); seed != "" {
		label = digest.Of([]string{"seed", seed})[:16]
	}
	switch {
	case g.kind == "string", g.implausible:
		return "something else stands there"
	case label != "" && !g.has(label):
		return ""
	case g.number == 0 && g.refused == 0:
		if label != "" {
			return ""
		}
		return "there is none"
	case g.refused != 0:
		return "it was refused: " + g.reason
	case g.text == "":
		return "nothing is left of it"
	}
	return ""
}

// loginDue reports whether a person must log in, as a replica has it.
func (c *checker) loginDue(r *replica) bool {
	return c.needsLogin(r, c.w.look(c.w.setup.rotating.env).grant) != ""
}

// settled notes that the outcome of attempt v is in Redis, and so is that of those which its replica had given up before it.
func (c *checker) settled(o *op, v store.Version) {
	t := c.envs[o.about]
	for _, x := range t.uses {
		gaveUp := x.o.p == o.p && x.version < v && x.o.over.Load() && (x.delivered == 0 || x.next == "")
		if x.settled == 0 && (x.version == v || gaveUp) {
			x.settled = c.w.now()
		}
	}
}

// presents checks a use of a refresh token that begins now.
func (c *checker) presents(o *op, k *known) {
	w, t := c.w, c.envs[o.about]
	u := &use{o: o, version: k.version, issued: k.issuedAt, until: k.issuedAt + w.setup.takenFor()}
	o.use = u
	t.uses[u.version] = u
	for _, first := range t.byToken[o.token] {
		switch {
		// Its own may be the earlier one, held up since: that, too, was for a time by clocks that have moved.
		case first.settled != 0, w.grantLostSince(first.issued), w.clockMovedSince(min(first.issued, u.issued)), c.seedOvertaken(o.token, o.about, first.issued):
		case first.o.p == o.p && first.next != "" && first.delivered != 0:
			w.violated("who holds a newer refresh token doesn't use the old one", "%s presents %s again, and has %s", o.r.name, o.token, first.next)
		case first.o.p != o.p && u.issued < first.until:
			w.violated("a refresh token is used by one alone", "%s presents %s, which %s does since %v: others leave it alone until %v",
				o.r.name, o.token, first.o.r.name, first.o.begun, first.until)
		}
	}
	t.byToken[o.token] = append(t.byToken[o.token], u)
	if k.renewedAt < k.issuedAt {
		w.violated("a refresh token is sent under a lease that was just renewed", "%s presents %s", o.r.name, o.token)
	}
	if k.login != "" {
		w.violated("nobody asks where a person must log in", "%s presents %s, but when it began %s", o.r.name, o.token, k.login)
	}
}

// seedOvertaken reports whether somebody has logged in while a configured refresh token was in use: the login's is free, and
// with it, in a rolling deploy, one that is configured elsewhere.
func (c *checker) seedOvertaken(token, env string, since time.Duration) bool {
	return strings.HasPrefix(token, "seed-") && !strings.Contains(token[5:], "-") && c.envs[env].personAt >= since
}

// reused checks whether there is an excuse for the second use of a refresh token, which ends its family.
func (c *checker) reused(t *refreshToken, second *use) {
	w, first := c.w, t.spent
	c.stats.reuses++
	since := min(first.issued, second.issued)
	switch {
	case first.lost, first.unanswered, first.delivered == 0 && first.o.over.Load(): // the answer was, or it came too late
	case second.o.over.Load(): // it got to the endpoint when it had been given up, and may be after another
	case isClosed(first.o.p.died):
	case w.grantLostSince(since), w.clockMovedSince(since), c.seedOvertaken(t.text, second.o.about, since):
	case second.issued < first.issued && first.issued >= second.until: // its sender was stopped for so long
	case (first.settled == 0 || first.settled > second.issued) && second.issued >= first.until:
		// Its holder couldn't write for so long; that it did as soon as it could is a rule of its own.
	default:
		w.violated("no family ends without an excuse", "%s used %s again, accepted from %s at %v, answered at %v, settled at %v",
			second.o.r.name, t.text, first.o.r.name, first.accepted, first.delivered, first.settled)
	}
}

// writeLimit is how long the write of a refresh token may take while Redis is there.
const writeLimit = 8 * time.Second

// holds notes that a replica has a refresh token that nobody else has.
func (c *checker) holds(u *use) {
	w, r := c.w, u.o.r
	if u.settled != 0 || isClosed(u.o.p.died) || r.alive != u.o.p {
		return
	}
	if c.envs[u.o.about].uses[u.version] != u {
		return // Redis forgot, and its clock was set back: another has the version, and what settles one settles both
	}
	if d := w.now() - max(u.delivered, r.connectedSince()); d > writeLimit {
		w.violated("a refresh token is written as soon as that can be", "%s has %s since %v and could write it for %v", r.name, u.next, u.delivered, d)
		return
	}
	w.in(time.Second, func() { c.holds(u) })
}

// connectedSince is since when nothing is wrong between the replica and Redis.
func (r *replica) connectedSince() time.Duration {
	w := r.w
	if r.toRedis != (link{}) || w.down != up || w.redis.readOnly || r.pausedUntil > w.now() {
		return w.now()
	}
	return max(r.troubleAt, r.pausedUntil, w.downSince)
}

// granted checks what a command has done to the grant.
func (c *checker) granted(o *op, kind string, before, after grantState) {
	w, t := c.w, c.envs[o.about]
	v := o.version()
	k := o.r.known[o.about]
	if c.needsLogin(o.r, after) != "" {
		k.loginDueAt = w.now()
	}
	settles := o.what == "keep" || o.what == "settle" || o.what == "put" || o.what == "fail" && o.argv()[7] != ""
	if settles && kind != "" {
		c.settled(o, v)
		if v != 0 && after.taken == v {
			w.violated("who has an outcome frees the refresh token", "%s's %s of %s left it taken", o.r.name, o, w.number(v))
		}
	}
	if after.number < before.number {
		w.violated("the grant doesn't go back", "%s's %s: %s → %s", o.r.name, o, w.number(before.number), w.number(after.number))
	}
	person := o.what == "adopt" || o.what == "forget"
	changed := after.number != before.number || after.text != before.text
	if changed && !person && after.number != v {
		w.violated("a grant has its attempt's version", "%s's %s of %s brought %s", o.r.name, o, w.number(v), w.number(after.number))
	}
	if before.number == after.number && before.text != after.text && before.number != 0 {
		w.violated("a version is one grant", "%s's %s: %s is %s and %s", o.r.name, o, w.number(after.number), before.text, after.text)
	}
	if before.refused != 0 && after.refused == 0 && !changed {
		w.violated("what was refused stays so", "%s's %s: %s may be used again", o.r.name, o, w.number(after.number))
	}
	if i := t.issuedBy[v]; i != nil && !person && t.personAt > 0 && i.at < t.personAt && !w.grantLostSince(i.at) && !w.clockMovedSince(i.at) {
		if changed || after.refused != before.refused {
			w.violated("an older attempt takes nothing from a login or logout", "%s's %s of %s, from before it, made %s of %s", o.r.name, o,
				w.number(v), after.text, before.text)
		}
	}
	if after.refused == v && before.refused != v && o.what == "fail" && w.grantLostAt == 0 {
		if rt := w.site.refreshTokens[after.text]; rt != nil && rt.family.ended == "" {
			w.violated("only what was refused counts as refused", "%s's %s: %s is good", o.r.name, o, after.text)
		}
	}
	if person && kind == "done" && (after.number != before.number || after.refused != before.refused) {
		t.personAt = w.now()
		if o.what == "adopt" {
			c.stats.logins++
		} else {
			c.stats.logouts++
		}
	}
}

// argv are a script's own arguments.
func (o *op) argv() []string {
	n, _ := strconv.Atoi(o.args[2])
	return o.args[3+n:]
}

// version is the one that a write is about, 0 where it is about none.
func (o *op) version() store.Version { return number(strings.TrimPrefix(o.id, "eval ")) }
