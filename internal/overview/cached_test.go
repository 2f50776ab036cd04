package overview_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/store"
)

// plant makes an environment that isn't configured appear in Redis.
func plant(t *testing.T, kit *managertest.Kit, env string) {
	t.Helper()
	if err := kit.Redis.HSet(t.Context(), kit.Store.Keys(env).Mark, "issued", "1").Err(); err != nil {
		t.Fatal(err)
	}
}

func TestNamesAreSearchedForOnceInHalfAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{InMemory: true})
		plant(t, kit, "found")
		cached := overview.New(kit.Store, kit.Manager).Cached()
		calls := func() int {
			synctest.Wait() // for the subscription's
			return kit.Miniredis.CommandCount()
		}
		names := func() []string {
			names, err := cached.Names(t.Context())
			if err != nil {
				t.Error(err)
			}
			return names
		}
		before := calls()
		if got := names(); !slices.Equal(got, []string{"found", "test"}) {
			t.Errorf("got %v", got)
		}
		one := calls() - before
		plant(t, kit, "later")
		before = calls()
		var asking sync.WaitGroup
		for range 50 {
			asking.Go(func() { names() })
		}
		asking.Wait()
		if n := calls() - before; n != 0 {
			t.Errorf("%d commands within half a minute", n)
		}
		<-time.After(31 * time.Second)
		before = calls()
		for range 50 {
			asking.Go(func() {
				if got := names(); !slices.Equal(got, []string{"found", "later", "test"}) {
					t.Errorf("got %v", got)
				}
			})
		}
		asking.Wait()
		if n := calls() - before; n > one+3 { // and a PING of the subscription, perhaps
			t.Errorf("%d commands for fifty who ask at once, %d for one", n, one)
		}
		for env, want := range map[string]bool{"test": true, "found": true, "nope": false} {
			if got, err := cached.Known(t.Context(), env); got != want || err != nil {
				t.Errorf("%s: %v, %v", env, got, err)
			}
		}
	})
}

func TestASearchThatFailsIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{InMemory: true})
		cached := overview.New(kit.Store, kit.Manager).Cached()
		kit.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
		for range 3 {
			_, err := cached.Names(t.Context())
			if _, ok := errors.AsType[*store.StatusError](err); !ok {
				t.Errorf("got %v", err)
			}
		}
		kit.Miniredis.SetError("")
		<-time.After(2 * time.Second)
		if names, err := cached.Names(t.Context()); err != nil || !slices.Equal(names, []string{"test"}) {
			t.Errorf("got %v, %v", names, err)
		}
	})
}

func TestACallersEndIsItsOwn(t *testing.T) {
	t.Parallel()
	kit := managertest.New(t, managertest.Options{})
	cached := overview.New(kit.Store, kit.Manager).Cached()
	why := errors.New("the caller has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	// The search goes on; whether it has ended by now is chance.
	if _, err := cached.Names(ctx); err != nil && !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if names, err := cached.Names(t.Context()); err != nil || fmt.Sprint(names) != "[test]" {
		t.Errorf("got %v, %v", names, err)
	}
}

// Those that are configured are there at once, and those that aren't any more for as long as they are in Redis.
func TestReconfigured(t *testing.T) {
	t.Parallel()
	kit := managertest.New(t, managertest.Options{})
	view := overview.New(kit.Store, kit.Manager)
	cached := view.Cached()
	names := func() string {
		names, err := cached.Names(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(names)
	}
	plant(t, kit, "old")
	if got := names(); got != "[old test]" {
		t.Errorf("got %v", got)
	}
	settings := manager.Environment{TokenURL: kit.EndpointURL, ClientID: "test-client", ClientSecret: manager.NewSecret("test-secret")}
	if err := kit.Manager.SetEnvironment("new", settings); err != nil {
		t.Fatal(err)
	}
	if err := kit.Manager.RemoveEnvironment("test"); err != nil {
		t.Fatal(err)
	}
	view.Reconfigured()
	if got := names(); got != "[new old]" || !cached.Configured("new") || cached.Configured("test") {
		t.Errorf("got %v", got)
	}
}
