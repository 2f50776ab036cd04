package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

// A server that doesn't know the script yet, more environments than fit in one round trip, and the order of the names.
func TestReadManyIsReadForEach(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		o := *rdb.Options()
		o.ReadTimeout = time.Minute // a miniredis needs its time for hundreds of scripts
		rdb = redistest.NewClient(t, &o)
		s, err := store.New(rdb, store.Options{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		envs := make([]string, 600)
		for i := range envs {
			envs[i] = fmt.Sprintf("env-%03d", (i*7)%600)
			if i%2 == 0 {
				if _, err := s.Invalidate(t.Context(), envs[i], store.Version(i+1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		records, err := s.ReadMany(t.Context(), envs)
		if err != nil || len(records) != len(envs) {
			t.Fatalf("got %d records, %v", len(records), err)
		}
		for i, r := range records {
			want := store.Version(0)
			if i%2 == 0 {
				want = store.Version(i + 1)
			}
			if r.Mark.Dropped != want {
				t.Fatalf("%s: dropped %d, want %d", envs[i], r.Mark.Dropped, want)
			}
		}
	})
}

func TestReadManyOfNothingAndOfNoName(t *testing.T) {
	s, err := store.New(redistest.Mini(t), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if records, err := s.ReadMany(t.Context(), nil); err != nil || len(records) != 0 {
		t.Errorf("got %d records, %v", len(records), err)
	}
	if _, err := s.ReadMany(t.Context(), []string{"prod", "a}b"}); !errors.Is(err, store.ErrName) {
		t.Errorf("got %v, want ErrName", err)
	}
}

func TestReadManyOfARedisThatIsAway(t *testing.T) {
	s, err := store.New(redistest.NewClient(t, redistest.Options("127.0.0.1:1")), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var status *store.StatusError
	if records, err := s.ReadMany(t.Context(), []string{"prod"}); !errors.As(err, &status) || records != nil {
		t.Errorf("got %v, %v; want a StatusError", records, err)
	}
}

// slow has the answers of a pipeline come late, the second of which is that its slot is moving.
type slow struct{ by time.Duration }

func (slow) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (slow) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h slow) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := next(ctx, cmds); err != nil || cmds[0].Name() == "hello" {
			return err
		}
		<-time.After(h.by)
		cmds[1].SetErr(tryAgainError{})
		return tryAgainError{}
	}
}

type tryAgainError struct{}

func (tryAgainError) Error() string { return "TRYAGAIN Multiple keys request during rehashing of slot" }
func (tryAgainError) RedisError()   {}

// What is left of a life counts from the request that brought it: for who is read again by himself, from that.
func TestReadEachSaysWhenItAsked(t *testing.T) {
	rdb := redistest.Mini(t)
	rdb.AddHook(slow{100 * time.Millisecond})
	s, err := store.New(rdb, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var asked []time.Time
	s.ReadEach(t.Context(), []string{"a", "moving", "c"}, func(_ int, r *store.Record, sent time.Time, err error) {
		if r == nil || err != nil {
			t.Errorf("%v, %v", r, err)
		}
		asked = append(asked, sent)
	})
	if len(asked) != 3 || asked[0] != asked[2] || asked[1].Sub(asked[0]) < 100*time.Millisecond {
		t.Errorf("asked at %v, want the second one 100 ms later", asked)
	}
}
