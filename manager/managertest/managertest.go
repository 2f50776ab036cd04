// Package managertest gives a test a working fleet without a network: a Redis (miniredis), a scripted token endpoint, and
// one or more managers that share them. All of it is closed when the test ends.
//
//	func TestMyWorker(t *testing.T) {
//		kit := managertest.New(t, managertest.Options{})
//		api := httptest.NewServer(kit.Endpoint.Protect(campaigns)) // takes the endpoint's tokens only
//		defer api.Close()
//
//		client := kit.Manager.Client(managertest.Environment)
//		kit.Endpoint.Push(mockendpoint.Reply{Status: 503})
//		if _, err := client.Get(api.URL); err == nil {
//			t.Error("no error while the token endpoint is down")
//		}
//	}
//
// A test that lets time pass runs in a bubble of testing/synctest with Options.InMemory. There the clocks of Redis, the
// endpoint and the managers are the bubble's: an hour takes a second or two.
package managertest

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// Environment is the name of a kit's environment where [Options] has no others.
const Environment = "test"

// Options configure a [Kit]. Zero fields mean the defaults.
type Options struct {
	// Environment is what each environment is made of. Where they are empty, its TokenURL is the endpoint's, and its
	// ClientID and ClientSecret are those that the endpoint accepts. The secret is left alone where the AuthMethod has
	// none, or a file has it.
	Environment      manager.Environment
	EnvironmentNames []string // default: [Environment] alone

	// Endpoint configures the token endpoint. Where they are empty, its ClientID and ClientSecret are the Environment's,
	// and its Grants the Environment's Grant; an AuthMethod without a secret is then the only one accepted. For the
	// refresh_token grant each environment gets a refresh token of its own, unless the Environment has one: it rotates
	// where Endpoint.Rotate says so.
	Endpoint mockendpoint.Options

	// InMemory does without sockets: for bubbles of testing/synctest. The endpoint's URL then works for the kit's own
	// managers alone, and a closed miniredis comes back with the next connection: make it fail with its SetError.
	InMemory bool

	// Redis returns a new client, to run on another Redis than a miniredis. It is called for each manager and for the
	// kit itself, which closes them. What the kit leaves in that Redis is deleted when the test ends.
	Redis     func(testing.TB) redis.UniversalClient
	Namespace string // default "onetoken"; on another Redis one of its own, so that tests may share that

	Logger *slog.Logger // of the managers; default: the test's output

	// Config may change the configuration of a manager, counted from 0, before it is made.
	Config func(replica int, c *manager.Config)
}

// A Kit is what a test needs. Its fields and methods are for one goroutine at a time, what they point to for any.
type Kit struct {
	Managers    []*manager.Manager // on one Redis each with a client of its own; named replica-01, replica-02, …
	Manager     *manager.Manager   // the first
	Endpoint    *mockendpoint.Endpoint
	EndpointURL string
	Redis       redis.UniversalClient // the kit's own
	Miniredis   *miniredis.Miniredis  // nil on another Redis
	Store       *store.Store          // on Redis: to see what is in it, and for the names of the keys
	Namespace   string

	// RefreshTokens are those that the environments begin with, by name: for the refresh_token grant.
	RefreshTokens map[string]string

	options Options
	clock   *clock // of Miniredis
	served  *server
	clients []redis.UniversalClient
}

// New starts a kit with one manager, for the life of t.
func New(t testing.TB, o Options) *Kit {
	t.Helper()
	return NewFleet(t, 1, o)
}

