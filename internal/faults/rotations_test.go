package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const (
	rotations = 1000
	// strikeFor is how long faults strike at most: what is left then is rotated without. A fast machine is done before.
	strikeFor = 40 * time.Second
	logins    = 12 // environments, with a family each
	rotators  = 4  // replicas
	outage    = 3 * time.Second
)

// rotating is the policy where refresh tokens rotate: what is taken and has no outcome is left alone for 37 s.
var rotating = manager.Policy{
	Lease: lease, EndpointTimeout: 5 * time.Second, ConnectTimeout: time.Second, Backoff: policy.Backoff, BackoffRefused: policy.BackoffRefused,
}

// TestAThousandRotations has a fleet rotate refresh tokens as fast as it can, each replica for itself, while all its ways to
// Redis and to the endpoint fail at random. One thing alone can't be survived, and isn't done: that the endpoint's answer is
// lost. An endpoint without leeway sees no refresh token twice.
func TestAThousandRotations(t *testing.T) {
	t.Parallel()
	seed := uint64(number(t, seedEnv, int(rand.Uint32())))
	t.Logf("seed %d", seed)
	f := newRotators(t, seed)
	f.run()
	struck := f.rotated()
	f.calm()
	if n := f.rotated(); n < rotations {
		f.eventually("the rest of the rotations", func() bool { return f.rotated() >= rotations })
	}
	f.settle()
	t.Logf("%d rotations, %d of them under fire; faults: %v", f.rotated(), struck, f.faults())
	f.check()
	if t.Failed() {
		t.Log(f.log.String())
	}
}

// A rotatorFleet is managers in this process that share logins.
type rotatorFleet struct {
	t        *testing.T
	endpoint *mockendpoint.Endpoint
	redis    *redistest.Server
	log      *lockedBuffer
	envs     []string
	members  []*rotator
	done     chan struct{} // closed once they are to end
	calmed   chan struct{} // closed once nothing fails any more
	rotate   sync.WaitGroup
	strike   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	struck map[string]int
	stall  time.Duration // the longest of the machine's
}

// A rotator is a replica, with what befalls it.
type rotator struct {
	fleet     *rotatorFleet
	name      string
	manager   *manager.Manager
	proxies   proxies
	unwelcome atomic.Bool // the endpoint refuses it

	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
}

