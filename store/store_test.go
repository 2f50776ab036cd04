package store_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

func TestKeysShareOneSlotOfACluster(t *testing.T) {
	s, err := store.New(redistest.NewClient(t, redistest.Options("127.0.0.1:1")), store.Options{Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	got := s.Keys("prod")
	want := store.Keys{
		Token: "ns:{prod}:token", Grant: "ns:{prod}:grant", Mark: "ns:{prod}:mark", Failure: "ns:{prod}:failure",
		Lock: "ns:{prod}:lock",
	}
	if got != want {
		t.Errorf("keys %+v; want %+v", got, want)
	}
	if s.Channel() != "ns:events" || s.Namespace() != "ns" {
		t.Errorf("channel %q of namespace %q", s.Channel(), s.Namespace())
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := store.New(nil, store.Options{}); err == nil {
		t.Error("no client, no error")
	}
	rdb := redistest.NewClient(t, redistest.Options("127.0.0.1:1"))
	if _, err := store.New(rdb, store.Options{Namespace: "a:b"}); !errors.Is(err, store.ErrName) {
		t.Errorf("%v; want ErrName", err)
	}
	if s, err := store.New(rdb, store.Options{}); err != nil || s.Namespace() != store.DefaultNamespace {
		t.Errorf("the default namespace: %v, %v", s, err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, good := range []string{"a", "prod", "A-Z_a.z-0", strings.Repeat("x", 128)} {
		if err := store.CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	f := newFixture(t, redistest.Mini(t))
	for _, bad := range []string{"", "a b", "a}", "{a", "a:b", "a\n", "ä", `a"`, "a*", strings.Repeat("x", 129)} {
		if err := store.CheckName(bad); !errors.Is(err, store.ErrName) {
			t.Errorf("%q: %v; want ErrName", bad, err)
		}
		_, e1 := f.s.Read(f.ctx(), bad)
		_, e2 := f.s.Issue(f.ctx(), bad, lockValue, &store.Record{})
		_, e3 := f.s.Put(f.ctx(), bad, store.Issue{}, time.Hour, newToken("tok"))
		_, _, e4 := f.s.Fail(f.ctx(), bad, store.Failure{}, time.Second, time.Second)
		_, e5 := f.s.Invalidate(f.ctx(), bad, 0)
		for i, err := range []error{e1, e2, e3, e4, e5} {
			if !errors.Is(err, store.ErrName) {
				t.Errorf("%q, call %d: %v; want ErrName", bad, i, err)
			}
		}
	}
	if n := f.rdb.DBSize(f.ctx()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
}

// A commandCounter is a hook that counts what goes to Redis.
type commandCounter struct{ n atomic.Int64 }

func (c *commandCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *commandCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.n.Add(1)
		return next(ctx, cmd)
	}
}

func (c *commandCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.n.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

func TestReadBringsAllInOneStep(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		if r := f.read(); r.Token != nil || r.TokenErr != nil || r.TTL != 0 || r.Failure != nil || r.Lock != nil || r.Mark != (store.Mark{}) {
			t.Errorf("an empty Redis reads as %+v", r)
		}
		at := f.stored("tok")
		failed := newFailure(f.issue())
		f.fail(failed)
		var count commandCounter
		rdb.AddHook(&count)
		r := f.read()
		if n := count.n.Load(); n != 1 {
			t.Errorf("a read is %d commands; want 1", n)
		}
		if r.Token == nil || r.Token.Version != at.Version || !about(r.TTL, time.Hour, 10*time.Second) {
			t.Errorf("token %v with TTL %v", r.Token, r.TTL)
		}
		if r.Failure == nil || r.Failure.Version != failed.Version {
			t.Errorf("failure %+v", r.Failure)
		}
		if want := (store.Mark{Issued: failed.Version, Stored: at.Version}); r.Mark != want {
			t.Errorf("mark %+v; want %+v", r.Mark, want)
		}
		if r.Lock == nil || r.Lock.Holder != "replica-1" || !about(r.Lock.TTL, time.Minute, 10*time.Second) {
			t.Errorf("lock %+v", r.Lock)
		}
		if !about(time.Until(r.Now), 0, 10*time.Second) {
			t.Errorf("Redis's clock reads %v", r.Now)
		}
	})
}

// Record and TTL are of one moment: under a hot writer they never part.
func TestRecordAndTTLBelongTogether(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		f.stored("first")
		writing := make(chan struct{})
		go func() {
			defer close(writing)
			for i := range 200 {
				at := f.issue()
				life := time.Duration(1+i%2*99) * time.Minute
				if _, err := f.s.Put(f.ctx(), env, at, life, newToken("tok")); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		}()
		for n := 0; ; n++ {
			select {
			case <-writing:
				return
			default:
			}
			r := f.read()
			if left := r.Token.ExpiresAt.Sub(r.Now); !about(r.TTL, left, 5*time.Second) {
				t.Fatalf("read %d: a TTL of %v on a token with %v left", n, r.TTL, left)
			}
		}
	})
}

func TestEnvironmentsFindsAllByScan(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		var want []string
		for i := range 1200 { // more than one SCAN brings
			name := fmt.Sprintf("env-%04d", i)
			want = append(want, name)
			kind := []string{"token", "grant", "mark", "failure", "lock"}[i%5]
			rdb.Set(f.ctx(), "onetoken:{"+name+"}:"+kind, "x", 0)
		}
		for _, foreign := range []string{
			"onetoken:{a b}:token", "onetoken:{a}:else", "onetoken:{}:token", "onetoken:events", "onetoken:a:token",
			"onetoken2:{b}:token", "x:onetoken:{c}:token", "onetoken:{d}:token:x", "onetoken:{e}}:token",
		} {
			rdb.Set(f.ctx(), foreign, "x", 0)
		}
		rdb.Set(f.ctx(), f.s.Keys("env-0000").Mark, "x", 0) // a second key of the same
		got, err := f.s.Environments(f.ctx())
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d environments, %v; want %d: %.200q", len(got), err, len(want), got)
		}
	})
}

// sealer is a codec whose ciphertext shows what it was bound to.
type sealer struct{}

func (sealer) Encrypt(plaintext, data []byte) ([]byte, error) {
	return []byte("sealed|" + hex.EncodeToString(data) + "|" + hex.EncodeToString(plaintext)), nil
}

func (sealer) Decrypt(ciphertext, data []byte) ([]byte, error) {
	plaintext, ok := strings.CutPrefix(string(ciphertext), "sealed|"+hex.EncodeToString(data)+"|")
	if !ok {
		return nil, fmt.Errorf("%s doesn't open", ciphertext)
	}
	return hex.DecodeString(plaintext)
}

func TestEverySecretPassesTheCodec(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := newFixture(t, rdb)
		sealed, err := store.New(rdb, store.Options{Codec: sealer{}, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		plain := f.s
		f.s = sealed
		at := f.stored("tok")
		f.wantToken(at.Version, "tok")
		raw := rdb.HGet(f.ctx(), f.keys.Token, "access_token").Val()
		bound := hex.EncodeToString([]byte("onetoken\x00prod\x00access_token\x00" + at.Version.String()))
		if want := "sealed|" + bound + "|" + hex.EncodeToString([]byte("tok")); raw != want {
			t.Errorf("Redis has %q; want %q", raw, want)
		}
		// A sealed value doesn't open elsewhere: not under another version, not in clear.
		rdb.HSet(f.ctx(), f.keys.Token, "version", (at.Version - 1).String())
		f.wantSealed("another version", at.Version-1, nil, raw)
		rdb.HSet(f.ctx(), f.keys.Token, "version", at.Version.String(), "access_token", "in-clear")
		f.wantSealed("not sealed", at.Version, nil, "in-clear")
		f.s = plain
		rdb.HSet(f.ctx(), f.keys.Token, "access_token", "caf\u00e9")
		f.wantUnreadable("sealed by another codec", "caf")
	})
}

func TestPublishWithoutChannelRightsKeepsTheWrite(t *testing.T) {
	server := redistest.Start(t, "user worker on >secret resetchannels ~onetoken:* +@all")
	o := redistest.Options(server.Addr())
	o.Username, o.Password = "worker", "secret"
	f := newFixture(t, redistest.NewClient(t, o))
	at := f.stored("tok")
	f.wantToken(at.Version, "tok")
	f.fail(newFailure(f.issue()))
	if r := f.read(); r.Failure == nil {
		t.Error("the failure wasn't recorded")
	}
	if dropped, err := f.s.Invalidate(f.ctx(), env, at.Version); err != nil || dropped != at.Version {
		t.Errorf("dropped %v, %v; want %v", dropped, err, at.Version)
	}
}

// A node that is a cluster by itself refuses what would not work in a larger one: keys of several slots.
func TestScriptsRunInACluster(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "cluster-enabled yes")
	if err := server.Client(t).Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{server.Addr()}, MaxRetries: 20})
	defer rdb.Close()
	s, err := store.New(rdb, store.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"prod", "test"} {
		refreshInCluster(t, s, rdb, name)
	}
	names, err := s.Environments(t.Context())
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"prod", "test"}) {
		t.Errorf("environments %q, %v", names, err)
	}
}

