package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

// listen subscribes to the raw channel.
func (f *fixture) listen() func() string {
	f.t.Helper()
	pubsub := f.rdb.Subscribe(f.ctx(), f.s.Channel())
	f.t.Cleanup(func() { _ = pubsub.Close() })
	if _, err := pubsub.Receive(f.ctx()); err != nil {
		f.t.Fatal(err)
	}
	return func() string {
		f.t.Helper()
		ctx, cancel := context.WithTimeout(f.ctx(), 5*time.Second)
		defer cancel()
		m, err := pubsub.ReceiveMessage(ctx)
		if err != nil {
			f.t.Fatalf("no event: %v", err)
		}
		return m.Payload
	}
}

func TestEvents(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		next := f.listen()
		want := func(kind string, version store.Version) {
			t.Helper()
			got := next()
			if want := fmt.Sprintf(`{"env":"prod","kind":"%s","version":%d}`, kind, version); got != want {
				t.Errorf("event %s; want %s", got, want)
			}
		}
		at := f.stored("tok")
		want("stored", at.Version)
		failed := newFailure(f.issue())
		f.fail(failed)
		want("failed", failed.Version)
		dropped, err := f.s.Invalidate(f.ctx(), env, 0)
		if err != nil {
			t.Fatal(err)
		}
		want("invalidated", dropped)
	})
}

// Only what changed something is told: a no-op that spoke would make the fleet read for nothing.
func TestWhatWritesNothingPublishesNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		at := f.stored("tok")
		failed := newFailure(f.issue())
		f.fail(failed)
		next := f.listen()
		f.read()
		f.put(at, "tok")
		f.fail(failed)
		_, _ = f.s.Put(f.ctx(), env, late, time.Hour, newToken("late"))
		_, _ = f.s.Put(f.ctx(), env, f.issue(), 0, newToken("expired"))
		_, _, _ = f.s.Fail(f.ctx(), env, newFailure(late), time.Minute, time.Minute)
		_, _ = f.s.Invalidate(f.ctx(), env, -5)
		rdb.Publish(f.ctx(), f.s.Channel(), "the end")
		if got := next(); got != "the end" {
			t.Errorf("event %s", got)
		}
	})
}
