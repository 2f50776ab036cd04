package store_test

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
)

// A tally is a hook that notes how scripts are sent: "eval", "evalsha", "refused", and those of a pipeline in one word.
type tally struct {
	mu   sync.Mutex
	sent []string
}

func (c *tally) note(err error, cmds ...redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var words []string
	for _, cmd := range cmds {
		word := cmd.Name()
		if redis.HasErrorPrefix(cmp.Or(err, cmd.Err()), "NOSCRIPT") {
			word = "refused"
		}
		if n := len(words); strings.HasPrefix(cmd.Name(), "eval") && (n == 0 || words[n-1] != word) {
			words = append(words, word)
		}
	}
	if len(words) > 0 {
		c.sent = append(c.sent, strings.Join(words, "+"))
	}
}

func (c *tally) want(t *testing.T, when string, want ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reflect.DeepEqual(c.sent, want) {
		t.Errorf("%s: sent are %q, want %q", when, c.sent, want)
	}
	c.sent = nil
}

func (c *tally) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *tally) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		c.note(err, cmd)
		return err
	}
}

func (c *tally) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		c.note(nil, cmds...)
		return err
	}
}

// No round trip is lost to a script that Redis doesn't know, but for the first after one that nobody could notice.
func TestAScriptGoesByItsTextFirst(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		f, sent := newFixture(t, rdb), &tally{}
		rdb.AddHook(sent)
		f.put(f.issue(), "one")
		sent.want(t, "at first", "eval", "eval", "eval")
		f.put(f.issue(), "two")
		sent.want(t, "then", "evalsha", "evalsha", "evalsha")
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		f.put(f.issue(), "three")
		sent.want(t, "when Redis has lost them", "refused", "eval", "eval", "eval")
	})
}

func TestManyAreReadInOneRoundTripAlsoFromAFreshRedis(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		f, sent := newFixture(t, rdb), &tally{}
		rdb.AddHook(sent)
		envs := make([]string, 50)
		for i := range envs {
			envs[i] = fmt.Sprintf("env-%d", i)
		}
		many := func() {
			t.Helper()
			if records, err := f.s.ReadMany(f.ctx(), envs); err != nil || len(records) != len(envs) {
				t.Fatalf("%d records, %v", len(records), err)
			}
		}
		many()
		sent.want(t, "at first", "eval+evalsha")
		many()
		f.read()
		sent.want(t, "then", "evalsha", "evalsha")
		if err := rdb.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		many()
		sent.want(t, "when Redis has lost it", "refused", "eval+evalsha")
	})
}

// Who hears events, or couldn't reach Redis, knows that it may have been restarted.
func TestARestartedRedisIsSentTheTexts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f, sent := newFixture(t, server.Client(t)), &tally{}
	f.rdb.AddHook(sent)
	e, _ := watch(t, f.s)
	e.want(t, true)
	f.read()
	sent.want(t, "at first", "eval")
	server.Stop()
	e.want(t, false)
	server.Start(t)
	e.want(t, true)
	f.read()
	sent.want(t, "by who hears events", "eval")

	other := newFixture(t, server.Client(t))
	other.rdb.AddHook(sent)
	other.read()
	server.Stop()
	if _, err := other.s.Read(t.Context(), env); err == nil {
		t.Fatal("a Redis that is stopped answers")
	}
	server.Start(t)
	other.read()
	sent.want(t, "by who couldn't reach it", "eval", "evalsha", "eval")
}
