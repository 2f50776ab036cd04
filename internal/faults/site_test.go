package faults_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// call is the step of the request to the token endpoint.
const call faultproxy.Step = "call"

// inside is the phase of a call in which the endpoint has it and hasn't answered.
const inside = faultproxy.Phase(2)

// The policy of all replicas: everything is short.
const (
	lease  = 2 * time.Second
	margin = 400 * time.Millisecond // that a token is not handed out with less left
)

var policy = manager.Policy{
	Lease: lease, ExpiryMargin: margin, EndpointTimeout: 2500 * time.Millisecond, ConnectTimeout: time.Second,
	Backoff:        manager.Backoff{Min: 300 * time.Millisecond, Max: time.Second},
	BackoffRefused: manager.Backoff{Min: 300 * time.Millisecond, Max: time.Second},
}

// A site is a fleet under fire: replicas behind proxies of their own, a Redis, an endpoint, and the history of it all.
type site struct {
	*recorder
	t        *testing.T
	redis    *redistest.Server
	endpoint *mockendpoint.Endpoint
	login    string     // the first refresh token of a family; "": the grant is client_credentials
	paused   int64      // since when Redis is; 0: it isn't
	replicas []*replica // those that were started last under each name
	proxies  map[string]proxies
	done     chan struct{} // closed at the test's end: nothing is held any more

	mu   sync.Mutex
	trap *trap // guarded by mu; nil where none is set
	held int   // hits that wait; guarded by mu
}

// proxies are those of one replica.
type proxies struct{ redis, endpoint *faultproxy.Proxy }

// newSite makes a site for n replicas, with an endpoint whose answers to begin with are def. Nobody asks it yet.
func newSite(t *testing.T, n int, def mockendpoint.Reply) *site {
	t.Helper()
	return newSiteWith(t, n, mockendpoint.New(mockendpoint.Options{Default: def}), "")
}

