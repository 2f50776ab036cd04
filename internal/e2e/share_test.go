package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// lease is what every site configures; poll is the sparsest that a replica looks by itself.
const (
	lease = 2 * time.Second
	poll  = 2 * time.Second
)

func TestTwentyColdGetsAreOneCall(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond})
	var all []*process
	for i := range 20 {
		all = append(all, s.onetoken(fmt.Sprintf("get-%02d", i), "get", env))
	}
	var took time.Duration
	for _, p := range all {
		r := p.wait()
		took = max(took, r.end.Sub(all[0].begun))
		if got, want := r.succeeds(), s.endpoint.Issued()[0]+"\n"; got != want {
			t.Errorf("%s printed %q, want %q", r.name, got, want)
		}
	}
	s.calls(1)
	t.Logf("20 processes, cold, have the token %v after the start of the first", took)
}

func TestAnEndpointSlowerThanTheLeaseIsCalledOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.SetDefault(mockendpoint.Reply{Delay: 3 * lease})
	f := s.workers(4, "worker")
	f.version()
	s.calls(1)
}

func TestAKilledHolderIsReplacedWithinTheLeaseAndAPoll(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.Push(mockendpoint.Reply{Hang: true})
	f := s.workers(4, "worker")
	s.awaitCall()
	holder := f.named(s.holder())
	holder.kill()
	took := f.without(holder).all(lease+poll, "the others have a token", ok)
	f.without(holder).version()
	s.calls(2)
	t.Logf("3 replicas have a token %v after the SIGKILL, with a lease of %v", took, lease)
}

func TestAKilledHolderIsReplacedByGets(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.Push(mockendpoint.Reply{Hang: true})
	holder := s.onetoken("holder", "get", env)
	s.awaitCall()
	var others []*process
	for i := range 4 {
		others = append(others, s.onetoken(fmt.Sprintf("get-%d", i), "get", env))
	}
	eventually(t, patience, "the others wait", func() bool { return s.waiting() >= len(others)+1 })
	killed := time.Now()
	holder.kill()
	for _, p := range others {
		r := p.wait()
		if got, want := r.succeeds(), s.endpoint.Issued()[0]+"\n"; got != want {
			t.Errorf("%s printed %q, want %q", r.name, got, want)
		}
		if took := r.end.Sub(killed); took > lease+poll {
			t.Errorf("%s had it %v after the SIGKILL, want at most %v", r.name, took, lease+poll)
		}
	}
	s.calls(2)
}

func TestAHolderPausedPastItsLeaseAnswersWithTheNewerToken(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]mockendpoint.Reply{
		"late token":   {},
		"late failure": {Status: 503},
		"late refusal": {Error: "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pausedHolder(t, reply)
		})
	}
}

// pausedHolder has the answer to a paused holder come late.
func pausedHolder(t *testing.T, late mockendpoint.Reply) {
	s := newSite(t, settings{"endpoint_timeout": "25s"})
	gate := make(chan struct{})
	late.Gate = gate
	s.endpoint.Push(late)
	f := s.workers(3, "worker")
	s.awaitCall()
	holder := f.named(s.holder())
	holder.signal(syscall.SIGSTOP)
	others := f.without(holder)
	took := others.all(patience, "the others have a token", ok)
	newer := others.version()
	s.calls(2)

	// The answer to the paused one is let go, and waits in its socket.
	close(gate)
	eventually(t, patience, "both calls are answered", func() bool { return s.endpoint.InFlight() == 0 })
	holder.signal(syscall.SIGCONT)
	eventually(t, patience, "the late holder has a token", func() bool { return holder.last().OK })
	if got := holder.reports()[0]; !got.OK || got.Version != newer || got.RefreshedBy == holder.name {
		t.Errorf("the late holder answers %+v, want version %d of another", got, newer)
	}
	version, text, by := s.stored()
	if version != newer.String() || text != s.endpoint.Issued()[0] || by == holder.name {
		t.Errorf("version %s of %s is stored, want %d", version, by, newer)
	}
	if row := s.status()[env]; row.State != "fresh" {
		t.Errorf("status says %+v", row)
	}
	if others.version() != newer {
		t.Errorf("the others have version %d, want %d", others.version(), newer)
	}
	s.calls(2)
	t.Logf("2 replicas have a token %v after the SIGSTOP, with a lease of %v", took, lease)
}