func refreshInCluster(t *testing.T, s *store.Store, rdb redis.UniversalClient, name string) {
	t.Helper()
	if err := rdb.Set(t.Context(), s.Keys(name).Lock, lockValue, time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	r, err := s.Read(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	at, err := s.Issue(t.Context(), name, lockValue, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Fail(t.Context(), name, newFailure(at), time.Minute, time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := s.Put(t.Context(), name, at, time.Hour, newToken("tok")); err != nil {
		t.Error(err)
	}
	if _, err := s.Invalidate(t.Context(), name, 0); err != nil {
		t.Error(err)
	}
}

func TestACallHasADeadlineOfItsOwn(t *testing.T) {
	server := redistest.Start(t)
	f := newFixture(t, server.Client(t))
	s, err := store.New(f.rdb, store.Options{Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	f.read()
	server.Pause(t)
	defer server.Continue(t)
	start := time.Now()
	_, err = s.Read(context.Background(), env)
	var failed *store.StatusError
	if !errors.As(err, &failed) || failed.Op != "read" || failed.Key != f.keys.Token {
		t.Errorf("a Redis that hangs: %v; want a StatusError of the read", err)
	}
	if took := time.Since(start); took > 900*time.Millisecond { // the client's own timeout is a second
		t.Errorf("it took %v", took)
	}
}

func TestATokenIsNotPrinted(t *testing.T) {
	tok := newToken("s3cr3t")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, value := range []any{tok, *tok, struct{ T *store.Token }{tok}, struct{ t store.Token }{*tok}} {
			if out := fmt.Sprintf(verb, value); strings.Contains(out, "s3cr3t") || strings.Contains(out, hex.EncodeToString([]byte("s3cr3t"))) {
				t.Errorf("%s of a %T prints the token: %s", verb, value, out)
			}
		}
	}
}

func TestAuthHeader(t *testing.T) {
	for _, c := range []struct{ tokenType, want string }{
		{"", "Bearer tok"}, {"bearer", "Bearer tok"}, {"BEARER", "Bearer tok"}, {"DPoP", "DPoP tok"},
	} {
		tok := store.Token{AccessToken: store.NewSecret("tok"), TokenType: c.tokenType}
		if got := tok.AuthHeader(); got != c.want {
			t.Errorf("type %q: %q; want %q", c.tokenType, got, c.want)
		}
		if got := store.NewToken(tok).AuthHeader(); got != c.want {
			t.Errorf("type %q, made once: %q; want %q", c.tokenType, got, c.want)
		}
		if got := tok.IsBearer(); got != strings.HasPrefix(c.want, "Bearer") {
			t.Errorf("type %q: IsBearer is %v", c.tokenType, got)
		}
	}
}

func TestCheckAccessToken(t *testing.T) {
	for _, good := range []string{"a", "eyJ.a-b_c~+/=", "with space", "!~"} {
		if err := store.CheckAccessToken(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "a\nb", "a\rb", "a\x00", "a\x7f", "café", "\xff"} {
		if store.CheckAccessToken(bad) == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}
