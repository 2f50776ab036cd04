package manager_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// longLease has what isn't given back last for longer than a test waits for it.
var longLease = policy(manager.Policy{Lease: time.Minute})

func isLook(cmd redis.Cmder) bool { return isRead(cmd) || isClaim(cmd) }

// around is a hook of single commands. Its error is the command's outcome.
type around func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error

func (h around) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h around) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h around) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := h(ctx, cmd, next)
		cmd.SetErr(err)
		return err
	}
}

// looking is a hook that is asked what becomes of the n-th look, from 1 on.
func looking(do func(n int32, next func() error) error) around {
	var looks atomic.Int32
	return func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !isLook(cmd) {
			return next(ctx, cmd)
		}
		return do(looks.Add(1), func() error { return next(ctx, cmd) })
	}
}

// firstWaits is a hook that keeps the reply of the first look, which is run by then, until it is told to answer.
func firstWaits() (h around, looked <-chan struct{}, answer func()) {
	ran, reply := make(chan struct{}), make(chan struct{})
	return looking(func(n int32, next func() error) error {
		err := next()
		if n == 1 {
			close(ran)
			<-reply
		}
		return err
	}), ran, func() { close(reply) }
}

// inFirst has the hook in the first manager's client.
func inFirst(h redis.Hook) edit {
	return func(i int, c *manager.Config, _ *manager.Environment) {
		if i == 0 {
			c.Redis.AddHook(h)
		}
	}
}

// While Redis fails one call in 100 ms tries it for all, of which a look is none: or else, where a look takes that turn and can
// take no lease, nobody finds out that Redis takes writes again. Only a record of a failure stands there, whose backoff is over.
func TestAWriteIsTriedAgainThoughALookCouldNotClaim(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	f := newFleet(t, rdb, 1)
	m := f.managers[0]
	f.endpoint.Push(mockendpoint.Reply{Status: 503})
	var failed *manager.EndpointError
	if _, err := m.Token(t.Context(), env); !errors.As(err, &failed) {
		t.Fatalf("got %v, want the failure", err)
	}
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	var away *manager.RedisError
	eventually(t, 8*time.Second, "Redis counts as away", func() bool {
		_, err := m.Token(t.Context(), env)
		return errors.As(err, &away)
	})
	if err := rdb.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	for {
		_, err := m.Token(t.Context(), env)
		if err == nil {
			t.Logf("a token %v after Redis takes writes again", time.Since(back))
			return
		}
		if time.Since(back) > 20*time.Second {
			t.Fatalf("%v after Redis takes writes again: %v", time.Since(back), err)
		}
		pause(t, 100*time.Millisecond)
	}
}

// What a look has taken whose reply is lost, its TTL running, is given back, rather than taken for a whole lease later.
func TestAClaimWhoseReplyIsLostIsNobodysLease(t *testing.T) {
	t.Parallel()
	l := looking(func(n int32, next func() error) error {
		err := next()
		if n == 1 && err == nil {
			<-time.After(time.Second) // the deadline of a call
			return os.ErrDeadlineExceeded
		}
		return err
	})
	f := newFleet(t, redistest.Mini(t), 2, inFirst(l), policy(manager.Policy{Lease: 1500 * time.Millisecond}))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 2 * time.Second})
	f.twoAsk(100 * time.Millisecond)
}

// A claim's reply comes so late that the lease has ended, and another has it.
func TestAClaimWhoseReplyIsLateIsNobodysLease(t *testing.T) {
	t.Parallel()
	l := looking(func(n int32, next func() error) error {
		err := next()
		if n == 1 {
			<-time.After(1200 * time.Millisecond)
		}
		return err
	})
	f := newFleet(t, redistest.Mini(t), 2, inFirst(l), policy(manager.Policy{Lease: time.Second}))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 2 * time.Second})
	f.twoAsk(100 * time.Millisecond)
}

