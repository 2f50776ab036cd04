package managertest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var campaigns = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[]")) })

// The test of the package's documentation.
func TestMyWorker(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	api := httptest.NewServer(kit.Endpoint.Protect(campaigns)) // takes the endpoint's tokens only
	defer api.Close()

	client := kit.Manager.Client(managertest.Environment)
	kit.Endpoint.Push(mockendpoint.Reply{Status: 503})
	if _, err := client.Get(api.URL); err == nil {
		t.Error("no error while the token endpoint is down")
	}
}

// token asks a manager for a token, within ten seconds.
func token(t *testing.T, m *manager.Manager, env string) *manager.Token {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tok, err := m.Token(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestFleetSharesOneToken(t *testing.T) {
	kit := managertest.NewFleet(t, 50, managertest.Options{
		Endpoint: mockendpoint.Options{Default: mockendpoint.Reply{Delay: 100 * time.Millisecond}},
	})
	versions := make([]manager.Version, len(kit.Managers))
	var asking sync.WaitGroup
	for i, m := range kit.Managers {
		asking.Go(func() {
			if tok, err := m.Token(t.Context(), managertest.Environment); err != nil {
				t.Errorf("replica %d: %v", i, err)
			} else {
				versions[i] = tok.Version
			}
		})
	}
	asking.Wait()
	for i, v := range versions {
		if v == 0 || v != versions[0] {
			t.Errorf("replica %d has version %d, the first one %d", i, v, versions[0])
		}
	}
	if got := kit.Endpoint.Calls(); got != 1 {
		t.Errorf("got %d calls, want 1", got)
	}
	tok := token(t, kit.AddManager(t), managertest.Environment)
	if tok.Version != versions[0] || !strings.HasPrefix(tok.RefreshedBy, "replica-") || len(kit.Managers) != 51 {
		t.Errorf("one more manager: got %v by %s, want version %d by a replica of the fleet", tok, tok.RefreshedBy, versions[0])
	}
}

func TestEndpointAndEnvironmentAgreeOnTheClient(t *testing.T) {
	id, secret := "id", manager.NewSecret("s3")
	for name, o := range map[string]managertest.Options{
		"by default":         {},
		"by the environment": {Environment: manager.Environment{ClientID: id, ClientSecret: secret}},
		"by the endpoint":    {Endpoint: mockendpoint.Options{ClientID: id, ClientSecret: "s3"}},
	} {
		t.Run(name, func(t *testing.T) {
			kit := managertest.New(t, o)
			token(t, kit.Manager, managertest.Environment)
			kit.Endpoint.SetSecret("another")
			_, err := kit.Manager.Refresh(t.Context(), managertest.Environment)
			if e := (*manager.EndpointError)(nil); !errors.As(err, &e) || e.Code != "invalid_client" {
				t.Errorf("after the endpoint's secret has changed: got %v, want invalid_client", err)
			}
		})
	}
}

func TestEnvironmentIsMerged(t *testing.T) {
	kit := managertest.New(t, managertest.Options{
		EnvironmentNames: []string{"prod", "staging"},
		Environment: manager.Environment{
			BaseURL:      "https://api.test/api/v2", // where tokens may go; they come from the kit's endpoint
			AuthMethod:   manager.ClientSecretPost,
			SecretParams: map[string]manager.Secret{"pin": manager.NewSecret("4711")},
		},
	})
	if token(t, kit.Manager, "prod").AccessToken.Equal(token(t, kit.Manager, "staging").AccessToken) {
		t.Error("two environments have the same token")
	}
	for _, r := range kit.Endpoint.Requests() {
		if r.AuthMethod != "post" || r.Form.Get("pin") != "[redacted]" || r.Path != "/oauth2/v1/token" {
			t.Errorf("got %v, want a redacted pin and the secret in the form", r)
		}
	}
}

// unplugged is an HTTP transport without a network.
type unplugged struct{}

func (unplugged) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("unplugged")
}

func TestConfigMayChangeEachManager(t *testing.T) {
	const env = managertest.Environment
	kit := managertest.NewFleet(t, 2, managertest.Options{Config: func(i int, c *manager.Config) {
		c.Replica = fmt.Sprintf("worker-%d", i)
		if i == 1 {
			e := c.Environments[env]
			e.HTTPClient = &http.Client{Transport: unplugged{}}
			c.Environments[env] = e
		}
	}})
	_, err := kit.Managers[1].Token(t.Context(), env)
	if e := (*manager.EndpointError)(nil); !errors.As(err, &e) || e.Code != "unreachable" {
		t.Errorf("the second manager: got %v, want that the endpoint can't be reached", err)
	}
	if tok := token(t, kit.Managers[0], env); tok.RefreshedBy != "worker-0" {
		t.Errorf("the first manager: got a token by %s, want worker-0", tok.RefreshedBy)
	}
}

func TestRedisFollowsTheClock(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	ctx := t.Context()
	if at := kit.Redis.Time(ctx).Val(); time.Since(at).Abs() > 5*time.Second {
		t.Errorf("Redis has the time %v", at)
	}
	kit.Redis.Set(ctx, "k", "v", 20*time.Millisecond)
	for kit.Redis.Exists(ctx, "k").Val() == 1 { // ends with the TTL, or with the test's patience
		<-time.After(time.Millisecond)
	}
}

func TestFastForward(t *testing.T) {
	const env = managertest.Environment
	kit := managertest.New(t, managertest.Options{Endpoint: mockendpoint.Options{Life: time.Hour}})
	first := token(t, kit.Manager, env)
	before := kit.Redis.Time(t.Context()).Val()

	kit.FastForward(20 * time.Minute)
	kit.FastForward(20 * time.Minute)
	after := kit.Redis.Time(t.Context()).Val()
	if moved := after.Sub(before); moved < 40*time.Minute || moved > 41*time.Minute {
		t.Errorf("Redis's time has moved by %v, want 40m", moved)
	}
	if ttl := kit.Redis.PTTL(t.Context(), kit.Store.Keys(env).Token).Val(); ttl < 19*time.Minute || ttl > 20*time.Minute {
		t.Errorf("the token lives for another %v, want 20m", ttl)
	}
	for !kit.Redis.Time(t.Context()).Val().After(after) { // the clock goes on
		<-time.After(time.Millisecond)
	}

	kit.FastForward(20 * time.Minute)
	if kit.Miniredis.Exists(kit.Store.Keys(env).Token) {
		t.Error("the token is in Redis after its life")
	}
	if late := token(t, kit.AddManager(t), env); late.Version <= first.Version || kit.Endpoint.Calls() != 2 {
		t.Errorf("a manager that starts now has %v after %d calls, want a new token", late, kit.Endpoint.Calls())
	}
}

func TestMiniredisMayBeRestarted(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	kit.Miniredis.Close()
	_, err := kit.Manager.Token(t.Context(), managertest.Environment)
	if e := (*manager.RedisError)(nil); !errors.As(err, &e) {
		t.Errorf("without Redis: got %v, want a RedisError", err)
	}
	if err := kit.Miniredis.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := kit.Manager.Refresh(t.Context(), managertest.Environment); err != nil {
		t.Errorf("with Redis back: %v", err)
	}
}

func TestAnotherRedis(t *testing.T) {
	rdb := redistest.Shared(t)
	t.Run("kit", func(t *testing.T) {
		kit := managertest.NewFleet(t, 3, managertest.Options{Redis: func(testing.TB) redis.UniversalClient {
			return redis.NewClient(redistest.Options(rdb.Options().Addr))
		}})
		for _, m := range kit.Managers {
			token(t, m, managertest.Environment)
		}
		if kit.Endpoint.Calls() != 1 || kit.Miniredis != nil || kit.Namespace == "onetoken" {
			t.Errorf("got %d calls, miniredis %v, namespace %s", kit.Endpoint.Calls(), kit.Miniredis, kit.Namespace)
		}
		if keys := rdb.Keys(t.Context(), kit.Namespace+":*").Val(); len(keys) == 0 {
			t.Error("nothing is in that Redis")
		}
		defer func() {
			if recover() == nil {
				t.Error("FastForward didn't panic")
			}
		}()
		kit.FastForward(time.Second)
	})
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("the kit has left %q", keys)
	}
}

