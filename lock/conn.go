package lock

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	redsync "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

//go:embed acquire.lua
var acquireScript string

// A pool is what one mutex of Redsync's uses Redis by. It learns who holds the lock from the command that tries to take it.
type pool struct {
	rdb    redis.UniversalClient
	taken  bool // by another:
	holder string
	ttl    time.Duration
}

// Get implements Redsync's Pool.
func (p *pool) Get(ctx context.Context) (redsync.Conn, error) {
	c, err := goredis.NewPool(p.rdb).Get(ctx)
	return &conn{Conn: c, ctx: ctx, pool: p}, err
}

// A conn is go-redis's but for what scripts do. They go by their texts, a kilobyte at most for each lease: by its hash a
// script costs a round trip more, for each replica of a fleet at once, wherever Redis has been restarted.
type conn struct {
	redsync.Conn
	ctx  context.Context //nolint:containedctx // a Conn's methods take none
	pool *pool
}

// SetNX reports whether the lock is held with value: also where a command of ours has taken it whose reply was lost.
func (c *conn) SetNX(name, value string, expiry time.Duration) (bool, error) {
	reply, err := c.pool.rdb.Eval(c.ctx, acquireScript, []string{name}, value, expiry.Milliseconds(), Longest.Milliseconds()).Slice()
	switch {
	case err != nil:
		return false, err
	case len(reply) == 1 && reply[0] == "acquired":
		return true, nil
	case len(reply) != 3:
		return false, fmt.Errorf("a reply of %d elements that isn't the script's", len(reply))
	}
	holder, _ := reply[1].(string)
	pttl, _ := reply[2].(int64)
	c.pool.taken, c.pool.ttl = true, time.Duration(max(pttl, 0))*time.Millisecond
	c.pool.holder, _, _ = strings.Cut(holder, "|")
	return false, nil
}

// Eval runs a script of Redsync's. After a lock that another holds that is the one which takes back what may have been set, and
// nothing was. (A copy of the command that is still under way may set it later, which a script sent now wouldn't take back
// either: that ends with its TTL.)
func (c *conn) Eval(script *redsync.Script, keysAndArgs ...any) (any, error) {
	if c.pool.taken {
		return int64(0), nil
	}
	keys := make([]string, script.KeyCount)
	for i := range keys {
		keys[i], _ = keysAndArgs[i].(string)
	}
	return c.pool.rdb.Eval(c.ctx, script.Src, keys, keysAndArgs[script.KeyCount:]...).Result()
}