// twoAsk has two managers ask, the second a while later, and wants one call.
func (f *fleet) twoAsk(later time.Duration) {
	f.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = f.managers[0].Token(f.t.Context(), env)
	}()
	pause(f.t, later)
	f.mustToken(f.managers[1])
	<-done
	f.calls(1)
}

// A deletion whose outcome wasn't known comes late, and takes nothing from the attempt under way: no two looks have one value.
func TestALateDeletionTakesNoOthersLease(t *testing.T) {
	t.Parallel()
	refresh, forgot := make(chan struct{}), make(chan redis.Cmder, 1)
	var looks, forgets atomic.Int32
	h := around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		args := cmd.Args()
		switch {
		case isLook(cmd) && looks.Add(1) == 1: // its reply is lost
			_ = next(ctx, cmd)
			close(refresh)
			<-time.After(100 * time.Millisecond)
			return io.ErrUnexpectedEOF
		case cmd.Name() == "eval" && len(args) == 5 && args[2] == 1 && forgets.Add(1) == 1: // the first deletion is kept
			forgot <- cmd
			return os.ErrDeadlineExceeded
		}
		return next(ctx, cmd)
	})
	f := newFleet(t, redistest.Mini(t), 2, inFirst(h))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 2 * time.Second})
	m := f.managers[0]
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = m.Token(t.Context(), env)
	}()
	<-refresh // the reply of the first claim is lost: meanwhile somebody asks for a refresh
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = m.Refresh(ctx, env)
	}()
	var forget redis.Cmder
	select {
	case forget = <-forgot:
	case <-time.After(5 * time.Second):
		t.Fatal("nothing was given back")
	}
	leave() // the Refresh's caller leaves
	<-left
	if err := f.endpoint.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	args := forget.Args()
	n, err := f.rdb.Eval(t.Context(), args[1].(string), []string{args[3].(string)}, args[4:]...).Result() // it comes late
	t.Logf("the late deletion: %v, %v", n, err)
	f.mustToken(f.managers[1])
	<-done
	f.calls(1)
}

// Redis hangs for a while when a replica looks. When it goes on it runs the look that nobody waits for any more.
func TestALookAtAHungRedisLeavesNoLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.Client(t), 2, longLease, func(_ int, c *manager.Config, _ *manager.Environment) {
		if err := c.Redis.Ping(t.Context()).Err(); err != nil { // it has a connection
			t.Fatal(err)
		}
	})
	pause(t, 300*time.Millisecond) // in which they subscribe
	server.Pause(t)
	var away *manager.RedisError
	if _, err := f.managers[0].Token(t.Context(), env); !errors.As(err, &away) {
		t.Errorf("got %v", err)
	}
	pause(t, 1500*time.Millisecond) // and gives up what it may have taken
	server.Continue(t)
	eventually(t, 10*time.Second, "a token for another replica", func() bool {
		_, err := f.managers[1].Token(t.Context(), env)
		return err == nil
	})
	f.calls(1)
}

// A caller leaves while the first look is under way; who asks meanwhile waits for a lease that is given back at once.
func TestWhoLeavesWhileHeLooksKeepsNobodyWaitingForLong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		other int
	}{{"another replica", 1}, {"the same replica", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, looked, answer := firstWaits()
			var logged logBuffer
			f := newFleet(t, redistest.Mini(t), 2, inFirst(h), longLease, func(_ int, c *manager.Config, _ *manager.Environment) { c.Logger = logged.logger() })
			f.listening(&logged, 2)
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			go func() {
				defer close(left)
				_, _ = f.managers[0].Token(ctx, env)
			}()
			<-looked
			leave()
			<-left
			start, got := time.Now(), make(chan struct{})
			go func() {
				defer close(got)
				f.mustToken(f.managers[tt.other])
			}()
			pause(t, 50*time.Millisecond) // a round trip
			answer()
			<-got
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("a token after %v", took)
			}
			f.calls(1)
		})
	}
}

