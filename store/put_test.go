package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

func TestWhatIsStoredIsRead(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		got := f.read().Token
		if got == nil {
			t.Fatal("no token")
		}
		issuedAt := at.At.Truncate(time.Millisecond)
		if !got.IssuedAt.Equal(issuedAt) || got.Life() != time.Hour || got.Version != at.Version {
			t.Errorf("issued at %v for %v, version %v; want %v, 1h, %v", got.IssuedAt, got.Life(), got.Version, issuedAt, at.Version)
		}
		if got.TokenType != "Bearer" || got.Scope != "campaigns.read" || got.RefreshedBy != "replica-1" ||
			got.Took != 120*time.Millisecond || got.Config != "c1" {
			t.Errorf("got %+v", got)
		}
		if got.AuthHeader() != "Bearer tok" {
			t.Errorf("the header is %q", got.AuthHeader())
		}
		want := []string{
			"access_token", "token_type", "scope", "issued_at", "expires_at", "version", "refreshed_by", "took_ms", "config",
		}
		raw := rdb.HGetAll(f.ctx(), f.keys.Token).Val()
		for _, field := range want {
			if raw[field] == "" {
				t.Errorf("field %s is missing", field)
			}
		}
		if len(raw) != len(want) {
			t.Errorf("the hash is %q; want the fields %q", raw, want)
		}
		for _, field := range []string{"issued_at", "expires_at"} {
			if _, err := time.Parse("2006-01-02T15:04:05.000Z", raw[field]); err != nil {
				t.Errorf("%s is %q; want RFC 3339 in UTC with milliseconds", field, raw[field])
			}
		}
	})
}

func TestALateWriterNeverOverwritesANewerToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		newer := f.stored("newer")
		before := f.dump()
		if _, err := f.s.Put(f.ctx(), env, late, time.Hour, newToken("late")); !errors.Is(err, store.ErrOlder) {
			t.Errorf("the late write: %v; want ErrOlder", err)
		}
		if after := f.dump(); after != before {
			t.Errorf("the late write wrote:\n%s\nbefore it:\n%s", after, before)
		}
		f.wantToken(newer.Version, "newer")
	})
}

// Nor where the newer token has expired meanwhile: the mark outlives it.
func TestALateWriterStaysLateAfterTheNewerTokensEnd(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		f.stored("newer")
		rdb.Del(f.ctx(), f.keys.Token)
		if _, err := f.s.Put(f.ctx(), env, late, time.Hour, newToken("late")); !errors.Is(err, store.ErrOlder) {
			t.Errorf("the late write: %v; want ErrOlder", err)
		}
	})
}

// A version isn't refused for being below the last one issued: nobody has stored after it.
func TestALateWriterIsWelcomeWhereNobodyStoredAfterIt(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		last := f.issue()
		rdb.Del(f.ctx(), f.keys.Lock) // nor for having lost the lease
		f.put(late, "late")
		f.wantToken(late.Version, "late")
		if m := f.read().Mark; m.Issued != last.Version || m.Stored != late.Version {
			t.Errorf("mark %+v; want issued %v, stored %v", m, last.Version, late.Version)
		}
	})
}

func TestTheSameVersionAgainIsASuccess(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		f.fail(newFailure(f.issue()))
		before := f.dump()
		ttl, err := f.s.Put(f.ctx(), env, at, time.Hour, newToken("tok"))
		if err != nil || !about(ttl, time.Hour, 10*time.Second) {
			t.Errorf("the second write: %v, %v; want an hour", ttl, err)
		}
		if after := f.dump(); after != before {
			t.Errorf("the second write wrote:\n%s\nbefore it:\n%s", after, before)
		}
	})
}

func TestTheSameVersionAgainRestoresWhatWasEvicted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		for name, damage := range map[string]func(){
			"evicted":     func() { rdb.Del(f.ctx(), f.keys.Token) },
			"overwritten": func() { rdb.Set(f.ctx(), f.keys.Token, "x", 0) },
			"without TTL": func() { rdb.Persist(f.ctx(), f.keys.Token) },
			"flushed":     func() { rdb.FlushAll(f.ctx()) },
		} {
			damage()
			if _, err := f.s.Put(f.ctx(), env, at, time.Hour, newToken("tok")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			f.wantToken(at.Version, "tok")
		}
	})
}

