package peers

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// An asider is rueidisaside's algorithm over rueidis. Who finds no token sets a placeholder in its place and fetches.
// Others read, by client-side caching, the placeholder and the key that shows that its owner lives; Redis tells them
// when one of them changes.
type asider struct {
	Replica
	client rueidis.Client
	alive  string // the key that shows that this replica lives, and its placeholder

	mu      sync.Mutex // guards changes
	changes map[string]chan struct{}
}

const (
	placeholder = "placeholder:"
	aliveTime   = 10 * time.Second // rueidisaside renews it; a herd is over before that
	tokenLife   = time.Hour
)

// What isn't the placeholder any more is left alone.
var (
	replacePlaceholder = rueidis.NewLuaScript(
		`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3]) end return 0`)
	dropPlaceholder = rueidis.NewLuaScript(
		`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)
)

func joinAside(_ context.Context, r Replica) (member, error) {
	a := &asider{Replica: r, alive: placeholder + rand.Text(), changes: map[string]chan struct{}{}}
	var err error
	a.client, err = rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{r.Redis},
		DialCtxFn: func(ctx context.Context, addr string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return r.counter.Conn(conn), nil
		},
		OnInvalidations:   a.changed,
		PipelineMultiplex: -1, // one connection, as rueidisaside has it
		// By default a connection takes more than a megabyte: too much for hundreds of replicas in one process.
		RingScaleEachConn: 5, ReadBufferEachConn: 16 << 10, WriteBufferEachConn: 16 << 10,
	})
	return a, err
}

func (a *asider) Token(ctx context.Context) (string, error) {
	for {
		token := a.change(tokenKey)
		tok, err := a.client.DoCache(ctx, a.client.B().Get().Key(tokenKey).Cache(), tokenLife).ToString()
		if rueidis.IsRedisNil(err) {
			tok, err = a.fill(ctx)
		}
		if err != nil || !strings.HasPrefix(tok, placeholder) {
			return tok, err
		}
		owner := a.change(tok)
		err = a.client.DoCache(ctx, a.client.B().Get().Key(tok).Cache(), aliveTime).Error()
		if rueidis.IsRedisNil(err) {
			err = dropPlaceholder.Exec(ctx, a.client, []string{tokenKey}, []string{tok}).Error()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return "", err
		}
		select {
		case <-token:
		case <-owner:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// fill sets the placeholder and fetches the token, or returns the other's placeholder that is there, or the token.
func (a *asider) fill(ctx context.Context) (string, error) {
	err := a.client.Do(ctx, a.client.B().Set().Key(a.alive).Value("").Px(aliveTime).Build()).Error()
	if err != nil {
		return "", err
	}
	there, err := a.client.Do(ctx, a.client.B().Set().Key(tokenKey).Value(a.alive).Nx().Get().Px(lockTime).Build()).ToString()
	if !rueidis.IsRedisNil(err) {
		return there, err
	}
	tok, err := a.fetch(ctx)
	if err != nil {
		return "", err
	}
	left := strconv.FormatInt(time.Until(tok.Expiry).Milliseconds(), 10)
	return tok.AccessToken, replacePlaceholder.Exec(ctx, a.client, []string{tokenKey},
		[]string{a.alive, tok.AccessToken, left}).Error()
}

// change returns what is closed with the next change of key.
func (a *asider) change(key string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changes[key] == nil {
		a.changes[key] = make(chan struct{})
	}
	return a.changes[key]
}

func (a *asider) changed(keys []rueidis.RedisMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range keys {
		key, _ := k.ToString()
		if c, ok := a.changes[key]; ok {
			close(c)
			delete(a.changes, key)
		}
	}
}

// Close implements io.Closer.
func (a *asider) Close() error {
	a.client.Close()
	return nil
}