// The reply of a claim is lost, and a token, or a failure, comes from elsewhere before the next look. What the first one took is given
// back all the same.
func TestALookOfUnknownOutcomeLeavesNoLease(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(f *fleet) error{
		"a failure": func(f *fleet) error { // as of a replica that couldn't reach the endpoint, and gave the lease back before it said so
			now := time.Now().UTC()
			const form = "2006-01-02T15:04:05.000Z"
			if err := f.rdb.HSet(f.t.Context(), key("failure"), "code", "unreachable", "version", "1", "attempt", "1", "reported_by", "replica-77",
				"failed_at", now.Format(form), "retry_at", now.Add(time.Second).Format(form)).Err(); err != nil {
				return err
			}
			return f.rdb.PExpire(f.t.Context(), key("failure"), time.Minute).Err()
		},
		"a token": func(f *fleet) error { // as of a late holder: another manager's
			other := f.add(func(_ int, c *manager.Config, _ *manager.Environment) {
				c.Redis = redistest.NewClient(f.t, redistest.Options(f.rdb.Options().Addr))
			})
			value := f.rdb.Get(f.t.Context(), key("lock")).Val()
			if err := f.rdb.Del(f.t.Context(), key("lock")).Err(); err != nil {
				return err
			}
			f.mustToken(other)
			eventually(f.t, time.Second, "the other is done", func() bool { return f.rdb.Exists(f.t.Context(), key("lock")).Val() == 0 })
			if value == "" {
				return nil // the look has taken nothing
			}
			return f.rdb.Set(f.t.Context(), key("lock"), value, time.Minute).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f *fleet
			l := looking(func(n int32, next func() error) error {
				err := next()
				if n == 1 {
					if err := plant(f); err != nil {
						t.Error(err)
					}
					return io.ErrUnexpectedEOF
				}
				return err
			})
			f = newFleet(t, redistest.Mini(t), 1, inFirst(l), longLease)
			start := time.Now()
			f.mustToken(f.managers[0])
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("a token after %v", took)
			}
			f.unlocked()
		})
	}
}

// A replica to which no replies of looks come takes the lease by them, and has it while it finds that out.
func TestAReplicaThatHearsNoReplyKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]manager.Outage{"fail": manager.OutageFail, "refresh_alone": manager.OutageRefreshAlone} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := looking(func(_ int32, next func() error) error {
				_ = next()
				<-time.After(900 * time.Millisecond)
				return os.ErrDeadlineExceeded
			})
			f := newFleet(t, redistest.Mini(t), 2, inFirst(l), policy(manager.Policy{Lease: time.Minute, Outage: outage}))
			f.endpoint.SetDefault(mockendpoint.Reply{Delay: time.Second})
			go func() { _, _ = f.managers[0].Token(t.Context(), env) }()
			pause(t, 100*time.Millisecond)
			start := time.Now()
			f.mustToken(f.managers[1])
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("the other one got a token after %v", took)
			}
		})
	}
}

