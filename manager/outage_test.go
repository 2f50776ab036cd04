package manager_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestNewSucceedsWithRedisDown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	server.Stop()
	f := newFleet(t, rdb, 1)
	start := time.Now()
	_, err := f.managers[0].Token(t.Context(), env)
	var away *manager.RedisError
	if !errors.As(err, &away) {
		t.Errorf("got %v, want a RedisError", err)
	}
	if took := time.Since(start); took < 1900*time.Millisecond || took > 20*time.Second {
		t.Errorf("the error came after %v, want about the 2 s of grace", took)
	}
	start = time.Now()
	if _, err := f.managers[0].Token(t.Context(), env); !errors.As(err, &away) || time.Since(start) > 500*time.Millisecond {
		t.Errorf("the next one: %v after %v, want it at once", err, time.Since(start))
	}
	f.calls(0)
	server.Start(t)
	eventually(t, 5*time.Second, "a token once Redis is there", func() bool {
		_, err := f.managers[0].Token(t.Context(), env)
		return err == nil
	})
}

func TestAValidTokenIsServedWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 3)
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 8})
	first := f.all(token)
	server.Stop()
	f.servedWhileUsable(first, time.Second) // usable until 7 s, with refreshes tried from 6 s on
	pause(t, 500*time.Millisecond)
	for _, o := range f.all(token) {
		if _, ok := errors.AsType[*manager.RedisError](o.err); !ok {
			t.Errorf("after its end: %v, %v", o.token, o.err)
		}
	}
	f.calls(1)
}

func TestAHungRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 2)
	server.Pause(t)
	start := time.Now()
	for _, o := range f.all(token) {
		if _, ok := errors.AsType[*manager.RedisError](o.err); !ok {
			t.Errorf("got %v", o.err)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the errors came after %v", took)
	}
	f.calls(0)
	server.Continue(t)
	eventually(t, 8*time.Second, "a token once Redis answers", func() bool {
		for _, o := range f.all(token) {
			if o.err != nil {
				return false
			}
		}
		return true
	})
	f.calls(1)
}

func TestARedisRestartedEmptyCostsOneRefresh(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 5)
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 6})
	first := f.oneToken(f.all(token))
	server.Stop()
	server.Start(t)
	var last *manager.Token
	eventually(t, 10*time.Second, "everybody has a newer token", func() bool {
		out := f.all(token)
		last = f.oneOrNone(out)
		return last != nil && last.Version > first.Version
	})
	f.calls(2)
}

// oneOrNone returns the token that all have, nil while they differ.
func (f *fleet) oneOrNone(out []outcome) *manager.Token {
	f.t.Helper()
	for _, o := range out {
		if o.err != nil {
			f.t.Fatal(o.err)
		}
		if o.token.Version != out[0].token.Version {
			return nil
		}
	}
	return out[0].token
}

func TestAfterAFlushARefreshReachesEverybody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 5)
		first := f.oneToken(f.all(token))
		if err := rdb.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if got := f.oneToken(f.all(token)); got.Version != first.Version {
			t.Errorf("the flush took a valid token away: %v", got)
		}
		newer, err := f.managers[2].Refresh(t.Context(), env)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, "everybody has the new token", func() bool {
			tok := f.oneOrNone(f.all(token))
			return tok != nil && tok.Version == newer.Version
		})
		f.calls(2)
	})
}

func TestAHistoryThatRedisLostDoesNotBlockWhatComesAfter(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	first := f.mustToken(f.managers[0])
	// Redis comes back with an older state: lower marks and an older token, that is still good.
	older := first.Version - 1000
	ctx := t.Context()
	err := errors.Join(
		f.rdb.HSet(ctx, key("token"), "version", older.String(), "access_token", "older").Err(),
		f.rdb.HSet(ctx, key("mark"), "issued", older.String(), "stored", older.String()).Err(),
		f.rdb.Publish(ctx, "onetoken:events", `{"env":"prod","kind":"stored","version":1}`).Err())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "the record that Redis has wins", func() bool {
		return f.mustToken(f.managers[0]).Version == older
	})
	f.calls(1)
}

func TestRefreshAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	server.Stop()
	f := newFleet(t, rdb, 2, policy(manager.Policy{Outage: manager.OutageRefreshAlone}))
	for i, o := range f.all(token) {
		if o.err != nil || o.token.Version != 0 {
			t.Errorf("manager %d got %v, %v", i, o.token, o.err)
		}
	}
	f.calls(2)
	f.all(token)
	f.calls(2)
	server.Start(t)
	shared := f.add()
	tok := f.mustToken(shared)
	if tok.Version == 0 {
		t.Error("with Redis there, a token wasn't shared")
	}
	eventually(t, 8*time.Second, "the lone tokens yield to the shared one", func() bool {
		last := f.oneOrNone(f.all(token))
		return last != nil && last.Version == tok.Version
	})
	f.calls(3)
}

func TestRefreshAloneIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	server.Stop()
	f := newFleet(t, rdb, 1, policy(manager.Policy{Outage: manager.OutageRefreshAlone}))
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 1})
	end := time.Now().Add(5 * time.Second)
	for time.Now().Before(end) {
		_, _ = f.managers[0].Token(t.Context(), env)
		pause(t, 10*time.Millisecond)
	}
	f.calls(1)
}

// A faulty client loses the replies of scripts, or refuses them, as told.
type faulty struct {
	lose, refuse atomic.Int64 // how many of the next writes of a token
}

func (f *faulty) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *faulty) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *faulty) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch isPut := isPut(cmd); {
		case isPut && f.refuse.Add(-1) >= 0:
			err := errors.New("OOM command not allowed when used memory > 'maxmemory'")
			cmd.SetErr(err)
			return err
		case isPut && f.lose.Add(-1) >= 0:
			_ = next(ctx, cmd)
			err := errors.New("EOF: the reply was lost")
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// isPut reports whether cmd is the script that stores a token.
func isPut(cmd redis.Cmder) bool {
	args := cmd.Args()
	return strings.HasPrefix(cmd.Name(), "eval") && len(args) > 15 && args[2] == 4 && slices.Contains(args, any("access_token"))
}

func withFaults(faults *faulty) edit {
	return func(_ int, c *manager.Config, _ *manager.Environment) { c.Redis.AddHook(faults) }
}

func TestALostReplyOfAStoreIsSettledByTheSameWriteAgain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		faults := &faulty{}
		f := newFleet(t, rdb, 1, withFaults(faults))
		faults.lose.Store(1)
		tok := f.mustToken(f.managers[0])
		if stored := rdb.HGet(t.Context(), key("token"), "version").Val(); stored != tok.Version.String() {
			t.Errorf("stored is %q, handed out %d", stored, tok.Version)
		}
		eventually(t, 5*time.Second, "the write is run again", func() bool { return faults.lose.Load() < 0 })
		f.calls(1)
	})
}

func TestATokenThatCouldNotBeStoredIsHandedOutAndStoredLater(t *testing.T) {
	t.Parallel()
	faults := &faulty{}
	f := newFleet(t, redistest.Mini(t), 1, withFaults(faults))
	faults.refuse.Store(4)
	tok := f.mustToken(f.managers[0])
	if f.rdb.Exists(t.Context(), key("token")).Val() != 0 {
		t.Fatal("it was stored: the fault wasn't met")
	}
	eventually(t, 5*time.Second, "it is stored", func() bool {
		return f.rdb.HGet(t.Context(), key("token"), "version").Val() == tok.Version.String()
	})
	f.calls(1)
}

func TestAStoreOutOfMemoryIsNoFailureOfTheEndpoint(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, rdb, 1)
	_, err := f.managers[0].Token(t.Context(), env)
	var away *manager.RedisError
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("got %v", err)
	}
	f.calls(0)
}

func TestEventsAreHeardOverARestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 2)
	f.oneToken(f.all(token))
	server.Stop()
	server.Start(t)
	tok, err := f.managers[0].Refresh(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the other one has it", func() bool {
		return f.mustToken(f.managers[1]).Version == tok.Version
	})
}
