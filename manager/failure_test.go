package manager_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func endpointError(t *testing.T, err error) *manager.EndpointError {
	t.Helper()
	var failed *manager.EndpointError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v, want an EndpointError", err)
	}
	return failed
}

func TestARetryAfterBindsTheFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Start(t).Client(t), 10)
	f.endpoint.Push(mockendpoint.Reply{Status: 429, RetryAfter: 8 * time.Second})
	start := time.Now()
	for i, o := range f.all(token) {
		failed := endpointError(t, o.err)
		if failed.Code != "http_429" || o.took > 20*time.Second {
			t.Errorf("manager %d: %v after %v", i, o.err, o.took)
		}
		if left := failed.RetryAfter; left <= 0 || left > 8100*time.Millisecond || failed.RetryAt.IsZero() {
			t.Errorf("manager %d: the next try is in %v, at %v", i, left, failed.RetryAt)
		}
	}
	for time.Since(start) < 3500*time.Millisecond { // impatient callers
		for _, o := range f.all(token) {
			endpointError(t, o.err)
		}
		pause(t, 50*time.Millisecond)
	}
	f.calls(1)
	eventually(t, 30*time.Second, "a token for all", func() bool {
		return !slices.ContainsFunc(f.all(token), func(o outcome) bool { return o.err != nil })
	})
	f.calls(2)
	if r := f.endpoint.Requests(); r[1].At.Sub(r[0].At) < 8*time.Second {
		t.Errorf("asked again after %v", r[1].At.Sub(r[0].At))
	}
}

func TestAFailingEndpointIsAskedOncePerBackoff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Start(t).Client(t), 10)
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	end := time.Now().Add(5 * time.Second)
	f.all(func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
		for time.Now().Before(end) {
			if _, err := m.Token(ctx, env); err == nil {
				t.Error("a token from a failing endpoint")
			}
			pause(t, 10*time.Millisecond)
		}
		return nil, nil
	})
	if n := f.endpoint.Calls(); n < 2 || n > 4 {
		t.Errorf("%d calls in 5 s of 503, want 2 to 4", n)
	}
}

func TestARefusedClient(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 3)
	f.endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "no such client"})
	for i, o := range f.all(token) {
		failed := endpointError(t, o.err)
		if failed.Code != "invalid_client" || !strings.Contains(o.err.Error(), "no such client") || failed.Status != 401 {
			t.Errorf("manager %d: %v", i, o.err)
		}
	}
	f.calls(1)
	if _, err := f.managers[1].Refresh(t.Context(), env); endpointError(t, err).Attempt != 2 {
		t.Errorf("a refresh got %v, want the second failure of a row", err)
	}
	f.calls(2)
	f.endpoint.SetDefault(mockendpoint.Reply{})
	if _, err := f.managers[2].Refresh(t.Context(), env); err != nil {
		t.Errorf("a refresh of a mended client: %v", err)
	}
	f.converge(3 * time.Second)
	f.calls(3)
}

func TestARefreshTakesANewerFailureForItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.NewFleet(t, 6, managertest.Options{InMemory: true})
		all := func(call func(*manager.Manager) error) {
			var wg sync.WaitGroup
			for _, m := range kit.Managers {
				wg.Go(func() {
					if err := call(m); err != nil {
						t.Errorf("%s: %v", m.Replica(), err)
					}
				})
			}
			wg.Wait()
		}
		has := func(m *manager.Manager) error {
			_, err := m.Token(t.Context(), managertest.Environment)
			return err
		}
		all(has)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond, Status: 500})
		all(func(m *manager.Manager) error {
			_, err := m.Refresh(t.Context(), managertest.Environment)
			if failed, ok := errors.AsType[*manager.EndpointError](err); ok && failed.Code == "http_500" {
				return nil
			}
			return fmt.Errorf("a refresh brought %w, want http_500", err)
		})
		if calls := kit.Endpoint.Calls(); calls != 2 {
			t.Errorf("%d calls, want 2", calls)
		}
		all(has) // what is valid is served throughout
	})
}

func TestAReplicaThatCannotReachTheEndpointStopsNobodyElse(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 4, func(i int, _ *manager.Config, e *manager.Environment) {
		if i == 0 {
			e.HTTPClient = unreachable()
		}
	})
	_, err := f.managers[0].Token(t.Context(), env)
	if failed := endpointError(t, err); failed.Code != "unreachable" {
		t.Errorf("the first replica: %v", err)
	}
	f.oneToken(f.all(token)[1:])
	f.calls(1)
	eventually(t, 3*time.Second, "the first replica has it, too", func() bool {
		_, err := f.managers[0].Token(t.Context(), env)
		return err == nil
	})
}

