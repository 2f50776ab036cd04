package manager_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A tap is called with each command of a client before that is sent. Its error is the command's outcome.
type tap func(cmd redis.Cmder) error

func (tap) DialHook(next redis.DialHook) redis.DialHook { return next }

func (tap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook { return next }

func (h tap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := h(cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func tapped(h tap) edit {
	return func(_ int, c *manager.Config, _ *manager.Environment) { c.Redis.AddHook(h) }
}

// tries asks a manager for a token for at most 10 s.
func (f *fleet) tries(m *manager.Manager) (*manager.Token, error) {
	o := <-f.start(m, token)
	return o.token, o.err
}

// start is call in the background, for at most 10 s.
func (f *fleet) start(m *manager.Manager, call func(context.Context, *manager.Manager) (*manager.Token, error)) <-chan outcome {
	got := make(chan outcome, 1)
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	go func() {
		defer cancel()
		begun := time.Now()
		tok, err := call(ctx, m)
		got <- outcome{tok, err, time.Since(begun)}
	}()
	return got
}

// awaitCalls returns once the endpoint has been called so often.
func (f *fleet) awaitCalls(n int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	if err := f.endpoint.Await(ctx, n); err != nil {
		f.t.Fatal(err)
	}
}

// serves has a few callers ask the manager all the time until done, and fails the test where one of them doesn't get a
// token of version want at once.
func (f *fleet) serves(m *manager.Manager, want manager.Version, done func() bool) {
	f.t.Helper()
	var over atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer over.Store(true)
	for range 4 {
		wg.Go(func() {
			for !over.Load() && !f.t.Failed() {
				ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
				tok, err := m.Token(ctx, env)
				cancel()
				if err != nil {
					f.t.Error(err)
				} else if tok.Version != want {
					f.t.Errorf("version %d, want %d", tok.Version, want)
				}
				pause(f.t, time.Millisecond)
			}
		})
	}
	eventually(f.t, 10*time.Second, "what the callers are served meanwhile", func() bool { return f.t.Failed() || done() })
}

func TestARefreshThatJoinsATokensFlightTakesNoTokenAway(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 2)
		gate := make(chan struct{})
		f.endpoint.Push(mockendpoint.Reply{Gate: gate})
		f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
		holder := f.start(f.managers[1], token)
		f.awaitCalls(1)
		plain := f.start(f.managers[0], token)
		pause(t, 100*time.Millisecond) // it has joined the wait for the holder
		more := f.start(f.managers[0], refresh)
		pause(t, 100*time.Millisecond) // and so has the refresh, which the holder's token, issued before, doesn't answer
		close(gate)
		tok := f.oneToken([]outcome{<-holder, <-plain})
		if o := <-more; endpointError(t, o.err).Code != "http_503" {
			t.Errorf("the refresh got %v", o.err)
		}
		if got := f.mustToken(f.managers[0]); got.Version != tok.Version {
			t.Errorf("got %v, want %v served on", got, tok)
		}
		f.calls(2)
	})
}

func TestADroppedTokenIsNotServedWhileItsSuccessorIsFetched(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 2)
		f.mustToken(f.managers[0])
		gate := make(chan struct{})
		f.endpoint.Push(mockendpoint.Reply{Gate: gate})
		successor := f.start(f.managers[0], refresh)
		f.awaitCalls(2)
		dropped, err := f.managers[1].Invalidate(t.Context(), env, 0)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, "the dropped token is no longer served", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := f.managers[0].Token(ctx, env)
			return err != nil
		})
		close(gate)
		if o := <-successor; o.err != nil || o.token.Version <= dropped {
			t.Errorf("the refresh got %v, %v; dropped is %d", o.token, o.err, dropped)
		}
		f.calls(3)
	})
}

func TestALateHolderDoesNotOverwriteThoughTheMarkWasEvicted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, rdb, 2)
		gate := make(chan struct{})
		f.endpoint.Push(mockendpoint.Reply{Gate: gate})
		late := f.start(f.managers[0], token)
		f.awaitCalls(1)
		if err := rdb.Del(t.Context(), key("lock")).Err(); err != nil { // as if it had run out under a paused holder
			t.Fatal(err)
		}
		newer := f.mustToken(f.managers[1])
		if err := rdb.Del(t.Context(), key("mark")).Err(); err != nil {
			t.Fatal(err)
		}
		close(gate)
		if o := <-late; o.err != nil || o.token.Version != newer.Version {
			t.Errorf("the late holder got %v, %v; want %v", o.token, o.err, newer)
		}
		if stored := rdb.HGet(t.Context(), key("token"), "version").Val(); stored != newer.Version.String() {
			t.Errorf("version %s is stored, want %d", stored, newer.Version)
		}
		f.calls(2)
	})
}
