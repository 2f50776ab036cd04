package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

const hold = time.Minute

// take takes the lease, a version and the refresh token, after a fresh read.
func (f *fixture) take() (store.Issue, *store.Use) {
	f.t.Helper()
	f.lease(lockValue)
	at, use, err := f.s.IssueWithGrant(f.ctx(), env, lockValue, f.read(), hold)
	if err != nil {
		f.t.Fatalf("take: %v", err)
	}
	return at, use
}

func grantOf(text string) *store.NewGrant {
	return &store.NewGrant{RefreshToken: store.NewSecret(text), Client: "client"}
}

// rotate is a whole refresh that brings a refresh token.
func (f *fixture) rotate(text string) store.Issue {
	f.t.Helper()
	at, _ := f.take()
	if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("access of "+text), grantOf(text)); err != nil {
		f.t.Fatalf("put: %v", err)
	}
	return at
}

// wantRefreshToken takes the refresh token and gives it back.
func (f *fixture) wantRefreshToken(want string) {
	f.t.Helper()
	at, use := f.take()
	if got := use.RefreshToken.Reveal(); got != want {
		f.t.Errorf("refresh token %q, want %q", got, want)
	}
	if err := f.s.SettleGrant(f.ctx(), env, at.Version); err != nil {
		f.t.Error(err)
	}
}

func TestAGrantIsWrittenWithItsToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		if g := f.read().Grant; g != nil {
			t.Fatalf("a grant before there is one: %+v", g)
		}
		at, use := f.take()
		if !use.RefreshToken.IsEmpty() {
			t.Error("there is a refresh token before there is one")
		}
		g := f.read().Grant
		if g == nil || g.Version != 0 || g.Taken != at.Version || g.TakenBy != lockValue {
			t.Fatalf("while the configured one is used, the grant is %+v", g)
		}
		if left := g.TakenUntil.Sub(f.read().Now); left <= 0 || left > hold {
			t.Errorf("it is taken for another %v, want up to %v", left, hold)
		}
		first := *grantOf("first")
		first.Label, first.Life = "seed-1", 2*time.Hour
		if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("tok"), &first); err != nil {
			t.Fatal(err)
		}
		r := f.read()
		g = r.Grant
		switch {
		case r.Token == nil || g == nil || g.Version != at.Version || r.Token.Version != at.Version:
			t.Fatalf("token %v, grant %+v; want both of version %v", r.Token, g, at.Version)
		case g.Taken != 0 || g.TakenBy != "" || !g.TakenUntil.IsZero():
			t.Errorf("it is still taken: %+v", g)
		case g.Client != "client" || !g.HasLabel("seed-1") || g.HasLabel("seed-2"):
			t.Errorf("client %q, labels %q", g.Client, g.Labels)
		case g.TTL <= time.Hour || g.TTL > 2*time.Hour:
			t.Errorf("it lives for another %v, want 2 h", g.TTL)
		case r.Now.Sub(g.ObtainedAt) > time.Minute || g.ObtainedAt.After(r.Now):
			t.Errorf("obtained at %v, now it is %v", g.ObtainedAt, r.Now)
		}
		f.wantRefreshToken("first")

		at, _ = f.take()
		second := *grantOf("second")
		second.SameLife = true
		if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("tok"), &second); err != nil {
			t.Fatal(err)
		}
		if g := f.read().Grant; g.TTL <= time.Hour || !g.HasLabel("seed-1") {
			t.Errorf("with the same life: %+v", g)
		}
		f.rotate("third")
		if g := f.read().Grant; g.TTL != 0 {
			t.Errorf("without a known end it has one: %v", g.TTL)
		}
	})
}

func TestOneAtATimeIsGivenTheRefreshToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("first")
		before := f.read()
		at, use := f.take()

		// The same attempt again, whose first reply was lost: no other has come between.
		again, useAgain, err := f.s.IssueWithGrant(f.ctx(), env, lockValue, before, hold)
		if err != nil || again.Version <= at.Version || useAgain.RefreshToken.Reveal() != use.RefreshToken.Reveal() {
			t.Errorf("the same attempt again: %+v, %v", again, err)
		}
		// Another one, by what was read before it was taken, when the lease has gone over.
		const other = "replica-2|an-attempt"
		f.lease(other)
		if _, _, err := f.s.IssueWithGrant(f.ctx(), env, other, before, hold); !errors.Is(err, store.ErrChanged) {
			t.Errorf("by an old read: %v, want ErrChanged", err)
		}
		if _, _, err := f.s.IssueWithGrant(f.ctx(), env, lockValue, f.read(), hold); !errors.Is(err, store.ErrLost) {
			t.Errorf("without the lease: %v, want ErrLost", err)
		}
		// By what is there now it may: that is for its caller to decide.
		taken, use, err := f.s.IssueWithGrant(f.ctx(), env, other, f.read(), hold)
		if err != nil || use.RefreshToken.Reveal() != "first" || taken.Version <= again.Version {
			t.Errorf("by a new read: %+v, %v", taken, err)
		}
	})
}