func TestAnUnreachableEndpointHoldsOneReplicaBack(t *testing.T) {
	t.Parallel()
	var dials atomic.Int64
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, _ *manager.Config, e *manager.Environment) {
		e.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}}}
	})
	end := time.Now().Add(2500 * time.Millisecond) // tries at 0 and 1 s; the next is at 3 s
	for time.Now().Before(end) {
		_, err := f.managers[0].Token(t.Context(), env)
		endpointError(t, err)
		pause(t, 5*time.Millisecond)
	}
	if n := dials.Load(); n != 2 {
		t.Errorf("%d dials in 2.5 s, want 2", n)
	}
}

func TestThreeReplicasThatCannotReachTheEndpointBindAll(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 4, func(i int, _ *manager.Config, e *manager.Environment) {
		if i < 3 {
			e.HTTPClient = unreachable()
		}
		e.Backoff = manager.Backoff{Min: 10 * time.Second, Max: time.Minute}
	})
	for i, m := range f.managers {
		_, err := m.Token(t.Context(), env)
		if failed := endpointError(t, err); failed.Code != "unreachable" {
			t.Errorf("replica %d: %v", i, err)
		}
	}
	f.calls(0)
	by := f.rdb.HGet(t.Context(), key("failure"), "reported_by").Val()
	if by != "replica-00,replica-01,replica-02" {
		t.Errorf("reported_by is %q", by)
	}
}

func unreachable() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}}}
}

func TestAValidTokenIsServedThroughAFailure(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 2)
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 6})
	first := f.all(token)
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 500})
	f.servedWhileUsable(first, time.Second) // usable until 5 s, refreshed from 4.5 to 4.7 s on
	if n := f.endpoint.Calls(); n != 2 {
		t.Errorf("%d calls, want the first one and one behind the callers", n)
	}
}

func TestARolloutWithAWrongSecret(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 6, func(i int, _ *manager.Config, e *manager.Environment) {
		if i >= 3 {
			e.ClientSecret = manager.NewSecret("a wrong one")
		}
	})
	for _, m := range f.managers[3:] { // the wrong ones come first
		_, err := m.Token(t.Context(), env)
		if endpointError(t, err).Code != "invalid_client" {
			t.Error(err)
		}
	}
	f.calls(1)
	right := f.mustToken(f.managers[0]) // those with the right one aren't held back
	f.calls(2)
	for _, m := range f.managers { // and what they fetch is good for all: the secret doesn't decide which token it is
		eventually(t, 3*time.Second, "every replica has the token", func() bool {
			tok, err := m.Token(t.Context(), env)
			return err == nil && tok.Version == right.Version
		})
	}
	f.calls(2)
}

func TestAMendedSecretIsTriedAtOnce(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 2, func(_ int, _ *manager.Config, e *manager.Environment) {
		e.ClientSecret = manager.NewSecret("a wrong one")
	})
	for _, o := range f.all(token) {
		endpointError(t, o.err)
	}
	mended := f.add()
	f.mustToken(mended)
	f.calls(2)
}

func TestOddRepliesAreOneErrorAndOneCall(t *testing.T) {
	html, empty, noToken, array, null, errorIn200, lineBreak := "<html>", "", `{"token_type":"Bearer"}`, `["a"]`, "null",
		`{"error":"invalid_scope"}`, `{"access_token":"a\r\nX-Evil: 1","token_type":"Bearer"}`
	for name, c := range map[string]struct {
		reply mockendpoint.Reply
		code  string
	}{
		"html":               {mockendpoint.Reply{Body: &html}, "bad_reply"},
		"empty":              {mockendpoint.Reply{Body: &empty}, "bad_reply"},
		"no token":           {mockendpoint.Reply{Body: &noToken}, "bad_reply"},
		"null":               {mockendpoint.Reply{Body: &null}, "bad_reply"},
		"array":              {mockendpoint.Reply{Body: &array}, "bad_reply"},
		"error with 200":     {mockendpoint.Reply{Status: 200, Body: &errorIn200}, "invalid_scope"},
		"line break":         {mockendpoint.Reply{Body: &lineBreak}, "bad_reply"},
		"204":                {mockendpoint.Reply{Status: 204}, "bad_reply"},
		"redirect":           {mockendpoint.Reply{Redirect: "https://elsewhere.invalid/"}, "http_302"},
		"cut":                {mockendpoint.Reply{Drop: true}, "bad_reply"},
		"over on arrival":    {mockendpoint.Reply{ExpiresIn: 0.5}, "bad_reply"},
		"404 without a code": {mockendpoint.Reply{Status: 404}, "http_404"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, redistest.Mini(t), 3)
			f.endpoint.SetDefault(c.reply)
			for _, o := range f.all(token) {
				if failed := endpointError(t, o.err); failed.Code != c.code {
					t.Errorf("code %q, want %q: %v", failed.Code, c.code, o.err)
				}
			}
			f.calls(1)
			if n := f.rdb.Exists(t.Context(), key("token")).Val(); n != 0 {
				t.Error("a token was stored")
			}
		})
	}
}

