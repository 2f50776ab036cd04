package manager_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
)

const loading = "LOADING Redis is loading the dataset in memory"

func TestHealthOfAManagerThatWasAskedForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{InMemory: true})
		<-time.After(time.Minute)
		if h := kit.Manager.Health(); h != (manager.Health{}) {
			t.Errorf("with Redis: %+v", h)
		}
		kit.Miniredis.SetError(loading)
		<-time.After(time.Minute)
		if h := kit.Manager.Health(); !h.RedisAway || h.Usable != 0 {
			t.Errorf("without Redis: %+v", h)
		}
	})
}

func TestHealthWithATokenAndWithoutRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{InMemory: true, EnvironmentNames: []string{"a", "b"}})
		if _, err := kit.Manager.Token(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if h := kit.Manager.Health(); h != (manager.Health{Usable: 1}) {
			t.Errorf("with a token: %+v", h)
		}
		kit.Miniredis.SetError(loading)
		if _, err := kit.Manager.Token(t.Context(), "b"); err == nil {
			t.Error("a token without Redis")
		}
		if h := kit.Manager.Health(); h != (manager.Health{RedisAway: true, Usable: 1}) {
			t.Errorf("without Redis: %+v", h)
		}
		<-time.After(time.Hour + time.Minute) // a's has ended
		if h := kit.Manager.Health(); h.Usable != 0 {
			t.Errorf("after the token's end: %+v", h)
		}
		kit.Miniredis.SetError("")
		if _, err := kit.Manager.Token(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if h := kit.Manager.Health(); h != (manager.Health{Usable: 1}) {
			t.Errorf("with Redis again: %+v", h)
		}
	})
}

// Who isn't ready is asked for nothing: what has failed must not count for ever.
func TestAnOldFailureSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{InMemory: true})
		kit.Miniredis.SetError(loading)
		if _, err := kit.Manager.Token(t.Context(), managertest.Environment); err == nil {
			t.Error("a token without Redis")
		}
		if !kit.Manager.Health().RedisAway {
			t.Error("Redis isn't away")
		}
		kit.Miniredis.SetError("")
		<-time.After(time.Minute)
		if kit.Manager.Health().RedisAway {
			t.Error("Redis is away, by what was a minute ago")
		}
	})
}