func TestALateGrantDoesNotOverwriteANewerOne(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("first")
		late, _ := f.take()
		f.rotate("newer")
		if _, err := f.s.PutWithGrant(f.ctx(), env, late, time.Hour, newToken("late"), grantOf("late")); !errors.Is(err, store.ErrOlder) {
			t.Errorf("a late token: %v, want ErrOlder", err)
		}
		if err := f.s.KeepGrant(f.ctx(), env, late.Version, *grantOf("late")); !errors.Is(err, store.ErrOlder) {
			t.Errorf("a late grant: %v, want ErrOlder", err)
		}
		f.wantRefreshToken("newer")
	})
}

func TestADroppedTokenLeavesItsGrant(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("first")
		at, _ := f.take()
		if _, err := f.s.Invalidate(f.ctx(), env, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("dropped"), grantOf("second")); !errors.Is(err, store.ErrDropped) {
			t.Errorf("got %v, want ErrDropped", err)
		}
		f.wantRefreshToken("second")

		at, _ = f.take()
		if _, err := f.s.PutWithGrant(f.ctx(), env, store.Issue{Version: at.Version, At: at.At.Add(-2 * time.Hour)}, time.Hour, newToken("over"), grantOf("third")); !errors.Is(err, store.ErrExpired) {
			t.Errorf("got %v, want ErrExpired", err)
		}
		f.wantRefreshToken("third")

		at, _ = f.take()
		for range 2 {
			if err := f.s.KeepGrant(f.ctx(), env, at.Version, *grantOf("fourth")); err != nil {
				t.Error(err)
			}
		}
		f.wantRefreshToken("fourth")
	})
}

func TestARefusedRefreshTokenIsMarked(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		refuse := func(at store.Issue, use *store.Use, label string) error {
			use.Refused, use.Label = true, label
			failure := newFailure(at)
			failure.Code = "invalid_grant"
			_, _, err := f.s.FailWithGrant(f.ctx(), env, failure, time.Minute, time.Minute, use)
			return err
		}
		f.rotate("first")
		at, use := f.take()
		f.rotate("second") // by another, meanwhile
		if err := refuse(at, use, ""); !errors.Is(err, store.ErrChanged) {
			t.Errorf("one that isn't there any more: %v, want ErrChanged", err)
		}
		if r := f.read(); r.Grant.Refused != 0 || r.Failure != nil {
			t.Errorf("what was refused was replaced, and yet: %+v, %+v", r.Grant, r.Failure)
		}
		at, use = f.take()
		if err := refuse(at, use, "a new seed"); !errors.Is(err, store.ErrChanged) {
			t.Errorf("a configured one: %v, want ErrChanged: the stored one may do", err)
		}
		if g := f.read().Grant; g.Refused != 0 || !g.HasLabel("a new seed") || g.Taken != 0 {
			t.Errorf("after a configured one was refused: %+v", g)
		}
		f.wantRefreshToken("second")
		at, use = f.take()
		if err := refuse(at, use, ""); err != nil {
			t.Error(err)
		}
		if g := f.read().Grant; g.Refused != at.Version || g.Reason != "invalid_grant" || g.Taken != 0 {
			t.Errorf("after it was refused: %+v", g)
		}
		// A holder that was thought to be lost brings another after all.
		if err := f.s.KeepGrant(f.ctx(), env, at.Version+1, *grantOf("third")); err != nil {
			t.Error(err)
		}
		if g := f.read().Grant; g.Refused != 0 || g.Reason != "" {
			t.Errorf("after another came: %+v", g)
		}
	})
}

func TestAFailureEndsTheUseOfARefreshToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("first")
		at, use := f.take()
		if _, _, err := f.s.FailWithGrant(f.ctx(), env, newFailure(at), time.Minute, time.Minute, use); err != nil {
			t.Fatal(err)
		}
		if r := f.read(); r.Grant.Taken != 0 || r.Grant.Refused != 0 || r.Failure == nil {
			t.Errorf("grant %+v, failure %+v", r.Grant, r.Failure)
		}
		// A late one ends nothing that another has taken since.
		late, use := f.take()
		at, _ = f.take()
		_, _, _ = f.s.FailWithGrant(f.ctx(), env, newFailure(late), time.Minute, time.Minute, use)
		if err := f.s.SettleGrant(f.ctx(), env, late.Version); err != nil {
			t.Error(err)
		}
		if g := f.read().Grant; g.Taken != at.Version {
			t.Errorf("it is taken by %v, want %v", g.Taken, at.Version)
		}
	})
}

func TestAPersonsGrantReplacesAnything(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for name, prepare := range map[string]func(){
			"nothing":        func() {},
			"a grant":        func() { f.rotate("old") },
			"a list":         func() { f.rdb.RPush(f.ctx(), f.keys.Grant, "x") },
			"an implausible": func() { f.rdb.HSet(f.ctx(), f.keys.Grant, "version", "9999999999999999", "refresh_token", "x") },
			"one in use":     func() { f.rotate("old"); f.take() },
		} {
			if err := f.rdb.FlushDB(f.ctx()).Err(); err != nil {
				t.Fatal(err)
			}
			prepare()
			g := *grantOf("new")
			g.Label = "seed"
			v, err := f.s.AdoptGrant(f.ctx(), env, g)
			if err != nil {
				t.Errorf("over %s: %v", name, err)
				continue
			}
			r := f.read()
			if r.Token != nil || r.Mark.Dropped != v || r.Grant == nil || r.Grant.Version != v || !r.Grant.HasLabel("seed") {
				t.Errorf("over %s: token %v, mark %+v, grant %+v; want version %v", name, r.Token, r.Mark, r.Grant, v)
			}
			f.wantRefreshToken("new")
		}
	})
}

func TestAnAttemptWithTheOldGrantDoesNotUndoALogin(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("old")
		at, use := f.take()
		if _, err := f.s.AdoptGrant(f.ctx(), env, *grantOf("new")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("old"), grantOf("rotated")); !errors.Is(err, store.ErrDropped) {
			t.Errorf("its token: %v, want ErrDropped", err)
		}
		f.wantRefreshToken("new")
		use.Refused = true
		failure := newFailure(at)
		failure.Code = "invalid_grant"
		if _, _, err := f.s.FailWithGrant(f.ctx(), env, failure, time.Minute, time.Minute, use); !errors.Is(err, store.ErrChanged) {
			t.Errorf("its refusal: %v, want ErrChanged", err)
		}
		if g := f.read().Grant; g.Refused != 0 {
			t.Errorf("the new one counts as refused: %+v", g)
		}
	})
}

// again is a client that loses the first reply to a login, and sends it again after between.
type again struct{ between func() }

func (*again) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*again) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (a *again) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if between := a.between; between != nil && err == nil && slices.Contains(cmd.Args(), any("adopt")) {
			a.between = nil
			between()
			err = next(ctx, cmd)
		}
		return err
	}
}

func TestALoginWhoseReplyIsLostDoesNotOverwriteItsSuccessor(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("old")
		rdb.AddHook(&again{between: func() { f.rotate("successor") }})
		if _, err := f.s.AdoptGrant(f.ctx(), env, *grantOf("a person's")); err != nil {
			t.Fatal(err)
		}
		f.wantRefreshToken("successor")

		rdb.AddHook(&again{between: func() { f.take() }})
		if _, err := f.s.AdoptGrant(f.ctx(), env, *grantOf("another person's")); err != nil {
			t.Fatal(err)
		}
		if g := f.read().Grant; g.Taken == 0 {
			t.Error("whoever uses it is forgotten")
		}
	})
}

