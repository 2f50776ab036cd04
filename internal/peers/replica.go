package peers

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/internal/herd"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A Strategy is a way to one token for all replicas.
type Strategy struct {
	Name string
	join func(ctx context.Context, r Replica) (member, error)
}

// Strategies are those that are compared, ours last.
var Strategies = []Strategy{
	{"redsync: lock, check, unlock", joinRedsync},
	{"redislock, retry each 100 ms", joinRedislock},
	{"rueidis cache-aside", joinAside},
	{"try once, pub/sub", joinPubSub},
	{"a fixed leader pushes", joinLeader},
	{Ours, joinOnetoken},
}

// Ours is the name of what the others are compared with.
const Ours = "onetoken"

// A member is a replica that takes part. Its Close ends its connections.
type member interface {
	Token(ctx context.Context) (string, error)
	io.Closer
}

// A Replica is what a strategy has to work with: a Redis and a token endpoint, by connections of its own.
type Replica struct {
	Number   int // from 0
	Redis    string
	TokenURL string
	counter  *herd.Counter // of what it sends to Redis
}

const (
	tokenKey = "token"
	lockKey  = "lock"
	lockTime = 30 * time.Second // longer than any call of the endpoint: none of these locks is renewed
)

// client returns a go-redis client that is connected and sends nothing twice. Its pool's size is go-redis's default.
func (r Replica) client(ctx context.Context) (*redis.Client, error) {
	rdb := redis.NewClient(&redis.Options{
		Addr:                     r.Redis,
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	r.counter.Watch(rdb)
	if err := rdb.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(err, rdb.Close())
	}
	return rdb, nil
}

// fetch asks the token endpoint.
func (r Replica) fetch(ctx context.Context) (*oauth2.Token, error) {
	return r.credentials().Token(ctx)
}

func (r Replica) credentials() *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID: "client", ClientSecret: "secret", TokenURL: r.TokenURL, AuthStyle: oauth2.AuthStyleInHeader,
	}
}

// An Endpoint is a token endpoint on loopback whose every answer takes a while.
type Endpoint struct {
	*mockendpoint.Endpoint
	URL    string
	server *httptest.Server
}

// StartEndpoint starts a token endpoint that answers after latency with a token that lives for life.
func StartEndpoint(latency, life time.Duration) *Endpoint {
	e := mockendpoint.New(mockendpoint.Options{Life: life, Default: mockendpoint.Reply{Delay: latency}})
	server := httptest.NewServer(e)
	return &Endpoint{Endpoint: e, URL: server.URL + "/oauth2/v1/token", server: server}
}

// Close ends the endpoint.
func (e *Endpoint) Close() {
	e.Endpoint.Close()
	http.DefaultClient.CloseIdleConnections() // of clientcredentials
	e.server.Close()
}

func name(replica int) string { return "replica-" + strconv.Itoa(replica) }
