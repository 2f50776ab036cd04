package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

func TestInvalidateDropsAllIssuedSoFar(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		stored := f.stored("tok")
		underWay := f.issue()
		dropped, err := f.s.Invalidate(f.ctx(), env, 0)
		if err != nil || dropped < underWay.Version {
			t.Fatalf("dropped %v, %v; want at least %v", dropped, err, underWay.Version)
		}
		r := f.read()
		if r.Token != nil || r.TokenErr != nil {
			t.Errorf("token %v, %v; want none", r.Token, r.TokenErr)
		}
		if r.Mark.Dropped != dropped || r.Mark.Issued < dropped || r.Mark.Stored != stored.Version {
			t.Errorf("mark %+v; want dropped %v, issued not below it, stored %v", r.Mark, dropped, stored.Version)
		}
		if at := f.stored("tok-2"); at.Version <= dropped {
			t.Errorf("issued %v, which is dropped (%v)", at.Version, dropped)
		}
	})
}

func TestInvalidateDropsWhatIsAheadOfTheClock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		ahead := store.Version(f.read().Now.Add(time.Hour).UnixMicro())
		for key, field := range map[string]string{f.keys.Mark: "issued", f.keys.Token: "version"} {
			rdb.FlushAll(f.ctx())
			rdb.HSet(f.ctx(), key, field, ahead.String())
			if dropped, err := f.s.Invalidate(f.ctx(), env, 0); err != nil || dropped != ahead {
				t.Errorf("%s an hour ahead: dropped %v, %v; want %v", field, dropped, err, ahead)
			}
		}
	})
}

// After a FLUSHALL replicas still hold tokens that Redis knows nothing of.
func TestInvalidateDropsWhatRedisForgot(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		forgotten := f.stored("tok")
		rdb.FlushAll(f.ctx())
		if dropped, err := f.s.Invalidate(f.ctx(), env, 0); err != nil || dropped < forgotten.Version {
			t.Errorf("dropped %v, %v; want at least %v", dropped, err, forgotten.Version)
		}
	})
}

func TestInvalidateAVersionDropsItAndAllBelow(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		first := f.issue()
		second := f.stored("second")
		if dropped, err := f.s.Invalidate(f.ctx(), env, first.Version); err != nil || dropped != first.Version {
			t.Errorf("dropped %v, %v; want %v", dropped, err, first.Version)
		}
		f.wantToken(second.Version, "second")
		if _, err := f.s.Put(f.ctx(), env, first, time.Hour, newToken("first")); !errors.Is(err, store.ErrDropped) {
			t.Errorf("the dropped version: %v; want ErrDropped", err)
		}
		if dropped, err := f.s.Invalidate(f.ctx(), env, second.Version); err != nil || dropped != second.Version {
			t.Errorf("dropped %v, %v; want %v", dropped, err, second.Version)
		}
		if r := f.read(); r.Token != nil || rdb.Exists(f.ctx(), f.keys.Token).Val() != 0 {
			t.Errorf("the dropped token is still there: %v", r.Token)
		}
		// Dropped never sinks, and the same again is no harm.
		if dropped, err := f.s.Invalidate(f.ctx(), env, first.Version); err != nil || dropped != second.Version {
			t.Errorf("dropped %v, %v; want %v still", dropped, err, second.Version)
		}
	})
}

func TestInvalidateRefusesAnImplausibleVersion(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		before := f.dump()
		for _, v := range []store.Version{-5, 1<<53 - 1, store.Version(f.read().Now.Add(25 * time.Hour).UnixMicro())} {
			if _, err := f.s.Invalidate(f.ctx(), env, v); !errors.Is(err, store.ErrImplausible) {
				t.Errorf("%v: %v; want ErrImplausible", v, err)
			}
		}
		if after := f.dump(); after != before {
			t.Errorf("a refused invalidation wrote:\n%s\nbefore it:\n%s", after, before)
		}
		f.wantToken(at.Version, "tok")
	})
}

func TestEveryReadBringsTheMark(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		if _, err := f.s.Invalidate(f.ctx(), env, at.Version); err != nil {
			t.Fatal(err)
		}
		// A key that comes back (a failover to a stale replica) is there, with the mark that says it is dropped.
		rdb.HSet(f.ctx(), f.keys.Mark, "stored", "0", "dropped", "0", "issued", at.Version.String())
		f.put(at, "tok")
		rdb.HSet(f.ctx(), f.keys.Mark, "dropped", at.Version.String())
		r := f.read()
		if want := (store.Mark{Issued: at.Version, Stored: at.Version, Dropped: at.Version}); r.Mark != want {
			t.Errorf("mark %+v; want %+v", r.Mark, want)
		}
		if r.Token == nil {
			t.Error("whether it is usable is the caller's to say, but there is no token")
		}
	})
}

func TestMereAbsenceDropsNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.stored("tok")
		for name, loss := range map[string]func(){
			"eviction": func() { rdb.Del(f.ctx(), f.keys.Token) },
			"flush":    func() { rdb.FlushAll(f.ctx()) },
		} {
			loss()
			if r := f.read(); r.Mark.Dropped != 0 || r.Token != nil || r.TokenErr != nil {
				t.Errorf("%s: dropped %v, token %v, %v; want nothing", name, r.Mark.Dropped, r.Token, r.TokenErr)
			}
		}
	})
}
