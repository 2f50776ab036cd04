package store_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

const claimed = "replica-1|claim"

// claim is ReadOrIssue with a lease of a minute.
func (f *fixture) claim(value string) (*store.Record, store.Issue) {
	f.t.Helper()
	r, at, err := f.s.ReadOrIssue(f.ctx(), env, value, time.Minute)
	if err != nil {
		f.t.Fatal(err)
	}
	return r, at
}

// Where there is nothing the lock is taken, and a version issued under it that a token can be stored with.
func TestAClaimTakesTheLeaseAndAVersion(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		r, at := f.claim(claimed)
		if at.Version == 0 || !at.At.Equal(r.Now) || r.Lock != nil || r.Token != nil || r.Mark.Issued != 0 {
			t.Fatalf("got %+v and %+v", at, r)
		}
		value, err := rdb.Get(f.ctx(), f.keys.Lock).Result()
		ttl, err2 := rdb.PTTL(f.ctx(), f.keys.Lock).Result()
		if err != nil || err2 != nil || value != claimed || ttl <= 50*time.Second || ttl > time.Minute {
			t.Errorf("the lock is %q for %v, %v, %v", value, ttl, err, err2)
		}
		// Once more, after a lost reply or a renewal: the same lease, a newer version.
		if err := rdb.PExpire(f.ctx(), f.keys.Lock, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		r, again := f.claim(claimed)
		if again.Version <= at.Version || r.Lock != nil || r.Mark.Issued != at.Version {
			t.Errorf("again: %+v after %+v, and %+v", again, at, r)
		}
		if ttl := rdb.PTTL(f.ctx(), f.keys.Lock).Val(); ttl < 50*time.Minute {
			t.Errorf("again: the lock, which was renewed for an hour, ends in %v", ttl)
		}
		// Another finds it taken.
		if r, other := f.claim("replica-2|claim"); other.Version != 0 || r.Lock == nil || r.Lock.Holder != "replica-1" {
			t.Errorf("another got %+v, and %+v", other, r)
		}
		f.put(again, "claimed")
		if got := f.read().Token; got == nil || got.Version != again.Version {
			t.Errorf("stored: %+v", got)
		}
	})
}

// Whatever stands there: it is read, and nothing is written.
func TestAClaimLeavesWhatIsThereAlone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, plant := range map[string]func(f *fixture) error{
			"a token":              func(f *fixture) error { f.stored("t"); return rdb.Del(f.ctx(), f.keys.Lock).Err() },
			"a failure":            func(f *fixture) error { return rdb.HSet(f.ctx(), f.keys.Failure, "code", "http_503").Err() },
			"a grant":              func(f *fixture) error { return rdb.HSet(f.ctx(), f.keys.Grant, "version", "1").Err() },
			"another's lock":       func(f *fixture) error { return rdb.Set(f.ctx(), f.keys.Lock, "replica-2|x", time.Minute).Err() },
			"an endless lock":      func(f *fixture) error { return rdb.Set(f.ctx(), f.keys.Lock, "replica-2|x", 0).Err() },
			"a lock that is none":  func(f *fixture) error { return rdb.HSet(f.ctx(), f.keys.Lock, "a", "b").Err() },
			"a token that is none": func(f *fixture) error { return rdb.Set(f.ctx(), f.keys.Token, "x", 0).Err() },
		} {
			f := newFixture(t, rdb)
			if err := rdb.FlushDB(f.ctx()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := plant(f); err != nil {
				t.Fatal(err)
			}
			before := f.read()
			if _, at := f.claim(claimed); at.Version != 0 {
				t.Errorf("%s: a version was issued", name)
			}
			after := f.read()
			if after.Mark != before.Mark || (after.Lock == nil) != (before.Lock == nil) {
				t.Errorf("%s: %+v became %+v", name, before, after)
			}
		}
	})
}

// The version is above all marks, as one by Issue is.
func TestAClaimsVersionIsAboveAllMarks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		dropped, err := f.s.Invalidate(f.ctx(), env, 0)
		if err != nil {
			t.Fatal(err)
		}
		ahead := dropped + store.Version(time.Hour.Microseconds())
		if err := rdb.HSet(f.ctx(), f.keys.Mark, "stored", ahead.String()).Err(); err != nil {
			t.Fatal(err)
		}
		if r, at := f.claim(claimed); at.Version != ahead+1 || r.Mark.Dropped != dropped {
			t.Errorf("got %+v after %v, and %+v", at, ahead, r.Mark)
		}
	})
}

// A Redis that takes no writes is read all the same.
func TestAClaimReadsWhereNothingCanBeWritten(t *testing.T) {
	server := redistest.Start(t)
	rdb := redistest.NewClient(t, redistest.Options(server.Addr()))
	f := newFixture(t, rdb)
	if err := rdb.ConfigSet(f.ctx(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if r, at := f.claim(claimed); at.Version != 0 || r.Lock != nil {
		t.Errorf("out of memory: %+v, and %+v", at, r)
	}
	if err := rdb.ConfigSet(f.ctx(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := rdb.ReplicaOf(f.ctx(), "127.0.0.1", "1").Err(); err != nil { // of nobody that answers
		t.Fatal(err)
	}
	if r, at := f.claim(claimed); at.Version != 0 || r.Lock != nil {
		t.Errorf("a replica: %+v, and %+v", at, r)
	}
}
