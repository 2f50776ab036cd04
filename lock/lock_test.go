package lock_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "onetoken:{prod}:lock"

func locker(t *testing.T, rdb redis.UniversalClient, holder string) *lock.Locker {
	t.Helper()
	l, err := lock.New(rdb, holder)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// take takes the lease, which is free, and releases it at the test's end.
func take(t *testing.T, l *lock.Locker, length time.Duration) *lock.Lease {
	t.Helper()
	lease, err := l.Try(t.Context(), key, length)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	return lease
}

// wantLost waits until the loss is signalled.
func wantLost(t *testing.T, lease *lock.Lease, patience time.Duration) {
	t.Helper()
	select {
	case <-lease.Lost():
	case <-time.After(patience):
		t.Fatalf("no loss was signalled in %v", patience)
	}
}

func isLost(lease *lock.Lease) bool {
	select {
	case <-lease.Lost():
		return true
	default:
		return false
	}
}

func about(got, want, tolerance time.Duration) bool { return (got - want).Abs() <= tolerance }

// A commandCounter is a hook that counts commands, but for those of handshakes.
type commandCounter struct{ n atomic.Int64 }

func (c *commandCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *commandCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "hello" && cmd.Name() != "client" {
			c.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *commandCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestNewRefuses(t *testing.T) {
	if _, err := lock.New(nil, "replica-1"); err == nil {
		t.Error("no client, no error")
	}
	rdb := redistest.NewClient(t, redistest.Options("127.0.0.1:1"))
	for _, holder := range []string{"", "a|b", "|"} {
		if _, err := lock.New(rdb, holder); err == nil {
			t.Errorf("holder %q: no error", holder)
		}
	}
}

func TestALeaseIsAKeyThatNamesItsHolder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		before := time.Now()
		lease := take(t, locker(t, rdb, "replica-1"), 6*time.Second)
		value := rdb.Get(t.Context(), key).Val()
		if value != lease.Value() || !strings.HasPrefix(value, "replica-1|") || len(value) < len("replica-1|")+20 {
			t.Errorf("the key holds %q, the lease says %q", value, lease.Value())
		}
		if ttl := rdb.PTTL(t.Context(), key).Val(); !about(ttl, 6*time.Second, time.Second) {
			t.Errorf("the key's TTL is %v; want 6s", ttl)
		}
		if until := lease.Until().Sub(before); !about(until, 6*time.Second, time.Second) {
			t.Errorf("it ends in %v; want 6s", until)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if rdb.Exists(t.Context(), key).Val() != 0 || isLost(lease) {
			t.Errorf("released: the key is still there, or the lease is lost (%v)", isLost(lease))
		}
		if again := take(t, locker(t, rdb, "replica-1"), time.Second); again.Value() == value {
			t.Error("two leases have the same value")
		}
	})
}

func TestABusyLeaseNamesItsHolderAndTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		lease := take(t, locker(t, rdb, "replica-1"), time.Minute)
		count := &commandCounter{}
		rdb.AddHook(count)
		_, err := locker(t, rdb, "replica-2").Try(t.Context(), key, time.Second)
		var busy *lock.BusyError
		if !errors.As(err, &busy) || busy.Key != key || busy.Holder != "replica-1" || !about(busy.TTL, time.Minute, 10*time.Second) {
			t.Errorf("%v; want it busy with replica-1 for a minute", err)
		}
		if n := count.n.Load(); n != 1 {
			t.Errorf("it took %d commands; want one", n)
		}
		if value := rdb.Get(t.Context(), key).Val(); value != lease.Value() {
			t.Errorf("the key holds %q; want %q still", value, lease.Value())
		}
	})
}

func TestOneOfManyTakesTheLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var group sync.WaitGroup
		var taken, busy atomic.Int64
		for range 50 {
			group.Go(func() {
				lease, err := locker(t, rdb, "replica").Try(t.Context(), key, time.Minute)
				switch busyErr := (*lock.BusyError)(nil); {
				case err == nil:
					taken.Add(1)
					t.Cleanup(func() { _ = lease.Release(context.Background()) })
				case errors.As(err, &busyErr):
					busy.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if taken.Load() != 1 || busy.Load() != 49 {
			t.Errorf("%d took it, %d found it busy; want 1 and 49", taken.Load(), busy.Load())
		}
	})
}

func TestTheThreeErrorsAreDifferent(t *testing.T) {
	server := redistest.Start(t)
	rdb := server.Client(t)
	l := locker(t, rdb, "replica-1")
	lease := take(t, l, time.Minute)
	_, busy := l.Try(t.Context(), key, time.Minute)
	rdb.Del(t.Context(), key)
	lost := lease.Release(t.Context())
	server.Stop()
	_, away := l.Try(t.Context(), key, time.Minute)
	for _, c := range []struct {
		name                 string
		err                  error
		isBusy, isLost, away bool
	}{
		{"busy", busy, true, false, false}, {"lost", lost, false, true, false}, {"away", away, false, false, true},
	} {
		var busyErr *lock.BusyError
		var awayErr *lock.UnavailableError
		if errors.As(c.err, &busyErr) != c.isBusy || errors.Is(c.err, lock.ErrLost) != c.isLost || errors.As(c.err, &awayErr) != c.away {
			t.Errorf("%s is told as %#v (%v)", c.name, c.err, c.err)
		}
		if c.err != nil && !strings.Contains(c.err.Error(), key) {
			t.Errorf("%s doesn't name the key: %v", c.name, c.err)
		}
	}
	if _, refused := errors.AsType[*net.OpError](away); !refused {
		t.Errorf("%v doesn't wrap the client's error", away)
	}
}

func TestALockWithoutTTLHealsItself(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, c := range map[string]struct {
			plant  func() error
			holder string
		}{
			"of a replica":    {func() error { return rdb.Set(t.Context(), key, "replica-9|x", 0).Err() }, "replica-9"},
			"of a hand":       {func() error { return rdb.Set(t.Context(), key, "x", 0).Err() }, "x"},
			"empty":           {func() error { return rdb.Set(t.Context(), key, "", 0).Err() }, ""},
			"of another type": {func() error { return rdb.RPush(t.Context(), key, "x").Err() }, ""},
		} {
			if err := c.plant(); err != nil {
				t.Fatal(err)
			}
			l := locker(t, rdb, "replica-1")
			const length = 300 * time.Millisecond
			_, err := l.Try(t.Context(), key, length)
			var busy *lock.BusyError
			if !errors.As(err, &busy) || busy.Holder != c.holder || busy.TTL <= 0 || busy.TTL > length {
				t.Errorf("%s: %v; want it busy with %q for up to %v", name, err, c.holder, length)
			}
			lease := takeSoon(t, l, length)
			if err := lease.Release(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// takeSoon takes a lease that will be free in a moment.
func takeSoon(t *testing.T, l *lock.Locker, length time.Duration) *lock.Lease {
	t.Helper()
	deadline := time.After(length + 5*time.Second)
	for {
		lease, err := l.Try(t.Context(), key, length)
		if err == nil {
			t.Cleanup(func() { _ = lease.Release(context.Background()) })
			return lease
		}
		select {
		case <-deadline:
			t.Fatalf("never free: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A key of another type with a TTL is somebody's, too, and ends by itself.
func TestAnotherTypeAtTheKeyIsBusy(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb.HSet(t.Context(), key, "f", "v")
		rdb.Expire(t.Context(), key, time.Minute)
		_, err := locker(t, rdb, "replica-1").Try(t.Context(), key, time.Second)
		var busy *lock.BusyError
		if !errors.As(err, &busy) || busy.Holder != "" || !about(busy.TTL, time.Minute, 10*time.Second) {
			t.Errorf("%v; want it busy for a minute", err)
		}
		if kind := rdb.Type(t.Context(), key).Val(); kind != "hash" {
			t.Errorf("the key is a %s now", kind)
		}
	})
}

// A client that lost the reply and sends the command again finds the lock taken by itself, or by another. One that doesn't send
// it again can't know, and gives back what it may have.
func TestAnAcquireWhoseReplyIsLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var lose atomic.Bool
		proxy, err := faultproxy.New(rdb.Options().Addr, faultproxy.Options{Hook: func(f faultproxy.Frame) faultproxy.Action {
			if f.Step == faultproxy.Acquire && f.Phase == faultproxy.Reply && lose.Swap(false) {
				return faultproxy.Cut
			}
			return faultproxy.Pass
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		try := func(retries int) (*lock.Lease, error) {
			o := redistest.Options(proxy.Addr())
			o.MaxRetries = retries
			l := locker(t, redistest.NewClient(t, o), "replica-1")
			lose.Store(true)
			lease, err := l.Try(t.Context(), key, time.Minute)
			if lose.Load() {
				t.Fatal("no reply was lost")
			}
			return lease, err
		}
		lease, err := try(1)
		if err != nil {
			t.Fatal(err)
		}
		if value := rdb.Get(t.Context(), key).Val(); value != lease.Value() {
			t.Errorf("the key holds %q; want %q", value, lease.Value())
		}
		var busy *lock.BusyError
		if _, err := try(1); !errors.As(err, &busy) || busy.Holder != "replica-1" { // of the same name, but not the same
			t.Errorf("%v; want it busy", err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		var away *lock.UnavailableError
		if _, err := try(-1); !errors.As(err, &away) {
			t.Errorf("%v; want an UnavailableError", err)
		}
		take(t, locker(t, rdb, "replica-2"), time.Minute)
		if _, err := try(-1); !errors.As(err, &away) || rdb.Exists(t.Context(), key).Val() != 1 {
			t.Errorf("%v; want an UnavailableError, and the other's lock in its place", err)
		}
	})
}

func TestAContextThatIsDoneTakesNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		cause := errors.New("the caller is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := locker(t, rdb, "replica-1").Try(ctx, key, time.Second); !errors.Is(err, cause) {
			t.Errorf("%v; want the context's cause", err)
		}
		if rdb.Exists(t.Context(), key).Val() != 0 {
			t.Error("the key is there")
		}
	})
}
