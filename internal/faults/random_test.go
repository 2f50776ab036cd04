package faults_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// How long faults strike at random, and from which seed: a number each. A seed decides what is done, not what comes of it.
const (
	secondsEnv = "ONETOKEN_FAULTS_SECONDS"
	seedEnv    = "ONETOKEN_FAULTS_SEED"
)

// TestFaultsAtRandom has faults strike one upon the other, whatever the fleet is at. Once they are over it must come to one
// token, and nothing that it handed out meanwhile may break a rule.
func TestFaultsAtRandom(t *testing.T) {
	t.Parallel()
	seed := uint64(number(t, seedEnv, int(rand.Uint32())))
	length := time.Duration(number(t, secondsEnv, 15)) * time.Second
	for i := range uint64(2) {
		t.Run(fmt.Sprintf("seed %d", seed+i), func(t *testing.T) {
			t.Parallel()
			testRandom(t, seed+i, length)
		})
	}
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	raw := os.Getenv(name)
	if raw == "" {
		return otherwise
	}
	n, err := strconv.Atoi(raw)
	if err != nil || n < 0 {
		t.Fatalf("%s: %q is no number", name, raw)
	}
	return n
}

// usual is what the endpoint answers when it isn't told otherwise: every token is soon due to be refreshed.
var usual = mockendpoint.Reply{Delay: 30 * time.Millisecond, ExpiresIn: 3}

func testRandom(t *testing.T, seed uint64, length time.Duration) {
	c := &chaos{site: newSite(t, 3, usual), rand: rand.New(rand.NewPCG(seed, 0)), lasting: map[string]func(){}}
	c.launch()
	c.calm(time.Second)
	for end := time.Now().Add(length); time.Now().Before(end); {
		c.strike()
		pass(c.upTo(500 * time.Millisecond))
		c.expire()
	}
	c.over()
	h := c.history()
	x := expectation{
		margin: margin, lease: lease, overlap: true, before: h.storedBy(now()).Version, quiet: now(), living: c.living(),
		// A request that the endpoint will not answer, a lease, a backoff, and then half a token's life for a newer one.
		converge: policy.EndpointTimeout + lease + 2*policy.Backoff.Max + 3*time.Second,
		// A subscription that was lost again and again is tried again after 3 s at the latest.
		stale: 4 * time.Second,
	}
	if eventually(x.converge, func() bool { _, ok := x.converged(c.history()); return ok }) {
		pass(x.stale + time.Second) // so that the rules about the time after it have something to look at
	}
	c.finish()
	h = c.history()
	took, _ := x.converged(h)
	t.Logf("seed %d: %d faults, %d answers, %d calls of the endpoint; everybody had one token after %v",
		seed, len(h.of(kindFault)), len(h.of(kindAnswer)), len(h.of(kindCall)), took)
	list := x.check(h)
	for _, v := range list {
		c.judge(v, h)
	}
	if len(list) > 0 || showTrace() {
		c.show()
	}
}

// judge fails the test for a rule that was broken, unless it is one about time and the machine had none.
func (c *chaos) judge(v violation, h history) {
	c.t.Helper()
	if stalls := h.stalled(0); v.timely && len(stalls) > 0 {
		c.t.Logf("%v; but the machine stalled %d times", v, len(stalls))
		return
	}
	c.t.Error(v)
}

// chaos strikes with what its seed says.
type chaos struct {
	*site
	rand    *rand.Rand
	lasting map[string]func() // what ends faults that last, by what they have hold of
	ends    []ending
}

// An ending is when something that lasts is to end.
type ending struct {
	key string
	at  time.Time
}

// upTo is a random time, more often a short one.
func (c *chaos) upTo(d time.Duration) time.Duration {
	return time.Duration(float64(d) * c.rand.Float64() * c.rand.Float64())
}

func (c *chaos) someone() *replica { return c.replicas[c.rand.IntN(len(c.replicas))] }

func (c *chaos) note(replica, format string, args ...any) {
	c.add(event{Kind: kindFault, Replica: replica, At: now(), What: fmt.Sprintf(format, args...)})
}

