package manager_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// askFor has a caller of every manager ask for a token every 5 ms for d, whatever comes of it.
func (f *fleet) askFor(d time.Duration) {
	end := time.Now().Add(d)
	f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
		for time.Now().Before(end) {
			_, _ = m.Token(ctx, env)
			pause(f.t, 5*time.Millisecond)
		}
		return nil, nil
	})
}

func TestTwoWrongSecretsDoNotFreeEachOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 4, func(i int, _ *manager.Config, e *manager.Environment) {
		e.ClientSecret = manager.NewSecret(fmt.Sprint("wrong ", i%2))
	})
	f.askFor(2500 * time.Millisecond)
	// One for each secret. Two that came first for one of them, before they heard of its refusal, make no more of it.
	if n := f.endpoint.Calls(); n < 2 || n > 4 {
		t.Errorf("%d calls of four replicas with two wrong secrets", n)
	}
}

func TestALifeWithinItsMarginOnArrivalIsAFailure(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 3, policy(manager.Policy{Backoff: manager.Backoff{Min: time.Minute, Max: time.Minute}}))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 900 * time.Millisecond, ExpiresIn: 1}) // the margin is 125 ms
	for range 2 {
		for i, o := range f.all(token) {
			if failed := endpointError(t, o.err); failed.Code != "bad_reply" {
				t.Errorf("manager %d: %v", i, o.err)
			}
		}
	}
	f.calls(1)
}

func TestALifeThatEndsWhileItIsStoredIsAFailure(t *testing.T) {
	t.Parallel()
	slow := tapped(func(cmd redis.Cmder) error {
		if isPut(cmd) {
			<-time.After(900 * time.Millisecond)
		}
		return nil
	})
	f := newFleet(t, redistest.Mini(t), 1, slow, policy(manager.Policy{Backoff: manager.Backoff{Min: time.Minute, Max: time.Minute}}))
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 1}) // the margin is 125 ms
	for range 2 {
		_, err := f.tries(f.managers[0])
		if failed := endpointError(t, err); failed.Code != "bad_reply" {
			t.Error(err)
		}
	}
	f.calls(1)
}

func TestTheBackoffGrowsOverTwoConfigurations(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2, halfNew(2), func(_ int, _ *manager.Config, e *manager.Environment) {
		e.Backoff.Min = 200 * time.Millisecond
	})
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	f.askFor(2500 * time.Millisecond)
	if n := f.endpoint.Calls(); n < 2 || n > 4 { // at 0, 0.2, 0.6 and 1.4 s; the next is at 3 s
		t.Errorf("%d calls in 2.5 s of 503", n)
	}
}

func TestAReplicaThatCannotConnectHoldsBackWithAUsableToken(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, _ *manager.Config, e *manager.Environment) {
		e.Backoff.Min, e.RefreshAt = 100*time.Millisecond, 0.5
		e.Source, e.SourceID = manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			if calls.Add(1) > 1 {
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
			return &manager.Reply{AccessToken: manager.NewSecret("the only one"), ExpiresIn: 4 * time.Second}, nil
		}), "test"
	})
	f.mustToken(f.managers[0])
	f.askFor(2900 * time.Millisecond)          // refreshed from 2 s on, usable until 3 s
	if n := calls.Load() - 1; n < 1 || n > 4 { // at 2, 2.1, 2.3 and 2.7 s
		t.Errorf("%d dials behind the callers", n)
	}
}

func TestAForeignTokenFromTheFutureIsReplaced(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 2)
	err := errors.Join(
		f.rdb.HSet(t.Context(), key("token"), "access_token", "planted", "token_type", "Bearer", "config", "another", "version", "5",
			"issued_at", "2090-01-01T00:00:00.000Z", "expires_at", "2090-01-02T00:00:00.000Z").Err(),
		f.rdb.PExpire(t.Context(), key("token"), 24*time.Hour).Err())
	if err != nil {
		t.Fatal(err)
	}
	f.oneToken(f.all(token))
	f.calls(1)
}