func TestStoreRaisesIssuedAndClearsTheFailure(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.fail(newFailure(f.issue()))
		at := f.issue()
		rdb.Del(f.ctx(), f.keys.Mark) // evicted: issued is behind what is now stored
		f.put(at, "tok")
		r := f.read()
		if r.Mark.Issued != at.Version || r.Mark.Stored != at.Version {
			t.Errorf("mark %+v; want issued and stored %v", r.Mark, at.Version)
		}
		if r.Failure != nil || rdb.Exists(f.ctx(), f.keys.Failure).Val() != 0 {
			t.Errorf("the failure is still there: %+v", r.Failure)
		}
	})
}

func TestStoreLeavesNothingOfTheTokenBefore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.stored("tok-1")
		rdb.HSet(f.ctx(), f.keys.Token, "foreign", "field")
		f.stored("tok-2")
		if raw := rdb.HGetAll(f.ctx(), f.keys.Token).Val(); raw["foreign"] != "" {
			t.Errorf("a field of the token before is left: %q", raw)
		}
	})
}

func TestADroppedVersionIsRefused(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.issue()
		if _, err := f.s.Invalidate(f.ctx(), env, 0); err != nil {
			t.Fatal(err)
		}
		before := f.dump()
		if _, err := f.s.Put(f.ctx(), env, at, time.Hour, newToken("tok")); !errors.Is(err, store.ErrDropped) {
			t.Errorf("%v; want ErrDropped", err)
		}
		if after := f.dump(); after != before {
			t.Errorf("a refused write wrote:\n%s\nbefore it:\n%s", after, before)
		}
		f.stored("tok-2") // what is issued afterwards is above it
	})
}

func TestTTLIsTheTokensRemainingLife(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for _, life := range []time.Duration{1500 * time.Millisecond, 4 * time.Second, time.Hour, 30 * 24 * time.Hour} {
			at := f.issue()
			ttl, err := f.s.Put(f.ctx(), env, at, life, newToken("tok"))
			if err != nil {
				t.Fatal(err)
			}
			r := f.read()
			left := r.Token.ExpiresAt.Sub(r.Now)
			if pttl := rdb.PTTL(f.ctx(), f.keys.Token).Val(); !about(pttl, left, time.Second) ||
				!about(ttl, left, time.Second) || !about(r.TTL, left, 100*time.Millisecond) {
				t.Errorf("life %v: PTTL %v, Put's %v, the record's %v; want %v", life, pttl, ttl, r.TTL, left)
			}
			if r.Token.Life() != life {
				t.Errorf("a life of %v; want %v", r.Token.Life(), life)
			}
		}
	})
}

// The life counts from before the endpoint was asked: a write that is delayed doesn't lengthen it.
func TestADelayedStoreDoesNotLengthenALife(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.issue()
		at.At = at.At.Add(-20 * time.Second)
		ttl, err := f.s.Put(f.ctx(), env, at, time.Minute, newToken("tok"))
		if err != nil || !about(ttl, 40*time.Second, time.Second) {
			t.Errorf("TTL %v, %v; want 40s", ttl, err)
		}
		if got := f.read().Token; !got.IssuedAt.Equal(at.At.Truncate(time.Millisecond)) || got.Life() != time.Minute {
			t.Errorf("issued at %v for %v", got.IssuedAt, got.Life())
		}
	})
}

// Redis's clock may be set back, or a failover bring another one, between the issue and the store.
func TestAClockSetBackDoesNotLengthenALife(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.issue()
		at.At = at.At.Add(time.Hour)
		ttl, err := f.s.Put(f.ctx(), env, at, time.Minute, newToken("tok"))
		if err != nil || !about(ttl, time.Minute, time.Second) {
			t.Errorf("TTL %v, %v; want 1m", ttl, err)
		}
	})
}

func TestExpiredOnArrival(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.fail(newFailure(f.issue()))
		at := f.issue()
		at.At = at.At.Add(-time.Minute)
		before := f.dump()
		for _, life := range []time.Duration{-time.Second, 0, time.Second, time.Minute} {
			if _, err := f.s.Put(f.ctx(), env, at, life, newToken("tok")); !errors.Is(err, store.ErrExpired) {
				t.Errorf("a life of %v that began a minute ago: %v; want ErrExpired", life, err)
			}
		}
		if after := f.dump(); after != before {
			t.Errorf("a refused write wrote:\n%s\nbefore it:\n%s", after, before)
		}
	})
}