func newRotators(t *testing.T, seed uint64) *rotatorFleet {
	t.Helper()
	f := &rotatorFleet{
		t: t, redis: redistest.Start(t), log: &lockedBuffer{}, done: make(chan struct{}), calmed: make(chan struct{}), struck: map[string]int{},
		endpoint: mockendpoint.New(mockendpoint.Options{Grants: []string{mockendpoint.RefreshToken}, Rotate: true}),
	}
	server := httptest.NewServer(f.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(f.endpoint.Close)
	environments := map[string]manager.Environment{}
	for i := range logins {
		environments[fmt.Sprintf("login-%d", i+1)] = manager.Environment{
			TokenURL: "http://127.0.0.1:1/token", ClientID: "client", ClientSecret: manager.NewSecret("secret"),
			Grant: manager.RefreshToken, RefreshToken: manager.NewSecret(f.endpoint.NewFamily()), Policy: rotating,
		}
	}
	f.envs = slices.Sorted(maps.Keys(environments))
	for i := range uint64(rotators) {
		r := &rotator{fleet: f, name: fmt.Sprintf("r%d", i+1), rand: rand.New(rand.NewPCG(seed, i))}
		r.connect(f.redis.Addr(), server.Listener.Addr().String(), environments)
		f.members = append(f.members, r)
	}
	t.Cleanup(f.end)
	return f
}

// connect makes the replica's proxies and its manager.
func (r *rotator) connect(redisAddr, endpointAddr string, environments map[string]manager.Environment) {
	t := r.fleet.t
	t.Helper()
	to := func(addr string, raw faultproxy.Step) *faultproxy.Proxy {
		p, err := faultproxy.New(addr, faultproxy.Options{Raw: raw, Hook: r.frame})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	r.proxies = proxies{to(redisAddr, ""), to(endpointAddr, call)}
	own := maps.Clone(environments)
	transport := &named{name: r.name, addr: r.proxies.endpoint.Addr()}
	t.Cleanup(transport.next.CloseIdleConnections)
	for name, e := range own {
		e.HTTPClient = &http.Client{Transport: transport}
		own[name] = e
	}
	o := redistest.Options(r.proxies.redis.Addr())
	if r.name == "r1" { // one has a client that runs a command again whose reply it has lost
		o.MaxRetries, o.ReadTimeout = 2, 300*time.Millisecond
	}
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	m, err := manager.New(manager.Config{
		Redis: rdb, Replica: r.name, Environments: own, Logger: slog.New(slog.NewTextHandler(r.fleet.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.manager = m
}

// run returns once the faults have struck for long enough.
func (f *rotatorFleet) run() {
	go watchStalls(f.done, func() {}, func(e event) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stall = max(f.stall, time.Duration(e.End-e.At))
	})
	for _, r := range f.members {
		for _, env := range f.envs {
			f.rotate.Go(func() { r.rotateForever(env) })
		}
		f.strike.Go(r.suffer)
	}
	f.strike.Go(f.upset)
	eventually(strikeFor, func() bool { return f.rotated() >= rotations || f.t.Failed() || f.reused() })
}

func (r *rotator) rotateForever(env string) {
	for !isOver(r.fleet.done) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := r.manager.Refresh(ctx, env)
		cancel()
		if err != nil {
			pass(glance)
		}
	}
}

func isOver(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// draw returns a random number below n, and a random part of d, more often a small one.
func (r *rotator) draw(n int, d time.Duration) (int, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rand.IntN(n), time.Duration(float64(d) * r.rand.Float64() * r.rand.Float64())
}

// odds are the steps at which something may happen, and in how many of 1000 frames it does.
var odds = map[faultproxy.Step]int{
	faultproxy.Read: 4, faultproxy.Acquire: 15, faultproxy.Issue: 25, faultproxy.Renew: 25, faultproxy.Put: 25, faultproxy.Keep: 60,
	faultproxy.Fail: 60, faultproxy.Release: 15, faultproxy.Event: 4, faultproxy.Subscribe: 50, call: 25,
}

// frame is the hook of the replica's proxies. Of the endpoint's answers none is lost, but some are late.
func (r *rotator) frame(f faultproxy.Frame) faultproxy.Action {
	asks := f.Step == call && f.Phase == faultproxy.Request
	if asks && r.unwelcome.Load() {
		return faultproxy.Cut
	}
	lot, _ := r.draw(1000, 0)
	if lot >= odds[f.Step] || isOver(r.fleet.calmed) {
		return faultproxy.Pass
	}
	lot, d := r.draw(10, 800*time.Millisecond)
	action := faultproxy.Pass
	if f.Step != call || asks {
		action = []faultproxy.Action{
			faultproxy.Cut, faultproxy.Cut, faultproxy.Cut, faultproxy.Cut, faultproxy.HalfClose, faultproxy.HalfClose,
			faultproxy.BlackHole, faultproxy.Pass, faultproxy.Pass, faultproxy.Pass,
		}[lot]
	}
	if asks && action == faultproxy.BlackHole {
		action, d = faultproxy.Cut, 4*d // it would be waited for until the endpoint's time-out
	}
	what := action.String()
	switch late, _ := r.draw(3, 0); {
	case action == faultproxy.Pass, late == 0:
		what += " late"
		r.wait(d)
	}
	r.fleet.note(fmt.Sprintf("%s %s: %s", f.Step, f.Phase, what))
	return action
}

// wait lets time pass, no longer than until it is over.
func (r *rotator) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.fleet.calmed:
	}
}

// suffer has the replica's network fail as a whole, again and again.
func (r *rotator) suffer() {
	for !isOver(r.fleet.calmed) {
		_, d := r.draw(1, 5*time.Second)
		r.wait(d)
		kind, d := r.draw(4, outage)
		switch kind {
		case 0:
			r.fleet.note("Redis stalls")
			r.proxies.redis.Hold()
			r.wait(d)
			r.proxies.redis.Release()
		case 1:
			r.fleet.note("Redis's connections are cut")
			r.proxies.redis.CutAll()
		case 2:
			r.fleet.note("Redis refuses connections")
			r.proxies.redis.Refuse(true)
			r.proxies.redis.CutAll()
			r.wait(d)
			r.proxies.redis.Refuse(false)
		case 3:
			r.fleet.note("the endpoint refuses connections")
			r.unwelcome.Store(true)
			r.proxies.endpoint.Refuse(true)
			r.wait(d / 2)
			r.proxies.endpoint.Refuse(false)
			r.unwelcome.Store(false)
		}
	}
}

// upset has the endpoint give answers now and then that are no token, or none that can be used.
func (f *rotatorFleet) upset() {
	replies := []mockendpoint.Reply{
		{Status: 503},
		{Drop: true},
		{Error: "invalid_client"},
		{AccessToken: "a\nb"},
		{ExpiresIn: 1, Delay: 300 * time.Millisecond},
		{Delay: 100 * time.Millisecond},
		{OmitRefreshToken: true},
	}
	for r := f.members[0]; !isOver(f.calmed); {
		i, d := r.draw(len(replies), time.Second)
		f.endpoint.Push(replies[i])
		f.note(fmt.Sprintf("answer %d", i))
		r.wait(d)
	}
}

func (f *rotatorFleet) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.struck[what]++
}

// faults says how often something has happened.
func (f *rotatorFleet) faults() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.struck)
}

