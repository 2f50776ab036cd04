package sim

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// The weather is what goes wrong by itself, each with a probability, beside the faults that strike at an instant.
type weather struct {
	fastest, slowest time.Duration // of one way
	late             float64       // a way that takes long: half of them longer than a command's deadline
	lost             float64       // a request that doesn't arrive
	unanswered       float64       // a command whose reply is lost
	twice            float64       // a command that is executed twice
	copied           float64       // one that is executed again later, when its outcome is long known
	eventLost        float64
	eventTwice       float64
}

// way is how long one way takes.
func (w weather) way(rng *rand.Rand) time.Duration {
	d := w.fastest + upTo(rng, w.slowest-w.fastest+1)
	if rng.Float64() < w.late {
		if rng.IntN(2) == 0 {
			d += upTo(rng, 2*time.Second)
		}
		d += upTo(rng, time.Second)
	}
	return d
}

// slowIsTrouble is how long a way may take before that is an excuse for what follows.
const slowIsTrouble = 200 * time.Millisecond

// admit decides what becomes of an operation that has come to the gate.
func (r *replica) admit(o *op) {
	if o.what == "endpoint" || o.what == "revoke" {
		r.w.site.admit(o)
		return
	}
	w := r.w
	switch {
	case isClosed(o.p.died):
		return
	case r.pausedUntil > w.now(): // it comes to be sent when the process goes on
		w.at(r.pausedUntil, func() { r.admit(o) })
		return
	case o.over.Load():
		return // its deadline has passed in the meantime
	}
	if r.toRedis.refused || w.down == downRefusing {
		r.trouble()
		w.in(300*time.Microsecond, func() { w.lose(o) })
		return
	}
	d := w.weather.way(o.rng) + r.toRedis.slow
	if o.what == "adopt" && !w.peace { // so that an attempt comes between its version and its write
		d += upTo(o.rng, 700*time.Millisecond)
	}
	if d > slowIsTrouble {
		r.trouble()
	}
	if o.rng.Float64() < w.weather.lost {
		r.trouble()
		w.say("%s → redis %s: lost on its way", r.name, o)
		if o.rng.IntN(2) == 0 {
			w.in(d, func() { w.lose(o) })
		}
		return
	}
	w.in(d, func() { w.atRedis(o) })
}

// lose has a connection fail.
func (w *world) lose(o *op) {
	if o.conn != nil {
		o.conn.cut()
		return
	}
	o.answer(errRefused)
}

// atRedis executes a command that has arrived.
func (w *world) atRedis(o *op) {
	r := o.r
	if r.toRedis.swallows || w.down != up {
		r.trouble()
		return // silence
	}
	if o.conn != nil {
		w.onConn(o)
		return
	}
	reply := w.execute(o)
	if o.rng.Float64() < w.weather.twice {
		again := w.execute(o)
		w.say("    … and once more, by a client that has lost the reply")
		r.trouble()
		reply = again
	}
	w.copyLater(o)
	back := w.weather.way(o.rng) + r.toRedis.slow
	if back > slowIsTrouble {
		r.trouble()
	}
	if o.rng.Float64() < w.weather.unanswered {
		w.say("    … whose reply is lost")
		r.trouble()
		if o.rng.IntN(2) == 0 {
			w.in(back, func() { o.answer(errReset) })
		}
		return
	}
	w.in(back, func() { w.deliver(o, reply) })
}

// copyLater may have a command executed once more, up to five seconds later: its first sending was stuck on a connection that the
// client has given up, whatever has become of the client.
func (w *world) copyLater(o *op) {
	rng := w.draw(fmt.Sprint("copy ", o.r.number, " ", o.what, " ", o.about, " ", o.n))
	if rng.Float64() >= w.weather.copied {
		return
	}
	w.in(upTo(rng, 5*time.Second), func() {
		if w.peace || w.down != up {
			return
		}
		o.r.trouble()
		w.say("a copy of a command arrives:")
		w.execute(o)
	})
}

// execute runs a command on Redis, between two looks at what is there.
func (w *world) execute(o *op) any {
	o.executed = w.now()
	before := w.look(o.about)
	reply := w.redis.do(o.args...)
	after := w.look(o.about)
	if isNoScript(reply) {
		return reply
	}
	w.say("%s → redis %s", o.r.name, w.describe(o, reply, after))
	w.check.executed(o, reply, before, after)
	return reply
}

func isNoScript(reply any) bool {
	err, ok := reply.(serverError)
	return ok && len(err) > 8 && err[:8] == "NOSCRIPT"
}

// deliver brings a reply back.
func (w *world) deliver(o *op, reply any) {
	r := o.r
	switch {
	case isClosed(o.p.died):
		return
	case r.pausedUntil > w.now():
		w.at(r.pausedUntil, func() { w.deliver(o, reply) })
		return
	case r.toRedis.mute:
		r.trouble()
		return
	case o.over.Load():
		w.say("    (a reply to %s's %s comes too late)", r.name, o.what)
		return
	}
	o.answer(reply)
	w.check.delivered(o, reply)
}

// onConn is what happens on connections of subscriptions.
func (w *world) onConn(o *op) {
	if isClosed(o.conn.gone) {
		return
	}
	data := o.conn.reply(o.args)
	back := w.weather.way(o.rng) + o.r.toRedis.slow
	w.in(back, func() { w.toSubscriber(o.conn, data) })
}

// toSubscriber brings data to a subscriber, unless it can't arrive.
func (w *world) toSubscriber(c *conn, data string) {
	r := c.p.r
	switch {
	case isClosed(c.gone), r.toRedis.mute, r.toRedis.swallows, w.down != up:
		return
	case r.pausedUntil > w.now():
		w.at(r.pausedUntil, func() { w.toSubscriber(c, data) })
		return
	}
	c.send(data)
}

// publish is Redis's PUBLISH: each subscriber's copy goes its own way, so that events overtake each other.
func (w *world) publish(channel, payload string) {
	for _, r := range w.fleet {
		if r.alive == nil {
			continue
		}
		for _, c := range r.alive.open() {
			if !c.subscribed {
				continue
			}
			rng := w.draw("event " + r.name + channel + payload)
			if r.deaf || rng.Float64() < w.weather.eventLost {
				continue
			}
			copies := 1
			if rng.Float64() < w.weather.eventTwice {
				copies = 2
			}
			for range copies {
				w.in(w.weather.way(rng), func() { w.toSubscriber(c, bulks("message", channel, payload)) })
			}
		}
	}
}

// trouble notes that the way to Redis isn't as it should be, now.
func (r *replica) trouble() { r.troubleAt = r.w.now() }

// troubled reports whether it was so at some time since t.
func (r *replica) troubled(since time.Duration) bool {
	return r.troubleAt >= since || r.pausedUntil >= since && r.pausedUntil > 0
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// upTo is a random duration in [0, n).
func upTo(rng *rand.Rand, n time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(n))) }
