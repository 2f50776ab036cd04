package manager_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

func keyring(t testing.TB, keys ...seal.Key) *seal.Keyring {
	t.Helper()
	r, err := seal.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// codecs gives each replica of a kit a codec of its own.
func codecs(of ...store.Codec) func(int, *manager.Config) {
	return func(i int, c *manager.Config) { c.Codec = of[i%len(of)] }
}

// asks has all managers of the kit ask for a token again and again for as long as life, and returns how often they had none.
func asks(t *testing.T, kit *managertest.Kit, life time.Duration) (failures int) {
	t.Helper()
	for end := time.Now().Add(life); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		for _, m := range kit.Managers {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			tok, err := m.Token(ctx, managertest.Environment)
			cancel()
			if err != nil {
				failures++
			} else if !kit.Endpoint.Accepts(tok.AccessToken.Reveal()) {
				t.Fatal("what was handed out is no token of the endpoint's")
			}
		}
	}
	return failures
}

// Two replicas that can't read each other's tokens each find what they can't use, and must not replace it in turn without
// a pause.
func TestReplicasWithDifferentKeysDoNotReplaceEachOthersTokensInTurn(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.NewKey(), seal.NewKey()
	for name, c := range map[string][2]store.Codec{
		"another key":            {keyring(t, k1), keyring(t, k2)},
		"one without keys":       {keyring(t, k1), nil},
		"a key of the same name": {keyring(t, k1), renamed{keyring(t, k2), k2.ID(), k1.ID()}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kit := managertest.NewFleet(t, 2, managertest.Options{
					InMemory: true, Config: codecs(c[0], c[1]),
					Endpoint: mockendpoint.Options{Life: 2 * time.Second}, // usable for 1.75 s: they need a new one all the time
				})
				asks(t, kit, 5*time.Minute)
				// One that replaces what it can't read does so after 1 s at first, and after a minute in the end.
				if n := kit.Endpoint.Calls(); n < 4 || n > 310 {
					t.Errorf("%d calls in 300 s", n)
				} else {
					t.Logf("%d calls in 300 s", n)
				}
			})
		})
	}
}

// renamed makes of a codec's values some of another key's.
type renamed struct {
	store.Codec
	from, to string
}

func (r renamed) Encrypt(p, data []byte) ([]byte, error) {
	value, err := r.Codec.Encrypt(p, data)
	return bytes.Replace(value, []byte(r.from), []byte(r.to), 1), err
}

func (r renamed) Decrypt(c, data []byte) ([]byte, error) {
	return r.Codec.Decrypt(bytes.Replace(c, []byte(r.to), []byte(r.from), 1), data)
}

