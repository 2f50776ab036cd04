package herd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/herd"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// on returns a small herd on the server at addr.
func on(addr string) herd.Options {
	return herd.Options{
		NewRedis: func() (redis.UniversalClient, error) { return redis.NewClient(redistest.Options(addr)), nil },
		Replicas: 5, Latency: 50 * time.Millisecond, Life: herd.MinLife, Callers: 2, Rotations: 2,
	}
}

// empty fails where the herd has left something.
func empty(t *testing.T, rdb *redis.Client) {
	t.Helper()
	if left, err := rdb.Keys(context.Background(), "*").Result(); err != nil || len(left) > 0 {
		t.Errorf("in Redis there is %v, %v", left, err)
	}
}

func TestCold(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, deploy := range []bool{false, true} {
			o := on(rdb.Options().Addr)
			o.Deploy = deploy
			last := herd.Progress{}
			o.Progress = func(p herd.Progress) { last = p }
			r, err := herd.Cold(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Replicas != 5 || r.Calls != 1 || r.Failures != 0 || r.FirstError != nil {
				t.Errorf("deploy %t: %+v", deploy, r)
			}
			if w := r.Wait; w.Min < 0 || w.P50 < w.Min || w.P99 < w.P50 || w.Max < w.P99 || w.Max == 0 || r.Asked <= 0 || r.Asked > w.Max || r.Took < o.Latency {
				t.Errorf("deploy %t: waits %+v, asked after %v, %v in all", deploy, w, r.Asked, r.Took)
			}
			// At the least each reads twice, and one refreshes; a deploy subscribes and shakes hands, too.
			if n := r.Requests.Total(); n < 5 || n > 20*5 {
				t.Errorf("deploy %t: %d requests: %v", deploy, n, r.Requests)
			}
			if deploy && (r.Requests["subscribe"] != 5 || r.Requests.Handshakes() == 0 || r.Connections < 10) {
				t.Errorf("deploy: %d connections, %v", r.Connections, r.Requests)
			}
			if last != (herd.Progress{Step: "tokens", Done: 5, Of: 5}) {
				t.Errorf("the last progress: %+v", last)
			}
		}
		empty(t, rdb)
	})
}

