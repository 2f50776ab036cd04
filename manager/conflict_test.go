package manager_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// halfNew gives the second half of a fleet of n another configuration.
func halfNew(n int) edit {
	return func(i int, _ *manager.Config, e *manager.Environment) {
		if i >= n/2 {
			e.Scopes = []string{"new"}
		}
	}
}

func TestARollingDeployIsBoundedAndTakesNothingAway(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const n = 10
		f := newFleet(t, rdb, n, halfNew(n))
		end := time.Now().Add(4 * time.Second)
		f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
			var first *manager.Token
			for time.Now().Before(end) {
				tok, err := m.Token(ctx, env)
				if err != nil {
					t.Error(err)
					return nil, err
				}
				if first == nil {
					first = tok
				}
				if tok.Config != first.Config {
					t.Error("a token of the other configuration was handed out")
				}
				pause(t, 10*time.Millisecond)
			}
			return first, nil
		})
		if calls := f.endpoint.Calls(); calls < 2 || calls > 4 {
			t.Errorf("%d calls, want one for each configuration, and few more", calls)
		}
		old, err := f.managers[0].Status(t.Context(), env)
		if err != nil {
			t.Fatal(err)
		}
		young, err := f.managers[n-1].Status(t.Context(), env)
		if err != nil {
			t.Fatal(err)
		}
		if (old.State == manager.StateConflict) == (young.State == manager.StateConflict) {
			t.Errorf("states %s and %s: want conflict for the one whose token isn't stored", old.State, young.State)
		}
	})
}

func TestAForeignTokenIsReplacedWithAGrowingBackoff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2, halfNew(2))
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 2}) // usable for 1.75 s: two services fight over one name
	end := time.Now().Add(8 * time.Second)
	f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
		for time.Now().Before(end) {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			_, _ = m.Token(ctx, env)
			cancel()
		}
		return nil, nil
	})
	if n := f.endpoint.Calls(); n > 10 {
		t.Errorf("%d calls in 8 s", n)
	}
}

func TestInvalidateReachesEverybody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 4)
		first := f.oneToken(f.all(token))
		dropped, err := f.managers[1].Invalidate(t.Context(), env, 0)
		if err != nil || dropped < first.Version {
			t.Fatalf("dropped %d, %v; the token is %d", dropped, err, first.Version)
		}
		if got := f.mustToken(f.managers[1]); got.Version <= dropped {
			t.Errorf("version %d was handed out where %d was invalidated", got.Version, dropped)
		}
		eventually(t, 3*time.Second, "everybody has a newer one", func() bool {
			tok := f.oneOrNone(f.all(token))
			return tok != nil && tok.Version > dropped
		})
		f.calls(2)
	})
}

func TestInvalidateAVersion(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	first := f.mustToken(f.managers[0])
	if _, err := f.managers[0].Invalidate(t.Context(), env, first.Version-1); err != nil {
		t.Fatal(err)
	}
	if got := f.mustToken(f.managers[0]); got.Version != first.Version {
		t.Error("a version above the invalidated one was dropped")
	}
	if _, err := f.managers[0].Invalidate(t.Context(), env, first.Version); err != nil {
		t.Fatal(err)
	}
	if got := f.mustToken(f.managers[0]); got.Version <= first.Version {
		t.Error("the invalidated version was handed out")
	}
	if _, err := f.managers[0].Invalidate(t.Context(), env, 9e15); !errors.Is(err, store.ErrImplausible) {
		t.Errorf("a version of the far future: %v", err)
	}
}

func TestATokenFetchedWhileItIsInvalidatedIsNotUsed(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	gate := make(chan struct{})
	f.endpoint.Push(mockendpoint.Reply{Gate: gate})
	got := f.start(f.managers[0], token)
	f.awaitCalls(1)
	dropped, err := f.managers[0].Invalidate(t.Context(), env, 0)
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	if o := <-got; o.err != nil || o.token.Version <= dropped {
		t.Errorf("got %v, %v; dropped is %d", o.token, o.err, dropped)
	}
	f.calls(2)
}

func TestNoSecretIsLogged(t *testing.T) {
	var logged logBuffer
	const more = "another-secret-8c1f"
	f := newFleet(t, redistest.Mini(t), 3, func(i int, c *manager.Config, e *manager.Environment) {
		c.Logger = logged.logger()
		e.SecretParams = map[string]manager.Secret{"api_key": manager.NewSecret(more)}
	})
	f.endpoint.Push(mockendpoint.Reply{Error: "invalid_request", ErrorDescription: "what is " + secret + " or " + more})
	var errs []string
	for _, o := range f.all(token) {
		errs = append(errs, o.err.Error())
	}
	if _, err := f.managers[0].Refresh(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	f.converge(3 * time.Second)
	if _, err := f.managers[0].Invalidate(t.Context(), env, 0); err != nil {
		t.Fatal(err)
	}
	failure := f.rdb.HGetAll(t.Context(), key("failure")).Val()
	text := logged.String() + strings.Join(errs, "\n")
	for k, v := range failure {
		text += k + v
	}
	if !strings.Contains(text, "invalid_request") || !strings.Contains(text, `"outcome":"stored"`) {
		t.Fatalf("the log is not what it should be: %s", text)
	}
	for _, hidden := range append(f.endpoint.Issued(), secret, more) {
		if strings.Contains(text, hidden) {
			t.Errorf("%q was logged", hidden)
		}
	}
}
