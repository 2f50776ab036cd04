package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

func TestAFailureIsShared(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		failure := newFailure(f.issue())
		failure.Attempt = 3
		failure.Message = "two\nlines \x1b[31mand colour"
		recorded, now, err := f.s.Fail(f.ctx(), env, failure, 1500*time.Millisecond, 2*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		r := f.read()
		if r.Failure == nil {
			t.Fatal("no failure")
		}
		if wait := recorded.RetryAt.Sub(now); !about(wait, 1500*time.Millisecond, time.Millisecond) {
			t.Errorf("the next try is %v after the failure; want 1.5s", wait)
		}
		if !about(r.Failure.FailedAt.Sub(now), 0, time.Millisecond) || !r.Failure.RetryAt.Equal(recorded.RetryAt) {
			t.Errorf("read as failed at %v, next try at %v; want %v, %v", r.Failure.FailedAt, r.Failure.RetryAt, now, recorded.RetryAt)
		}
		want := failure
		want.Message = "two lines [31mand colour"
		want.FailedAt, want.RetryAt = r.Failure.FailedAt, r.Failure.RetryAt
		if *r.Failure != want {
			t.Errorf("read %+v; want %+v", *r.Failure, want)
		}
		if ttl := rdb.PTTL(f.ctx(), f.keys.Failure).Val(); !about(ttl, 121500*time.Millisecond, time.Second) {
			t.Errorf("remembered for %v; want the backoff and 2m", ttl)
		}
	})
}

func TestAFailureLeavesTheTokenAlone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		at := f.stored("tok")
		f.fail(newFailure(f.issue()))
		f.wantToken(at.Version, "tok")
	})
}

func TestAFailureOlderThanTheTokenIsRefusedThoughTheMarkWasEvicted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		f.stored("tok")
		rdb.Del(f.ctx(), f.keys.Mark)
		f.wantRefusedFailure(newFailure(late), "older than the token")
	})
}

func TestAFailureOlderThanStoredIsRefused(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		at := f.stored("tok")
		f.wantRefusedFailure(newFailure(late), "older than the token")
		f.wantRefusedFailure(newFailure(at), "of the version that was stored")
		f.wantRefusedFailure(newFailure(store.Issue{}), "of no version")
		rdb.Del(f.ctx(), f.keys.Token)
		f.wantRefusedFailure(newFailure(late), "older than a token that has expired")
	})
}

func TestAFailureOlderThanTheFailureThereIsRefused(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		late := f.issue()
		f.fail(newFailure(f.issue()))
		f.wantRefusedFailure(newFailure(late), "older than the failure there")
		newer := newFailure(f.issue())
		f.fail(newer)
		if got := f.read().Failure; got == nil || got.Version != newer.Version {
			t.Errorf("the failure is %+v; want version %v", got, newer.Version)
		}
	})
}

func (f *fixture) wantRefusedFailure(failure store.Failure, why string) {
	f.t.Helper()
	before := f.dump()
	if _, _, err := f.s.Fail(f.ctx(), env, failure, time.Minute, time.Minute); !errors.Is(err, store.ErrOlder) {
		f.t.Errorf("a failure %s: %v; want ErrOlder", why, err)
	}
	if after := f.dump(); after != before {
		f.t.Errorf("a failure %s wrote:\n%s\nbefore it:\n%s", why, after, before)
	}
}

func TestTheSameFailureAgainChangesNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		failure := newFailure(f.issue())
		first, _, err := f.s.Fail(f.ctx(), env, failure, time.Minute, 2*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		before := f.dump()
		second, _, err := f.s.Fail(f.ctx(), env, failure, time.Minute, 2*time.Minute)
		if err != nil || !second.RetryAt.Equal(first.RetryAt.Truncate(time.Millisecond)) {
			t.Errorf("again: %+v, %v; want the next try at %v", second, err, first.RetryAt)
		}
		if after := f.dump(); after != before {
			t.Errorf("the second record wrote:\n%s\nbefore it:\n%s", after, before)
		}
	})
}

func TestUnreachableDoesNotReplaceARunningBackoff(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.fail(newFailure(f.issue()))
		unreachable := newFailure(f.issue())
		unreachable.Code, unreachable.Status = store.CodeUnreachable, 0
		f.wantRefusedFailure(unreachable, "of a replica, over the endpoint's")

		// Once that backoff is over, or it is of its own kind (the row of replicas grows), it is recorded.
		rdb.HSet(f.ctx(), f.keys.Failure, "retry_at", f.read().Now.Add(-time.Second).Format("2006-01-02T15:04:05.000Z"))
		f.fail(unreachable)
		next := newFailure(f.issue())
		next.Code, next.ReportedBy = store.CodeUnreachable, "replica-1,replica-2"
		f.fail(next)
		if got := f.read().Failure; got == nil || got.ReportedBy != "replica-1,replica-2" {
			t.Errorf("the failure is %+v; want the second replica's", got)
		}
		f.fail(newFailure(f.issue())) // and an answer of the endpoint replaces it at any time
	})
}

// What no reader can read binds nobody, and so keeps no failure out.
func TestAPlantedFailureKeepsNoneOut(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		for _, planted := range []map[string]string{
			{"retry_at": "tomorrow"},
			{"retry_at": ""},
			{"version": "-5"},
			{"version": "100000000000000000000000"},
			{"version": "\xff\x00"},
			{"version": store.Version(f.read().Now.Add(time.Hour).UnixMicro()).String(), "retry_at": "zzz"},
		} {
			rdb.Del(f.ctx(), f.keys.Failure)
			f.fail(newFailure(f.issue()))
			for field, value := range planted {
				rdb.HSet(f.ctx(), f.keys.Failure, field, value)
			}
			if r := f.read(); r.Failure != nil {
				t.Errorf("%q was read: %+v", planted, r.Failure)
			}
			unreachable := newFailure(f.issue())
			unreachable.Code = store.CodeUnreachable
			f.fail(unreachable)
			if r := f.read(); r.Failure == nil || r.Failure.Version != unreachable.Version {
				t.Errorf("%q: the failure is %+v; want ours", planted, r.Failure)
			}
		}
	})
}

func TestAFailureWithoutTTLBindsNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.fail(newFailure(f.issue()))
		rdb.Persist(f.ctx(), f.keys.Failure)
		if r := f.read(); r.Failure != nil {
			t.Errorf("it was read: %+v", r.Failure)
		}
		unreachable := newFailure(f.issue())
		unreachable.Code = store.CodeUnreachable
		f.fail(unreachable)
		if ttl := rdb.PTTL(f.ctx(), f.keys.Failure).Val(); ttl <= 0 {
			t.Errorf("the next one has a TTL of %v", ttl)
		}
	})
}
