package manager_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A cable is a replica's way to Redis.
type cable struct {
	cut       atomic.Bool
	noRenewal atomic.Bool
	noKeeping atomic.Bool // of a refresh token without an access token
}

func (c *cable) tap(cmd redis.Cmder) error {
	args := cmd.Args()
	renews := strings.HasPrefix(cmd.Name(), "eval") && len(args) == 6 && strings.HasSuffix(args[3].(string), ":lock")
	keeps := strings.HasPrefix(cmd.Name(), "eval") && strings.HasSuffix(args[3].(string), ":grant")
	if c.cut.Load() || keeps && c.noKeeping.Load() || renews && c.noRenewal.Load() {
		return errors.New("i/o timeout")
	}
	return nil
}

// wired is a fleet of n whose refresh tokens rotate, with each replica's cable.
func wired(t *testing.T, n int, changes ...func(replica int, c *manager.Environment)) (*managertest.Kit, []*cable) {
	t.Helper()
	cables := make([]*cable, n)
	o := rotating()
	o.Config = func(replica int, c *manager.Config) {
		if replica < n {
			cables[replica] = &cable{}
			c.Redis.AddHook(tap(cables[replica].tap))
		}
		for _, change := range changes {
			e := c.Environments[managertest.Environment]
			change(replica, &e)
			c.Environments[managertest.Environment] = e
		}
	}
	return managertest.NewFleet(t, n, o), cables
}

// holding has replica 0 ask the endpoint, whose answer comes when the returned function is called: it waits for what the
// replica makes of it.
func holding(t *testing.T, k *managertest.Kit, r mockendpoint.Reply) (answer func() (*manager.Token, error)) {
	t.Helper()
	gate := make(chan struct{})
	r.Gate = gate
	k.Endpoint.Push(r)
	type result struct {
		token *manager.Token
		err   error
	}
	results := make(chan result, 1)
	calls := k.Endpoint.Calls()
	ctx := t.Context()
	go func() {
		tok, err := k.Managers[0].Refresh(ctx, managertest.Environment)
		results <- result{tok, err}
	}()
	ended, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := k.Endpoint.Await(ended, calls+1); err != nil {
		t.Fatal(err)
	}
	return func() (*manager.Token, error) {
		close(gate)
		got := <-results
		return got.token, got.err
	}
}

// settle waits until every replica has heard of what was done, and the lease is free: else a refresh would be served with that.
func settle() { <-time.After(3 * time.Second) }

func wantNoReuse(t *testing.T, k *managertest.Kit) {
	t.Helper()
	for _, f := range k.Endpoint.Families() {
		if f.Reuses > 0 || f.Revoked {
			t.Errorf("family %d: %d reuses, revoked %v", f.Ordinal, f.Reuses, f.Revoked)
		}
	}
}

func TestAHolderCutOffWithTheAnswerIsNotFollowedByAReuse(t *testing.T) {
	for name, life := range map[string]int{"": 3600, "beyond the token's life": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, cables := wired(t, 2)
				answer := holding(t, k, mockendpoint.Reply{ExpiresIn: life})
				cables[0].cut.Store(true)
				if _, err := answer(); err != nil {
					t.Fatalf("the holder's caller: %v", err)
				}
				type result struct {
					token *manager.Token
					err   error
				}
				other := make(chan result, 1)
				ctx := t.Context()
				go func() {
					tok, err := k.Managers[1].Token(ctx, managertest.Environment)
					other <- result{tok, err}
				}()
				<-time.After(30 * time.Second) // the lease has ended long ago
				if n := k.Endpoint.Calls(); n != 1 {
					t.Errorf("%d calls while the first one's answer isn't written, want 1", n)
				}
				cables[0].cut.Store(false)
				if got := <-other; got.err != nil {
					t.Errorf("the other replica: %v", got.err)
				}
				want := 1
				if life < 30 {
					want = 2
				}
				if n := k.Endpoint.Calls(); n != want {
					t.Errorf("%d calls in the end, want %d", n, want)
				}
				if _, err := k.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
					t.Error(err)
				}
				wantNoReuse(t, k)
			})
		})
	}
}

