package manager_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store/seal"
)

// What Redis loses while a refresh token is used comes back with its successor: also that the configured one was used.
func TestAGrantThatIsLostDuringItsUseDoesNotBringBackTheSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 2)
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		answer := holding(t, k, mockendpoint.Reply{})
		if err := k.Redis.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := answer(); err != nil {
			t.Fatal(err)
		}
		for _, m := range k.Managers {
			if _, err := m.Refresh(t.Context(), managertest.Environment); err != nil {
				t.Error(err)
			}
		}
		wantNoReuse(t, k)
	})
}

// A refresh token that can't be written keeps its replica from the endpoint, and its callers learn why.
func TestCallersLearnThatARefreshTokenCanNotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		o := rotating()
		o.Config = func(_ int, c *manager.Config) {
			c.Redis.AddHook(tap(func(cmd redis.Cmder) error {
				args := cmd.Args()
				if full.Load() && strings.HasPrefix(cmd.Name(), "eval") && len(args) > 3 && args[2] == 4 { // put
					return errors.New("OOM command not allowed when used memory > 'maxmemory'.")
				}
				return nil
			}))
		}
		k := managertest.New(t, o)
		answer := holding(t, k, mockendpoint.Reply{ExpiresIn: 20})
		full.Store(true)
		if _, err := answer(); err != nil {
			t.Fatal(err)
		}
		<-time.After(30 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		_, err := k.Manager.Token(ctx, managertest.Environment)
		if _, ok := errors.AsType[*manager.RedisError](err); !ok {
			t.Errorf("after %v: %v; want a RedisError", time.Since(start), err)
		}
		if n := k.Endpoint.Calls(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
		full.Store(false)
		<-time.After(10 * time.Second)
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
	})
}

// All replicas are told to refresh at the very same instant: a refused refresh token is tried once more for all, and the
// clock, which doesn't go on meanwhile, keeps nobody reading without an end.
func TestARefusedRefreshTokenIsTriedOnceMoreForAllWhoAskForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managertest.NewFleet(t, 8, rotating())
		for _, m := range k.Managers {
			if _, err := m.Token(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
		}
		k.Endpoint.RevokeFamily(k.RefreshTokens[managertest.Environment])
		calls := k.Endpoint.Calls()
		for round := range 3 {
			var all sync.WaitGroup
			for i, m := range k.Managers {
				all.Go(func() {
					_, err := m.Refresh(t.Context(), managertest.Environment)
					if _, ok := errors.AsType[*manager.LoginError](err); !ok {
						t.Errorf("round %d, replica %d: %v, want a LoginError", round, i, err)
					}
				})
			}
			all.Wait()
			if n := k.Endpoint.Calls() - calls; n != round+1 {
				t.Errorf("round %d: %d calls, want one for each round", round, n)
			}
			<-time.After(time.Second)
		}
	})
}

// A replica with a new configured refresh token, but without the key of the one that stands there.
func TestAGrantThatDoesNotOpenIsLeftAloneThoughANewOneIsConfigured(t *testing.T) {
	k1, k2 := seal.NewKey(), seal.NewKey()
	synctest.Test(t, func(t *testing.T) {
		takes := 0
		o := rotating()
		o.Config = func(i int, c *manager.Config) {
			c.Codec = keyring(t, k1)
			if i != 1 {
				return
			}
			c.Codec = keyring(t, k2)
			e := c.Environments[managertest.Environment]
			e.RefreshToken = manager.NewSecret("a-new-one")
			c.Environments[managertest.Environment] = e
			c.Redis.AddHook(tap(func(cmd redis.Cmder) error {
				if args := cmd.Args(); strings.HasPrefix(cmd.Name(), "eval") && len(args) > 3 && args[2] == 5 && len(args) == 13 {
					takes++
				}
				return nil
			}))
		}
		k := managertest.NewFleet(t, 2, o)
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Manager.Invalidate(t.Context(), managertest.Environment, 0); err != nil {
			t.Fatal(err)
		}
		for range 600 {
			_, err := k.Managers[1].Token(t.Context(), managertest.Environment)
			if _, ok := errors.AsType[*manager.LoginError](err); !ok {
				t.Fatalf("%v, want a LoginError", err)
			}
			<-time.After(100 * time.Millisecond)
		}
		if takes > 5 {
			t.Errorf("it was taken %d times in a minute", takes)
		}
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
	})
}
