package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
)

// scratchLife is how long a scratch key lives that couldn't be removed.
const scratchLife = 5 * time.Second

// A right is a command that onetoken uses, and how it is tried.
type right struct {
	rule string
	args []any // of the command
	why  string
	warn bool // without it things work, though not well
}

// rightsOf are those of docs/compose/users.acl, without those of a subscription. Redis looks at the rights before it looks at
// the keys: most commands are tried on a key that isn't there.
func (e *examination) rightsOf(n *node) []right {
	keys, ms := e.store.Keys(n.scratch), scratchLife.Milliseconds()
	list := []right{
		{rule: "+client|setname", args: []any{"CLIENT", "SETNAME", cmp.Or(n.rdb.Options().ClientName, "onetoken")}},
		{rule: "+ping", args: []any{"PING"}},
		{rule: "+time", args: []any{"TIME"}},
		{rule: "+type", args: []any{"TYPE", keys.Token}},
		{rule: "+get", args: []any{"GET", keys.Lock}},
		{rule: "+set", args: []any{"SET", keys.Lock, "doctor|scratch", "NX", "PX", ms}},
		{rule: "+hget", args: []any{"HGET", keys.Token, "version"}},
		{rule: "+hmget", args: []any{"HMGET", keys.Mark, "issued"}},
		{rule: "+persist", args: []any{"PERSIST", keys.Mark}},
		{rule: "+pttl", args: []any{"PTTL", keys.Token}},
		{rule: "+pexpire", args: []any{"PEXPIRE", keys.Failure, ms}},
		{rule: "+pexpireat", args: []any{"PEXPIREAT", keys.Token, time.Now().Add(scratchLife).UnixMilli()}},
		{rule: "+eval", args: []any{"EVAL", "return 1", 1, keys.Token}},
		{rule: "+evalsha", args: []any{"EVALSHA", strings.Repeat("0", 40), 1, keys.Token}},
		{rule: "+publish", args: []any{"PUBLISH", e.store.Channel(), scratchEvent(n.scratch)}},
		{rule: "+scan", args: []any{"SCAN", 0, "COUNT", 1}, why: "for status without names"},
		{rule: "+del", args: []any{"DEL", keys.Lock}}, // what was set above
	}
	if _, ok := e.rdb.(*redis.ClusterClient); ok {
		list = append(
			list,
			right{rule: "+cluster|slots", args: []any{"CLUSTER", "SLOTS"}},
			right{rule: "+asking", args: []any{"ASKING"}, why: "while a slot moves"},
			right{rule: "+command", args: []any{"COMMAND"}, warn: true, why: "without it Redis's ACL log fills"},
		)
	}
	return list
}

// rights tries each command that onetoken uses on scratch keys.
func (e *examination) rights(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".rights"
	before := len(r.findings)
	t := trials{report: r, check: check, node: n, user: cmp.Or(n.rdb.Options().Username, "default"), store: e.store, said: map[string]bool{}, lacks: map[string]bool{}}
	list := e.rightsOf(n)
	t.judge(right{rule: "+subscribe", why: "to hear of new tokens"}, subscribe(ctx, n.rdb, e.store.Channel()))
	for _, one := range list {
		err := n.rdb.Do(ctx, one.args...).Err()
		t.judge(one, err)
		if _, answered := errors.AsType[redis.Error](err); err != nil && !answered {
			return // it is away: the rest would say the same, a second for each
		}
	}
	if t.lacks["+del"] && t.lacks["+pexpire"] {
		return // a hash would stay
	}
	t.judge(right{rule: "+hset"}, hset(ctx, n.rdb, e.store.Keys(n.scratch).Failure))
	if len(r.findings) == before {
		r.ok(check, n.name, "user %s may run each of the %d commands that onetoken uses, on keys %s:* and channel %s",
			t.user, len(list)+2, e.store.Namespace(), e.store.Channel())
	}
}

// hset writes a hash, gives it a TTL in the same step, and removes it. Only the first is judged: the others are by
// themselves.
func hset(ctx context.Context, rdb *redis.Client, key string) error {
	var written *redis.IntCmd
	_, _ = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		written = p.HSet(ctx, key, "code", "doctor")
		p.PExpire(ctx, key, scratchLife)
		p.Del(ctx, key)
		return nil
	})
	return written.Err()
}

