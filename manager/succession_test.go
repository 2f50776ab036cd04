package manager_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A busyFleet is a fleet in a bubble, whose replicas have callers that ask for the token again and again.
type busyFleet struct {
	*managertest.Kit
	t      *testing.T
	asking sync.WaitGroup

	sent, reads     atomic.Int64 // commands, each of which takes 2 ms
	asked, blocked  atomic.Int64 // calls of Token, and those of them that took any time
	expired         atomic.Int64 // tokens handed out after their end
	cutOff, deserts atomic.Bool  // whether the first replica can't reach the endpoint, and is asked for nothing
}

func newBusyFleet(t *testing.T, n int, life, delay time.Duration) *busyFleet {
	t.Helper()
	f := &busyFleet{t: t}
	f.Kit = managertest.NewFleet(t, n, managertest.Options{
		InMemory: true, Logger: slog.New(slog.DiscardHandler),
		Endpoint:    mockendpoint.Options{Life: life, Default: mockendpoint.Reply{Delay: delay}},
		Environment: manager.Environment{Policy: manager.Policy{EndpointTimeout: time.Minute}},
		Config: func(i int, c *manager.Config) {
			c.Redis.AddHook(distant{f})
			if i == 0 {
				e := c.Environments[managertest.Environment]
				e.HTTPClient = &http.Client{Transport: severable{&f.cutOff, e.HTTPClient.Transport}}
				c.Environments[managertest.Environment] = e
			}
		},
	})
	if _, err := f.Manager.Status(t.Context(), managertest.Environment); err != nil { // Redis knows the script, and all hear events
		t.Fatal(err)
	}
	<-time.After(time.Second)
	return f
}

// distant counts the commands of a fleet, and has each take 2 ms.
type distant struct{ *busyFleet }

func (distant) DialHook(next redis.DialHook) redis.DialHook { return next }

func (distant) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next // once for each connection
}

func (d distant) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if d.sent.Add(1); isRead(cmd) {
			d.reads.Add(1)
		}
		<-time.After(time.Millisecond)
		defer func() { <-time.After(time.Millisecond) }()
		return next(ctx, cmd)
	}
}

// severable is a way to the endpoint that can be cut.
type severable struct {
	cut  *atomic.Bool
	next http.RoundTripper
}

func (s severable) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.cut.Load() {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	}
	return s.next.RoundTrip(r)
}

// ask has each replica asked every so often, for that long, counting from when that has begun.
func (f *busyFleet) ask(every, d time.Duration) {
	end := time.Now().Add(d)
	for i, m := range f.Managers {
		f.asking.Go(func() {
			for ; time.Now().Before(end); <-time.After(every) {
				if i == 0 && f.deserts.Load() {
					continue
				}
				before := time.Now()
				tok, err := m.Token(f.t.Context(), managertest.Environment)
				switch {
				case errors.Is(err, manager.ErrClosed):
					return
				case err != nil:
					f.t.Errorf("%s: %v", m.Replica(), err)
					return
				case !time.Now().Before(tok.ExpiresAt):
					f.expired.Add(1)
				}
				if f.asked.Add(1); time.Since(before) > 0 {
					f.blocked.Add(1)
				}
			}
		})
	}
}

// forget counts from here on.
func (f *busyFleet) forget() {
	synctest.Wait()
	for _, n := range []*atomic.Int64{&f.sent, &f.reads, &f.asked, &f.blocked} {
		n.Store(0)
	}
}

func (f *busyFleet) blocksNobody() {
	f.t.Helper()
	if n := f.blocked.Load(); n != 0 {
		f.t.Errorf("%d of %d calls had to wait", n, f.asked.Load())
	}
	if n := f.expired.Load(); n != 0 {
		f.t.Errorf("%d expired tokens were handed out", n)
	}
}

