package lock_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
)

// hold sets the lock as a script does that takes the lease, for a while, and returns it as such.
func hold(t *testing.T, rdb redis.UniversalClient, l *lock.Locker, ttl, length time.Duration) *lock.Lease {
	t.Helper()
	value, began := l.NewValue(), time.Now()
	if err := rdb.Set(t.Context(), key, value, ttl).Err(); err != nil {
		t.Fatal(err)
	}
	lease := l.Held(key, value, ttl, length, began)
	t.Cleanup(func() { _ = lease.Release(t.Context()) })
	return lease
}

// awaitRenewal returns once the lock and the lease have that much left.
func awaitRenewal(t *testing.T, rdb *redis.Client, lease *lock.Lease, left time.Duration) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); rdb.PTTL(t.Context(), key).Val() < left || time.Until(lease.Until()) < left; {
		if isLost(lease) || time.Now().After(end) {
			t.Fatalf("the lock ends in %v, the lease in %v; lost: %v", rdb.PTTL(t.Context(), key).Val(), time.Until(lease.Until()), isLost(lease))
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestALeaseThatAScriptHasTakenIsRenewedAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		lease := hold(t, rdb, locker(t, rdb, "replica-1"), 2*time.Second, time.Hour)
		awaitRenewal(t, rdb, lease, 59*time.Minute)
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if n := rdb.Exists(t.Context(), key).Val(); n != 0 {
			t.Error("the lock is still there")
		}
	})
}

// Its first renewal vanishes; the second comes while there is still something to renew, however long the lease is to be.
func TestALeaseThatAScriptHasTakenOutlivesALostRenewal(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, length := range []time.Duration{6 * time.Second, 30 * time.Second} {
			var renewals atomic.Int32
			proxy, err := faultproxy.New(rdb.Options().Addr, faultproxy.Options{Hook: func(f faultproxy.Frame) faultproxy.Action {
				if f.Step != faultproxy.Renew || f.Phase != faultproxy.Request {
					return faultproxy.Pass
				}
				if renewals.Add(1) == 1 {
					return faultproxy.BlackHole
				}
				<-time.After(100 * time.Millisecond) // Redis is a way off
				return faultproxy.Pass
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(proxy.Close)
			o := redistest.Options(proxy.Addr())
			o.ReadTimeout = time.Minute // the call has its own
			client := redistest.NewClient(t, o)
			lease := hold(t, client, locker(t, client, "replica-1"), 2*time.Second, length)
			awaitRenewal(t, rdb, lease, length/2)
			if isLost(lease) || renewals.Load() < 2 || rdb.Get(t.Context(), key).Val() != lease.Value() {
				t.Errorf("a lease of %v: lost is %v after %d renewals; the key holds %q", length, isLost(lease), renewals.Load(), rdb.Get(t.Context(), key).Val())
			}
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// What ends before it is renewed is lost, and what another has by then is left alone.
func TestALeaseThatAScriptHasTakenMayBeLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		if err := rdb.Set(t.Context(), key, "replica-2|x", time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		l := locker(t, rdb, "replica-1")
		lease := l.Held(key, l.NewValue(), 2*time.Second, time.Hour, time.Now())
		wantLost(t, lease, 10*time.Second)
		_ = lease.Release(t.Context())
		if got := rdb.Get(t.Context(), key).Val(); got != "replica-2|x" {
			t.Errorf("the lock is %q", got)
		}
	})
}

func TestForgetFreesNobodyElses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l := locker(t, rdb, "replica-1")
		own := l.NewValue()
		for _, held := range []string{own, "replica-2|x"} {
			if err := rdb.Set(t.Context(), key, held, time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
			if err := l.Forget(t.Context(), key, own); err != nil {
				t.Error(err)
			}
			if free := rdb.Exists(t.Context(), key).Val() == 0; free != (held == own) {
				t.Errorf("where %s has it: free is %v", held, free)
			}
		}
		if err := l.Forget(t.Context(), "onetoken:{none}:lock", own); err != nil {
			t.Errorf("where there is none: %v", err)
		}
	})
}