func TestAHolderToldToEndFinishesItsCall(t *testing.T) {
	t.Parallel()
	// A one-shot command was interrupted before it could answer: that is exit code 1, though the token is stored.
	for name, start := range map[string]func(*site) (p *process, code int){
		"a worker": func(s *site) (*process, int) { return s.worker("holder").process, 0 },
		"get":      func(s *site) (*process, int) { return s.onetoken("holder", "get", env), 1 },
		"refresh":  func(s *site) (*process, int) { return s.onetoken("holder", "refresh", env), 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil)
			gate := make(chan struct{})
			s.endpoint.Push(mockendpoint.Reply{Gate: gate})
			holder, code := start(s)
			s.awaitCall()
			other := s.worker("other")
			holder.signal(syscall.SIGTERM)
			holds(t, 200*time.Millisecond, "the holder is there, and holds the lease", func() bool {
				return holder.runs() && s.holder() == "holder"
			})
			close(gate)
			if r := holder.wait(); code == 0 {
				r.succeeds()
			} else {
				r.fails(code)
			}
			if by := s.holder(); by != "" {
				t.Errorf("%q holds the lease after the holder's end", by)
			}
			version, text, by := s.stored()
			if text != s.endpoint.Issued()[0] || by != "holder" {
				t.Errorf("version %s of %q is stored", version, by)
			}
			if got := (fleet{other}).version(); got.String() != version {
				t.Errorf("the other has version %d, want %s", got, version)
			}
			s.calls(1)
		})
	}
}

func TestAFleetToldToEndInMidCallKeepsTheToken(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	f := s.workers(4, "worker")
	s.awaitCall()
	eventually(t, patience, "everybody waits", func() bool { return s.waiting() == len(f) })
	holder := f.named(s.holder())
	for _, r := range f {
		r.signal(syscall.SIGTERM)
	}
	for _, r := range f.without(holder) { // they needn't wait for the answer
		r.wait().succeeds()
	}
	if !holder.runs() {
		t.Fatal("the holder has left its call")
	}
	close(gate)
	holder.wait().succeeds()
	if got := s.get(); got.RefreshedBy != holder.name {
		t.Errorf("the token is by %q, want %q", got.RefreshedBy, holder.name)
	}
	s.calls(1)
}

func TestGetThatTimesOutNamesTheHolder(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	w := s.worker("worker-7")
	s.awaitCall()
	r := s.run("get", env, "--timeout", "1s")
	if line := r.fails(5); !strings.Contains(line, "worker-7") || !strings.Contains(line, env) {
		t.Errorf("the line names neither holder nor environment: %s", line)
	}
	if r.took < time.Second {
		t.Errorf("it gave up after %v", r.took)
	}
	if got := s.holder(); got != "worker-7" {
		t.Errorf("the holder is %q now", got)
	}
	close(gate)
	(fleet{w}).version()
	s.calls(1)
}

func TestRefreshAndInvalidateAreNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(4, "worker")
	first := f.version()

	second := s.refresh()
	took := f.all(3*time.Second, "everybody has the refreshed token", has(second.Version))
	if second.Version <= first || second.AccessToken != "" {
		t.Errorf("refresh answers %+v after version %d", second, first)
	}
	t.Logf("everybody has the new token %v after refresh's end", took)
	s.calls(2)

	dropped := s.invalidate()
	took = f.all(3*time.Second, "everybody has another token than the dropped one", above(dropped.Version))
	if dropped.Version < second.Version {
		t.Errorf("version %d is dropped, %d was stored", dropped.Version, second.Version)
	}
	t.Logf("everybody has a new token %v after invalidate's end", took)
	s.calls(3)

	if by := s.get(); by.Version != f.version() {
		t.Errorf("get has version %d, the fleet %d", by.Version, f.version())
	}
	f.neverFailed()
	s.calls(3)
}

func TestForeignEventsDoNoHarm(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	f := s.workers(2, "worker")
	f.version()
	ctx, cancel := s.within(patience, "Redis takes the events")
	defer cancel()
	forged, _ := json.Marshal(map[string]any{"env": env, "kind": "stored", "version": 1 << 53})
	for _, payload := range []string{
		"", "\x00\xff\x1b[2J", "[]", "null", `{"env":"prod","kind":"stored","version":-5}`, string(forged),
		`{"env":"prod","kind":"invalidated","version":9007199254740991}`, strings.Repeat("x", 1<<20),
	} {
		if err := s.rdb.Publish(ctx, "onetoken:events", payload).Err(); err != nil {
			t.Fatal(err)
		}
	}
	refreshed := s.refresh()
	f.all(3*time.Second, "everybody has the refreshed token", has(refreshed.Version))
	f.neverFailed()
	s.calls(2)
}

// waiting returns how many processes listen for events: those that wait for a token, or have one.
func (s *site) waiting() int {
	s.t.Helper()
	ctx, cancel := s.within(5*time.Second, "Redis says who is subscribed")
	defer cancel()
	n, err := s.rdb.PubSubNumSub(ctx, "onetoken:events").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	return int(n["onetoken:events"])
}