// Whatever ends a flight while it looks, nothing stays taken.
func TestWhateverEndsAFlightThatLooksNothingStaysTaken(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(f *fleet) error{
		"Close":             func(f *fleet) error { go func() { _ = f.managers[0].Close() }(); return nil },
		"RemoveEnvironment": func(f *fleet) error { return f.managers[0].RemoveEnvironment(env) },
		"SetEnvironment": func(f *fleet) error {
			return f.managers[0].SetEnvironment(env, manager.Environment{
				TokenURL: f.url + "/token", ClientID: id, ClientSecret: manager.NewSecret(secret), Policy: manager.Policy{Lease: 30 * time.Second},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, looked, answer := firstWaits()
			f := newFleet(t, redistest.Mini(t), 1, inFirst(h))
			got := make(chan error, 1)
			go func() {
				_, err := f.managers[0].Token(t.Context(), env)
				got <- err
			}()
			<-looked
			if err := end(f); err != nil {
				t.Fatal(err)
			}
			pause(t, 100*time.Millisecond)
			answer()
			<-got
			f.unlocked()
		})
	}
}

func TestARefreshJoinsALook(t *testing.T) {
	t.Parallel()
	h, looked, answer := firstWaits()
	f := newFleet(t, redistest.Mini(t), 2, inFirst(h))
	go func() { <-looked; <-time.After(100 * time.Millisecond); answer() }()
	go func() { _, _ = f.managers[0].Token(t.Context(), env) }()
	<-looked
	if _, err := f.managers[0].Refresh(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	f.mustToken(f.managers[1])
	f.calls(1)
}

// The client runs the command twice, and Redis has lost the script.
func TestTheClientRepeatsALook(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l := looking(func(n int32, next func() error) error {
			if n == 1 {
				_ = next()
				_ = rdb.ScriptFlush(context.Background()).Err()
			}
			return next()
		})
		f := newFleet(t, rdb, 2, inFirst(l))
		rdb.LPush(t.Context(), key("mark"), "garbage")
		f.mustToken(f.managers[0])
		f.mustToken(f.managers[1])
		f.calls(1)
		f.unlocked()
	})
}

// A user without a right that the rest of the script needs: it has taken the lock by then.
func TestALookOfAUserWithoutRightsToTheMark(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	if err := admin.ACLSetUser(t.Context(), "poor", "on", ">pw", "~*", "&*", "+@all", "-hset").Err(); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, admin, 1, func(_ int, c *manager.Config, _ *manager.Environment) {
		o := redistest.Options(admin.Options().Addr)
		o.Username, o.Password = "poor", "pw"
		c.Redis = redistest.NewClient(t, o)
	})
	_, err := f.managers[0].Token(t.Context(), env)
	if _, ok := errors.AsType[*manager.RedisError](err); !ok {
		t.Errorf("got %v", err)
	}
	f.unlocked()
}

// A token that is doubted because the clock was stepped, and has been evicted in Redis: that ends nothing, and the caller who
// meets it is gone with it before the endpoint would be asked.
func TestASuspectTokenThatWasEvictedIsNotFetched(t *testing.T) {
	t.Parallel()
	var w wall
	var slow atomic.Bool
	f := newFleet(t, redistest.Mini(t), 1, w.edit, func(_ int, c *manager.Config, _ *manager.Environment) {
		c.Redis.AddHook(looking(func(_ int32, next func() error) error {
			err := next()
			if slow.Load() {
				<-time.After(50 * time.Millisecond)
			}
			return err
		}))
	})
	tok := f.mustToken(f.managers[0])
	eventually(t, time.Second, "all is done", func() bool { return f.rdb.Exists(t.Context(), key("lock")).Val() == 0 })
	if err := f.rdb.Del(t.Context(), key("token")).Err(); err != nil {
		t.Fatal(err)
	}
	slow.Store(true)
	w.step(5 * time.Second)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if got := f.mustToken(f.managers[0]); got.Version < tok.Version {
			t.Fatalf("got %d after %d", got.Version, tok.Version)
		}
		pause(t, time.Millisecond)
	}
	f.calls(1)
}

// Where a failure, another's lease or a token stands nothing is taken.
func TestAClaimTakesNothingFromOthers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2, policy(manager.Policy{Backoff: manager.Backoff{Min: time.Minute, Max: time.Minute}}))
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	for _, m := range f.managers {
		var failed *manager.EndpointError
		if _, err := m.Token(t.Context(), env); !errors.As(err, &failed) {
			t.Fatalf("got %v, want the failure", err)
		}
	}
	f.calls(1)
	f.unlocked()
}

