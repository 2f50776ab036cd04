package peers

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/manager"
)

// locked is the common way: look, take the lock, look again, fetch, store, unlock. Who waits, waits for the lock.
type locked struct {
	Replica
	*redis.Client
	lock func(ctx context.Context) (unlock func(context.Context), err error)
}

// joinRedsync has redsync's defaults: 32 tries, with a random pause of 50 to 250 ms between two of them.
func joinRedsync(ctx context.Context, r Replica) (member, error) {
	rdb, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	rs := redsync.New(goredis.NewPool(rdb))
	return &locked{r, rdb, func(ctx context.Context) (func(context.Context), error) {
		mutex := rs.NewMutex(lockKey, redsync.WithExpiry(lockTime))
		err := mutex.LockContext(ctx)
		return func(ctx context.Context) { _, _ = mutex.UnlockContext(ctx) }, err
	}}, nil
}

// joinRedislock has the retry strategy of redislock's own example.
func joinRedislock(ctx context.Context, r Replica) (member, error) {
	rdb, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	locker := redislock.New(rdb)
	return &locked{r, rdb, func(ctx context.Context) (func(context.Context), error) {
		retry := &redislock.Options{RetryStrategy: redislock.LinearBackoff(100 * time.Millisecond)}
		lock, err := locker.Obtain(ctx, lockKey, lockTime, retry)
		return func(ctx context.Context) { _ = lock.Release(ctx) }, err
	}}, nil
}

func (l *locked) Token(ctx context.Context) (string, error) {
	if tok, err := l.Get(ctx, tokenKey).Result(); !errors.Is(err, redis.Nil) {
		return tok, err
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock(ctx)
	if tok, err := l.Get(ctx, tokenKey).Result(); !errors.Is(err, redis.Nil) {
		return tok, err
	}
	tok, err := l.fetch(ctx)
	if err != nil {
		return "", err
	}
	return tok.AccessToken, l.Set(ctx, tokenKey, tok.AccessToken, time.Until(tok.Expiry)).Err()
}

// subscribed is a replica that hears of tokens.
type subscribed struct {
	Replica
	*redis.Client
	events *redis.PubSub
	heard  <-chan *redis.Message
}

const channel = "events"

func subscribe(ctx context.Context, r Replica) (*subscribed, error) {
	rdb, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	s := &subscribed{Replica: r, Client: rdb}
	s.events = s.Subscribe(ctx, channel)
	if _, err := s.events.Receive(ctx); err != nil { // the confirmation
		_ = s.Close()
		return nil, err
	}
	s.heard = s.events.Channel()
	return s, nil
}

// Close implements io.Closer.
func (s *subscribed) Close() error { return errors.Join(s.events.Close(), s.Client.Close()) }

// A poller tries the lock once. Who doesn't get it, waits until it hears that there is a token, and reads it.
type poller struct{ *subscribed }

func joinPubSub(ctx context.Context, r Replica) (member, error) {
	s, err := subscribe(ctx, r)
	return poller{s}, err
}

func (p poller) Token(ctx context.Context) (string, error) {
	for {
		if tok, err := p.Get(ctx, tokenKey).Result(); !errors.Is(err, redis.Nil) {
			return tok, err
		}
		held, err := p.SetNX(ctx, lockKey, name(p.Number), lockTime).Result()
		if err != nil {
			return "", err
		}
		if held {
			return p.refresh(ctx)
		}
		select {
		case <-p.heard:
		case <-time.After(time.Second): // an event can be lost
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// refresh fetches the token under the lock, unless it was stored between the look and the lock.
func (p poller) refresh(ctx context.Context) (string, error) {
	defer p.Del(ctx, lockKey)
	if tok, err := p.Get(ctx, tokenKey).Result(); !errors.Is(err, redis.Nil) {
		return tok, err
	}
	tok, err := p.fetch(ctx)
	if err != nil {
		return "", err
	}
	return tok.AccessToken, p.share(ctx, tok, "stored")
}

// share stores the token and publishes message.
func (s *subscribed) share(ctx context.Context, tok *oauth2.Token, message string) error {
	_, err := s.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, tokenKey, tok.AccessToken, time.Until(tok.Expiry))
		pipe.Publish(ctx, channel, message)
		return nil
	})
	return err
}

// A follower waits for the token itself, which replica 0 pushes. Nothing is elected and nobody takes the leader's place:
// this is the least that a herd can cost with a Redis.
type follower struct{ *subscribed }

func joinLeader(ctx context.Context, r Replica) (member, error) {
	s, err := subscribe(ctx, r)
	return follower{s}, err
}

func (f follower) Token(ctx context.Context) (string, error) {
	if tok, err := f.Get(ctx, tokenKey).Result(); !errors.Is(err, redis.Nil) {
		return tok, err
	}
	if f.Number == 0 {
		tok, err := f.fetch(ctx)
		if err != nil {
			return "", err
		}
		return tok.AccessToken, f.share(ctx, tok, tok.AccessToken)
	}
	select {
	case m := <-f.heard:
		return m.Payload, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

const environment = "prod"

// onetoken is ours.
type onetoken struct {
	*manager.Manager
	rdb *redis.Client
}

func joinOnetoken(ctx context.Context, r Replica) (member, error) {
	rdb, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	m, err := manager.New(manager.Config{ //nolint:contextcheck // a manager outlives who makes it
		Redis: rdb, Replica: name(r.Number),
		Environments: map[string]manager.Environment{environment: {
			TokenURL: r.TokenURL, ClientID: "client", ClientSecret: manager.NewSecret("secret"),
			Policy: manager.Policy{EndpointTimeout: lockTime},
		}},
	})
	if err != nil {
		return nil, errors.Join(err, rdb.Close())
	}
	return &onetoken{m, rdb}, nil
}

func (o *onetoken) Token(ctx context.Context) (string, error) {
	tok, err := o.Manager.Token(ctx, environment)
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(tok.AuthHeader(), "Bearer "), nil
}

// Close implements io.Closer.
func (o *onetoken) Close() error { return errors.Join(o.Manager.Close(), o.rdb.Close()) }
