package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/jitter"
)

// A world is one run: a Redis, an endpoint, replicas, and what happens to them.
type world struct {
	setup   setup
	start   time.Time
	redis   *server
	ahead   time.Duration // of Redis's clock
	down    downtime      // of Redis
	site    *site
	fleet   []*replica
	weather weather
	peace   bool // no more faults

	history       int // how often Redis has lost some
	historyLostAt time.Duration
	grantLostAt   time.Duration // when it last lost what it knew of a refresh token; 0: never
	loggingIn     bool          // somebody is about to
	downSince     time.Duration // when Redis's last trouble was
	awakeAt       time.Duration // until then a token may be served that has ended while its machine slept
	clockMoves    []move        // of Redis's clock
	check         *checker
	trace         trace

	due  happenings
	seq  int
	stop bool

	mu       sync.Mutex // guards what follows; all else is the scheduler's
	arrivals []*op
	bell     chan struct{} // rung with each arrival
}

// now is the time since the start of the run.
func (w *world) now() time.Duration { return time.Since(w.start) }

// A happening is something that the scheduler does at an instant.
type happening struct {
	at  time.Duration
	seq int
	do  func()
}

type happenings []happening

func (h *happenings) Len() int { return len(*h) }
func (h *happenings) Less(i, j int) bool {
	a, b := (*h)[i], (*h)[j]
	return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) < 0
}
func (h *happenings) Swap(i, j int) { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }
func (h *happenings) Push(x any)    { *h = append(*h, x.(happening)) } //nolint:forcetypeassert // a heap of them
func (h *happenings) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// in has do done after d.
func (w *world) in(d time.Duration, do func()) { w.at(w.now()+d, do) }

func (w *world) at(t time.Duration, do func()) {
	w.seq++
	heap.Push(&w.due, happening{t, w.seq, do})
}

// An op is something that a replica asks of the world outside. It waits at the gate until the scheduler answers.
type op struct {
	r        *replica
	p        *process // the incarnation
	conn     *conn    // where it is a subscription's
	what     string   // "read", "issue", "endpoint", …
	about    string   // the environment; "" where it is about none
	args     []string
	id       string // what tells it from the others that a replica may have at the gate at once
	n        int    // how many of the same the replica has asked for before
	reply    chan any
	born     time.Duration // when the replica asked for it: a stopped one's comes to the gate later
	begun    time.Duration
	executed time.Duration // when Redis did it
	over     atomic.Bool   // the replica no longer waits
	rng      *rand.Rand
	settings settings // of a request to the endpoint: those that it is made with
	token    string   // the refresh token, of a request with one
	use      *use
}

// answer ends the wait. Only the first answer counts.
func (o *op) answer(v any) {
	select {
	case o.reply <- v:
	default:
	}
}

// arrive brings o to the gate. It is called by the replicas' goroutines.
func (w *world) arrive(o *op) {
	w.mu.Lock()
	w.arrivals = append(w.arrivals, o)
	w.mu.Unlock()
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// admit decides on all that is at the gate, in an order that depends on what they are, not on which came first.
func (w *world) admit() {
	w.mu.Lock()
	list := w.arrivals
	w.arrivals = nil
	w.mu.Unlock()
	slices.SortStableFunc(list, func(a, b *op) int {
		return cmp.Or(cmp.Compare(a.r.number, b.r.number), strings.Compare(a.what, b.what), strings.Compare(a.id, b.id))
	})
	for _, o := range list {
		o.begun = w.now()
		key := o.what + " " + o.about
		o.n = o.r.asked[key]
		o.r.asked[key]++
		o.rng = w.draw(fmt.Sprint(o.r.number, " ", key, " ", o.n))
		w.check.arrived(o)
		o.r.admit(o)
	}
}

// draw returns randomness of its own for what name names: leaving one thing out of a run changes nothing else by itself.
func (w *world) draw(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.setup.seed, h.Sum64())) //nolint:gosec // no secret depends on it
}

// run lets things happen until the instant, until done is closed, or until a rule is broken. It reports whether done is.
func (w *world) run(until time.Duration, done <-chan struct{}) (finished bool) {
	for {
		synctest.Wait()
		w.settled()
		w.admit()
		select {
		case <-done:
			return true
		default:
		}
		if w.stop && done == nil {
			return false
		}
		next := until
		if len(w.due) > 0 {
			next = min(next, w.due[0].at)
		}
		wait := next - w.now()
		if wait > 0 {
			w.sleep(wait, done)
			continue
		}
		if len(w.due) == 0 || w.due[0].at > w.now() {
			return false
		}
		heap.Pop(&w.due).(happening).do() //nolint:forcetypeassert // a heap of them
	}
}