// PEXPIREAT counts milliseconds: an end within the current one would delete the key, after the reply said "stored".
func TestExpiredOnArrivalToTheMillisecond(t *testing.T) {
	m := miniredis.RunT(t)
	now := time.Date(2026, 7, 1, 12, 0, 0, 100_000, time.UTC)
	m.SetTime(now)
	f := newFixture(t, redistest.NewClient(t, redistest.Options(m.Addr())))
	at := f.issue()
	at.At = now.Add(-time.Second + 500*time.Microsecond)
	if ttl, err := f.s.Put(f.ctx(), env, at, time.Second, newToken("tok")); !errors.Is(err, store.ErrExpired) {
		t.Errorf("%v, %v; want ErrExpired", ttl, err)
	}
}

// No time comes from this process's clock.
func TestTimeIsRedissOwn(t *testing.T) {
	m := miniredis.RunT(t)
	f := newFixture(t, redistest.NewClient(t, redistest.Options(m.Addr())))
	for _, now := range []time.Time{
		time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond),
		time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond),
	} {
		m.SetTime(now)
		at := f.issue()
		ttl, err := f.s.Put(f.ctx(), env, at, time.Minute, newToken("tok"))
		if err != nil || !about(ttl, time.Minute, time.Millisecond) {
			t.Errorf("TTL %v, %v; want 1m", ttl, err)
		}
		r := f.read()
		if !at.At.Equal(now) || !r.Now.Equal(now) || int64(at.Version) != now.UnixMicro() {
			t.Errorf("issued at %v with version %v, read at %v; want %v", at.At, at.Version, r.Now, now)
		}
		if want := now.Truncate(time.Millisecond); r.Token == nil || !r.Token.IssuedAt.Equal(want) {
			t.Errorf("token %v; want it issued at %v", r.Token, want)
		}
		failed, at2, err := f.s.Fail(f.ctx(), env, newFailure(f.issue()), time.Minute, time.Minute)
		if err != nil || !at2.Equal(now) || !failed.FailedAt.Equal(now) || !about(failed.RetryAt.Sub(now), time.Minute, time.Millisecond) {
			t.Errorf("failure %+v at %v, %v; want it at %v", failed, at2, err, now)
		}
	}
}

// A script that Redis refuses half-way keeps what it had written: it must be refused at its first write.
func TestAWriteThatRedisRefusesWritesNothing(t *testing.T) {
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	f.stored("tok")
	f.fail(newFailure(f.issue()))
	next := f.issue()
	before := f.dump()
	writes := map[string]func() error{
		"issue": func() error { _, err := f.s.Issue(f.ctx(), env, lockValue, f.read()); return err },
		"put":   func() error { _, err := f.s.Put(f.ctx(), env, next, time.Hour, newToken("new")); return err },
		"drop":  func() error { _, err := f.s.Invalidate(f.ctx(), env, 0); return err },
		"fail": func() error {
			_, _, err := f.s.Fail(f.ctx(), env, newFailure(next), time.Minute, time.Minute)
			return err
		},
	}
	for _, state := range []struct{ setting, value, normal, refusal string }{
		{"min-replicas-to-write", "1", "0", "NOREPLICAS"},
		{"maxmemory", "1", "0", "OOM"},
	} {
		f.config(state.setting, state.value)
		for name, write := range writes {
			if name == "fail" && state.refusal == "OOM" {
				continue // it begins with a DEL, which Redis allows, and then lets finish
			}
			var refused *store.StatusError
			if err := write(); !errors.As(err, &refused) || !strings.Contains(err.Error(), state.refusal) {
				t.Errorf("%s: %v; want a StatusError with %s", name, err, state.refusal)
			}
			if after := f.dump(); after != before {
				t.Errorf("%s, refused with %s, wrote:\n%s\nbefore it:\n%s", name, state.refusal, after, before)
			}
		}
		f.config(state.setting, state.normal)
	}
	f.stored("after")
}

// A failure is recorded whole even then: it is what keeps the fleet from asking the endpoint.
func TestAFailureIsRecordedWithoutMemory(t *testing.T) {
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	first := f.issue()
	second := f.issue()
	f.config("maxmemory", "1")
	for _, at := range []store.Issue{first, second} {
		f.fail(newFailure(at))
		if got := f.read().Failure; got == nil || got.Version != at.Version {
			t.Errorf("the failure is %+v; want version %v", got, at.Version)
		}
	}
}

func (f *fixture) config(setting, value string) {
	f.t.Helper()
	if err := f.rdb.ConfigSet(f.ctx(), setting, value).Err(); err != nil {
		f.t.Fatal(err)
	}
}
