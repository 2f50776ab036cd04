package faults_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// With the policy of the others a refresh token that is taken is left alone for so long, and the lease lasts so long.
var (
	grantLease = policy.EndpointTimeout + 2*time.Second
	takenFor   = grantLease + 30*time.Second
)

// A grantCase is a fault in a refresh whose refresh token rotates.
type grantCase struct {
	name   string
	step   faultproxy.Step
	phase  faultproxy.Phase
	strike func(s *site, h hit)

	calls    int           // of the endpoint
	lost     bool          // its answer is lost, and with it the family
	converge time.Duration // until all have a token, or know that there is none
	errs     func(hit, event) bool
}

// soon is how long it takes until all have a token that one has.
const soon = 3 * time.Second

var grantCases = []grantCase{
	{
		name: "holder killed before it takes the refresh token", step: faultproxy.Issue, phase: faultproxy.Request,
		strike: killed, calls: 1, converge: grantLease + soon,
	},
	{
		name: "holder killed before the request is sent", step: call, phase: faultproxy.Request,
		strike: killed, calls: 1, converge: takenFor + soon,
	},
	{
		name: "holder killed once the endpoint has answered", step: call, phase: faultproxy.Reply,
		strike: killed, calls: 2, lost: true, converge: takenFor + soon,
	},
	{
		name: "holder killed before the refresh token is written", step: faultproxy.Put, phase: faultproxy.Request,
		strike: killed, calls: 2, lost: true, converge: takenFor + soon,
	},
	{
		name: "holder killed once the refresh token is written", step: faultproxy.Put, phase: faultproxy.Reply,
		strike: killed, calls: 1, converge: soon,
	},
	{
		name: "the endpoint's answer is lost", step: call, phase: faultproxy.Reply,
		strike: func(_ *site, h hit) { h.goOn(faultproxy.Cut) }, calls: 2, lost: true, converge: grantLease + soon,
		errs: func(_ hit, e event) bool { return strings.HasPrefix(e.Err, "endpoint ") },
	},
	{
		name: "holder stopped with the answer in its socket", step: call, phase: faultproxy.Reply,
		strike: func(s *site, h hit) {
			r := s.named(h.replica)
			e := event{Kind: kindStop, Replica: r.name, At: now()}
			r.signal(syscall.SIGSTOP)
			h.goOn(faultproxy.Pass)
			pass(grantLease + time.Second)
			r.signal(syscall.SIGCONT)
			e.End = now()
			s.add(e)
		},
		calls: 1, converge: soon,
	},
	{
		name: "holder stopped before it writes", step: faultproxy.Put, phase: faultproxy.Request,
		strike: func(s *site, h hit) {
			s.stop(s.named(h.replica), grantLease+time.Second)
			h.goOn(faultproxy.Pass)
		},
		calls: 1, converge: soon,
	},
	{
		name: "holder told to end with what it couldn't write", step: call, phase: faultproxy.Reply,
		strike: func(s *site, h hit) {
			r, p := s.named(h.replica), s.proxies[h.replica].redis
			p.Hold()
			h.goOn(faultproxy.Pass)
			pass(3 * time.Second) // both writes have failed by then
			r.leaving = true
			r.signal(syscall.SIGTERM)
			pass(1500 * time.Millisecond)
			p.Release()
			r.ends()
		},
		calls: 1, converge: soon,
		errs: func(h hit, e event) bool { return e.Err == "redis" && e.Replica == h.replica },
	},
	{
		name: "Redis restarted, with its data", step: call, phase: faultproxy.Reply,
		strike: func(s *site, h hit) {
			s.redis.Stop()
			h.goOn(faultproxy.Pass)
			pass(2 * time.Second)
			s.redis.Start(s.t)
		},
		calls: 1, converge: 6 * time.Second,
		errs: redisIsAway,
	},
	{
		name: "holder parted from Redis for longer than its lease", step: call, phase: faultproxy.Reply,
		strike: func(s *site, h hit) {
			p := s.proxies[h.replica].redis
			p.Hold()
			p.CutAll()
			h.goOn(faultproxy.Pass)
			pass(grantLease + 2*time.Second)
			p.Release()
		},
		calls: 1, converge: 6 * time.Second,
		errs: func(h hit, e event) bool { return e.Err == "redis" && e.Replica == h.replica },
	},
}