func TestOddLivesGiveASaneTTL(t *testing.T) {
	for name, c := range map[string]struct {
		reply mockendpoint.Reply
		want  time.Duration
	}{
		"string":        {mockendpoint.Reply{ExpiresIn: "120"}, 2 * time.Minute},
		"float":         {mockendpoint.Reply{ExpiresIn: 90.5}, 90500 * time.Millisecond},
		"missing":       {mockendpoint.Reply{NoExpiresIn: true}, 5 * time.Minute},
		"zero":          {mockendpoint.Reply{ExpiresIn: 0}, 5 * time.Minute},
		"four":          {mockendpoint.Reply{ExpiresIn: 4}, 4 * time.Second},
		"huge":          {mockendpoint.Reply{ExpiresIn: 99999999999}, 30 * 24 * time.Hour},
		"no token_type": {mockendpoint.Reply{NoTokenType: true}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, redistest.Mini(t), 2)
			f.endpoint.SetDefault(c.reply)
			tok := f.oneToken(f.all(token))
			if got := tok.Life(); got != c.want {
				t.Errorf("life %v, want %v", got, c.want)
			}
			if ttl := f.rdb.PTTL(t.Context(), key("token")).Val(); ttl > c.want || ttl < c.want-time.Second {
				t.Errorf("PTTL %v, want about %v", ttl, c.want)
			}
			f.calls(1)
		})
	}
}

// planted are values that no hand of ours would write, for a key that holds a hash.
func planted(ctx context.Context, rdb *redis.Client, key string) map[string]func() error {
	now := time.Now()
	hash := func(version string) func() error {
		return func() error {
			return errors.Join(rdb.HSet(ctx, key,
				"access_token", "planted", "token_type", "Bearer", "issued_at", now.UTC().Format(time.RFC3339),
				"expires_at", now.Add(time.Hour).UTC().Format(time.RFC3339), "version", version, "config", "0123",
				"issued", version, "stored", version, "dropped", version,
				"code", "http_503", "failed_at", now.UTC().Format(time.RFC3339),
				"retry_at", now.Add(1000*time.Hour).UTC().Format(time.RFC3339),
				"refresh_token", "planted", "seed", "x").Err(),
				rdb.PExpire(ctx, key, time.Hour).Err())
		}
	}
	return map[string]func() error{
		"string":         func() error { return rdb.Set(ctx, key, "planted", 0).Err() },
		"list":           func() error { return rdb.RPush(ctx, key, "a", "b").Err() },
		"missing fields": func() error { return rdb.HSet(ctx, key, "version", "17").Err() },
		"no fields":      func() error { return rdb.HSet(ctx, key, "x", "y").Err() },
		"negative":       hash("-5"),
		"2^53-1":         hash("9007199254740991"),
		"10^23":          hash("100000000000000000000000"),
		"inf":            hash("inf"),
		"binary":         hash("\x00\xff\xfe{}\r\n"),
		"tomorrow":       hash(manager.Version(now.Add(23 * time.Hour).UnixMicro()).String()),
	}
}

func TestPlantedValuesAreReplacedByOneFreshToken(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, kind := range []string{"token", "mark", "failure", "lock"} {
			for name, plant := range planted(t.Context(), rdb, key(kind)) {
				t.Run(kind+"/"+name, func(t *testing.T) {
					if err := errors.Join(rdb.FlushAll(t.Context()).Err(), plant()); err != nil {
						t.Fatal(err)
					}
					if kind == "lock" { // as if the lease were about to end; without a TTL it gets one: a test of its own
						if err := rdb.PExpire(t.Context(), key(kind), 300*time.Millisecond).Err(); err != nil {
							t.Fatal(err)
						}
					}
					f := newFleet(t, rdb, 3)
					if _, err := f.managers[0].Status(t.Context(), env); err != nil {
						t.Errorf("status: %v", err)
					}
					tok := f.oneToken(f.all(token))
					if tok.AccessToken.Reveal() == "planted" {
						t.Error("the planted token was handed out")
					}
					f.calls(1)
					if s, err := f.managers[0].Status(t.Context(), env); err != nil || !s.Usable {
						t.Errorf("afterwards: %+v, %v", s, err)
					}
				})
			}
		}
	})
}

func TestALockThatNoLeaseOfOursCanBeHealsItself(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, ttl := range map[string]time.Duration{"without a TTL": 0, "for an hour": time.Hour} {
			t.Run(name, func(t *testing.T) {
				if err := errors.Join(rdb.FlushAll(t.Context()).Err(), rdb.Set(t.Context(), key("lock"), "gone|1", ttl).Err()); err != nil {
					t.Fatal(err)
				}
				f := newFleet(t, rdb, 3, policy(manager.Policy{Lease: time.Second}))
				f.oneToken(f.all(token))
				f.calls(1)
			})
		}
	})
}
