package compose_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

func TestWhoOnlyLooksHasRightsEnough(t *testing.T) {
	lines, _ := users(t, opsUser)
	server := redistest.Start(t, lines...)
	if err := look(t.Context(), client(t, server.Addr(), "default"), client(t, server.Addr(), opsUser)); err != nil {
		t.Error(err)
	}
}

func TestEveryRightToLookIsNeeded(t *testing.T) { eachIsNeeded(t, opsUser, look) }

func TestWhoOnlyLooksChangesNothing(t *testing.T) {
	lines, rights := users(t, opsUser)
	server := redistest.Start(t, lines...)
	admin, rdb := client(t, server.Addr(), "default"), client(t, server.Addr(), opsUser)
	ctx := t.Context()
	if err := occupied(ctx, admin); err != nil {
		t.Fatal(err)
	}
	before := contents(t, admin)

	// All rights but these are refused, and of these none writes. A script's commands are checked one by one.
	commands, err := admin.Command(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, right := range rights {
		name, _, _ := strings.Cut(right[1:], "|")
		info := commands[name]
		if info == nil || slices.Contains(info.Flags, "write") || name == "publish" {
			t.Errorf("%s: %+v", right, info)
		}
	}
	s, err := store.New(rdb, store.Options{Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	keys := s.Keys(env)
	script := func(call string) error {
		return rdb.Eval(ctx, "return redis.call("+call+")", []string{keys.Token}).Err()
	}
	_, invalidated := s.Invalidate(ctx, env, 0)
	refused(t, map[string]error{
		"invalidate":            invalidated,
		"DEL":                   rdb.Del(ctx, keys.Token).Err(),
		"HSET":                  rdb.HSet(ctx, keys.Mark, "issued", "1").Err(),
		"SET":                   rdb.Set(ctx, keys.Lock, "x", time.Second).Err(),
		"PEXPIRE":               rdb.PExpire(ctx, keys.Token, time.Hour).Err(),
		"PERSIST":               rdb.Persist(ctx, keys.Token).Err(),
		"PUBLISH":               rdb.Publish(ctx, s.Channel(), "x").Err(),
		"FLUSHALL":              rdb.FlushAll(ctx).Err(),
		"SCRIPT FLUSH":          rdb.ScriptFlush(ctx).Err(),
		"CONFIG":                rdb.ConfigGet(ctx, "*").Err(),
		"MONITOR":               rdb.Do(ctx, "MONITOR").Err(),
		"SLOWLOG":               rdb.SlowLogGet(ctx, 1).Err(), // it shows what the scripts were called with: tokens
		"another key":           rdb.Get(ctx, "else:{prod}:token").Err(),
		"another channel":       subscribe(ctx, rdb, "else:events"),
		"a script that deletes": script("'DEL', KEYS[1]"),
		"a script that writes":  script("'HSET', KEYS[1], 'version', '9'"),
		"one that publishes":    script("'PUBLISH', 'onetoken:events', 'x'"),
	})
	l, err := lock.New(rdb, "ops")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Try(ctx, s.Keys("other").Lock, time.Second); err == nil {
		t.Error("it has got a lease")
	}
	if after := contents(t, admin); after != before {
		t.Errorf("Redis holds\n%s, and held\n%s", after, before)
	}
}

// contents returns all that is in Redis, but the times to live.
func contents(t *testing.T, admin *redis.Client) string {
	t.Helper()
	keys, err := admin.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, key := range keys {
		if hash, err := admin.HGetAll(t.Context(), key).Result(); err == nil {
			fmt.Fprintf(&b, "%s %v\n", key, hash)
		} else {
			fmt.Fprintf(&b, "%s %s\n", key, admin.Get(t.Context(), key).Val())
		}
	}
	return b.String()
}

// occupied leaves what a fleet leaves: a token in prod, a failure and a lock in test.
func occupied(ctx context.Context, admin *redis.Client) error {
	s, err := store.New(admin, store.Options{Timeout: patience})
	if err != nil {
		return err
	}
	l, err := lock.New(admin, "replica-1")
	if err != nil {
		return err
	}
	for _, name := range []string{env, "test"} {
		lease, err := l.Try(ctx, s.Keys(name).Lock, time.Minute)
		if err != nil {
			return err
		}
		if err := errors.Join(outcome(ctx, s, lease, name, name != env), lease.Release(ctx)); err != nil {
			return err
		}
	}
	// Of those who come after, the scripts are as unknown as to a Redis that has just started.
	return errors.Join(admin.Set(ctx, s.Keys("test").Lock, "replica-2|x", time.Hour).Err(), admin.ScriptFlush(ctx).Err())
}

// look does all that ops do without changing anything, and returns the first error.
func look(ctx context.Context, admin, rdb *redis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := occupied(ctx, admin); err != nil {
		return err
	}
	s, err := store.New(rdb, store.Options{Timeout: patience})
	if err != nil {
		return err
	}
	for range 2 { // the first brings the script, which the second one runs by its hash
		if err := rows(ctx, s); err != nil {
			return err
		}
	}
	if err := byHand(ctx, rdb, s); err != nil {
		return err
	}
	heard, stop, err := listen(ctx, s)
	if err != nil {
		return err
	}
	defer stop()
	if err := admin.Publish(ctx, s.Channel(), `{"env":"prod","kind":"stored","version":1}`).Err(); err != nil {
		return err
	}
	return heard.wait(ctx, "an event", func(what any) bool { return what != true })
}

// rows is what status does, and status --watch.
func rows(ctx context.Context, s *store.Store) error {
	view := overview.New(s, nil)
	names, err := view.Choose(ctx, nil)
	if err != nil {
		return err
	}
	list, err := view.Rows(ctx, names)
	if err != nil {
		return err
	}
	if len(list) != 2 || list[0].State != manager.StateFresh || list[1].Failure.Code == nil || list[1].Lock.Holder == nil {
		return fmt.Errorf("the rows are %+v", list)
	}
	return nil
}

// byHand is what people do with redis-cli.
func byHand(ctx context.Context, rdb *redis.Client, s *store.Store) error {
	prod, test := s.Keys(env), s.Keys("test")
	mark, err := rdb.HGetAll(ctx, prod.Mark).Result()
	if err == nil && mark["stored"] == "" {
		err = fmt.Errorf("the mark is %q", mark)
	}
	return errors.Join(err,
		rdb.Ping(ctx).Err(),
		rdb.Time(ctx).Err(),
		rdb.Scan(ctx, 0, "onetoken:*", 100).Err(),
		rdb.Type(ctx, prod.Token).Err(),
		rdb.TTL(ctx, prod.Token).Err(),
		rdb.PTTL(ctx, prod.Token).Err(),
		rdb.HGet(ctx, prod.Token, "version").Err(),
		rdb.HMGet(ctx, prod.Token, "version", "expires_at", "refreshed_by").Err(),
		rdb.HExists(ctx, prod.Token, "access_token").Err(),
		rdb.HStrLen(ctx, prod.Token, "access_token").Err(),
		rdb.HGetAll(ctx, test.Failure).Err(),
		rdb.Get(ctx, test.Lock).Err(),
		rdb.MGet(ctx, prod.Lock, test.Lock).Err(),
		rdb.PubSubNumSub(ctx, s.Channel()).Err(),
		rdb.Do(ctx, "CLIENT", "LIST", "TYPE", "PUBSUB").Err(),
		rdb.Info(ctx, "memory").Err(),
	)
}

// subscribe returns what Redis answers to a subscription.
func subscribe(ctx context.Context, rdb *redis.Client, channel string) error {
	pubsub := rdb.Subscribe(ctx, channel)
	defer func() { _ = pubsub.Close() }()
	_, err := pubsub.Receive(ctx)
	return err
}