// A rotation is the work of one replica: the others read the new token. Nobody waits, though the endpoint needs a third of a
// life.
func TestARotationBlocksNobodyAndCostsOthersARead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		replicas           int
		life, delay, every time.Duration
		swept              bool // a life is long enough for another read, the net under lost events
	}{
		{50, 2 * time.Second, 600 * time.Millisecond, 17 * time.Millisecond, false},
		{10, 2 * time.Second, 50 * time.Millisecond, 17 * time.Millisecond, false},
		{10, time.Minute, time.Second, 217 * time.Millisecond, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newBusyFleet(t, c.replicas, c.life, c.delay)
			f.ask(c.every, 5*c.life)
			<-time.After(2 * c.life)
			f.forget()
			before := f.Endpoint.Calls()
			f.asking.Wait()
			f.blocksNobody()
			calls, each := f.Endpoint.Calls()-before, 1
			if c.swept {
				each = 2
			}
			if n := int(f.sent.Load()); n > calls*(each*c.replicas+20) {
				t.Errorf("life %v, endpoint %v: %d commands for %d rotations of %d replicas", c.life, c.delay, n, calls, c.replicas)
			}
			if calls < 3 || calls > 6 { // not before half the life
				t.Errorf("life %v, endpoint %v: %d calls in three lives", c.life, c.delay, calls)
			}
			t.Logf("life %v, endpoint %v: %d rotations, %d commands", c.life, c.delay, calls, f.sent.Load())
		})
	}
}

// Whoever refreshed last may be gone: others see to the next token, in time.
func TestOthersStandInForWhoRefreshedLast(t *testing.T) {
	t.Parallel()
	closed := func(f *busyFleet) { _ = f.Manager.Close() }
	for _, c := range []struct {
		what  string
		life  time.Duration
		leave func(*busyFleet)
	}{
		{"has been closed", time.Hour, closed},
		{"has been closed", time.Minute, closed},
		{"is asked for nothing", time.Minute, func(f *busyFleet) { f.deserts.Store(true) }},
		{"can't reach the endpoint", time.Minute, func(f *busyFleet) { f.cutOff.Store(true) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			life := c.life
			f := newBusyFleet(t, 5, life, time.Second)
			first, err := f.Manager.Refresh(t.Context(), managertest.Environment)
			if err != nil {
				t.Fatal(err)
			}
			f.ask(life/200, life)
			<-time.After(life / 100)
			f.forget()
			c.leave(f)
			f.asking.Wait()
			f.blocksNobody()
			tok, err := f.Managers[1].Token(t.Context(), managertest.Environment)
			if err != nil || tok.Version == first.Version || tok.RefreshedBy == first.RefreshedBy {
				t.Fatalf("it %s: got %v, %v", c.what, tok, err)
			}
			if age := tok.IssuedAt.Sub(first.IssuedAt); age < life*3/4 || age > life*9/10 {
				t.Errorf("it %s: of %v, %v had passed when another refreshed", c.what, life, age)
			}
			if n := f.Endpoint.Calls(); n != 2 {
				t.Errorf("it %s: %d calls", c.what, n)
			}
		})
	}
}

// Who waits for a slow endpoint, and hears events, looks no more than once in 2 s.
func TestWaitingForASlowEndpointCostsLittle(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{5 * time.Second, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			const replicas = 20
			f := newBusyFleet(t, replicas, time.Hour, delay)
			f.forget()
			f.ask(time.Second, time.Second)
			<-time.After(delay + 100*time.Millisecond)
			// The first one, and that which brings the token.
			if n, most := int(f.reads.Load()), replicas*2+replicas*int(delay)/int(2*time.Second); n > most {
				t.Errorf("%d reads while the endpoint took %v, want at most %d", n, delay, most)
			}
			if n := f.asked.Load(); n != replicas || f.Endpoint.Calls() != 1 {
				t.Errorf("%d have a token after %d calls", n, f.Endpoint.Calls())
			}
			f.asking.Wait()
		})
	}
}

// A Refresh may find the lease of one that has just brought a token: its release is a moment away, and no event tells of it.
func TestARefreshRightAfterAnotherWaitsForNoEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newBusyFleet(t, 2, time.Hour, 100*time.Millisecond)
		for i := range 20 {
			before := time.Now()
			if _, err := f.Manager.Refresh(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(before); took > 250*time.Millisecond {
				t.Errorf("the %dth refresh took %v, with an endpoint that takes 100 ms", i, took)
			}
		}
		if n := f.Endpoint.Calls(); n != 20 {
			t.Errorf("%d calls for 20 refreshes", n)
		}
	})
}
