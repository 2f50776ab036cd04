package manager_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func lifeKit(t *testing.T, n int) *managertest.Kit {
	t.Helper()
	return managertest.NewFleet(t, n, managertest.Options{InMemory: true, Endpoint: mockendpoint.Options{
		Life: 1000 * time.Second, Default: mockendpoint.Reply{Delay: 200 * time.Millisecond},
	}})
}

func tokenFor(left time.Duration) func(context.Context, *manager.Manager) (*manager.Token, error) {
	return func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
		return m.TokenFor(ctx, managertest.Environment, left)
	}
}

func TestTokenForReplacesATokenWithTooLittleLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := lifeKit(t, 3)
		old, err := kit.Manager.TokenFor(t.Context(), managertest.Environment, 500*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(300 * time.Second)
		if same, err := kit.Manager.TokenFor(t.Context(), managertest.Environment, 690*time.Second); err != nil || same != old {
			t.Errorf("with 700 s left, 690 s asked for: version %v, %v; want the token at hand", same, err)
		}
		// In the whole fleet at once: one call.
		got := make(chan *manager.Token, 30)
		for i := range 30 {
			go func() {
				tok, err := tokenFor(800*time.Second)(t.Context(), kit.Managers[i%3])
				if err != nil {
					t.Error(err)
				}
				got <- tok
			}()
		}
		for range 30 {
			tok := <-got
			if tok == nil || tok.Version <= old.Version {
				t.Fatalf("got %v, want a newer one than %v", tok, old)
			}
			if left := kit.Manager.ExpiresIn(managertest.Environment, tok); left < 800*time.Second {
				t.Errorf("it has %v left", left)
			}
		}
		if calls := kit.Endpoint.Calls(); calls != 2 {
			t.Errorf("%d calls, want 2", calls)
		}
	})
}

func TestTokenForRefusesWhatNoTokenHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := lifeKit(t, 1)
		if _, err := kit.Manager.TokenFor(t.Context(), managertest.Environment, 980*time.Second); err != nil {
			t.Fatalf("a new one has it: %v", err)
		}
		<-time.After(25 * time.Second)
		for range 100 {
			_, err := kit.Manager.TokenFor(t.Context(), managertest.Environment, 980*time.Second)
			var short *manager.LifeError
			if !errors.As(err, &short) || short.Most > 970*time.Second || short.Most < 960*time.Second {
				t.Fatalf("got %v, want a LifeError with a most of about 970 s", err)
			}
			<-time.After(time.Second)
		}
		if calls := kit.Endpoint.Calls(); calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}

// An endpoint that is slow beside the life that it gives isn't asked by each caller.
func TestTokenForBoundsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := lifeKit(t, 1)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Delay: 600 * time.Millisecond, ExpiresIn: 2})
		begun := time.Now()
		for time.Since(begun) < 20*time.Second {
			_, _ = kit.Manager.TokenFor(t.Context(), managertest.Environment, 1500*time.Millisecond)
			<-time.After(time.Millisecond)
		}
		if calls := kit.Endpoint.Calls(); calls > 28 {
			t.Errorf("%d calls in 20 s for tokens of 2 s", calls)
		}
	})
}

func TestTokenForObeysABackoffAndLeavesTheTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := lifeKit(t, 1)
		old, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(300 * time.Second)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Status: 503})
		for range 50 {
			_, err = kit.Manager.TokenFor(t.Context(), managertest.Environment, 900*time.Second)
			if _, ok := errors.AsType[*manager.EndpointError](err); !ok {
				t.Fatalf("got %v, want an EndpointError", err)
			}
		}
		if calls := kit.Endpoint.Calls(); calls != 2 {
			t.Errorf("%d calls, want 2", calls)
		}
		if tok, err := kit.Manager.Token(t.Context(), managertest.Environment); err != nil || tok != old {
			t.Errorf("Token: %v, %v; want the old one", tok, err)
		}
	})
}

func TestTokenForOfAnUnknownEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := lifeKit(t, 1)
		var unknown *manager.UnknownEnvironmentError
		if _, err := kit.Manager.TokenFor(t.Context(), "prod", time.Second); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
	})
}

// What is left of a life is counted from before the write was sent: by a slow one nothing would be, where others read that there is
// enough. The endpoint is asked once.
func TestATokenWhoseWriteTookLongIsHandedOutWhileOthersHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := tap(func(cmd redis.Cmder) error {
			if isPut(cmd) {
				<-time.After(900 * time.Millisecond)
			}
			return nil
		})
		kit := managertest.NewFleet(t, 2, managertest.Options{
			InMemory: true,
			Endpoint: mockendpoint.Options{Life: 2 * time.Second, Default: mockendpoint.Reply{Delay: 200 * time.Millisecond}},
			Config:   func(_ int, c *manager.Config) { c.Redis.AddHook(slow) },
		})
		tok, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		others, err := kit.Managers[1].Token(t.Context(), managertest.Environment)
		if err != nil || others.Version != tok.Version {
			t.Errorf("another has %v, %v; want %v", others, err, tok)
		}
		if calls := kit.Endpoint.Calls(); calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}

// One that is near its end by what others read, too, is an answer, not a reason to ask again at once.
func TestATokenThatIsTooNearItsEndOnceStoredIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.NewFleet(t, 1, managertest.Options{
			InMemory: true,
			Endpoint: mockendpoint.Options{Life: 2 * time.Second, Default: mockendpoint.Reply{Delay: 900 * time.Millisecond}},
			Config: func(_ int, c *manager.Config) {
				c.Redis.AddHook(tap(func(cmd redis.Cmder) error {
					if isPut(cmd) {
						<-time.After(950 * time.Millisecond)
					}
					return nil
				}))
			},
		})
		var failed *manager.EndpointError
		_, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if !errors.As(err, &failed) || failed.Code != "bad_reply" {
			t.Fatalf("got %v, want the bad_reply of a token too near its end", err)
		}
		if calls := kit.Endpoint.Calls(); calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}
