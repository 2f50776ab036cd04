package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

// plants are what a foreign hand may leave under a key of ours.
var plants = map[string]func(f *fixture, key string) error{
	"a string": func(f *fixture, key string) error { return f.rdb.Set(f.ctx(), key, "x", 0).Err() },
	"an expiring string": func(f *fixture, key string) error {
		return f.rdb.Set(f.ctx(), key, "x", time.Hour).Err()
	},
	"a list": func(f *fixture, key string) error {
		return errors.Join(f.rdb.Del(f.ctx(), key).Err(), f.rdb.RPush(f.ctx(), key, "x", "y").Err())
	},
	"a set": func(f *fixture, key string) error {
		return errors.Join(f.rdb.Del(f.ctx(), key).Err(), f.rdb.SAdd(f.ctx(), key, "x", "y").Err())
	},
	"missing fields": func(f *fixture, key string) error { return f.rdb.HSet(f.ctx(), key, "foreign", "1").Err() },
	"no TTL":         func(f *fixture, key string) error { return f.rdb.Persist(f.ctx(), key).Err() },
	"version -5":     versions("-5"),
	"version 2^53-1": versions("9007199254740991"),
	"version 10^23":  versions("100000000000000000000000"),
	"no version":     versions(""),
	"binary garbage": func(f *fixture, key string) error {
		return f.overwrite(key, func(string) string { return "\x00\xff\xfe\r\n\"\\" })
	},
	"empty fields": func(f *fixture, key string) error {
		return f.overwrite(key, func(string) string { return "" })
	},
	"binary garbage for a string": func(f *fixture, key string) error {
		return f.rdb.Set(f.ctx(), key, "\x00\xff\xfe\r\n", time.Hour).Err()
	},
}

// versions overwrites what is a version in any of our hashes.
func versions(value string) func(f *fixture, key string) error {
	return func(f *fixture, key string) error {
		return f.rdb.HSet(f.ctx(), key, "version", value, "issued", value, "stored", value, "dropped", value).Err()
	}
}

// overwrite gives each field of a hash another value.
func (f *fixture) overwrite(key string, value func(field string) string) error {
	fields, err := f.rdb.HKeys(f.ctx(), key).Result()
	for _, field := range fields {
		err = errors.Join(err, f.rdb.HSet(f.ctx(), key, field, value(field)).Err())
	}
	return err
}

func TestPlantedValuesEndWithAFreshToken(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for name, plant := range plants {
			for _, key := range []string{f.keys.Token, f.keys.Mark, f.keys.Failure} {
				rdb.FlushAll(f.ctx())
				f.stored("before")
				f.fail(newFailure(f.issue()))
				if err := plant(f, key); err != nil {
					t.Fatalf("%s under %s: %v", name, key, err)
				}
				f.read()
				f.fail(newFailure(f.issue()))
				at := f.issue()
				f.put(at, "after")
				f.wantToken(at.Version, "after")
				r := f.read()
				if want := (store.Mark{Issued: at.Version, Stored: at.Version}); r.Mark != want || r.Failure != nil {
					t.Errorf("%s under %s: mark %+v, failure %+v; want %+v and none", name, key, r.Mark, r.Failure, want)
				}
				for k, ttl := range map[string]bool{f.keys.Token: true, f.keys.Mark: false} {
					if got := rdb.PTTL(f.ctx(), k).Val(); (got > 0) != ttl {
						t.Errorf("%s under %s: the TTL of %s is %v", name, key, k, got)
					}
				}
			}
		}
	})
}

func TestPlantedValuesCanBeInvalidated(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for name, plant := range plants {
			for _, key := range []string{f.keys.Token, f.keys.Mark} {
				rdb.FlushAll(f.ctx())
				at := f.stored("before")
				if err := plant(f, key); err != nil {
					t.Fatalf("%s under %s: %v", name, key, err)
				}
				dropped, err := f.s.Invalidate(f.ctx(), env, 0)
				if err != nil || dropped < at.Version {
					t.Errorf("%s under %s: dropped %v, %v; want at least %v", name, key, dropped, err, at.Version)
				}
				if rdb.Exists(f.ctx(), f.keys.Token).Val() != 0 {
					t.Errorf("%s under %s: there is still a token", name, key)
				}
			}
		}
	})
}