func TestRotation(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	server.ClockTTL(true)
	r, err := herd.Rotation(t.Context(), on(server.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	if r.Replicas != 5 || len(r.Lives) != 2 || r.Failures != 0 || r.Expired != 0 || r.Calls < 100 || r.Longest == 0 {
		t.Errorf("%+v", r)
	}
	for _, l := range r.Lives {
		if l.Calls != 1 || l.Lasted <= 0 || l.Lasted > 2*herd.MinLife || l.Requests.Total() < 5 {
			t.Errorf("a life: %+v", l)
		}
	}
	if n := r.RequestsEach(); n < 1 || n > 20 {
		t.Errorf("%v requests of a replica in a rotation", n)
	}
	if keys := server.Keys(); len(keys) > 0 {
		t.Errorf("in Redis there is %v", keys)
	}
}

// A token that only starts to be replaced when it can't be handed out any more has all callers wait.
func TestRotationCountsWhoWaits(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	server.ClockTTL(true)
	o := on(server.Addr())
	o.Rotations, o.Latency = 1, 900*time.Millisecond // of a life of 2 s, half of which it is handed out
	r, err := herd.Rotation(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Blocked(1); n < 10 || n != r.Lives[0].Blocked || r.Blocked(2) != 0 {
		t.Errorf("%d calls were blocked: %+v", n, r)
	}
	if r.Longest < 100*time.Millisecond {
		t.Errorf("the longest call took %v", r.Longest)
	}
}

func TestRest(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	server.ClockTTL(true)
	o := on(server.Addr())
	o.Life = time.Minute
	r, err := herd.Rest(t.Context(), o, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if r.Replicas != 5 || r.Lasted < 200*time.Millisecond || r.Requests.Total() > 5 { // none, but for what a busy machine does late
		t.Errorf("%+v", r)
	}
	r = &herd.RestResult{Replicas: 2, Lasted: 2 * time.Minute, Requests: herd.Requests{"evalsha": 8, "ping": 24, "hello": 5}}
	if all, pings := r.PerMinute(); all != 8 || pings != 6 {
		t.Errorf("%v requests, %v of them PINGs", all, pings)
	}
}

// Whenever it is interrupted, and whatever fails, nothing is left.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	server.ClockTTL(true)
	interrupted := errors.New("interrupted")
	for _, step := range []string{"connect", "tokens", "rotations"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		o := on(server.Addr())
		o.Progress = func(p herd.Progress) {
			if p.Step == step {
				cancel(interrupted)
			}
		}
		if step == "tokens" { // while the endpoint has the request
			o.Latency = 30 * time.Second
			o.Progress = func(p herd.Progress) {
				if p.Step == "connect" && p.Done == p.Of {
					time.AfterFunc(300*time.Millisecond, func() { cancel(interrupted) })
				}
			}
		}
		if _, err := herd.Rotation(ctx, o); !errors.Is(err, interrupted) {
			t.Errorf("%s: %v", step, err)
		}
		if keys := server.Keys(); len(keys) > 0 {
			t.Errorf("%s: in Redis there is %v", step, keys)
		}
		cancel(nil)
	}
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	o := on(server.Addr())
	server.Close()
	_, err := herd.Cold(t.Context(), o)
	if _, ok := errors.AsType[*store.StatusError](err); !ok {
		t.Errorf("got %v", err)
	}
}

// Others' keys are left alone.
func TestATakenNamespaceIsRefused(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	if err := server.Set("mine:{bench}:lock", "me"); err != nil {
		t.Fatal(err)
	}
	o := on(server.Addr())
	o.Namespace = "mine"
	if _, err := herd.Cold(t.Context(), o); err == nil || !strings.Contains(err.Error(), "namespace mine") {
		t.Errorf("got %v", err)
	}
	if keys := server.Keys(); len(keys) != 1 {
		t.Errorf("of it there is left %v", keys)
	}
}

func TestARedisWithoutRoomIsSpared(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "maxclients 40")
	o := on(s.Addr())
	o.Replicas = 10
	_, err := herd.Cold(t.Context(), o)
	capacity, ok := errors.AsType[*herd.CapacityError](err)
	if !ok || capacity.Needs != 40 || capacity.Of < 30 || capacity.Of > 36 {
		t.Errorf("got %v", err)
	}
	empty(t, s.Client(t))
}

func TestOptionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*herd.Options){
		"no Redis":     func(o *herd.Options) { o.NewRedis = nil },
		"-1 replicas":  func(o *herd.Options) { o.Replicas = -1 },
		"replicas":     func(o *herd.Options) { o.Replicas = herd.MaxReplicas + 1 },
		"a latency":    func(o *herd.Options) { o.Latency = herd.MaxLatency + 1 },
		"a life":       func(o *herd.Options) { o.Life = herd.MinLife - 1 },
		"callers":      func(o *herd.Options) { o.Callers = herd.MaxCallers },
		"-1 rotations": func(o *herd.Options) { o.Rotations = -1 },
	} {
		o := on("127.0.0.1:1")
		change(&o)
		if _, err := herd.Rotation(t.Context(), o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However what is sent is cut into writes, each request is found once.
func TestTheCounterReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	text := ""
	for _, request := range [][]string{{"HELLO", "3"}, {"evalsha", "*1\r\n$4\r\nping\r\n", "", "5"}, {"ping"}, {"evalsha", strings.Repeat("x", 1000)}} {
		text += fmt.Sprintf("*%d\r\n", len(request))
		for _, arg := range request {
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	for size := 1; size <= len(text); size++ {
		var c herd.Counter
		client, server := newPipe(t)
		conn := c.Conn(client)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if _, err := conn.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got := server(); got != text {
			t.Fatalf("in pieces of %d something else has arrived", size)
		}
		r := c.Requests()
		if len(r) != 3 || r["hello"] != 1 || r["evalsha"] != 2 || r["ping"] != 1 || r.Total() != 3 || r.Handshakes() != 1 || c.Connections() != 1 {
			t.Fatalf("in pieces of %d: %v", size, r)
		}
		if d := r.Since(herd.Requests{"evalsha": 1, "ping": 1}); len(d) != 2 || d["evalsha"] != 1 || d["hello"] != 1 {
			t.Fatalf("the difference: %v", d)
		}
	}
}

// newPipe returns a connection, and what has arrived at its other end.
func newPipe(t *testing.T) (net.Conn, func() string) {
	t.Helper()
	client, server := net.Pipe()
	arrived := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(server)
		arrived <- string(text)
	}()
	return client, func() string { _ = client.Close(); return <-arrived }
}
