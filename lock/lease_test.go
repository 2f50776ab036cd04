package lock_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
)

func TestRenewalKeepsTheLease(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		const length = time.Second
		lease, err := locker(t, rdb, "replica-1").Try(ctx, key, length)
		if err != nil {
			t.Fatal(err)
		}
		cancel() // bounds the taking alone
		first := lease.Until()
		over := time.After(3*length + length/2)
		for done := false; !done; {
			select {
			case <-over:
				done = true
			case <-lease.Lost():
				t.Fatal("it was lost")
			case <-time.After(20 * time.Millisecond):
			}
			if value := rdb.Get(t.Context(), key).Val(); value != lease.Value() {
				t.Fatalf("the key holds %q", value)
			}
		}
		if until := lease.Until(); until.Sub(first) < 2*length || time.Until(until) > length {
			t.Errorf("it ends at %v; it was %v at first", until, first)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestLossIsSignalled(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const length = 900 * time.Millisecond
		for name, c := range map[string]struct {
			loss func()
			left string // what the key holds afterwards
		}{
			"deleted":          {func() { rdb.Del(t.Context(), key) }, ""},
			"flushed":          {func() { rdb.FlushAll(t.Context()) }, ""},
			"taken by another": {func() { rdb.Set(t.Context(), key, "replica-2|x", time.Minute) }, "replica-2|x"},
			"overwritten":      {func() { rdb.Set(t.Context(), key, "", time.Minute) }, ""},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			lease, err := locker(t, rdb, "replica-1").Try(ctx, key, length)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c.loss()
			wantLost(t, lease, 5*time.Second)
			if ctx.Err() != nil {
				t.Errorf("%s: the loss cancelled the caller's context", name)
			}
			if err := lease.Release(t.Context()); !errors.Is(err, lock.ErrLost) {
				t.Errorf("%s: the release says %v; want ErrLost", name, err)
			}
			if got := rdb.Get(t.Context(), key).Val(); got != c.left {
				t.Errorf("%s: the key holds %q; want %q", name, got, c.left)
			}
			rdb.Del(t.Context(), key)
			cancel()
		}
	})
}

// A release that comes before the renewal has noticed.
func TestReleaseOfALostLeaseDeletesNobodyElses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		lease := take(t, locker(t, rdb, "replica-1"), time.Minute)
		rdb.Del(t.Context(), key)
		other := take(t, locker(t, rdb, "replica-2"), time.Minute)
		if err := lease.Release(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("%v; want ErrLost", err)
		}
		if value := rdb.Get(t.Context(), key).Val(); value != other.Value() {
			t.Errorf("the key holds %q; want %q", value, other.Value())
		}
	})
}

func TestReleaseIsDetachedFromItsCaller(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		lease := take(t, locker(t, rdb, "replica-1"), time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := lease.Release(ctx); err != nil {
			t.Error(err)
		}
		if rdb.Exists(t.Context(), key).Val() != 0 {
			t.Error("the key is still there")
		}
	})
}

func TestOnlyTheFirstReleaseReleases(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l := locker(t, rdb, "replica-1")
		lease := take(t, l, time.Minute)
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				if err := lease.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		next := take(t, l, time.Minute)
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if value := rdb.Get(t.Context(), key).Val(); value != next.Value() {
			t.Errorf("the key holds %q; want %q", value, next.Value())
		}
	})
}

// Redis away is no loss until the lease is over: it may come back with the key.
func TestALeaseIsLostWithItsEndWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	lease := take(t, locker(t, server.Client(t), "replica-1"), 900*time.Millisecond)
	server.Stop()
	wantLost(t, lease, 5*time.Second)
	if early := time.Until(lease.Until()); early > 0 {
		t.Errorf("the loss was signalled %v before the lease's end", early)
	}
	var away *lock.UnavailableError
	if err := lease.Release(t.Context()); !errors.As(err, &away) {
		t.Errorf("the release says %v; want an UnavailableError", err)
	}
}

// The same where nothing answers, whatever the client's own timeouts are.
func TestALeaseIsLostWithItsEndWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	o := redistest.Options(server.Addr())
	o.ReadTimeout, o.WriteTimeout = time.Minute, time.Minute
	lease := take(t, locker(t, redistest.NewClient(t, o), "replica-1"), 900*time.Millisecond)
	server.Pause(t)
	wantLost(t, lease, 5*time.Second)
	server.Continue(t)
}

func TestASlowRedisIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	server.Pause(t)
	time.AfterFunc(500*time.Millisecond, func() { server.Continue(t) })
	take(t, locker(t, rdb, "replica-1"), 3*time.Second)
}

func TestALeaseOutlivesAShortHangOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	const length = 3 * time.Second
	lease := take(t, locker(t, rdb, "replica-1"), length)
	first := lease.Until()
	server.Pause(t)
	<-time.After(length / 2) // a renewal hangs meanwhile
	server.Continue(t)
	<-time.After(length)
	if isLost(lease) || !lease.Until().After(first) || rdb.Get(t.Context(), key).Val() != lease.Value() {
		t.Errorf("lost %v; it ended at %v and ends at %v; the key holds %q", isLost(lease), first, lease.Until(), rdb.Get(t.Context(), key).Val())
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAHungRedisIsToldSoon(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	l := locker(t, rdb, "replica-1")
	const length = 3 * time.Second
	if err := rdb.Ping(t.Context()).Err(); err != nil { // a pooled connection, over which the command is still sent
		t.Fatal(err)
	}
	server.Pause(t)
	start := time.Now()
	_, err := l.Try(t.Context(), key, length)
	if _, away := errors.AsType[*lock.UnavailableError](err); !away {
		t.Errorf("%v; want an UnavailableError", err)
	}
	if took := time.Since(start); took > 2500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	server.Continue(t)
	takeSoon(t, l, length) // an orphan ends with its TTL
}

func TestAContextThatEndsMeanwhileIsTheError(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := locker(t, server.Client(t), "replica-1")
	server.Pause(t)
	cause := errors.New("the caller is gone")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
	defer cancel()
	start := time.Now()
	if _, err := l.Try(ctx, key, 3*time.Second); !errors.Is(err, cause) {
		t.Errorf("%v; want the context's cause", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	server.Continue(t)
}

// A caller whose context ends while the command is under way must not leave a lock behind.
func TestAContextThatEndsMeanwhileLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	l := locker(t, rdb, "replica-1")
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	server.Pause(t)
	time.AfterFunc(500*time.Millisecond, func() { server.Continue(t) })
	if _, err := l.Try(ctx, key, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v; want the context's error", err)
	}
	if value, err := rdb.Get(t.Context(), key).Result(); !errors.Is(err, redis.Nil) {
		t.Errorf("the key holds %q, %v", value, err)
	}
}

func TestReleaseOnAHungRedisEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	lease := take(t, locker(t, server.Client(t), "replica-1"), 6*time.Second)
	server.Pause(t)
	start := time.Now()
	var away *lock.UnavailableError
	if err := lease.Release(t.Context()); !errors.As(err, &away) {
		t.Errorf("%v; want an UnavailableError", err)
	}
	if took := time.Since(start); took > 2500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	server.Continue(t)
}
