package managertest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// Two bubbles, since something that the first leaves behind would break the second.
func TestABubblesClockIsEverybodys(t *testing.T) {
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			const life = 20 * time.Minute
			kit := managertest.NewFleet(t, 3, managertest.Options{
				InMemory: true,
				Endpoint: mockendpoint.Options{Life: life, Default: mockendpoint.Reply{Delay: time.Second}},
			})
			for lives := range 3 {
				for _, m := range kit.Managers {
					if tok := token(t, m, managertest.Environment); !kit.Endpoint.Accepts(tok.AccessToken.Reveal()) {
						t.Fatalf("after %d lives: an expired token", lives)
					}
				}
				if got := kit.Endpoint.Calls(); got != lives+1 {
					t.Fatalf("after %d lives: %d calls, want one in each", lives, got)
				}
				<-time.After(life)
				if kit.Redis.Exists(t.Context(), kit.Store.Keys(managertest.Environment).Token).Val() != 0 {
					t.Fatal("the token is in Redis after its life")
				}
			}
		})
	}
}

func TestABubbleWaitsOutABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const env = managertest.Environment
		kit := managertest.NewFleet(t, 3, managertest.Options{InMemory: true})
		kit.Endpoint.Push(mockendpoint.Reply{Status: 429, RetryAfter: time.Minute})
		for _, m := range kit.Managers {
			if _, err := m.Token(t.Context(), env); err == nil {
				t.Error("got a token while the endpoint is overloaded")
			}
		}
		<-time.After(time.Minute)
		for _, m := range kit.Managers {
			token(t, m, env)
		}
		if got := kit.Endpoint.Calls(); got != 2 {
			t.Errorf("got %d calls, want 2", got)
		}
	})
}

func TestABubbleEndsWithACallUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{
			InMemory:    true,
			Environment: manager.Environment{Policy: manager.Policy{KeepWarm: true}},
		})
		kit.Endpoint.Push(mockendpoint.Reply{Hang: true})
		if err := kit.Endpoint.Await(t.Context(), 1); err != nil {
			t.Error(err)
		}
	})
}
