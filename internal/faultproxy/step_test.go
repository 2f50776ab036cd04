package faultproxy_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/store"
)

const (
	patience = 20 * time.Second
	length   = 3 * time.Second // of a lease: its first renewal comes after a third
)

// frames collects what a proxy saw.
type frames struct {
	mu      sync.Mutex
	list    []faultproxy.Frame
	changed chan struct{}
}

func newFrames() *frames { return &frames{changed: make(chan struct{})} }

func (l *frames) hook(f faultproxy.Frame) faultproxy.Action {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, f)
	close(l.changed)
	l.changed = make(chan struct{})
	return faultproxy.Pass
}

// await waits for a frame.
func (l *frames) await(t *testing.T, step faultproxy.Step, phase faultproxy.Phase) faultproxy.Frame {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		i := slices.IndexFunc(l.list, func(f faultproxy.Frame) bool { return f.Step == step && f.Phase == phase && !f.Failed })
		if i >= 0 {
			defer l.mu.Unlock()
			return l.list[i]
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("no %v of %s", phase, step)
		}
	}
}

// last returns the last step but those that are none of ours, and the ones that happen by themselves.
func (l *frames) last(phase faultproxy.Phase) faultproxy.Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range slices.Backward(l.list) {
		switch f.Step {
		case faultproxy.Other, faultproxy.Subscribe, faultproxy.Event, faultproxy.Renew:
		default:
			if f.Phase == phase {
				return f
			}
		}
	}
	return faultproxy.Frame{}
}

func start(t *testing.T, target string, o faultproxy.Options) *faultproxy.Proxy {
	t.Helper()
	p, err := faultproxy.New(target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

type watcher chan store.Event

func (watcher) Subscribed(bool)       {}
func (w watcher) Event(e store.Event) { w <- e }

// Whatever the scripts are called and hold, each of them is recognised, as EVAL and as EVALSHA; and with it its reply.
func TestEveryStepOfStoreAndLockIsRecognised(t *testing.T) {
	t.Parallel()
	for _, protocol := range []int{2, 3} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) { testSteps(t, rdb, protocol) })
	}
}

func testSteps(t *testing.T, direct *redis.Client, protocol int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen := newFrames()
	p := start(t, direct.Options().Addr, faultproxy.Options{Hook: seen.hook})
	o := redistest.Options(p.Addr())
	o.Protocol = protocol
	o.ReadTimeout, o.WriteTimeout = patience, patience
	rdb := redistest.NewClient(t, o)
	s, err := store.New(rdb, store.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := lock.New(rdb, "one")
	two, err2 := lock.New(rdb, "two")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	is := func(step faultproxy.Step, reply string) {
		t.Helper()
		for phase, frame := range map[faultproxy.Phase]faultproxy.Frame{
			faultproxy.Request: seen.last(faultproxy.Request), faultproxy.Reply: seen.last(faultproxy.Reply),
		} {
			if frame.Step != step {
				t.Fatalf("the last %v that is recognised is %q, want %q", phase, frame.Step, step)
			}
		}
		if f := seen.last(faultproxy.Reply); f.Failed || len(f.Reply) == 0 || f.Reply[0] != reply {
			t.Fatalf("the reply to %s is %+v, want %q", step, f, reply)
		}
	}
	events := make(watcher, 16)
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { _ = s.Watch(watching, events) })
	defer watch.Wait()
	defer stop()
	seen.await(t, faultproxy.Subscribe, faultproxy.Request)
	seen.await(t, faultproxy.Subscribe, faultproxy.Reply)

	record, err := s.Read(ctx, "prod")
	if err != nil {
		t.Fatal(err)
	}
	if f := seen.last(faultproxy.Reply); f.Step != faultproxy.Read || len(f.Reply) != 13 {
		t.Fatalf("a read is recognised as %q with a reply of %d elements", f.Step, len(f.Reply))
	}
	for _, issued := range []bool{true, false} { // the second finds the first one's lease
		if _, _, err := s.ReadOrIssue(ctx, "claimed", one.NewValue(), length); err != nil {
			t.Fatal(err)
		}
		if f := seen.last(faultproxy.Reply); f.Step != faultproxy.Claim || len(f.Reply) != 13 || (f.Reply[11] != "") != issued {
			t.Fatalf("a claim is recognised as %q with the reply %q; issued: %t", f.Step, f.Reply, issued)
		}
	}
	lease, err := one.Try(ctx, s.Keys("prod").Lock, length)
	if err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Acquire, "acquired")
	if _, err := two.Try(ctx, s.Keys("prod").Lock, length); err == nil {
		t.Fatal("two leases at once")
	}
	is(faultproxy.Acquire, "busy")
	issue, err := s.Issue(ctx, "prod", lease.Value(), record)
	if err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Issue, "issued")
	renewal := seen.await(t, faultproxy.Renew, faultproxy.Reply)
	if !slices.Equal(renewal.Reply, []string{"1"}) {
		t.Errorf("the reply to a renewal is %q", renewal.Reply)
	}
	if _, _, err := s.Fail(ctx, "prod", store.Failure{Code: "http_503", Version: issue.Version}, time.Second, time.Second); err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Fail, "failed")
	token := store.NewToken(store.Token{AccessToken: store.NewSecret("t"), TokenType: "Bearer", Config: "c"})
	if _, err := s.Put(ctx, "prod", issue, time.Minute, token); err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Put, "stored")
	if event := seen.await(t, faultproxy.Event, faultproxy.Reply); event.Reply[1] != s.Channel() {
		t.Errorf("an event is %q", event.Reply)
	}
	if err := lease.Release(ctx); err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Release, "1")
	if _, err := s.Invalidate(ctx, "prod", 0); err != nil {
		t.Fatal(err)
	}
	is(faultproxy.Invalidate, "dropped")
}
