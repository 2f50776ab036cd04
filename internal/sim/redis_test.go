package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
)

// The model of Redis must be one: the same commands, the same replies.
func TestTheModelAnswersAsRedisDoes(t *testing.T) {
	rdb := redistest.Shared(t)
	s := newServer(time.Now, func(string, string) {})
	defer s.close()
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same commands each time
	prefix := "model-" + strconv.FormatInt(time.Now().UnixNano(), 36) + ":"
	for range 4000 {
		args := someCommand(rng, prefix)
		if got, want := text(s.do(args...)), theirs(t, rdb, args); got != want {
			t.Fatalf("%q: the model says %s, Redis %s", args, got, want)
		}
	}
	for _, script := range []string{
		"return {1, 'a', false, 2}", "return {1, nil, 2}", "return 3.99", "return true", "return {ok='fine'}", "return {err='ERR bad'}",
		"return redis.call('HMGET', KEYS[1], 'a', 'b')", "return redis.call('NOSUCH', KEYS[1])", "return redis.pcall('NOSUCH', KEYS[1]).err ~= nil",
		"redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 'x') return redis.call('HGET', KEYS[1], 'f')",
		"return {redis.call('GET', KEYS[1]), redis.call('TYPE', KEYS[1]), redis.call('TYPE', KEYS[1]).ok}",
		"return string.format('%.0f', 1700000000000001)", "return redis.call('GET', KEYS[2] or 'none')", "return #ARGV .. ARGV[2]",
		"return redis.call('PTTL', KEYS[1])", "return nosuch.field",
	} {
		args := []string{"eval", script, "1", prefix + "script", "x", "y"}
		if got, want := text(s.do(args...)), theirs(t, rdb, args); got != want {
			t.Errorf("%s: the model says %s, Redis %s", script, got, want)
		}
	}
}

// someCommand is a command on one of a few keys. A TTL is far away, or over.
func someCommand(rng *rand.Rand, prefix string) []string {
	one := func(of ...string) string { return of[rng.IntN(len(of))] }
	key := prefix + one("a", "b", "c")
	ttl := one("1000000", "-1", "0")
	field := one("f", "g", "h")
	all := [][]string{
		{"set", key, field},
		{"set", key, field, "px", "1000000", "nx"},
		{"set", key, field, "ex", "1000", "nx"},
		{"get", key},
		{"del", key},
		{"type", key},
		{"pttl", key},
		{"persist", key},
		{"pexpire", key, ttl},
		{"pexpireat", key, one("1000", strconv.FormatInt(time.Now().Add(1000*time.Second).UnixMilli(), 10))},
		{"hset", key, field, one("1", "2"), "x", "y"},
		{"hget", key, field},
		{"hmget", key, field, "x", "none"},
	}
	return all[rng.IntN(len(all))]
}

func theirs(t *testing.T, rdb *redis.Client, args []string) string {
	t.Helper()
	list := make([]any, len(args))
	for i, a := range args {
		list[i] = a
	}
	v, err := rdb.Do(t.Context(), list...).Result()
	var replied redis.Error
	switch {
	case errors.Is(err, redis.Nil):
		return text(nil)
	case errors.As(err, &replied):
		return text(serverError(replied.Error()))
	case err != nil:
		t.Fatal(err)
	}
	return text(v)
}

// text makes replies comparable: of an error its kind, of a TTL that it is a long one.
func text(v any) string {
	switch v := v.(type) {
	case serverError:
		kind, _, _ := strings.Cut(string(v), " ")
		return "error " + kind
	case int64:
		if v > 990_000 && v <= 1_000_000 {
			return "a long TTL"
		}
	case status:
		return string(v)
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = text(x)
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	return fmt.Sprint(v)
}
