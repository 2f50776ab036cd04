package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

// ears hear what a Watcher is told, in order: a bool of Subscribed, or an Event.
type ears chan any

func (e ears) Subscribed(confirmed bool)   { e <- confirmed }
func (e ears) Event(event store.Event)     { e <- event }
func (e ears) want(t *testing.T, what any) { t.Helper(); e.wantWithin(t, what, 10*time.Second) }

func (e ears) within(t *testing.T, patience time.Duration) any {
	t.Helper()
	select {
	case heard := <-e:
		return heard
	case <-time.After(patience):
		t.Fatalf("nothing was heard in %v", patience)
		return nil
	}
}

func (e ears) wantWithin(t *testing.T, what any, patience time.Duration) {
	t.Helper()
	if heard := e.within(t, patience); heard != what {
		t.Fatalf("heard %+v; want %+v", heard, what)
	}
}

// watch runs Watch until stop is called, which returns its error. It is called at the test's end in any case.
func watch(t *testing.T, s *store.Store) (e ears, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	e = make(ears, 100)
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, e) }()
	stop = sync.OnceValue(func() error {
		cancel(errStopped)
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return e, stop
}

var errStopped = errors.New("the test is over")

func TestWatchTellsOfEvents(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		e, stop := watch(t, f.s)
		e.want(t, true)
		at := f.stored("tok")
		e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
		failed := newFailure(f.issue())
		f.fail(failed)
		e.want(t, store.Event{Env: env, Kind: store.EventFailed, Version: failed.Version})
		dropped, err := f.s.Invalidate(f.ctx(), env, 0)
		if err != nil {
			t.Fatal(err)
		}
		e.want(t, store.Event{Env: env, Kind: store.EventInvalidated, Version: dropped})
		if err := stop(); !errors.Is(err, errStopped) {
			t.Errorf("it ends with %v; want the context's cause", err)
		}
	})
}

// What is published right after the confirmation arrives, every time.
func TestASubscriptionIsConfirmedBeforeItIsReliedOn(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for i := range 25 {
			e, stop := watch(t, f.s)
			e.want(t, true)
			dropped, err := f.s.Invalidate(f.ctx(), env, 0)
			if err != nil {
				t.Fatal(err)
			}
			e.want(t, store.Event{Env: env, Kind: store.EventInvalidated, Version: dropped})
			if err := stop(); !errors.Is(err, errStopped) {
				t.Errorf("round %d ends with %v", i, err)
			}
		}
	})
}

func TestGarbageOnTheChannelIsIgnored(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		e, _ := watch(t, f.s)
		e.want(t, true)
		for _, payload := range []string{
			"", "x", "null", "[]", `"stored"`, "{}", `{"env":"prod"}`, `{"env":"prod","kind":"else","version":1}`,
			`{"env":"a b","kind":"stored","version":1}`, `{"env":"","kind":"stored","version":1}`,
			`{"env":"prod","kind":"stored","version":-1}`, `{"env":"prod","kind":"stored","version":1e30}`,
			`{"env":"prod","kind":"stored","version":"1"}`, "\x00\xff\xfe",
			fmt.Sprintf(`{"env":"prod","kind":"stored","version":1,"x":"%02000d"}`, 0),
		} {
			if err := rdb.Publish(f.ctx(), f.s.Channel(), payload).Err(); err != nil {
				t.Fatal(err)
			}
		}
		at := f.stored("tok")
		e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
	})
}

func TestWatchSurvivesARestartOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	e, _ := watch(t, f.s)
	e.want(t, true)
	for range 3 {
		server.Stop()
		e.want(t, false)
		server.Start(t)
		e.want(t, true)
		at := f.stored("tok")
		e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
	}
}

func TestEachResubscriptionIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	e, _ := watch(t, f.s)
	e.want(t, true)
	for range 3 {
		if err := f.rdb.ClientKillByFilter(f.ctx(), "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		e.want(t, false)
		e.want(t, true)
	}
}