func TestALogoutIsNotUndone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.rotate("first")
		late, _ := f.take()
		at, _ := f.take()
		if err := f.s.ForgetGrant(f.ctx(), env, at.Version, "seed"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.s.PutWithGrant(f.ctx(), env, late, time.Hour, newToken("late"), grantOf("late")); !errors.Is(err, store.ErrDropped) {
			t.Errorf("a late token: %v, want ErrDropped", err)
		}
		r := f.read()
		if g := r.Grant; r.Token != nil || g == nil || g.Reason != store.ReasonLogout || g.Refused != at.Version || !g.HasLabel("seed") {
			t.Errorf("token %v, grant %+v", r.Token, g)
		}
		for _, value := range f.rdb.HGetAll(f.ctx(), f.keys.Grant).Val() {
			if strings.Contains(value, "first") || strings.Contains(value, "late") {
				t.Errorf("there is still %q", value)
			}
		}
		if err := f.s.ForgetGrant(f.ctx(), env, late.Version, ""); !errors.Is(err, store.ErrOlder) {
			t.Errorf("a late logout: %v, want ErrOlder", err)
		}
	})
}

func TestEightLabelsAreRemembered(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		label := func(i int) string { return fmt.Sprint("seed-", i) }
		for i := range 10 {
			at, _ := f.take()
			g := *grantOf("tok")
			g.Label = label(i)
			if err := f.s.KeepGrant(f.ctx(), env, at.Version, g); err != nil {
				t.Fatal(err)
			}
		}
		g := f.read().Grant
		for i := range 10 {
			if got, want := g.HasLabel(label(i)), i >= 2; got != want {
				t.Errorf("label %d is remembered: %v, want %v", i, got, want)
			}
		}
	})
}

func TestWhatIsNoGrantIsNeverOverwrittenByAnAttempt(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, plant := range map[string]func(f *fixture){
			"a list":               func(f *fixture) { f.rdb.RPush(f.ctx(), f.keys.Grant, "x") },
			"an unlikely version":  func(f *fixture) { f.rdb.HSet(f.ctx(), f.keys.Grant, "version", "9999999999999999") },
			"a version of letters": func(f *fixture) { f.rdb.HSet(f.ctx(), f.keys.Grant, "version", "abc") },
		} {
			f := newFixture(t, rdb)
			f.rdb.FlushDB(f.ctx())
			plant(f)
			before := f.rdb.Dump(f.ctx(), f.keys.Grant).Val()
			r := f.read()
			if r.Grant == nil || r.Grant.Err == nil {
				t.Errorf("%s is read as %+v", name, r.Grant)
				continue
			}
			f.lease(lockValue)
			_, _, err := f.s.IssueWithGrant(f.ctx(), env, lockValue, r, hold)
			if _, ok := errors.AsType[*store.UnreadableError](err); !ok {
				t.Errorf("%s: taken with %v, want an UnreadableError", name, err)
			}
			if after := f.rdb.Dump(f.ctx(), f.keys.Grant).Val(); after != before {
				t.Errorf("%s was changed", name)
			}
		}
		// Also where it came after the read.
		f := newFixture(t, rdb)
		f.rdb.FlushDB(f.ctx())
		at, _ := f.take()
		f.rdb.Del(f.ctx(), f.keys.Grant)
		f.rdb.RPush(f.ctx(), f.keys.Grant, "x")
		if err := f.s.KeepGrant(f.ctx(), env, at.Version, *grantOf("tok")); err == nil || f.rdb.LLen(f.ctx(), f.keys.Grant).Val() != 1 {
			t.Errorf("kept over a list: %v", err)
		}
		g := grantOf("tok")
		if _, err := f.s.PutWithGrant(f.ctx(), env, at, time.Hour, newToken("tok"), g); err != nil || !g.Lost {
			t.Errorf("its token: %v, want it stored all the same; the grant is said to be lost: %v", err, g.Lost)
		}
	})
}

// A configured refresh token whose use brought nothing, as somebody had logged in meanwhile, isn't a new one after that.
func TestAConfiguredRefreshTokenThatWasUsedInVainIsKnown(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at, _ := f.take()
		if _, err := f.s.AdoptGrant(f.ctx(), env, *grantOf("login")); err != nil {
			t.Fatal(err)
		}
		late := *grantOf("late")
		late.Label = "seed-1"
		if err := f.s.KeepGrant(f.ctx(), env, at.Version, late); !errors.Is(err, store.ErrOlder) {
			t.Errorf("got %v, want ErrOlder", err)
		}
		if g := f.read().Grant; !g.HasLabel("seed-1") {
			t.Errorf("labels %q, want the one that was used", g.Labels)
		}
		f.wantRefreshToken("login")
	})
}