func TestCloseWritesARefreshTokenThatNobodyElseHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 2)
		answer := holding(t, k, mockendpoint.Reply{})
		cables[0].cut.Store(true)
		if _, err := answer(); err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- k.Managers[0].Close() }()
		<-time.After(3 * time.Second)
		cables[0].cut.Store(false)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		tok, err := k.Managers[1].Token(t.Context(), managertest.Environment)
		if err != nil || tok.RefreshedBy != k.Managers[0].Replica() {
			t.Errorf("the other replica got %v, %v; want what the closed one has stored", tok, err)
		}
		if _, err := k.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
	})
}

func TestCloseEndsThoughARefreshTokenCanNotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 1)
		answer := holding(t, k, mockendpoint.Reply{})
		cables[0].cut.Store(true)
		if _, err := answer(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := k.Managers[0].Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 10*time.Second {
			t.Errorf("Close took %v, want some 5 s of tries", took)
		}
	})
}

// The window that the documentation names: somebody has to go on at some time.
func TestARefreshTokenWhoseUserIsLostIsTriedAgainInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 2)
		answer := holding(t, k, mockendpoint.Reply{Status: 503})
		cables[0].cut.Store(true)
		if _, err := answer(); err == nil {
			t.Fatal("no error")
		}
		start := time.Now()
		if _, err := k.Managers[1].Token(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		// Endpoint timeout, 2 s and 30 s.
		if took := time.Since(start); took < 40*time.Second || took > 46*time.Second {
			t.Errorf("it was tried again after %v, want 42 s after it was taken", took)
		}
		wantNoReuse(t, k)
	})
}

func TestARefreshTokenIsNotSentUnderALeaseThatCanNotBeRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 2)
		cables[0].noRenewal.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := k.Managers[0].Token(ctx, managertest.Environment); err == nil {
			t.Error("a token came, want an error of Redis")
		}
		if n := k.Endpoint.Calls(); n != 0 {
			t.Errorf("the endpoint was asked %d times", n)
		}
		// What was taken and not used is free for others at once.
		start := time.Now()
		if _, err := k.Managers[1].Token(t.Context(), managertest.Environment); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("the other replica: %v after %v", err, time.Since(start))
		}
		cables[0].noRenewal.Store(false)
		if _, err := k.Managers[0].Refresh(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
	})
}

func TestARefusalIsSettledByReadingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 2)
		answer := holding(t, k, mockendpoint.Reply{Error: "invalid_grant"})
		if _, err := k.Managers[1].ImportGrant(t.Context(), managertest.Environment, manager.NewSecret(k.Endpoint.NewFamily()), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := answer(); err != nil {
			t.Errorf("the holder, who was refused while somebody logged in: %v", err)
		}
		if n := k.Endpoint.Calls(); n != 2 {
			t.Errorf("%d calls, want the refused one and one with the new refresh token", n)
		}
	})
}

func TestARefreshTokenBesideAnUnusableTokenIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 2)
		for _, r := range []mockendpoint.Reply{{AccessToken: "a\nb"}, {ExpiresIn: 1, Delay: 900 * time.Millisecond}, {OmitRefreshToken: true}} {
			k.Endpoint.Push(r)
			_, err := k.Managers[0].Refresh(t.Context(), managertest.Environment)
			if _, failed := errors.AsType[*manager.EndpointError](err); failed == r.OmitRefreshToken {
				t.Errorf("%+v: %v", r, err)
			}
			settle() // and the clock has moved on: what failed was before this
			if _, err := k.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
				t.Errorf("after %+v: %v", r, err)
			}
			settle()
		}
		wantNoReuse(t, k)
	})
}