func TestWatchBeginsWithRedisDown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Stop()
	f := newFixture(t, server.Client(t))
	e, _ := watch(t, f.s)
	server.Start(t)
	e.want(t, true)
	at := f.stored("tok")
	e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	for name, c := range map[string]struct {
		before, after func()
		confirmed     bool
	}{
		"while subscribed":    {func() {}, func() {}, true},
		"while Redis hangs":   {func() {}, func() { server.Pause(t) }, true},
		"while Redis is down": {server.Stop, func() {}, false},
		"on a hanging Redis":  {func() { server.Pause(t) }, func() {}, false},
	} {
		c.before()
		e, stop := watch(t, f.s)
		if c.confirmed {
			e.want(t, true)
		}
		c.after()
		start := time.Now()
		if err := stop(); !errors.Is(err, errStopped) {
			t.Errorf("%s: it ends with %v; want the context's cause", name, err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("%s: it took %v to end", name, took)
		}
		server.Stop()
		server.Start(t)
	}
}

func TestWatchWithoutChannelRightsConfirmsNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "user worker on >secret resetchannels ~* +@all")
	o := redistest.Options(server.Addr())
	o.Username, o.Password = "worker", "secret"
	f := newFixture(t, redistest.NewClient(t, o))
	e, stop := watch(t, f.s)
	select {
	case heard := <-e:
		t.Errorf("heard %v", heard)
	case <-time.After(500 * time.Millisecond):
	}
	if err := stop(); !errors.Is(err, errStopped) {
		t.Errorf("it ends with %v", err)
	}
}

// A muteConn is a connection over which, once it is mute, nothing gets through any more, and no error either: a peer
// that lost its power.
type muteConn struct {
	net.Conn
	mute *atomic.Bool
}

func (c muteConn) Write(p []byte) (int, error) {
	if c.mute.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestASilentConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		defer m.Close()
		var current atomic.Pointer[atomic.Bool]
		o := redistest.Options("127.0.0.1:6379")
		o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			conn, err := m.Dial()
			mute := new(atomic.Bool)
			current.Store(mute)
			return muteConn{conn, mute}, err
		}
		rdb := redis.NewClient(o)
		defer rdb.Close()
		f := newFixture(t, rdb)
		e, stop := watch(t, f.s)
		defer func() { _ = stop() }()
		e.want(t, true)
		subscription := current.Load()

		select { // quiet is no silence: the PINGs are answered
		case heard := <-e:
			t.Errorf("heard %v on a quiet connection", heard)
		case <-time.After(10 * time.Minute):
		}

		start := time.Now()
		subscription.Store(true)
		e.wantWithin(t, false, 16*time.Second)
		e.wantWithin(t, true, time.Second)
		t.Logf("noticed and replaced after %v", time.Since(start))
		at := f.stored("tok")
		e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
	})
}

// The same with a real process, which takes real time.
func TestAStoppedRedisIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits 15 s")
	}
	t.Parallel()
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	e, _ := watch(t, f.s)
	e.want(t, true)
	server.Pause(t)
	e.wantWithin(t, false, 20*time.Second)
	server.Continue(t)
	e.wantWithin(t, true, 20*time.Second)
	at := f.stored("tok")
	e.want(t, store.Event{Env: env, Kind: store.EventStored, Version: at.Version})
}

// Each confirmation has a replica read all in use again: something that cuts every subscription mustn't make a storm of it.
func TestSubscriptionsThatDoNotLastComeSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		defer m.Close()
		o := redistest.Options("127.0.0.1:6379")
		o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			conn, err := m.Dial()
			if err == nil {
				time.AfterFunc(100*time.Millisecond, func() { _ = conn.Close() })
			}
			return conn, err
		}
		rdb := redis.NewClient(o)
		defer rdb.Close()
		f := newFixture(t, rdb)
		e, stop := watch(t, f.s)
		defer func() { _ = stop() }()
		confirmed := 0
		for end := time.After(time.Minute); end != nil; {
			select {
			case heard := <-e:
				if heard == true {
					confirmed++
				}
			case <-end:
				end = nil
			}
		}
		if confirmed < 10 || confirmed > 45 { // one in 2 s, or somewhat more by chance
			t.Errorf("%d confirmations in a minute of cut connections", confirmed)
		}
	})
}