// A call that hangs is let go, rather than waited for until its timeout.
func TestEndsPromptlyWithACallUnderWay(t *testing.T) {
	var ended time.Time
	t.Run("kit", func(t *testing.T) {
		kit := managertest.NewFleet(t, 2, managertest.Options{})
		kit.Endpoint.Push(mockendpoint.Reply{Hang: true})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if err := kit.Endpoint.Await(t.Context(), 1); err == nil {
				cancel()
			}
		}()
		if _, err := kit.Manager.Token(ctx, managertest.Environment); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the caller's own end", err)
		}
		ended = time.Now()
	})
	if took := time.Since(ended); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	t.Run("kit", func(t *testing.T) {
		kit := managertest.New(t, managertest.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		token(t, kit.Manager, managertest.Environment)
	})
	if got := out.String(); !strings.Contains(got, "replica=replica-01") || strings.Contains(got, "test-secret") {
		t.Errorf("got log %q, want lines of replica-01, and no secret", got)
	}
}

// A fatal is a test that remembers why it ended. It must run on a goroutine of its own.
type fatal struct {
	testing.TB
	message string
}

func (f *fatal) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestABadConfigurationEndsTheTest(t *testing.T) {
	for name, o := range map[string]managertest.Options{
		"lease":     {Environment: manager.Environment{Policy: manager.Policy{Lease: time.Millisecond}}},
		"namespace": {Namespace: "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fatal{TB: t}
			var running sync.WaitGroup
			running.Go(func() { managertest.New(f, o) })
			running.Wait()
			if !strings.HasPrefix(f.message, "managertest: ") || !strings.Contains(f.message, name) {
				t.Errorf("got %q, want it to name the %s", f.message, name)
			}
		})
	}
}

func TestEnvironmentsBeginWithARefreshTokenEach(t *testing.T) {
	for name, o := range map[string]managertest.Options{
		"of the kit":         {EnvironmentNames: []string{"prod", "staging"}},
		"of the environment": {Environment: manager.Environment{RefreshToken: manager.NewSecret("seed")}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Environment.Grant = manager.RefreshToken
			o.Endpoint.Rotate = true
			var configured []string
			o.Config = func(_ int, c *manager.Config) {
				for name, env := range c.Environments {
					configured = append(configured, name+" "+env.RefreshToken.Reveal())
				}
			}
			kit := managertest.New(t, o)
			if len(kit.RefreshTokens) == 0 || len(kit.RefreshTokens) != len(configured) || len(kit.Endpoint.Families()) != len(configured) {
				t.Errorf("got %d refresh tokens of %d families, configured as %d", len(kit.RefreshTokens), len(kit.Endpoint.Families()), len(configured))
			}
			for name, token := range kit.RefreshTokens {
				if !kit.Endpoint.AcceptsRefreshToken(token) || !slices.Contains(configured, name+" "+token) {
					t.Errorf("%s's isn't accepted, or not configured", name)
				}
			}
		})
	}
}