// sleep lets time pass, until somebody wants something.
func (w *world) sleep(d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.bell:
	case <-timer.C:
	case <-done:
	}
}

// settled takes in what the callers got since the last step.
func (w *world) settled() {
	for _, r := range w.fleet {
		for _, c := range r.collect() {
			w.check.answered(c)
		}
	}
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	if w.stop {
		return // what follows a broken rule is no part of it
	}
	w.trace.add(w.now(), fmt.Sprintf(format, args...))
}

// violated ends the run: a rule is broken.
func (w *world) violated(rule, format string, args ...any) {
	if w.stop {
		return
	}
	w.stop = true
	v := &violation{rule: rule, text: fmt.Sprintf(format, args...)}
	w.trace.add(w.now(), "✗ "+v.rule+": "+v.text)
	w.check.first = v
}

// A violation is a broken rule.
type violation struct{ rule, text string }

// A result is what a run brought.
type result struct {
	violation *violation // nil: every rule held
	trace     trace
	virtual   time.Duration
	stats     stats
}

// run simulates a setup in a bubble of its own.
func run(t *testing.T, s setup) (res result) {
	t.Helper()
	undo := jitter.Seed(s.seed)
	defer undo()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(s)
		defer func() {
			res = result{violation: w.check.first, trace: w.trace, virtual: w.now(), stats: w.check.stats}
			w.redis.close()
		}()
		w.live()
	})
	return res
}

func newWorld(s setup) *world {
	w := &world{setup: s, start: time.Now(), weather: s.weather, bell: make(chan struct{}, 1)}
	w.check = newChecker(w)
	w.redis = newServer(w.redisTime, w.publish)
	w.site = newSite(w)
	for i := range s.replicas {
		w.fleet = append(w.fleet, newReplica(w, i))
	}
	return w
}

// redisTime is Redis's clock.
func (w *world) redisTime() time.Time { return time.Now().Add(w.ahead) }

// live is the run: faults, then peace, in which all must converge, then the end.
func (w *world) live() {
	for _, r := range w.fleet {
		w.in(upTo(r.rng, w.setup.startSpread+100*time.Millisecond), r.boot) // never two at one instant: that would be the runtime's choice
	}
	w.visits()
	for i, f := range w.setup.faults {
		if !w.setup.without[i] {
			w.at(f.at, func() { f.strike(w) })
		}
	}
	w.run(w.setup.length, nil)
	if !w.stop {
		w.heal()
		w.run(w.setup.length+w.setup.convergence(), nil)
	}
	if !w.stop {
		w.lastCalls()
	}
	w.end()
}

// lastCalls asks every replica for a token: what was stored some seconds ago must be known to all.
func (w *world) lastCalls() {
	stored := map[string]state{}
	for _, env := range w.setup.envs {
		stored[env] = w.look(env)
	}
	w.run(w.now()+5*time.Second, nil)
	var last []*call
	for _, r := range w.fleet {
		for _, env := range w.setup.envs {
			last = append(last, r.start("token", env, lastPatience))
		}
	}
	w.run(w.now()+lastPatience, nil)
	if w.stop {
		return
	}
	for _, c := range last {
		w.check.converged(c, stored[c.env])
	}
}

const lastPatience = 5 * time.Second

// end closes all managers, which must not take longer than what is under way may take, and leaves nothing behind.
func (w *world) end() {
	closed := make(chan struct{})
	var all sync.WaitGroup
	for _, r := range w.fleet {
		r.silent = true
		if w.stop {
			r.kill()
		}
		all.Go(r.close)
	}
	go func() { all.Wait(); close(closed) }()
	if limit := w.setup.closeLimit(); !w.run(w.now()+limit, closed) {
		w.violated("close", "the managers weren't closed %v after Close was called", limit)
		for _, r := range w.fleet {
			r.kill()
		}
		w.run(w.now()+time.Hour, closed) // what is left then is for the bubble to complain about
	}
	rest := 2 * time.Second // an invalidation is its caller's: Close doesn't wait for it
	if w.setup.rotating.env != "" {
		rest = 30 * time.Second // nor for a person's call; and what was killed holds what it can't write for a while
	}
	w.run(w.now()+rest, make(chan struct{}))
	w.settled()
	if !w.stop {
		w.check.ended()
	}
}
