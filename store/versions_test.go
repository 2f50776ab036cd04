package store_test

import (
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

// flat writes a hash's fields in order, as RESP2 (a list) and RESP3 (a map) bring them.
func flat(reply any) string {
	var pairs []string
	switch r := reply.(type) {
	case map[any]any:
		for k, v := range r {
			pairs = append(pairs, fmt.Sprintf("%v=%q", k, v))
		}
	case []any:
		for i := 0; i+1 < len(r); i += 2 {
			pairs = append(pairs, fmt.Sprintf("%v=%q", r[i], r[i+1]))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, " ")
}

func TestVersionsAreIssuedUnderTheLeaseOnly(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		plants := map[string]func(){
			"nobody holds the lease":  func() {},
			"another holds it":        func() { f.lease("replica-2|another-attempt") },
			"the same replica again":  func() { f.lease("replica-1|a-later-attempt") },
			"the lock is no string":   func() { rdb.RPush(f.ctx(), f.keys.Lock, lockValue) },
			"the lock is a long tail": func() { f.lease(lockValue + "x") },
		}
		for name, plant := range plants {
			rdb.Del(f.ctx(), f.keys.Lock)
			plant()
			if _, err := f.s.Issue(f.ctx(), env, lockValue, f.read()); !errors.Is(err, store.ErrLost) {
				t.Errorf("%s: %v; want ErrLost", name, err)
			}
		}
		if r := f.read(); r.Mark != (store.Mark{}) {
			t.Errorf("a mark was written: %+v", r.Mark)
		}
		f.issue() // and with the lease there is one
	})
}

func TestAVersionIsRedissClockAndAlwaysGrows(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		before := f.read().Now
		var last store.Version
		for range 100 {
			at := f.issue()
			if at.Version <= last {
				t.Fatalf("version %v after %v", at.Version, last)
			}
			last = at.Version
			if got := f.read().Mark.Issued; got != last {
				t.Fatalf("issued is %v; want %v", got, last)
			}
			if at.At.Before(before) || at.At.After(f.read().Now) {
				t.Fatalf("issued at %v, which is not now", at.At)
			}
		}
		if low, high := before.UnixMicro(), f.read().Now.UnixMicro(); int64(last) < low || int64(last) > high {
			t.Errorf("version %v isn't Redis's clock (%d to %d)", last, low, high)
		}
	})
}

// A clock that was set back, or a mark that is ahead of it.
func TestAVersionGrowsWhereTheClockDoesNot(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		ahead := store.Version(f.read().Now.Add(time.Hour).UnixMicro())
		for _, field := range []string{"issued", "stored", "dropped"} {
			rdb.Del(f.ctx(), f.keys.Mark, f.keys.Token)
			rdb.HSet(f.ctx(), f.keys.Mark, field, ahead.String())
			for i := range store.Version(3) {
				if at := f.issue(); at.Version != ahead+i+1 {
					t.Errorf("%s an hour ahead: issued %v; want %v", field, at.Version, ahead+i+1)
				}
			}
			f.stored("tok")
		}
	})
}

func TestVersionsGrowOverAFlush(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		first := f.stored("tok-1")
		rdb.FlushAll(f.ctx())
		if second := f.stored("tok-2"); second.Version <= first.Version {
			t.Errorf("version %v after a flush; the one before was %v", second.Version, first.Version)
		}
	})
}

func TestIssueComparesWithWhatWasRead(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		changes := map[string]func(){
			"a token was stored":          func() { f.stored("tok") },
			"a newer token was stored":    func() { f.stored("tok-2") },
			"a failure was recorded":      func() { f.fail(newFailure(f.issue())) },
			"the token's version planted": func() { rdb.HSet(f.ctx(), f.keys.Token, "version", "007") },
			"the token expired":           func() { rdb.Del(f.ctx(), f.keys.Token) },
			"the failure is forgotten":    func() { rdb.Del(f.ctx(), f.keys.Failure) },
		}
		for _, name := range []string{
			"a token was stored", "a newer token was stored", "a failure was recorded", "the token's version planted",
			"the token expired", "the failure is forgotten",
		} {
			seen := f.read()
			changes[name]()
			f.lease(lockValue)
			if _, err := f.s.Issue(f.ctx(), env, lockValue, seen); !errors.Is(err, store.ErrChanged) {
				t.Errorf("%s: %v; want ErrChanged", name, err)
			}
			if _, err := f.s.Issue(f.ctx(), env, lockValue, f.read()); err != nil {
				t.Errorf("%s, read again: %v", name, err)
			}
		}
	})
}

// Policy is the caller's: a refresh ahead, or a forced one, issues over a usable token and a running backoff.
func TestIssueDecidesNothingMore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.stored("tok")
		f.fail(newFailure(f.issue()))
		if r := f.read(); r.Token == nil || r.Failure == nil {
			t.Fatalf("token %v, failure %v; want both", r.Token, r.Failure)
		}
		f.issue()
	})
}

func TestAnImplausibleVersionCountsAsZeroAndIsMended(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		tomorrow := f.read().Now.Add(24*time.Hour + time.Minute).UnixMicro()
		for _, planted := range []string{
			"-5", "9007199254740991", "100000000000000000000000", fmt.Sprint(tomorrow), "inf", "nan", "1e300", "0x10",
			"+7", " 7", "7.0", "", "\x00\xff\xfe", "7\x00", "7\n",
		} {
			rdb.Del(f.ctx(), f.keys.Token, f.keys.Mark)
			rdb.HSet(f.ctx(), f.keys.Mark, "issued", planted, "stored", planted, "dropped", planted)
			if r := f.read(); r.Mark != (store.Mark{}) {
				t.Errorf("%q reads as %+v; want zeros", planted, r.Mark)
			}
			at := f.issue()
			if now := f.read().Now.UnixMicro(); int64(at.Version) > now {
				t.Errorf("%q: issued %v, which is ahead of the clock (%d)", planted, at.Version, now)
			}
			raw := rdb.HGetAll(f.ctx(), f.keys.Mark).Val()
			if raw["issued"] != at.Version.String() || raw["stored"] != "0" || raw["dropped"] != "0" {
				t.Errorf("%q wasn't mended: %q", planted, raw)
			}
			f.put(at, "tok")
			f.wantToken(at.Version, "tok")
		}
	})
}

// Versions must not be forgotten because somebody gave the mark an end.
func TestAMarkHasNoEnd(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.issue()
		rdb.Expire(f.ctx(), f.keys.Mark, time.Minute)
		f.issue()
		if ttl := rdb.PTTL(f.ctx(), f.keys.Mark).Val(); ttl != -1 {
			t.Errorf("its TTL is %v", ttl)
		}
	})
}

func TestParseVersion(t *testing.T) {
	for _, good := range []string{"0", "7", "0000000000000007", "1753000000000000"} {
		if _, err := store.ParseVersion(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-1", "+1", "1e3", "1 ", "12345678901234567", "७"} {
		if v, err := store.ParseVersion(bad); err == nil {
			t.Errorf("%q parsed as %v", bad, v)
		}
	}
}
