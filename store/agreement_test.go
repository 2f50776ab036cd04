package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
)

// What Lua and Go both decide or write they must decide and write alike.

// eval runs what the scripts share with a tail, as they do.
func eval(t *testing.T, rdb *redis.Client, tail string, args []any) []any {
	t.Helper()
	var shared []byte
	for _, name := range []string{"keys", "common", "changes"} {
		part, err := lua.ReadFile("lua/" + name + ".lua")
		if err != nil {
			t.Fatal(err)
		}
		shared = append(shared, part...)
	}
	reply, err := rdb.Eval(t.Context(), string(shared)+tail, nil, args...).Slice()
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestLuaWritesTimesAsGoDoes(t *testing.T) {
	t.Parallel()
	micros := []int64{0, 1, 999, 1000, 86399999999, 86400000000}
	for year := 1970; year < 2255; year++ {
		for _, day := range []time.Time{
			time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC),
			time.Date(year, 2, 28, 23, 59, 59, 999_999_000, time.UTC),
			time.Date(year, 2, 29, 12, 0, 0, 0, time.UTC),
			time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC),
			time.Date(year, 12, 31, 23, 59, 59, 999_999_000, time.UTC),
		} {
			micros = append(micros, day.UnixMicro())
		}
	}
	last := time.Date(2255, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	for range 5000 {
		micros = append(micros, rand.Int64N(last))
	}
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for some := range slices.Chunk(micros, 100) {
			args := make([]any, len(some))
			for i, us := range some {
				args[i] = us
			}
			reply := eval(t, rdb, `
				local out = {}
				for i = 1, #ARGV do out[i] = rfc3339(tonumber(ARGV[i])) end
				return out`, args)
			for i, us := range some {
				want := time.UnixMicro(us).UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00")
				if got := text(reply, i); got != want {
					t.Errorf("%d µs are %s in Lua; want %s", us, got, want)
				}
			}
		}
	})
}

func TestLuaAndGoAgreeOnPlausibleVersions(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		us, err := rdb.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		raws := []any{
			"", "0", "1", "-1", "+1", "1.0", "1e3", "0x1f", " 1", "1 ", "1\n", "\n1", "1\x00", "\x001", "\xff", "nan", "inf",
			"0000000000000001", "00000000000000001", "9007199254740991", "9007199254740993", "9999999999999999",
			"99999999999999999", "100000000000000000000000", "١", "７",
		}
		for _, ahead := range []time.Duration{-time.Hour, 0, 23 * time.Hour, 25 * time.Hour, 365 * 24 * time.Hour} {
			raws = append(raws, fmt.Sprint(us.Add(ahead).UnixMicro()))
		}
		for range 200 {
			raws = append(raws, fmt.Sprint(rand.Int64N(1<<rand.IntN(63))))
		}
		reply := eval(t, rdb, `
			local out = { digits(now) }
			for i = 1, #ARGV do out[i + 1] = digits(version(ARGV[i])) end
			return out`, raws)
		now := time.UnixMicro(number(reply, 0))
		for i, raw := range raws {
			if got, want := text(reply, i+1), plausible(raw.(string), now).String(); got != want {
				t.Errorf("%q is version %s in Lua, %s in Go", raw, got, want)
			}
		}
	})
}

// The last plausible version, to the microsecond.
func TestAVersionMayBe24HoursAhead(t *testing.T) {
	now := time.UnixMicro(1_800_000_000_000_000)
	last := now.Add(24 * time.Hour).UnixMicro()
	if got := plausible(fmt.Sprint(last), now); int64(got) != last {
		t.Errorf("24 h ahead: %v; want %d", got, last)
	}
	if got := plausible(fmt.Sprint(last+1), now); got != 0 {
		t.Errorf("a microsecond more: %v; want 0", got)
	}
}