// last has a fault end after d, unless what it has hold of is in another's hands already.
func (c *chaos) last(key string, d time.Duration, begin, end func()) {
	if c.lasting[key] != nil {
		return
	}
	begin()
	c.lasting[key] = end
	c.ends = append(c.ends, ending{key, time.Now().Add(d)})
}

// let ends what has hold of key.
func (c *chaos) let(key string) {
	if end := c.lasting[key]; end != nil {
		delete(c.lasting, key)
		end()
	}
	c.ends = slices.DeleteFunc(c.ends, func(e ending) bool { return e.key == key })
}

// expire ends what is due.
func (c *chaos) expire() {
	for _, e := range slices.Clone(c.ends) {
		if !time.Now().Before(e.at) {
			c.let(e.key)
		}
	}
}

// over ends all that lasts.
func (c *chaos) over() {
	for len(c.ends) > 0 {
		c.let(c.ends[0].key)
	}
	if !eventually(patience, func() bool { return !c.holds() }) {
		c.t.Fatal("what was held isn't let go of")
	}
	c.note("", "it is over")
}

// strike does one thing.
func (c *chaos) strike() {
	r := c.someone()
	const most = lease + 1500*time.Millisecond
	switch c.rand.IntN(12) {
	case 0:
		c.note(r.name, "is killed, and started again")
		c.let("process " + r.name)
		r.kill()
		c.replicas[slices.Index(c.replicas, r)] = c.start(r.name)
	case 1, 2:
		c.suspend(r, c.upTo(most))
	case 3:
		d := c.upTo(most)
		c.last("redis", d, func() {
			c.note("", "Redis is paused for %v", d)
			c.pauseRedis()
		}, c.continueRedis)
	case 4:
		if c.rand.IntN(2) == 0 {
			c.let("redis")
			c.restartRedis()
		}
	case 5:
		p, d := c.proxies[r.name].redis, c.upTo(most)
		c.last("network "+r.name, d, func() {
			c.note(r.name, "is parted from Redis for %v", d)
			p.Hold()
		}, p.Release)
	case 6:
		c.note(r.name, "has its connections cut")
		c.proxies[r.name].redis.CutAll()
		c.proxies[r.name].endpoint.CutAll()
	case 7, 8, 9:
		c.ambush()
	case 10:
		c.upset()
	case 11:
		c.note(r.name, "is told to invalidate")
		_, _ = io.WriteString(r.stdin, "invalidate\n") // a stopped process does it later
	}
}

func (c *chaos) suspend(r *replica, d time.Duration) {
	e := event{Kind: kindStop, Replica: r.name, At: now()}
	c.last("process "+r.name, d, func() { r.signal(syscall.SIGSTOP) }, func() {
		r.signal(syscall.SIGCONT)
		e.End = now()
		c.add(e)
	})
}

// ambush has something happen to the next frame at a step.
func (c *chaos) ambush() {
	p := places[c.rand.IntN(len(places))]
	action := []faultproxy.Action{faultproxy.Pass, faultproxy.Cut, faultproxy.BlackHole, faultproxy.HalfClose}[c.rand.IntN(4)]
	d := c.upTo(lease + time.Second)
	c.last("trap", 2*time.Second, func() {
		t := c.set(p.step, p.phase)
		go func() { // ends with what it waits for, or with the test
			select {
			case h := <-t.hits:
				c.note(h.replica, "%s: %v after %v", p.name, action, d)
				select {
				case <-time.After(d):
				case <-c.done:
				}
				h.goOn(action)
			case <-c.done:
			}
		}()
	}, c.disarm)
}

// upset has the endpoint answer badly for a while.
func (c *chaos) upset() {
	replies := []mockendpoint.Reply{
		{Status: 503},
		{Drop: true},
		{Hang: true},
		{Delay: 3 * time.Second},
		{Status: 429, RetryAfter: time.Second},
		{Error: "invalid_client"},
		{Delay: 500 * time.Millisecond, ExpiresIn: 2},
	}
	i := c.rand.IntN(len(replies))
	c.last("endpoint", c.upTo(3*time.Second), func() {
		c.note("", "the endpoint answers: %+v", replies[i])
		c.endpoint.SetDefault(replies[i])
	}, func() { c.endpoint.SetDefault(usual) })
}
