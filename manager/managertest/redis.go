package managertest

import (
	"cmp"
	"context"
	"crypto/rand"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/store"
)

// startRedis starts a miniredis, unless the options bring another Redis, and connects the kit's own client.
func (k *Kit) startRedis(t testing.TB) {
	t.Helper()
	if k.options.Redis != nil {
		k.Namespace = cmp.Or(k.Namespace, "test-"+strings.ToLower(rand.Text()))
	} else {
		k.startMiniredis(t)
	}
	k.Namespace = cmp.Or(k.Namespace, store.DefaultNamespace)
	k.Redis = k.newClient(t)
	var err error
	if k.Store, err = store.New(k.Redis, store.Options{Namespace: k.Namespace}); err != nil {
		t.Fatalf("managertest: %v", err)
	}
}

func (k *Kit) startMiniredis(t testing.TB) {
	t.Helper()
	k.Miniredis = miniredis.NewMiniRedis()
	k.Miniredis.ClockTTL(true)
	k.clock = &clock{server: k.Miniredis}
	if k.options.InMemory {
		return // it starts with the first connection
	}
	if err := k.Miniredis.Start(); err != nil {
		t.Fatalf("managertest: miniredis: %v", err)
	}
}

// newClient returns a client that is closed with the kit.
func (k *Kit) newClient(t testing.TB) redis.UniversalClient {
	t.Helper()
	var c redis.UniversalClient
	if k.options.Redis != nil {
		c = k.options.Redis(t)
	} else {
		c = redis.NewClient(k.redisOptions())
		c.AddHook(k.clock)
	}
	k.clients = append(k.clients, c)
	return c
}

// redisOptions are those of a client that notices soon that its server is away, and tries nothing twice by itself.
func (k *Kit) redisOptions() *redis.Options {
	o := &redis.Options{
		Addr:                     "127.0.0.1:6379", // in memory: never dialled, but a name would be looked up
		ContextTimeoutEnabled:    true,
		DialTimeout:              time.Second,
		ReadTimeout:              time.Second,
		WriteTimeout:             time.Second,
		MaxRetries:               -1,
		DialerRetries:            1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if k.options.InMemory {
		o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			conn, err := k.Miniredis.Dial()
			if err != nil {
				return nil, err
			}
			return buffered(conn), nil
		}
	} else {
		o.Addr = k.Miniredis.Addr()
	}
	return o
}

// A clock keeps a miniredis ahead of the time. Once its time has been set, a miniredis stands still: so the clock sets it
// again before each command, as a hook of the clients.
type clock struct {
	mu     sync.Mutex // guards ahead, and the order in which times are set
	server *miniredis.Miniredis
	ahead  time.Duration
}

var _ redis.Hook = (*clock)(nil)

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	c.ahead += d
	c.mu.Unlock()
	c.tick()
}

func (c *clock) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead != 0 {
		c.server.SetTime(time.Now().UTC().Add(c.ahead))
	}
}

// DialHook implements [redis.Hook].
func (c *clock) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (c *clock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.tick()
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (c *clock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.tick()
		return next(ctx, cmds)
	}
}