// newSiteWith makes a site with an endpoint, and for a grant of its own where login isn't "". config is Redis's.
func newSiteWith(t *testing.T, n int, endpoint *mockendpoint.Endpoint, login string, config ...string) *site {
	t.Helper()
	s := &site{
		recorder: newRecorder(), t: t, redis: redistest.Start(t, config...), proxies: map[string]proxies{}, done: make(chan struct{}),
		endpoint: endpoint, login: login,
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	t.Cleanup(s.endpoint.Close)
	for i := range n {
		name := fmt.Sprintf("r%d", i+1)
		to := func(addr string, raw faultproxy.Step) *faultproxy.Proxy {
			p, err := faultproxy.New(addr, faultproxy.Options{Raw: raw, Hook: func(f faultproxy.Frame) faultproxy.Action {
				return s.frame(name, f)
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			return p
		}
		s.proxies[name] = proxies{to(s.redis.Addr(), ""), to(server.Listener.Addr().String(), call)}
	}
	var watches sync.WaitGroup
	t.Cleanup(func() {
		close(s.done)
		watches.Wait()
	})
	s.watch(&watches)
	return s
}

// launch starts the replicas, all at once.
func (s *site) launch() {
	s.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.proxies)) {
		s.replicas = append(s.replicas, s.start(name))
	}
}

// watch watches for stalls of Redis and of the test.
func (s *site) watch(all *sync.WaitGroup) {
	as := func(name string) func(event) {
		return func(e event) {
			e.Replica = name
			s.add(e)
		}
	}
	rdb := s.redis.Client(s.t)
	all.Go(func() { watchStalls(s.done, func() {}, as(testName)) })
	all.Go(func() {
		watchStalls(s.done, func() { _ = rdb.Ping(context.Background()).Err() }, as(redisName)) // an error: it takes its time, too
	})
}

func (s *site) start(name string) *replica {
	s.t.Helper()
	return startReplica(s.t, s.config(name), s.add)
}

// config is what the replica of that name is told.
func (s *site) config(name string) replicaConfig {
	return replicaConfig{
		Name: name, Redis: s.proxies[name].redis.Addr(), Token: s.proxies[name].endpoint.Addr(), Policy: policy,
		RefreshToken: s.login, Every: 25 * time.Millisecond,
	}
}

func (s *site) named(name string) *replica {
	s.t.Helper()
	i := slices.IndexFunc(s.replicas, func(r *replica) bool { return r.name == name })
	if i < 0 {
		s.t.Fatalf("no replica is called %q", name)
	}
	return s.replicas[i]
}

// living are the names of the replicas that nobody has ended.
func (s *site) living() []string {
	var names []string
	for _, r := range s.replicas {
		if !r.leaving {
			names = append(names, r.name)
		}
	}
	return names
}

// serve is the endpoint, with a record of who asked and what he got.
func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	e := event{Kind: kindCall, Replica: r.Header.Get(replicaHeader), At: now()}
	e.Version = s.issuedTo(e.Replica)
	if err := r.ParseForm(); err == nil { // what was read stays for the endpoint
		if token := r.PostForm.Get("refresh_token"); token != "" {
			e.Refresh = digest(token)
		}
	}
	answer := &answer{ResponseWriter: w, status: "no answer"}
	defer func() { // also after the panic that cuts a connection
		e.End, e.What = now(), answer.status
		var body struct {
			AccessToken string  `json:"access_token"`
			ExpiresIn   float64 `json:"expires_in"`
		}
		if json.Unmarshal(answer.body.Bytes(), &body) == nil && body.AccessToken != "" {
			e.Digest, e.Life = digest(body.AccessToken), int64(body.ExpiresIn*float64(time.Second))
			e.What = fmt.Sprintf("a token for %gs", body.ExpiresIn)
		}
		s.add(e)
	}()
	s.spring(hit{replica: e.Replica, step: call, phase: inside})
	s.endpoint.ServeHTTP(answer, r)
}

// An answer keeps what it passes on.
type answer struct {
	http.ResponseWriter
	status string
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int) {
	a.status = strconv.Itoa(status)
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.body.Write(p)
	return a.ResponseWriter.Write(p)
}

// frame is the hook of every proxy: it records what Redis did, and springs the trap.
func (s *site) frame(replica string, f faultproxy.Frame) faultproxy.Action {
	if f.Phase == faultproxy.Reply && !f.Failed {
		for _, e := range outcomes(f) {
			e.Replica, e.At, e.Came = replica, cmp.Or(e.At, now()), f.Came.UnixNano()
			s.add(e)
		}
	}
	if f.Phase == faultproxy.Request {
		switch f.Step {
		case faultproxy.Acquire, faultproxy.Claim:
			s.add(event{Kind: kindAsked, Replica: replica, At: now(), Lease: firstArg(f)})
		case faultproxy.Release:
			s.add(event{Kind: kindFreeing, Replica: replica, At: now(), Lease: firstArg(f)})
		default:
		}
	}
	if f.Failed || f.Phase == faultproxy.Reply && (f.Step == faultproxy.Acquire || f.Step == faultproxy.Claim) && len(outcomes(f)) == 0 {
		return faultproxy.Pass // not that step after all: a script that isn't known, a lease that another holds
	}
	if (f.Step == faultproxy.Renew || f.Step == faultproxy.Release) && f.Phase == faultproxy.Request && s.holding() != replica {
		return faultproxy.Pass // redsync cleans up after a lease that it may have got
	}
	if f.Step == faultproxy.Event && s.holding() == replica {
		return faultproxy.Pass // that is to be the others' trouble
	}
	if f.Step == faultproxy.Release && f.Phase == faultproxy.Reply && (len(f.Reply) == 0 || f.Reply[0] != "1") {
		return faultproxy.Pass
	}
	return s.spring(hit{replica: replica, step: f.Step, phase: f.Phase})
}

// firstArg is a script's first argument, "" where there is none: of those about the lease, its value.
func firstArg(f faultproxy.Frame) string {
	if i := firstArgAt(f); i < len(f.Args) {
		return f.Args[i]
	}
	return ""
}

// firstArgAt is where a script's first argument is: after its name, the number of its keys and those.
func firstArgAt(f faultproxy.Frame) int {
	if len(f.Args) < 3 {
		return len(f.Args)
	}
	n, _ := strconv.Atoi(f.Args[2])
	return 3 + n
}

// outcomes are the events that a reply of Redis tells of.
func outcomes(f faultproxy.Frame) []event {
	first := ""
	if len(f.Reply) > 0 {
		first = f.Reply[0]
	}
	number := func(list []string, i int) int64 {
		if i >= len(list) {
			return 0
		}
		n, _ := strconv.ParseInt(list[i], 10, 64)
		return n
	}
	after := firstArgAt(f)
	arg := func() store.Version { return store.Version(number(f.Args, after)) }
	granted := func() event { return event{Kind: kindGranted, Lease: firstArg(f)} }
	switch {
	case f.Step == faultproxy.Acquire && first == "acquired":
		return []event{granted()}
	case f.Step == faultproxy.Claim && number(f.Reply, 11) > 0:
		return []event{granted(), {Kind: kindIssued, Version: store.Version(number(f.Reply, 11))}}
	case f.Step == faultproxy.Renew && first == "1":
		return []event{{Kind: kindRenewed}}
	case f.Step == faultproxy.Release && first == "1":
		return []event{{Kind: kindFreed}}
	case f.Step == faultproxy.Issue && first == "issued":
		return []event{{Kind: kindIssued, Version: store.Version(number(f.Reply, 1))}}
	case f.Step == faultproxy.Put && first == "stored":
		return []event{{Kind: kindStored, Version: arg()}}
	case f.Step == faultproxy.Invalidate && first == "dropped":
		// Without a version it drops up to Redis's clock: that is when it was.
		v := store.Version(number(f.Reply, 1))
		return []event{{Kind: kindErased, Version: v, At: int64(v) * 1000}}
	case f.Step == faultproxy.Fail && first == "failed" && len(f.Reply) == 3:
		retry, err := time.Parse(time.RFC3339, f.Reply[1])
		if err != nil {
			return nil
		}
		// The code is the sixth argument after the version.
		code := f.Args[min(after+6, len(f.Args)-1)]
		return []event{{Kind: kindFailed, Version: arg(), RetryAt: retry.UnixNano(), What: code}}
	}
	return nil
}

// A trap is a step at which something is to happen, the first time that it is reached.
type trap struct {
	step  faultproxy.Step
	phase faultproxy.Phase
	hits  chan hit
}

// A hit is a frame, or a call, that waits for what becomes of it.
type hit struct {
	replica string
	step    faultproxy.Step
	phase   faultproxy.Phase
	action  chan faultproxy.Action
}

// goOn lets the frame go.
func (h hit) goOn(a faultproxy.Action) { h.action <- a }

// spring holds what is at the trapped step until the test has decided; all else passes.
func (s *site) spring(h hit) faultproxy.Action {
	s.mu.Lock()
	t := s.trap
	if t == nil || t.step != h.step || t.phase != h.phase {
		s.mu.Unlock()
		return faultproxy.Pass
	}
	s.trap = nil
	s.held++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held--
	}()
	h.action = make(chan faultproxy.Action, 1)
	t.hits <- h
	select {
	case a := <-h.action:
		return a
	case <-s.done:
		return faultproxy.Cut
	}
}