// A token that doesn't decode is reported, never served, and the report doesn't repeat it.
func TestAnUnreadableTokenIsMissingAndReported(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		const hidden = "s3cr3t-that-is-no-token"
		for field, value := range map[string]string{
			"access_token": "tok\r\nX-Injected: " + hidden, "token_type": hidden + "\n", "issued_at": hidden,
			"expires_at": hidden, "version": hidden, "config": "",
		} {
			f.stored("tok")
			rdb.HSet(f.ctx(), f.keys.Token, field, value)
			f.wantUnreadable(field, hidden)
			rdb.HDel(f.ctx(), f.keys.Token, field)
			f.wantUnreadable("without "+field, hidden)
		}
		f.stored("tok")
		rdb.HSet(f.ctx(), f.keys.Token, "expires_at", "2001-01-01T00:00:00.000Z")
		f.wantUnreadable("an end before the beginning", hidden)
	})
}

func TestATokenWithoutTTLIsUnreadable(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.stored("tok")
		rdb.Persist(f.ctx(), f.keys.Token)
		f.wantUnreadable("no TTL", "tok")
	})
}

func (f *fixture) wantUnreadable(name, hidden string) {
	f.t.Helper()
	r := f.read()
	var unreadable *store.UnreadableError
	if r.Token != nil || !errors.As(r.TokenErr, &unreadable) || unreadable.Key != f.keys.Token {
		f.t.Errorf("%s: token %v, error %v; want an UnreadableError", name, r.Token, r.TokenErr)
		return
	}
	if strings.Contains(strings.TrimPrefix(r.TokenErr.Error(), "store: "+f.keys.Token), hidden) {
		f.t.Errorf("%s: the error repeats what was read: %v", name, r.TokenErr)
	}
	if r.TTL != 0 {
		f.t.Errorf("%s: a TTL of %v without a token", name, r.TTL)
	}
}

func TestAPlantedLockIsReadAndHeldAgainstUs(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for name, c := range map[string]struct {
			plant  func()
			holder string
			ttl    bool
		}{
			"ours":           {func() { rdb.Set(f.ctx(), f.keys.Lock, "replica-7|random", time.Minute) }, "replica-7", true},
			"no TTL":         {func() { rdb.Set(f.ctx(), f.keys.Lock, "replica-7|random", 0) }, "replica-7", false},
			"a list":         {func() { rdb.RPush(f.ctx(), f.keys.Lock, "x") }, "", false},
			"empty":          {func() { rdb.Set(f.ctx(), f.keys.Lock, "", time.Minute) }, "", true},
			"binary garbage": {func() { rdb.Set(f.ctx(), f.keys.Lock, "\x1b[2Ja\xff\nb", time.Minute) }, "[2Ja b", true},
		} {
			rdb.Del(f.ctx(), f.keys.Lock)
			c.plant()
			r := f.read()
			if r.Lock == nil || r.Lock.Holder != c.holder || (r.Lock.TTL > 0) != c.ttl {
				t.Errorf("%s: read as %+v; want holder %q, a TTL: %v", name, r.Lock, c.holder, c.ttl)
			}
			if !c.ttl && r.Lock != nil && r.Lock.TTL != -1 {
				t.Errorf("%s: TTL %v; want -1", name, r.Lock.TTL)
			}
			if _, err := f.s.Issue(f.ctx(), env, lockValue, r); !errors.Is(err, store.ErrLost) {
				t.Errorf("%s: %v; want ErrLost", name, err)
			}
		}
		rdb.Del(f.ctx(), f.keys.Lock)
		if r := f.read(); r.Lock != nil {
			t.Errorf("without a key: %+v", r.Lock)
		}
	})
}