// NewFleet starts a kit with n managers, for the life of t.
func NewFleet(t testing.TB, n int, o Options) *Kit {
	t.Helper()
	k := &Kit{options: agree(o), Namespace: o.Namespace}
	if k.options.Logger == nil {
		k.options.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	t.Cleanup(k.close)
	k.startEndpoint()
	k.startRedis(t)
	for range n {
		k.AddManager(t)
	}
	return k
}

// agree fills the gaps of o so that the endpoint knows the environment's client, and the other way round.
func agree(o Options) Options {
	env, end := &o.Environment, &o.Endpoint
	env.ClientID = cmp.Or(env.ClientID, end.ClientID, "test-client")
	end.ClientID = cmp.Or(end.ClientID, env.ClientID)
	switch method := env.AuthMethod; method {
	case "", manager.ClientSecretBasic, manager.ClientSecretPost:
		agreeOnSecret(env, end)
	default:
		if len(end.AuthMethods) == 0 {
			end.AuthMethods = []string{authMethods[method]}
		}
	}
	if len(end.Grants) == 0 && env.Grant != "" {
		end.Grants = []string{grantTypes[env.Grant]}
	}
	end.SecretParams = slices.AppendSeq(slices.Clone(end.SecretParams), maps.Keys(env.SecretParams))
	if len(o.EnvironmentNames) == 0 {
		o.EnvironmentNames = []string{Environment}
	}
	return o
}

func agreeOnSecret(env *manager.Environment, end *mockendpoint.Options) {
	if env.ClientSecretFile != "" {
		return // its content is the test's
	}
	if env.ClientSecret.IsEmpty() {
		env.ClientSecret = manager.NewSecret(cmp.Or(end.ClientSecret, "test-secret"))
	}
	end.ClientSecret = cmp.Or(end.ClientSecret, env.ClientSecret.Reveal())
}

// authMethods are the ways to authenticate without a secret, as the endpoint names them.
var authMethods = map[manager.AuthMethod]string{
	manager.PrivateKeyJWT: mockendpoint.PrivateKeyJWT,
	manager.TLSClientAuth: mockendpoint.TLSClientAuth,
	manager.NoClientAuth:  mockendpoint.NoAuth,
}

// grantTypes are the grants as the endpoint names them.
var grantTypes = map[manager.Grant]string{
	manager.ClientCredentials: mockendpoint.ClientCredentials,
	manager.RefreshToken:      mockendpoint.RefreshToken,
	manager.JWTBearer:         mockendpoint.JWTBearer,
	manager.TokenExchange:     mockendpoint.TokenExchange,
}

// startEndpoint serves the endpoint and has the environments use it.
func (k *Kit) startEndpoint() {
	k.Endpoint = mockendpoint.New(k.options.Endpoint)
	k.served = serve(k.Endpoint, k.options.InMemory)
	k.EndpointURL = k.served.url + "/oauth2/v1/token"
	env := &k.options.Environment
	if env.Issuer == "" {
		env.TokenURL = cmp.Or(env.TokenURL, k.EndpointURL)
	}
	env.HTTPClient = cmp.Or(env.HTTPClient, k.served.client)
	k.seed()
}

// seed gives each environment what its first login would have.
func (k *Kit) seed() {
	env := k.options.Environment
	k.RefreshTokens = map[string]string{}
	switch {
	case env.Grant != manager.RefreshToken || env.RefreshTokenFile != "":
	case !env.RefreshToken.IsEmpty():
		k.Endpoint.AddRefreshToken(env.RefreshToken.Reveal())
		for _, name := range k.options.EnvironmentNames {
			k.RefreshTokens[name] = env.RefreshToken.Reveal()
		}
	default:
		for _, name := range k.options.EnvironmentNames {
			k.RefreshTokens[name] = k.Endpoint.NewFamily()
		}
	}
}

// environment is what an environment is made of.
func (k *Kit) environment(name string) manager.Environment {
	env := k.options.Environment
	if seed, ok := k.RefreshTokens[name]; ok {
		env.RefreshToken = manager.NewSecret(seed)
	}
	return env
}

// AddManager adds one manager to the fleet: a replica that starts later. It is closed with the others.
func (k *Kit) AddManager(t testing.TB) *manager.Manager {
	t.Helper()
	replica := len(k.Managers)
	c := manager.Config{
		Redis:        k.newClient(t),
		Environments: map[string]manager.Environment{},
		Namespace:    k.Namespace,
		Replica:      fmt.Sprintf("replica-%02d", replica+1),
		Logger:       k.options.Logger,
	}
	for _, name := range k.options.EnvironmentNames {
		c.Environments[name] = k.environment(name)
	}
	if k.options.Config != nil {
		k.options.Config(replica, &c)
	}
	m, err := manager.New(c)
	if err != nil {
		t.Fatalf("managertest: %v", err)
	}
	k.Managers = append(k.Managers, m)
	k.Manager = k.Managers[0]
	return m
}

// FastForward moves the kit's miniredis ahead by d: its clock and all TTLs. The managers' own clocks stay as they are, and
// with them the tokens that they hold; who reads Redis from then on finds locks, failures and tokens older by d. To
// move all clocks at once use testing/synctest. It panics on another Redis, whose clock can't be moved.
func (k *Kit) FastForward(d time.Duration) {
	if k.clock == nil {
		panic("managertest: FastForward works on a miniredis only")
	}
	k.clock.forward(d)
}

// close ends everything in the order in which it depends on each other: managers wait for the calls that they have sent,
// so the endpoint lets go of those first; what serves a manager is closed after it.
func (k *Kit) close() {
	if k.Endpoint != nil {
		k.Endpoint.Close()
	}
	var closing sync.WaitGroup
	for _, m := range k.Managers {
		closing.Go(func() { _ = m.Close() })
	}
	closing.Wait()
	k.cleanUp()
	for _, c := range k.clients {
		_ = c.Close()
	}
	if k.Miniredis != nil {
		k.Miniredis.Close()
	}
	if k.served != nil {
		k.served.close()
	}
}

// cleanUp deletes the keys that the kit has left in a Redis that isn't its own. If it can't, they are left.
func (k *Kit) cleanUp() {
	if k.Miniredis != nil || k.Store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, name := range k.options.EnvironmentNames {
		keys := k.Store.Keys(name)
		_ = k.Redis.Del(ctx, keys.Token, keys.Grant, keys.Mark, keys.Failure, keys.Lock).Err()
	}
}