func killed(s *site, h hit) {
	s.named(h.replica).kill()
	h.goOn(faultproxy.Cut)
}

// TestAFaultAtEachStepOfARotation has faults strike a fleet whose endpoint takes a second use of a refresh token for a theft.
// None is made but where the answer to the first is lost; and then the fleet says that a person must log in, and does no more
// until somebody has.
func TestAFaultAtEachStepOfARotation(t *testing.T) {
	t.Parallel()
	for _, c := range grantCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tried(t, func() (*site, expectation) { return c.run(t) })
		})
	}
}

func (c grantCase) run(t *testing.T) (*site, expectation) {
	endpoint := mockendpoint.New(mockendpoint.Options{
		Grants: []string{mockendpoint.RefreshToken}, Rotate: true, Default: mockendpoint.Reply{ExpiresIn: oldLife},
	})
	s := newSiteWith(t, 3, endpoint, endpoint.NewFamily(), "dir "+t.TempDir(), "appendonly yes", "appendfsync always")
	x := expectation{margin: margin, lease: grantLease, overlap: true, reuse: c.lost, converge: c.converge, stale: 2 * staleAfter, calls: c.calls}
	s.launch()
	x.before = s.calm(time.Second)
	x.begin = now()
	s.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 60})
	h := s.await(s.set(c.step, c.phase))
	struck := event{Kind: kindFault, Replica: h.replica, At: now(), What: c.name}
	c.strike(s, h)
	struck.End = now()
	s.add(struck)
	x.quiet, x.living = struck.End, s.living()
	x.errs = func(e event) bool { return c.errs != nil && c.errs(h, e) || c.lost && e.Err == "login" }
	if c.lost {
		c.logIn(s, &x)
	}
	if eventually(x.converge, func() bool { _, ok := x.converged(s.history()); return ok }) {
		pass(x.stale + 200*time.Millisecond)
	}
	s.finish()
	for _, f := range s.endpoint.Families() {
		if lost := c.lost && f.Ordinal == 1; (f.Reuses > 0) != lost || f.Revoked != lost {
			t.Errorf("family %d: %d reuses, revoked %v", f.Ordinal, f.Reuses, f.Revoked)
		}
	}
	return s, x
}

// logIn waits until the fleet knows that its family is lost, checks that it lets it be, and brings it a new one.
func (c grantCase) logIn(s *site, x *expectation) {
	s.t.Helper()
	told := func() bool {
		last := s.lastAnswers()
		return !slices.ContainsFunc(s.living(), func(name string) bool { return last[name].Err != "login" })
	}
	if !eventually(x.converge+patience, told) {
		s.t.Errorf("nobody says that a person must log in:\n%s", s.history().trace())
		return
	}
	calls := s.endpoint.Calls()
	pass(3 * policy.BackoffRefused.Max)
	if n := s.endpoint.Calls(); n != calls || !told() {
		s.t.Errorf("%d more calls after the family was lost", n-calls)
	}
	m := s.person()
	defer func() { _ = m.Close() }()
	status, err := m.Status(s.t.Context(), env)
	if err != nil || status.State != manager.StateFailing || status.Usable || status.Login == "" || status.Failure.Message == nil ||
		!strings.Contains(*status.Failure.Message, "a person must log in: the refresh token was refused (invalid_grant)") {
		s.t.Errorf("the status is %+v, %v", status, err)
	}
	x.quiet, x.converge = now(), soon
	x.calls++
	if _, err := m.ImportGrant(s.t.Context(), env, manager.NewSecret(s.endpoint.NewFamily()), 0); err != nil {
		s.t.Errorf("the import of another refresh token: %v", err)
	}
}

// person is a manager with the replicas' configuration, whose way to Redis has no proxy.
func (s *site) person() *manager.Manager {
	s.t.Helper()
	c := s.config("r1")
	m, err := manager.New(manager.Config{
		Redis: redistest.NewClient(s.t, redistest.Options(s.redis.Addr())), Replica: "person",
		Environments: map[string]manager.Environment{env: c.environment()},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}