func (f *rotatorFleet) rotated() int {
	n := 0
	for _, family := range f.endpoint.Families() {
		n += family.Rotations
	}
	return n
}

// reused reports whether all is lost.
func (f *rotatorFleet) reused() bool {
	return slices.ContainsFunc(f.endpoint.Families(), func(f mockendpoint.Family) bool { return f.Reuses > 0 || f.Revoked })
}

// calm ends all faults.
func (f *rotatorFleet) calm() {
	if !isOver(f.calmed) {
		close(f.calmed)
	}
	f.strike.Wait()
}

func (f *rotatorFleet) end() {
	f.calm()
	if !isOver(f.done) {
		close(f.done)
	}
	f.rotate.Wait()
	for _, r := range f.members {
		_ = r.manager.Close()
	}
}

// eventually waits at most until what is taken and has no outcome is free again, and some more.
func (f *rotatorFleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	if !eventually(rotating.EndpointTimeout+32*time.Second+patience, func() bool { return f.reused() || ok() }) {
		f.t.Errorf("it never came to %s", what)
	}
}

// settle ends the rotations once each replica has made one more of each login, and they agree.
func (f *rotatorFleet) settle() {
	var all sync.WaitGroup
	for _, r := range f.members {
		for _, env := range f.envs {
			all.Go(func() {
				f.eventually(fmt.Sprintf("a refresh of %s by %s", env, r.name), func() bool {
					ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					defer cancel()
					_, err := r.manager.Refresh(ctx, env)
					return err == nil
				})
			})
		}
	}
	all.Wait()
	close(f.done)
	f.rotate.Wait()
}

// check checks that all are as well as before.
func (f *rotatorFleet) check() {
	f.t.Helper()
	for _, family := range f.endpoint.Families() {
		if family.Reuses > 0 || family.Revoked {
			f.complain("family %d: %d reuses, revoked %v", family.Ordinal, family.Reuses, family.Revoked)
		}
	}
	for _, env := range f.envs {
		f.eventually("one token of "+env+" for all, that is good", func() bool {
			var versions []manager.Version
			for _, r := range f.members {
				t, err := r.manager.Token(context.Background(), env)
				if err != nil || !f.endpoint.Accepts(t.AccessToken.Reveal()) {
					return false
				}
				versions = append(versions, t.Version)
			}
			return len(slices.Compact(versions)) == 1
		})
		held := f.redis.Client(f.t).HGet(f.t.Context(), "onetoken:{"+env+"}:grant", "refresh_token").Val()
		if !f.endpoint.AcceptsRefreshToken(held) {
			f.complain("the refresh token of %s that stands in Redis isn't good", env)
		}
	}
	for _, what := range []string{"grant_lost", "a person must log in"} {
		if strings.Contains(f.log.String(), what) {
			f.complain("somebody has logged %q", what)
		}
	}
}

// complain fails the test, unless the machine stood still for so long that an answer of the endpoint's may have come too late.
func (f *rotatorFleet) complain(format string, args ...any) {
	f.t.Helper()
	f.mu.Lock()
	stall := f.stall
	f.mu.Unlock()
	if stall > rotating.EndpointTimeout/2 {
		f.t.Skipf("the machine stalled for %v: %v", stall, fmt.Errorf(format, args...))
	}
	f.t.Errorf(format, args...)
}

// A lockedBuffer is what several write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