// During a deploy that brings a new refresh token, replicas with the old one must not go back to that.
func TestAConfiguredRefreshTokenIsUsedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seeds [2]string
		k, _ := wired(t, 2, func(replica int, e *manager.Environment) {
			if seeds[1] != "" && replica == 3 {
				e.RefreshToken = manager.NewSecret(seeds[1])
			}
		})
		old := k.Managers
		for _, m := range old {
			if _, err := m.Refresh(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
			settle()
		}
		seeds[1] = k.Endpoint.NewFamily()
		k.AddManager(t) // one more old one
		k.AddManager(t)
		deployed := k.Managers[3]
		for range 3 {
			for _, m := range append([]*manager.Manager{deployed}, old...) {
				if _, err := m.Refresh(t.Context(), managertest.Environment); err != nil {
					t.Error(err)
				}
				settle()
			}
		}
		wantNoReuse(t, k)
		f := k.Endpoint.Families()
		if len(f) != 2 || f[0].Uses != 2 || f[1].Uses != 9 {
			t.Errorf("families %+v; want 2 uses of the old one before the deploy, and 9 of the new one", f)
		}
	})
}

func TestAForeignRefreshTokenIsShownToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 2, func(replica int, e *manager.Environment) {
			if replica == 1 {
				e.ClientID, e.RefreshToken = "another", manager.Secret{}
			}
		})
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		calls := k.Endpoint.Calls()
		_, err := k.Managers[1].Token(t.Context(), managertest.Environment)
		if _, ok := errors.AsType[*manager.LoginError](err); !ok || k.Endpoint.Calls() != calls {
			t.Errorf("another client got %v after %d calls; want a LoginError and none", err, k.Endpoint.Calls()-calls)
		}
	})
}

func TestLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 3)
		const env = managertest.Environment
		first := k.RefreshTokens[env]
		if _, err := k.Manager.Token(t.Context(), env); err != nil {
			t.Fatal(err)
		}
		refused := errors.New("the endpoint is down")
		if found, err := k.Managers[1].Logout(t.Context(), env, func(context.Context, manager.Secret) error { return refused }); !found || !errors.Is(err, refused) {
			t.Errorf("got %v, %v; want the error of what revokes", found, err)
		}
		if _, err := k.Managers[1].Refresh(t.Context(), env); err != nil {
			t.Errorf("after a logout that failed: %v", err)
		}
		var revoked string
		found, err := k.Managers[2].Logout(t.Context(), env, func(_ context.Context, s manager.Secret) error {
			revoked = s.Reveal()
			return nil
		})
		if !found || err != nil || revoked == first || !k.Endpoint.AcceptsRefreshToken(revoked) {
			t.Errorf("got %v, %v; revoked the last one: %v", found, err, k.Endpoint.AcceptsRefreshToken(revoked))
		}
		synctest.Wait()
		calls := k.Endpoint.Calls()
		for i, m := range k.Managers {
			_, err := m.Token(t.Context(), env)
			if login, ok := errors.AsType[*manager.LoginError](err); !ok || !strings.Contains(login.Reason, "logged out") {
				t.Errorf("replica %d: %v, want a LoginError about a logout", i, err)
			}
			if _, err := m.Refresh(t.Context(), env); err == nil {
				t.Errorf("replica %d: a token after the logout", i)
			}
		}
		if n := k.Endpoint.Calls() - calls; n != 0 {
			t.Errorf("%d calls after the logout", n)
		}
		if found, err := k.Manager.Logout(t.Context(), env, nil); found || err != nil {
			t.Errorf("once more: %v, %v; want that there is nothing", found, err)
		}
	})
}

func TestALoginWhileARefreshIsUnderWayWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := wired(t, 2)
		answer := holding(t, k, mockendpoint.Reply{})
		login := k.Endpoint.NewFamily()
		if _, err := k.Managers[1].ImportGrant(t.Context(), managertest.Environment, manager.NewSecret(login), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := answer(); err != nil {
			t.Error(err)
		}
		settle()
		if _, err := k.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
		if f := k.Endpoint.Families(); f[0].Uses != 1 || f[1].Uses != 2 {
			t.Errorf("families %+v; want the new one's refresh token to be used from then on", f)
		}
	})
}