// The settings are changed, or the environment is taken out and set anew, while the first look is under way: who asks then goes on
// with a flight that sees the old one's lease, which is given back.
func TestAnEnvironmentThatIsSetAnewWhileItLooks(t *testing.T) {
	t.Parallel()
	for _, removed := range []bool{false, true} {
		t.Run(map[bool]string{false: "SetEnvironment", true: "RemoveEnvironment, SetEnvironment"}[removed], func(t *testing.T) {
			t.Parallel()
			looked, reply, second := make(chan struct{}), make(chan struct{}), make(chan struct{})
			l := looking(func(n int32, next func() error) error {
				err := next()
				switch n {
				case 1:
					close(looked)
					<-reply
				case 2:
					close(second)
				}
				return err
			})
			var logged logBuffer
			f := newFleet(t, redistest.Mini(t), 1, inFirst(l), longLease, func(_ int, c *manager.Config, _ *manager.Environment) { c.Logger = logged.logger() })
			f.listening(&logged, 1)
			m := f.managers[0]
			go func() { _, _ = m.Token(t.Context(), env) }()
			<-looked
			if removed {
				if err := m.RemoveEnvironment(env); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.SetEnvironment(env, manager.Environment{TokenURL: f.url + "/token", ClientID: id, ClientSecret: manager.NewSecret(secret)}); err != nil {
				t.Fatal(err)
			}
			got := make(chan struct{})
			start := time.Now()
			go func() {
				defer close(got)
				f.mustToken(m)
			}()
			select {
			case <-second:
			case <-time.After(5 * time.Second):
				t.Fatal("no second look")
			}
			close(reply)
			<-got
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("a token after %v", took)
			}
			f.calls(1)
		})
	}
}

// Replies of a replica's looks are lost, and its callers leave before it finds that out: its next flights take no lease.
func TestLostRepliesAndCallersWhoLeaveKeepNobodyFromTheLease(t *testing.T) {
	t.Parallel()
	var claims atomic.Int32
	h := around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !isLook(cmd) {
			return next(ctx, cmd)
		}
		if isClaim(cmd) {
			claims.Add(1)
		}
		_ = next(ctx, cmd) // it is run
		<-time.After(900 * time.Millisecond)
		return os.ErrDeadlineExceeded
	})
	f := newFleet(t, redistest.Mini(t), 2, inFirst(h))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // a call now and then, each for half a second
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			_, _ = f.managers[0].Token(ctx, env)
			cancel()
			select {
			case <-stop:
				return
			case <-time.After(410 * time.Millisecond):
			}
		}
	})
	pause(t, 100*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	start := time.Now()
	_, err := f.managers[1].Token(ctx, env)
	took := time.Since(start)
	close(stop)
	wg.Wait()
	if err != nil || claims.Load() > 2 {
		t.Errorf("the other replica: %v after %v and %d claims", err, took, claims.Load())
	}
}

// Redis hangs, and callers leave before that is found out: the looks that follow take no lease.
func TestNoneClaimsWhileRedisFails(t *testing.T) {
	t.Parallel()
	var claims atomic.Int32
	h := around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if !strings.HasPrefix(cmd.Name(), "eval") {
			return next(ctx, cmd)
		}
		if isClaim(cmd) {
			claims.Add(1)
		}
		select { // it hangs
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
		return os.ErrDeadlineExceeded
	})
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, c *manager.Config, _ *manager.Environment) { c.Redis.AddHook(h) },
		policy(manager.Policy{Lease: 10 * time.Minute}))
	for range 15 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, _ = f.managers[0].Token(ctx, env)
		cancel()
		pause(t, 250*time.Millisecond)
	}
	if n := claims.Load(); n > 1 {
		t.Errorf("%d looks of 15 would have taken the lease, though all of them failed", n)
	}
}

