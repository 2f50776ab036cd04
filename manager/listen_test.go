package manager_test

import (
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A heard is what a listener was told.
type heard struct {
	mu     sync.Mutex
	tokens []*manager.Token
}

func (h *heard) add(t *manager.Token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = append(h.tokens, t)
}

func (h *heard) all() []*manager.Token {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*manager.Token(nil), h.tokens...)
}

// listenKit starts managers in the caller's bubble, whose tokens live for 100 s.
func listenKit(t *testing.T, n int, edit func(c *manager.Config)) (*managertest.Kit, *manager.Env) {
	t.Helper()
	kit := managertest.NewFleet(t, n, managertest.Options{
		InMemory: true, Endpoint: mockendpoint.Options{Life: 100 * time.Second},
		Config: func(_ int, c *manager.Config) {
			if edit != nil {
				edit(c)
			}
		},
	})
	e, err := kit.Manager.Env(managertest.Environment)
	if err != nil {
		t.Fatal(err)
	}
	return kit, e
}

func TestAListenerAsksAndHearsOfEachToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 2, nil)
		var h, other heard
		defer e.OnToken(h.add)()
		<-time.After(time.Second)
		if n := len(h.all()); n != 1 {
			t.Fatalf("it has heard of %d tokens, want the first, which nobody else has asked for", n)
		}
		theirs, err := kit.Managers[1].Env(managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.OnToken(other.add)()
		<-time.After(5 * time.Minute)
		got := h.all()
		if calls := kit.Endpoint.Calls(); len(got) != calls || calls < 4 || calls > 5 {
			t.Errorf("it has heard of %d tokens in 300 s; the endpoint was asked %d times, want one for each 80 s", len(got), calls)
		}
		for i, tok := range got[1:] {
			if tok.Version <= got[i].Version {
				t.Errorf("version %d after %d", tok.Version, got[i].Version)
			}
		}
		for i, tok := range other.all() {
			if tok.Version != got[i].Version {
				t.Errorf("the other replica's %d. is %d, want %d", i, tok.Version, got[i].Version)
			}
		}
	})
}

func TestAListenerHearsOfTheTokenThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		tok, err := e.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var h heard
		defer e.OnToken(h.add)()
		if got := h.all(); len(got) != 1 || got[0] != tok {
			t.Errorf("it has heard of %v, want %v at once", got, tok)
		}
		if _, err := e.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := h.all(); len(got) != 2 || got[1].Version <= tok.Version {
			t.Errorf("it has heard of %v", got)
		}
		if n := kit.Endpoint.Calls(); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestWithoutListenersNothingIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		var h heard
		stop := e.OnToken(h.add)
		h.all()
		stop()
		stop()
		<-time.After(10 * time.Minute)
		if n := kit.Endpoint.Calls(); n != 1 || len(h.all()) != 1 {
			t.Errorf("%d calls, %d heard, want those before stop", n, len(h.all()))
		}
	})
}

func TestASlowListenerGetsTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, e := listenKit(t, 1, nil)
		var h heard
		var running atomic.Int32
		goOn := make(chan struct{})
		defer e.OnToken(func(tok *manager.Token) {
			if running.Add(1) > 1 {
				t.Error("two calls at once")
			}
			h.add(tok)
			<-goOn
			running.Add(-1)
		})()
		h.all()
		var last *manager.Token
		for range 5 {
			var err error
			if last, err = e.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(h.all()); n != 1 {
			t.Errorf("%d calls while the first one runs", n)
		}
		close(goOn)
		if got := h.all(); len(got) != 2 || got[1] != last {
			t.Errorf("it has heard of %v, want the first one and %v", got, last)
		}
	})
}

func TestAnInvalidationIsHeardOfByItsSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		var h heard
		defer e.OnToken(h.add)()
		first := h.all()[0]
		kit.Endpoint.Push(mockendpoint.Reply{Status: 503})
		if _, err := e.Invalidate(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		<-time.After(1500 * time.Millisecond)
		if n := len(h.all()); n != 1 || kit.Endpoint.Calls() != 2 {
			t.Errorf("%d heard after %d calls, want none while the endpoint fails", n, kit.Endpoint.Calls())
		}
		<-time.After(5 * time.Second)
		if got := h.all(); len(got) != 2 || got[1].Version <= first.Version {
			t.Errorf("it has heard of %v, want a successor of %v", got, first)
		}
	})
}

func TestAListenerHearsOfALowerVersionAfterALostHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		far := manager.Version(time.Now().Add(20 * time.Hour).UnixMicro())
		if err := kit.Redis.HSet(t.Context(), kit.Store.Keys(managertest.Environment).Mark, "issued", far.String()).Err(); err != nil {
			t.Fatal(err)
		}
		var h heard
		defer e.OnToken(h.add)()
		if got := h.all(); len(got) != 1 || got[0].Version <= far {
			t.Fatalf("it has heard of %v", got)
		}
		<-time.After(time.Second) // what is read from here on is read after that was published
		if err := kit.Redis.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		tok, err := e.Refresh(t.Context())
		if err != nil || tok.Version >= far {
			t.Fatalf("got %v, %v", tok, err)
		}
		if got := h.all(); len(got) != 2 || got[1].Version != tok.Version {
			t.Errorf("it has heard of %v, want %v", got, tok)
		}
	})
}

func TestAListenerHearsOfTokensFetchedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{
			InMemory: true, Endpoint: mockendpoint.Options{Life: 100 * time.Second},
			Environment: manager.Environment{Policy: manager.Policy{Outage: manager.OutageRefreshAlone}},
		})
		e, err := kit.Manager.Env(managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		kit.Miniredis.SetError(loading)
		var h heard
		defer e.OnToken(h.add)()
		<-time.After(200 * time.Second)
		alone := h.all()
		if calls := kit.Endpoint.Calls(); len(alone) != calls || calls < 2 {
			t.Errorf("it has heard of %d tokens; %d were fetched", len(alone), calls)
		}
		for _, tok := range alone {
			if tok.Version != 0 {
				t.Errorf("got version %d without Redis", tok.Version)
			}
		}
		kit.Miniredis.SetError("")
		if _, err := e.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := h.all(); len(got) != len(alone)+1 || got[len(alone)].Version == 0 {
			t.Errorf("with Redis again it has heard of %v", got[len(alone):])
		}
	})
}

func TestAListenerHearsOfATokenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stepped atomic.Int64
		_, e := listenKit(t, 1, func(c *manager.Config) {
			c.WallClock = func() time.Time { return time.Now().Add(time.Duration(stepped.Load())) }
		})
		var h heard
		defer e.OnToken(h.add)()
		h.all()
		for range 3 { // each has it read again, and handed out again
			stepped.Add(int64(2 * time.Second))
			<-time.After(3 * time.Second)
		}
		if n := len(h.all()); n != 1 {
			t.Errorf("it has heard %d times of one token", n)
		}
	})
}

func TestAListenerStopsItself(t *testing.T) {
	for name, call := range map[string]func(stop func()){
		"straight": func(stop func()) { stop() },
		"from far down": func(stop func()) {
			var down func(n int)
			down = func(n int) {
				if n == 0 {
					stop()
					return
				}
				down(n - 1)
				runtime.KeepAlive(n)
			}
			down(500)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, e := listenKit(t, 1, nil)
				var h heard
				stops := make(chan func(), 1)
				stop := e.OnToken(func(tok *manager.Token) {
					h.add(tok)
					call(<-stops)
				})
				stops <- stop
				h.all()
				if _, err := e.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := len(h.all()); n != 1 {
					t.Errorf("%d calls, want 1", n)
				}
				stop()
			})
		})
	}
}

func TestListenersThatStopEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, e := listenKit(t, 1, nil)
		var one, other func()
		ready := make(chan struct{})
		one = e.OnToken(func(*manager.Token) { <-ready; other() })
		other = e.OnToken(func(*manager.Token) { <-ready; one() })
		synctest.Wait()
		close(ready)
		one()
		other()
	})
}

func TestStopWaitsForACallThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, e := listenKit(t, 1, nil)
		goOn := make(chan struct{})
		var ended atomic.Bool
		stop := e.OnToken(func(*manager.Token) {
			<-goOn
			ended.Store(true)
		})
		synctest.Wait()
		stopped := make(chan struct{})
		go func() {
			stop()
			if !ended.Load() {
				t.Error("stop has returned before the call")
			}
			close(stopped)
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("stop hasn't waited")
		default:
		}
		close(goOn)
		<-stopped
	})
}

func TestCloseWaitsForListenersAndEndsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		goOn := make(chan struct{})
		var h, idle heard
		stop := e.OnToken(func(tok *manager.Token) { h.add(tok); <-goOn })
		e.OnToken(idle.add) // nobody stops it
		h.all()
		if _, err := e.Refresh(t.Context()); err != nil { // it is to hear of that, too
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() { _ = kit.Manager.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close hasn't waited for a call that runs")
		default:
		}
		close(goOn)
		<-closed
		stop()
		if n := len(h.all()); n != 1 {
			t.Errorf("%d calls, want none after Close", n)
		}
		late := e.OnToken(func(*manager.Token) { t.Error("it hears of a closed manager's token") })
		synctest.Wait()
		late()
	})
}

func TestAListenerThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged logBuffer
		_, e := listenKit(t, 1, func(c *manager.Config) { c.Logger = logged.logger() })
		var h, other heard
		defer e.OnToken(func(tok *manager.Token) {
			h.add(tok)
			panic(errors.New("with a hunter2 in it"))
		})()
		stop := e.OnToken(func(tok *manager.Token) {
			other.add(tok)
			runtime.Goexit()
		})
		defer stop()
		h.all()
		if _, err := e.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(h.all()); n != 2 {
			t.Errorf("%d calls, want it called with the next one, too", n)
		}
		if n := len(other.all()); n != 1 {
			t.Errorf("%d calls of one that has ended its goroutine", n)
		}
		if text := logged.String(); strings.Count(text, `"outcome":"listener_panic"`) != 2 || !strings.Contains(text, "errorString") || strings.Contains(text, "hunter2") {
			t.Errorf("logged: %s", text)
		}
	})
}

func TestAHundredListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, func(c *manager.Config) { c.Logger = slog.New(slog.DiscardHandler) })
		heards := make([]heard, 100)
		stops := make([]func(), len(heards))
		for i := range heards {
			stops[i] = e.OnToken(heards[i].add)
		}
		var churn sync.WaitGroup
		for range 8 { // others come and go meanwhile
			churn.Go(func() {
				for range 50 {
					var h heard
					stop := e.OnToken(h.add)
					if _, err := e.Token(t.Context()); err != nil {
						t.Error(err)
					}
					stop()
				}
			})
		}
		for range 10 {
			if _, err := e.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		churn.Wait()
		calls := kit.Endpoint.Calls()
		for i := range heards {
			got := heards[i].all()
			if len(got) == 0 || len(got) > calls || !kit.Endpoint.Accepts(got[len(got)-1].AccessToken.Reveal()) {
				t.Fatalf("listener %d has heard of %d tokens of %d", i, len(got), calls)
			}
			for n := range got[1:] {
				if got[n+1].Version <= got[n].Version {
					t.Errorf("listener %d: version %d after %d", i, got[n+1].Version, got[n].Version)
				}
			}
			stops[i]()
		}
	})
}

// A listener doesn't make the warm path dearer.
func TestAWarmTokenCostsNoAllocationWithListeners(t *testing.T) {
	m := warm(t)
	e, err := m.Env(env)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 1)
	defer e.OnToken(func(*manager.Token) { told <- struct{}{} })()
	<-told
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = e.Token(ctx) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