func TestGrantsAreForEnvironmentsThatUseThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managertest.New(t, managertest.Options{InMemory: true})
		_, err := k.Manager.ImportGrant(t.Context(), managertest.Environment, manager.NewSecret("x"), 0)
		if _, ok := errors.AsType[*manager.ConfigError](err); !ok {
			t.Errorf("import: %v, want a ConfigError", err)
		}
		_, err = k.Manager.Logout(t.Context(), managertest.Environment, nil)
		if _, ok := errors.AsType[*manager.ConfigError](err); !ok {
			t.Errorf("logout: %v, want a ConfigError", err)
		}
		_, err = k.Manager.ImportGrant(t.Context(), "nowhere", manager.NewSecret("x"), 0)
		if _, ok := errors.AsType[*manager.UnknownEnvironmentError](err); !ok {
			t.Errorf("import: %v, want an UnknownEnvironmentError", err)
		}
	})
}

func TestALogoutLeavesARefreshTokenAloneWhoseUseHasNoOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 2)
		answer := holding(t, k, mockendpoint.Reply{})
		cables[0].cut.Store(true)
		if _, err := answer(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		var revoked string
		ctx := t.Context()
		down := errors.New("the endpoint is down")
		go func() {
			_, err := k.Managers[1].Logout(ctx, managertest.Environment, func(_ context.Context, s manager.Secret) error {
				revoked = s.Reveal()
				return down
			})
			ended <- err
		}()
		<-time.After(20 * time.Second) // the holder's lease has ended long ago
		select {
		case err := <-ended:
			t.Errorf("the logout ended with %v while nobody knew which refresh token is good", err)
		default:
		}
		cables[0].cut.Store(false)
		if err := <-ended; !errors.Is(err, down) {
			t.Errorf("got %v, want the error of what revokes", err)
		}
		if !k.Endpoint.AcceptsRefreshToken(revoked) {
			t.Error("a refresh token was to be revoked that isn't the last one")
		}
		if _, err := k.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
			t.Error(err)
		}
		wantNoReuse(t, k)
	})
}

func TestALogoutThatLosesRedisSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 1)
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		cables[0].noRenewal.Store(true)
		_, err := k.Managers[0].Logout(t.Context(), managertest.Environment, func(context.Context, manager.Secret) error {
			t.Error("a refresh token is revoked under no lease")
			return nil
		})
		if _, ok := errors.AsType[*manager.RedisError](err); !ok {
			t.Errorf("got %T: %v, want a RedisError", err, err)
		}
	})
}

// The failure is told at once; that the old refresh token may be used is told by the write of the new one.
func TestAFailureFreesNoRefreshTokenWhoseSuccessorIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, cables := wired(t, 2)
		if _, err := k.Managers[0].Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		cables[0].noKeeping.Store(true)
		k.Endpoint.Push(mockendpoint.Reply{AccessToken: "line\nbreak"})
		if _, err := k.Managers[0].Refresh(t.Context(), managertest.Environment); err == nil {
			t.Fatal("a token of a reply that has none")
		}
		settle() // the backoff is over, and what the other one asks for is newer than all that was before
		type result struct {
			token *manager.Token
			err   error
		}
		other := make(chan result, 1)
		ctx := t.Context()
		calls := k.Endpoint.Calls()
		go func() {
			tok, err := k.Managers[1].Refresh(ctx, managertest.Environment)
			other <- result{tok, err}
		}()
		<-time.After(20 * time.Second)
		if n := k.Endpoint.Calls() - calls; n != 0 {
			t.Errorf("%d calls while the new refresh token isn't written", n)
		}
		cables[0].noKeeping.Store(false)
		if got := <-other; got.err != nil {
			t.Error(got.err)
		}
		wantNoReuse(t, k)
	})
}