// set sets the trap.
func (s *site) set(step faultproxy.Step, phase faultproxy.Phase) *trap {
	t := &trap{step: step, phase: phase, hits: make(chan hit, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trap = t
	return t
}

// holds reports whether a hit waits.
func (s *site) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held > 0
}

// disarm takes the trap away, if it is still set.
func (s *site) disarm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trap = nil
}

func (s *site) await(t *trap) hit {
	s.t.Helper()
	select {
	case h := <-t.hits:
		return h
	case <-time.After(patience):
		s.t.Fatalf("nobody came to the %s of %s:\n%s", phaseName(t.phase), t.step, s.history().trace())
		return hit{}
	}
}

func phaseName(p faultproxy.Phase) string {
	if p == inside {
		return "inside"
	}
	return p.String()
}

// calm waits until every replica has the stored token, which is young, and nobody is at work, and returns its version.
func (s *site) calm(youth time.Duration) store.Version {
	s.t.Helper()
	var v store.Version
	if !eventually(patience, func() bool {
		at := now()
		stored := s.history().storedBy(at)
		v = stored.Version
		return v != 0 && s.holding() == "" && at-stored.At < int64(youth) && s.allHave(func(e event) bool { return e.Version == v })
	}) {
		s.t.Fatalf("it doesn't calm down:\n%s", s.history().trace())
	}
	return v
}

// allHave reports whether the last answer to every living replica is as wanted.
func (s *site) allHave(wanted func(event) bool) bool {
	last := s.lastAnswers()
	return !slices.ContainsFunc(s.living(), func(name string) bool {
		e, ok := last[name]
		return !ok || !e.ok() || !wanted(e)
	})
}

// stop stops a replica's process for a while.
func (s *site) stop(r *replica, d time.Duration) {
	s.t.Helper()
	e := event{Kind: kindStop, Replica: r.name, At: now()}
	r.signal(syscall.SIGSTOP)
	pass(d)
	r.signal(syscall.SIGCONT)
	e.End = now()
	s.add(e)
}

// pauseRedis stops Redis's process, and continueRedis lets it run again, if it still is that.
func (s *site) pauseRedis() {
	s.t.Helper()
	s.redis.Pause(s.t)
	s.paused = now()
}

func (s *site) continueRedis() {
	s.t.Helper()
	if s.paused != 0 {
		s.redis.Continue(s.t)
		s.add(event{Kind: kindPause, Replica: redisName, At: s.paused, End: now()})
		s.paused = 0
	}
}

// restartRedis kills Redis and starts an empty one.
func (s *site) restartRedis() {
	s.t.Helper()
	e := event{Kind: kindLost, At: now(), What: "Redis is restarted, empty"}
	if s.paused != 0 {
		e.At, s.paused = s.paused, 0
	}
	s.redis.Stop()
	s.redis.Start(s.t)
	e.End = now()
	s.add(e)
}

// flushRedis has Redis forget all, with its connections as they are.
func (s *site) flushRedis() {
	s.t.Helper()
	e := event{Kind: kindLost, At: now(), What: "Redis is flushed"}
	if err := s.redis.Client(s.t).FlushAll(s.t.Context()).Err(); err != nil {
		s.t.Fatal(err)
	}
	e.End = now()
	s.add(e)
}

// finish ends all replicas that are left, in good order.
func (s *site) finish() {
	s.t.Helper()
	for _, r := range s.replicas {
		if !r.leaving {
			r.terminate()
		}
	}
}

// show prints the history.
func (s *site) show() {
	s.t.Helper()
	s.t.Log("the history:\n" + s.history().trace())
	for _, r := range s.replicas {
		s.t.Logf("%s has logged:\n%s", r.name, r.log())
	}
}

// showTrace says whether every history is to be printed, and not only those that break a rule.
func showTrace() bool { return os.Getenv("ONETOKEN_FAULTS_TRACE") != "" }