func subscribe(ctx context.Context, rdb *redis.Client, channel string) error {
	pubsub := rdb.Subscribe(ctx, channel)
	defer pubsub.Close()
	_, err := pubsub.ReceiveTimeout(ctx, 5*time.Second)
	return err
}

// trials makes findings of what a user's commands were answered.
type trials struct {
	report      *report
	check, user string
	node        *node
	store       *store.Store
	said        map[string]bool // errors that have nothing to do with the one command
	lacks       map[string]bool // the rules of the commands that are denied
}

func (t *trials) judge(one right, err error) {
	say := t.report.fail
	if one.warn {
		say = t.report.warn
	}
	mend := "ACL SETUSER " + t.user + " "
	switch {
	case err == nil, errors.Is(err, redis.Nil), strings.HasPrefix(err.Error(), "NOSCRIPT"):
	case denied(err) && strings.Contains(err.Error(), "channel"):
		t.once(fmt.Sprintf("user %s may not use the channel %s", t.user, t.store.Channel()), mend+"&"+t.store.Channel())
	case denied(err) && strings.Contains(err.Error(), "key") && !strings.Contains(err.Error(), "to run"):
		t.once(fmt.Sprintf("user %s may not use the keys %s:*", t.user, t.store.Namespace()), mend+"~"+t.store.Namespace()+":*")
	case denied(err):
		t.lacks[one.rule] = true
		name := strings.ToUpper(strings.ReplaceAll(one.rule[1:], "|", " "))
		message := fmt.Sprintf("user %s may not run %s", t.user, name)
		if one.why != "" {
			message += ", which is needed " + one.why
		}
		if one.warn {
			message = fmt.Sprintf("user %s may not run %s: %s", t.user, name, one.why)
		}
		say(t.check, t.node.name, message, mend+one.rule)
	default:
		t.once(printable.Redis(err), writeMend(err))
	}
}

// once reports what several commands are answered alike.
func (t *trials) once(message, mend string) {
	if !t.said[message] {
		t.said[message] = true
		t.report.fail(t.check, t.node.name, message, mend)
	}
}

// writeMend says what to do where Redis refuses what the user may do.
func writeMend(err error) string {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "OOM"):
		return "Redis has no memory left: raise maxmemory, or find out who uses it"
	case strings.HasPrefix(text, "READONLY"):
		return "this is a replica: name its master in redis.url, or the Sentinels in redis.addresses"
	case strings.HasPrefix(text, "MISCONF"):
		return "Redis can't write to its disk, and refuses writes for that: see its log"
	case strings.HasPrefix(text, "NOREPLICAS"):
		return "too few replicas are in step (min-replicas-to-write): see INFO replication"
	}
	return redisMend(err, "")
}

// scratchEvent is an event that no replica makes anything of.
func scratchEvent(env string) string {
	return `{"env":"` + env + `","kind":"doctor","version":0}`
}

// events sends an event through Redis, and waits for it.
func (e *examination) events(ctx context.Context, r *report) {
	const check, limit = GroupRedis + ".events", 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	channel, payload := e.store.Channel(), scratchEvent("doctor-"+rand.Text())
	pubsub := e.rdb.Subscribe(ctx, channel)
	defer pubsub.Close()
	if _, err := pubsub.ReceiveTimeout(ctx, limit); err != nil {
		if !denied(err) {
			r.fail(check, channel, "no subscription: "+printable.Redis(err), redisMend(err, ""))
		}
		return // a missing right was found
	}
	begun := time.Now()
	if err := e.rdb.Publish(ctx, channel, payload).Err(); err != nil {
		if !denied(err) {
			r.fail(check, channel, printable.Redis(err), redisMend(err, ""))
		}
		return
	}
	for {
		message, err := pubsub.ReceiveTimeout(ctx, limit)
		if err != nil {
			r.fail(check, channel, fmt.Sprintf("an event that was published didn't come back within %v: replicas would learn of a new token only by looking", limit), "does a proxy before Redis pass PUBLISH and SUBSCRIBE on?")
			return
		}
		if m, ok := message.(*redis.Message); ok && m.Payload == payload {
			r.ok(check, channel, "an event came back within %v", time.Since(begun).Round(10*time.Microsecond))
			return
		}
	}
}
