package e2e_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// binary is nothing that anybody wrote on purpose.
const binary = "\x00\xff\xfe\r\n\x1b[2J\x80|\x00{}"

// A plant puts something under a key.
type plant func(ctx context.Context, rdb *redis.Client, key string) error

func aString(ctx context.Context, rdb *redis.Client, key string) error {
	return rdb.Set(ctx, key, "something", time.Hour).Err()
}

func aList(ctx context.Context, rdb *redis.Client, key string) error {
	return rdb.RPush(ctx, key, "some", "things").Err()
}

func binaryGarbage(ctx context.Context, rdb *redis.Client, key string) error {
	return rdb.Set(ctx, key, binary, 0).Err()
}

// hash plants a hash with a TTL, so that it isn't that which is missing.
func hash(fields map[string]string) plant {
	return func(ctx context.Context, rdb *redis.Client, key string) error {
		return errors.Join(rdb.HSet(ctx, key, fields).Err(), rdb.PExpire(ctx, key, time.Hour).Err())
	}
}

// forever plants a hash without a TTL.
func forever(fields map[string]string) plant {
	return func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.HSet(ctx, key, fields).Err()
	}
}

// plants returns what is planted, by environment: one for each kind of key and each kind of garbage.
func plants() map[string]map[string]plant {
	stamp := func(after time.Duration) string {
		return time.Now().Add(after).UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
	token := map[string]string{
		"access_token": "planted", "token_type": "Bearer", "scope": "", "issued_at": stamp(0), "expires_at": stamp(time.Hour),
		"version": "1", "refreshed_by": "a-stranger", "took_ms": "1", "config": "0123456789abcdef",
	}
	failure := map[string]string{
		"code": "http_503", "status": "503", "message": "planted", "attempt": "1", "failed_at": stamp(0),
		"retry_at": stamp(30 * time.Second), "version": "1", "reported_by": "a-stranger", "config": "0123456789abcdef", "credential": "0123",
	}
	mark := map[string]string{"issued": "1", "stored": "1", "dropped": "1"}
	all := map[string]map[string]plant{}
	for kind, fields := range map[string]map[string]string{"token": token, "failure": failure, "mark": mark, "grant": token} {
		of := map[string]plant{"string": aString, "list": aList, "binary": binaryGarbage, "missing-fields": hash(map[string]string{"x": "y"})}
		for name, version := range map[string]string{"minus-5": "-5", "2to53": "9007199254740991", "10to23": "100000000000000000000000"} {
			changed := maps.Clone(fields)
			for field := range changed {
				if kind == "mark" || field == "version" {
					changed[field] = version
				}
			}
			of[name] = hash(changed)
		}
		spoilt := maps.Clone(fields)
		for field := range spoilt {
			spoilt[field] = binary
		}
		of["binary-fields"] = hash(spoilt)
		all[kind] = of
	}
	all["token"]["no-ttl"] = forever(token)
	all["failure"]["no-ttl"] = forever(failure)
	// A lock with a TTL is one that is held, whatever its type: nobody need be surprised if it is waited for.
	all["lock"] = map[string]plant{
		"list": aList, "binary": binaryGarbage, "hash": forever(token),
		"no-ttl": func(ctx context.Context, rdb *redis.Client, key string) error {
			return rdb.Set(ctx, key, "a-stranger|ABCDEF", 0).Err()
		},
	}
	return all
}

func TestPlantedGarbageIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx, cancel := s.within(patience, "the garbage is planted")
	defer cancel()
	kinds := map[string]string{} // of the key that is planted, by environment
	environments := map[string]settings{}
	for kind, of := range plants() {
		for name, plant := range of {
			env := kind + "." + name
			kinds[env] = kind
			environments[env] = settings{"scopes": "[" + env + "]", "lease": "1s"}
			if err := plant(ctx, s.rdb, key(env, kind)); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := slices.Sorted(maps.Keys(environments))
	l := s.using(s.configure(environments))
	for what, rows := range map[string]map[string]row{
		"with the file":     l.status(),
		"with names":        l.status(names...),
		"with Redis's rows": s.with("ONETOKEN_CONFIG=").status("--redis-url", s.redis.URL()),
	} {
		for _, env := range names {
			if r, there := rows[env]; !there || r.Usable {
				t.Errorf("status %s has %+v for %s", what, r, env)
			}
		}
	}
	l.run("status").succeeds() // the table, too

	// A few at a time: they are many.
	for some := range slices.Chunk(names, 8) {
		var all []*process
		for _, env := range some {
			all = append(all, l.onetoken("get-"+env, "get", env, "--timeout", "15s"))
		}
		for _, p := range all {
			if text := strings.TrimSpace(p.wait().succeeds()); !slices.Contains(s.endpoint.Issued(), text) {
				t.Errorf("%s printed %q, which the endpoint hasn't issued", p.name, text)
			}
		}
	}
	calls := map[string]int{}
	for _, r := range s.endpoint.Requests() {
		calls[r.Form.Get("scope")]++
	}
	rows := l.status()
	for _, env := range names {
		if calls[env] != 1 {
			t.Errorf("%d calls for %s", calls[env], env)
		}
		if r := rows[env]; !r.Usable || r.State != "fresh" || r.TTL < 3_500_000 || r.TTL > 3_600_000 {
			t.Errorf("%s is %+v in the end", env, r)
		}
	}
	for env, kind := range kinds { // a grant isn't ours to replace where none is used
		if kind == "grant" {
			if n := s.rdb.Exists(ctx, key(env, kind)).Val(); n != 1 {
				t.Errorf("%s: the grant is gone", env)
			}
		}
	}
}