// Tokens of a usual life cost each half of the fleet one call, and nobody a token.
func TestReplicasWithDifferentKeysLiveSideBySide(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.NewKey(), seal.NewKey()
	synctest.Test(t, func(t *testing.T) {
		kit := managertest.NewFleet(t, 4, managertest.Options{InMemory: true, Config: codecs(keyring(t, k1), keyring(t, k2))})
		for _, m := range kit.Managers {
			if _, err := m.Token(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
		}
		if failures := asks(t, kit, 10*time.Minute); failures > 0 {
			t.Errorf("%d callers had no token", failures)
		}
		if n := kit.Endpoint.Calls(); n < 2 || n > 6 {
			t.Errorf("%d calls, want one for each keyring, and few more", n)
		}
		conflicts := 0
		for i, m := range kit.Managers {
			s, err := m.Status(t.Context(), managertest.Environment)
			if err != nil {
				t.Fatal(err)
			}
			if s.State != manager.StateConflict {
				continue
			}
			conflicts++
			missing := []seal.Key{k2, k1}[i%2]
			if s.Usable || s.Reason == nil || !strings.Contains(*s.Reason, missing.ID()) || s.Version == nil || s.RefreshedBy == nil || s.TTL <= 0 {
				t.Errorf("status %+v, want the reason to name %s", s, missing.ID())
			}
		}
		if conflicts != 2 {
			t.Errorf("%d replicas say conflict, want those 2 whose token isn't stored", conflicts)
		}
		// Who has no keys and no configuration, and looks, can't tell.
		r, err := kit.Store.Read(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		if s := manager.StatusOf(managertest.Environment, r); r.Sealed == nil || s.State != manager.StateFresh || !s.Usable {
			t.Errorf("without keys it is %+v", s)
		}
	})
}

// The order that docs/sealing.md has for a change of keys leaves no moment in which a replica can't read.
func TestKeysAreChangedInOrderAndNobodyNotices(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.NewKey(), seal.NewKey()
	changeKeys(t, []step{
		{"before", k1.Line(), nil, false},
		{"the new one last", k1.Line(), k2.Line(), false},
		{"the new one first", k2.Line(), k1.Line(), true},
		{"the new one alone", k2.Line(), nil, false},
	}, 0)
}

// The other way round it is noticed, or the test above shows nothing.
func TestANewKeyFirstIsNoticed(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.NewKey(), seal.NewKey()
	changeKeys(t, []step{{"before", k1.Line(), nil, false}, {"the new one first", k2.Line(), k1.Line(), false}}, 1)
}

// A step of a change of keys.
type step struct {
	name        string
	first, last []byte // of the keyring
	rekey       bool   // once everybody has it
}

// changeKeys has two replicas take the steps one after the other, with a refresh by either at every moment, and counts the
// moments at which the other can't read what is stored.
func changeKeys(t *testing.T, steps []step, conflicts int) {
	t.Helper()
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	give := func(i int, s step) {
		t.Helper()
		if err := os.WriteFile(path(i)+".new", append(bytes.Clone(s.first), s.last...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path(i)+".new", path(i)); err != nil {
			t.Fatal(err)
		}
	}
	give(0, steps[0])
	give(1, steps[0])
	synctest.Test(t, func(t *testing.T) {
		var files [2]*seal.File
		for i := range files {
			var err error
			if files[i], err = seal.Open(path(i), seal.FileOptions{Reloaded: func(err error) {
				if err != nil {
					t.Error(err)
				}
			}}); err != nil {
				t.Fatal(err)
			}
		}
		kit := managertest.NewFleet(t, 2, managertest.Options{InMemory: true, Config: codecs(files[0], files[1])})
		unread := 0
		look := func(name string) {
			t.Helper()
			<-time.After(1500 * time.Millisecond) // the files are read
			for _, m := range kit.Managers {
				tok, err := m.Refresh(t.Context(), managertest.Environment)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				<-time.After(100 * time.Millisecond) // the other has heard of it
				for _, other := range kit.Managers {
					s, err := other.Status(t.Context(), managertest.Environment)
					if err != nil {
						t.Fatal(err)
					}
					if s.State == manager.StateConflict {
						unread++
						continue
					}
					if got, err := other.Token(t.Context(), managertest.Environment); err != nil || got.Version != tok.Version {
						t.Errorf("%s: got %v, %v; want %v", name, got, err, tok)
					}
				}
			}
		}
		for _, s := range steps {
			for i := range files {
				give(i, s)
				look(s.name)
			}
			if !s.rekey {
				continue
			}
			st, err := store.New(kit.Redis, store.Options{Namespace: kit.Namespace, Codec: files[0]})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Reseal(t.Context(), managertest.Environment); err != nil {
				t.Fatal(err)
			}
		}
		if (unread > 0) != (conflicts > 0) {
			t.Errorf("%d times a replica couldn't read what the other had stored", unread)
		}
	})
}

// Sealing comes to a fleet that is at work, in the order of docs/sealing.md: first all can read both, then they seal.
func TestSealingIsIntroducedWhileTheFleetWorks(t *testing.T) {
	t.Parallel()
	k := seal.NewKey()
	synctest.Test(t, func(t *testing.T) {
		plain := reader{keyring(t, k).AcceptUnsealed()}
		kit := managertest.New(t, managertest.Options{InMemory: true, Config: codecs(nil, plain, plain, keyring(t, k).AcceptUnsealed(), keyring(t, k))})
		first, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		// Accepting, a replica reads what those without keys have stored; it seals what it stores itself.
		for range 3 {
			kit.AddManager(t)
		}
		for _, m := range kit.Managers {
			if tok, err := m.Token(t.Context(), managertest.Environment); err != nil || tok.Version != first.Version {
				t.Errorf("got %v, %v; want %v", tok, err, first)
			}
		}
		sealing := kit.Managers[3]
		second, err := sealing.Refresh(t.Context(), managertest.Environment)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
		for i, m := range kit.Managers {
			tok, err := m.Token(t.Context(), managertest.Environment)
			want := second
			if i == 0 {
				want = first // it goes on with its own, and doesn't replace the other
			}
			if err != nil || tok.Version != want.Version {
				t.Errorf("replica %d: got %v, %v; want %v", i, tok, err, want)
			}
		}
		strict := kit.AddManager(t)
		if tok, err := strict.Token(t.Context(), managertest.Environment); err != nil || tok.Version != second.Version {
			t.Errorf("got %v, %v; want %v", tok, err, second)
		}
		if n := kit.Endpoint.Calls(); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
	})
}

// reader is a codec that opens what is sealed, and seals nothing.
type reader struct{ *seal.Keyring }

func (reader) Encrypt(p, _ []byte) ([]byte, error) { return p, nil }

// What passes through Redis, and what it keeps, has no secret in it where that is sealed. Where it isn't, the access token is
// found, in all of these places.
func TestRedisSeesNoSecretWhereTheyAreSealed(t *testing.T) {
	for _, c := range []struct {
		name  string
		codec store.Codec
		found bool
	}{{"sealed", keyring(t, seal.NewKey()), false}, {"as they are", nil, true}} {
		t.Run(c.name, func(t *testing.T) {
			server := redistest.Start(t, "slowlog-log-slower-than 0", "slowlog-max-len 100000", "rdbcompression no", "appendonly yes")
			rdb := server.Client(t)
			monitored := monitor(t, rdb)
			f := newFleet(t, rdb, 3, func(_ int, cfg *manager.Config, _ *manager.Environment) { cfg.Codec = c.codec })
			f.oneToken(f.all(token))
			for range 3 {
				if _, err := f.managers[0].Refresh(t.Context(), env); err != nil {
					t.Fatal(err)
				}
				f.converge(3 * time.Second)
			}
			refreshTokens := rotateThreeTimes(t, rdb, c.codec)
			f.endpoint.Push(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "no " + secret})
			if _, err := f.managers[1].Refresh(t.Context(), env); err == nil {
				t.Fatal("no error of a refusal")
			}
			if c.codec != nil {
				st, err := store.New(rdb, store.Options{Codec: keyring(t, seal.NewKey())})
				if err != nil {
					t.Fatal(err)
				}
				if seals, err := st.Reseal(t.Context(), env); err != nil || len(seals) != 1 || !errors.Is(seals[0].Err, seal.ErrUnknownKey) {
					t.Errorf("got %v, %v", seals, err)
				}
			}
			for name, text := range map[string]string{
				"MONITOR": monitored(), "SLOWLOG": slowlog(t, rdb), "the rdb file": rdbFile(t, rdb), "the values": values(t, rdb),
			} {
				if !strings.Contains(text, "refreshed_by") {
					t.Fatalf("%s doesn't show what is stored:\n%.2000q", name, text)
				}
				last := f.endpoint.Issued()[len(f.endpoint.Issued())-1]
				if got := strings.Contains(text, last); got != c.found {
					t.Errorf("an access token is in %s: %v, want %v", name, got, c.found)
				}
				if strings.Contains(text, secret) {
					t.Errorf("the client secret is in %s", name)
				}
				if got := strings.Contains(text, refreshTokens[len(refreshTokens)-1]); got != c.found {
					t.Errorf("the refresh token is in %s: %v, want %v", name, got, c.found)
				}
				for _, tok := range refreshTokens {
					if !c.found && strings.Contains(text, tok) {
						t.Errorf("an older refresh token is in %s", name)
					}
				}
				for _, tok := range f.endpoint.Issued() {
					if !c.found && strings.Contains(text, tok) {
						t.Errorf("an older access token is in %s", name)
					}
				}
			}
		})
	}
}

// rotateThreeTimes has a fleet of its own, in the same Redis, use refresh tokens that rotate; one of them is brought by a person.
// It returns them, the one that is stored last.
func rotateThreeTimes(t *testing.T, rdb *redis.Client, codec store.Codec) []string {
	t.Helper()
	var used []string
	refresher := refreshes(func(refreshToken string) string {
		used = append(used, refreshToken)
		return "rotated-" + rand.Text()
	})
	m, err := manager.New(manager.Config{Redis: rdb, Namespace: "grants", Codec: codec, Environments: map[string]manager.Environment{
		env: {Grant: manager.RefreshToken, Source: refresher, RefreshToken: manager.NewSecret("seed-" + rand.Text())},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	for range 3 {
		if _, err := m.Refresh(t.Context(), env); err != nil {
			t.Fatal(err)
		}
	}
	brought := "brought-" + rand.Text()
	if _, err := m.ImportGrant(t.Context(), env, manager.NewSecret(brought), 0); err != nil {
		t.Fatal(err)
	}
	return append(used, brought)
}

// refreshes is a source that answers a refresh token with the next one.
type refreshes func(refreshToken string) (next string)

func (refreshes) Fetch(context.Context) (*manager.Reply, error) {
	return nil, errors.New("it is a refresher")
}

func (f refreshes) Refresh(_ context.Context, refreshToken manager.Secret) (*manager.Reply, error) {
	return &manager.Reply{
		AccessToken: manager.NewSecret(rand.Text()), ExpiresIn: time.Hour, RefreshToken: manager.NewSecret(f(refreshToken.Reveal())),
	}, nil
}

// monitor begins to listen to all that a server is told, and returns what ends that and has all of it.
func monitor(t *testing.T, rdb *redis.Client) func() string {
	t.Helper()
	conn, err := net.Dial("tcp", rdb.Options().Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	if ok, err := lines.ReadString('\n'); err != nil || ok != "+OK\r\n" {
		t.Fatalf("MONITOR: %q, %v", ok, err)
	}
	return func() string {
		const mark = "the-end-of-what-is-monitored"
		rdb.Echo(t.Context(), mark)
		var b strings.Builder
		for !strings.Contains(b.String(), mark) {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("MONITOR: %v", err)
			}
			b.WriteString(line)
		}
		return b.String()
	}
}

func slowlog(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	entries, err := rdb.SlowLogGet(t.Context(), 100_000).Result()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(entries)
}

// rdbFile has the server write its data, and returns that.
func rdbFile(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	if err := rdb.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	dir := rdb.ConfigGet(t.Context(), "dir").Val()["dir"]
	data, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	appended, err := filepath.Glob(filepath.Join(dir, "appendonlydir", "*"))
	if err != nil || len(appended) == 0 {
		t.Fatalf("no append-only file: %v", err)
	}
	for _, path := range appended {
		more, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, more...)
	}
	return string(data)
}

// values returns all keys with all that they hold.
func values(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	var b strings.Builder
	for _, key := range rdb.Keys(t.Context(), "*").Val() {
		fmt.Fprintln(&b, key, rdb.HGetAll(t.Context(), key).Val(), rdb.Get(t.Context(), key).Val())
	}
	return b.String()
}