// A look is run after what it might have taken was freed: it had lain in a network that has healed. That ends with its TTL, which is a
// short one.
func TestALookThatIsRunAfterItWasForgotten(t *testing.T) {
	t.Parallel()
	ran := make(chan struct{})
	h := around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if isClaim(cmd) {
			again := redis.NewCmd(context.Background(), cmd.Args()...)
			go func() {
				defer close(ran)
				<-time.After(300 * time.Millisecond)
				if err := next(context.Background(), again); err != nil {
					t.Errorf("run late: %v", err)
				}
			}()
			<-time.After(100 * time.Millisecond)
			return io.ErrUnexpectedEOF
		}
		return next(ctx, cmd)
	})
	f := newFleet(t, redistest.Mini(t), 2, longLease, inFirst(h))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _ = f.managers[0].Token(ctx, env) // and gives up
	<-ran
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := f.managers[1].Token(ctx, env); err != nil {
		t.Errorf("another replica: %v; the lock: %q for %v", err,
			f.rdb.Get(t.Context(), key("lock")).Val(), f.rdb.PTTL(t.Context(), key("lock")).Val())
	}
}

// One connection is half open, and the client isn't told to go by ctx's deadline, which is its default: that keeps up who waits for
// it, and nobody who comes when he has left.
func TestALookThatHangsIsNotTheNextCallersToo(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	l := looking(func(n int32, next func() error) error {
		if n == 1 {
			select {
			case <-hang:
			case <-time.After(6 * time.Second):
			}
			return os.ErrDeadlineExceeded
		}
		return next()
	})
	f := newFleet(t, redistest.Mini(t), 1, inFirst(l))
	defer close(hang)
	start := time.Now()
	for n := 1; ; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := f.managers[0].Token(ctx, env)
		cancel()
		if err == nil {
			if took := time.Since(start); n > 3 {
				t.Errorf("caller %d, after %v, is the first to get a token", n, took)
			}
			return
		}
		if time.Since(start) > 15*time.Second {
			t.Fatal(err)
		}
	}
}

// A caller leaves while his look takes the lease: the endpoint isn't asked.
func TestALookWhoseCallerHasLeftAsksNoEndpoint(t *testing.T) {
	t.Parallel()
	h, looked, answer := firstWaits()
	f := newFleet(t, redistest.Mini(t), 1, inFirst(h))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = f.managers[0].Token(ctx, env)
	}()
	<-looked
	cancel()
	<-left
	answer()
	pause(t, 500*time.Millisecond)
	f.calls(0)
}

// unlocked returns once nobody holds the lease.
func (f *fleet) unlocked() {
	f.t.Helper()
	eventually(f.t, 5*time.Second, "the lease is given back", func() bool {
		n, err := f.rdb.Exists(f.t.Context(), key("lock")).Result()
		return err == nil && n == 0
	})
}

// A look that took the lease for callers who had left by then isn't thrown away: what it tells of an invalidation counts.
func TestALookThatComesTooLateTellsOfAnInvalidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looked atomic.Bool
		goOn := make(chan struct{})
		kit := managertest.NewFleet(t, 2, managertest.Options{
			InMemory: true,
			Config: func(i int, c *manager.Config) {
				if i > 0 {
					return
				}
				c.Redis.AddHook(around(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
					if isClaim(cmd) && !looked.Swap(true) {
						<-goOn
						ctx = context.WithoutCancel(ctx) // the reply is there just when the flight ends
					}
					return next(ctx, cmd)
				}))
			},
		})
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := kit.Manager.Token(short, managertest.Environment); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want that the caller has left", err)
		}
		_, err := kit.Managers[1].Token(t.Context(), managertest.Environment)
		must(t, err)
		tok, err := kit.Manager.Token(t.Context(), managertest.Environment)
		must(t, err)
		k := kit.Store.Keys(managertest.Environment)
		must(t, kit.Redis.HSet(t.Context(), k.Mark, "dropped", tok.Version.String()).Err())
		must(t, kit.Redis.Del(t.Context(), k.Token).Err())
		close(goOn)
		<-time.After(100 * time.Millisecond)
		if newer, err := kit.Manager.Token(t.Context(), managertest.Environment); err != nil || newer.Version <= tok.Version {
			t.Errorf("got %v, %v; want a newer token than %v, which was invalidated", newer, err, tok)
		}
	})
}
