package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

func keyring(t *testing.T, keys ...seal.Key) *seal.Keyring {
	t.Helper()
	r, err := seal.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// with returns the fixture with another codec, and namespace where that isn't "".
func (f *fixture) with(codec store.Codec, namespace string) *fixture {
	f.t.Helper()
	s, err := store.New(f.rdb, store.Options{Codec: codec, Namespace: namespace, Timeout: 5 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	return &fixture{t: f.t, rdb: f.rdb, s: s, keys: s.Keys(env)}
}

// wantSealed checks that there is a token, of the version, that doesn't open, and that all is known of it but the text.
func (f *fixture) wantSealed(name string, version store.Version, why error, hidden string) {
	f.t.Helper()
	r := f.read()
	var unreadable *store.UnreadableError
	if r.Token != nil || r.Sealed == nil || !errors.As(r.TokenErr, &unreadable) || unreadable.Key != f.keys.Token || why != nil && !errors.Is(r.TokenErr, why) {
		f.t.Fatalf("%s: token %v, sealed %v, error %v; want none, one, and %v", name, r.Token, r.Sealed, r.TokenErr, why)
	}
	if !r.Sealed.AccessToken.IsEmpty() || r.Sealed.AuthHeader() != "Bearer " {
		f.t.Errorf("%s: it has an access token", name)
	}
	if s := r.Stored(); s != r.Sealed || s.Version != version || s.Config != "c1" || s.RefreshedBy != "replica-1" || s.Life() != time.Hour || r.TTL <= 0 {
		f.t.Errorf("%s: it is %+v with TTL %v", name, s, r.TTL)
	}
	if strings.Contains(r.TokenErr.Error(), hidden) {
		f.t.Errorf("%s: the error repeats what was read: %v", name, r.TokenErr)
	}
}

func TestASealedTokenOpensInItsPlaceAlone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := seal.NewKey()
		f := newFixture(t, rdb).with(keyring(t, key), "")
		at := f.stored("tok")
		f.wantToken(at.Version, "tok")
		raw := rdb.HGet(f.ctx(), f.keys.Token, "access_token").Val()
		if seal.KeyID([]byte(raw)) != key.ID() {
			t.Fatalf("Redis has %s, want it sealed with %s", raw, key.ID())
		}
		move := func(from, to string) {
			t.Helper()
			if err := rdb.Copy(f.ctx(), from, to, 0, true).Err(); err != nil {
				t.Fatal(err)
			}
		}
		// Another environment, another namespace.
		for _, other := range []struct{ namespace, env string }{{"", "prod2"}, {"onetoken2", env}} {
			g := f.with(keyring(t, key), other.namespace)
			move(f.keys.Token, g.s.Keys(other.env).Token)
			r, err := g.s.Read(f.ctx(), other.env)
			if err != nil || r.Token != nil || r.Sealed == nil || !errors.Is(r.TokenErr, seal.ErrTampered) {
				t.Errorf("in %v: token %v, sealed %v, %v, %v", other, r.Token, r.Sealed, r.TokenErr, err)
			}
		}
		// Another version.
		rdb.HSet(f.ctx(), f.keys.Token, "version", (at.Version - 1).String())
		f.wantSealed("another version", at.Version-1, seal.ErrTampered, raw)
		// Another field: what is sealed as a refresh token isn't an access token.
		refresh, err := keyring(t, key).Encrypt([]byte("tok"), []byte("onetoken\x00prod\x00refresh_token\x00"+at.Version.String()))
		if err != nil {
			t.Fatal(err)
		}
		rdb.HSet(f.ctx(), f.keys.Token, "version", at.Version.String(), "access_token", refresh)
		f.wantSealed("another field", at.Version, seal.ErrTampered, string(refresh))
		rdb.HSet(f.ctx(), f.keys.Token, "access_token", raw)
		f.wantToken(at.Version, "tok")
	})
}

func TestATokenThatDoesNotOpenIsKnownButForItsText(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b := seal.NewKey(), seal.NewKey()
		plain := newFixture(t, rdb)
		f, g := plain.with(keyring(t, a), ""), plain.with(keyring(t, b), "")
		at := f.stored("tok")
		raw := rdb.HGet(f.ctx(), f.keys.Token, "access_token").Val()
		g.wantSealed("with another key", at.Version, seal.ErrUnknownKey, raw)
		if r := g.read(); !strings.Contains(r.TokenErr.Error(), a.ID()) {
			t.Errorf("%v doesn't name the key %s", r.TokenErr, a.ID())
		}
		plain.wantSealed("without keys", at.Version, seal.ErrNoKeys, raw)
		at = plain.stored("in-clear")
		f.wantSealed("unsealed", at.Version, seal.ErrUnsealed, "in-clear")
		f.with(keyring(t, a).AcceptUnsealed(), "").wantToken(at.Version, "in-clear")
		// What isn't even a token is unreadable all the same.
		rdb.HSet(f.ctx(), f.keys.Token, "expires_at", "tomorrow")
		f.wantUnreadable("without an end", "in-clear")
	})
}

// grant puts a refresh token into Redis as the flow does.
func (f *fixture) grant(codec store.Codec, version, text string) {
	f.t.Helper()
	sealed, err := codec.Encrypt([]byte(text), []byte("onetoken\x00prod\x00refresh_token\x00"+version))
	if err == nil {
		err = f.rdb.HSet(f.ctx(), f.keys.Grant, "refresh_token", sealed, "version", version, "seed", "s").Err()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// wantSeals checks what Seals or Reseal says, as "field was key", and that of no field there is an error.
func wantSeals(t *testing.T, got []store.Seal, err error, want ...string) {
	t.Helper()
	var lines []string
	for _, s := range got {
		if s.Err != nil {
			t.Errorf("%s: %v", s.Field, s.Err)
		}
		lines = append(lines, s.Field+" "+s.Was+" "+s.Key)
	}
	if err != nil || !slices.Equal(lines, want) {
		t.Errorf("got %q, %v; want %q", lines, err, want)
	}
}

func TestResealChangesTheSealAndNothingElse(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b := seal.NewKey(), seal.NewKey()
		old, both := keyring(t, a), keyring(t, b, a)
		f := newFixture(t, rdb).with(old, "")
		g, newer := f.with(both, ""), f.with(keyring(t, b), "")
		at := f.stored("tok")
		f.grant(old, "17", "refresh")
		heard := rdb.Subscribe(f.ctx(), f.s.Channel())
		defer heard.Close()
		if _, err := heard.Receive(f.ctx()); err != nil {
			t.Fatal(err)
		}
		before := rdb.HGetAll(f.ctx(), f.keys.Token).Val()
		expires := rdb.PExpireTime(f.ctx(), f.keys.Token).Val()

		seals, err := g.s.Seals(f.ctx(), env)
		wantSeals(t, seals, err, "access_token "+a.ID()+" "+a.ID(), "refresh_token "+a.ID()+" "+a.ID())
		if got := rdb.HGetAll(f.ctx(), f.keys.Token).Val(); got["access_token"] != before["access_token"] {
			t.Error("looking has changed it")
		}
		seals, err = g.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err, "access_token "+a.ID()+" "+b.ID(), "refresh_token "+a.ID()+" "+b.ID())
		newer.wantToken(at.Version, "tok")
		after := rdb.HGetAll(f.ctx(), f.keys.Token).Val()
		for field, value := range before {
			if (after[field] != value) != (field == "access_token") {
				t.Errorf("%s is %q after %q", field, after[field], value)
			}
		}
		if got := rdb.PExpireTime(f.ctx(), f.keys.Token).Val(); (got - expires).Abs() > 10*time.Second { // a miniredis works it out anew
			t.Errorf("it expires at %v after %v", got, expires)
		}
		grant := rdb.HGetAll(f.ctx(), f.keys.Grant).Val()
		opened, err := keyring(t, b).Decrypt([]byte(grant["refresh_token"]), []byte("onetoken\x00prod\x00refresh_token\x0017"))
		if err != nil || string(opened) != "refresh" || grant["version"] != "17" || grant["seed"] != "s" || rdb.PTTL(f.ctx(), f.keys.Grant).Val() != -1 {
			t.Errorf("the grant is %v, opened %q, %v", grant, opened, err)
		}
		// Again, it changes nothing.
		seals, err = g.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err, "access_token "+b.ID()+" "+b.ID(), "refresh_token "+b.ID()+" "+b.ID())
		if again := rdb.HGetAll(f.ctx(), f.keys.Token).Val(); again["access_token"] != after["access_token"] {
			t.Error("sealed anew though it has the first key")
		}
		// Nobody was told: the next event is a later one.
		rdb.Publish(f.ctx(), f.s.Channel(), "the end")
		if m, err := heard.ReceiveMessage(f.ctx()); err != nil || m.Payload != "the end" {
			t.Errorf("got %v, %v", m, err)
		}
	})
}

func TestResealTakesWhatIsThereAndSaysWhatDoesNotOpen(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b := seal.NewKey(), seal.NewKey()
		plain := newFixture(t, rdb)
		f := plain.with(keyring(t, a), "")
		seals, err := f.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err)
		at := plain.stored("in-clear")
		if seals, err = f.s.Reseal(f.ctx(), env); err != nil || len(seals) != 1 || !errors.Is(seals[0].Err, seal.ErrUnsealed) || strings.Contains(seals[0].Err.Error(), "in-clear") {
			t.Errorf("got %+v, %v", seals, err)
		}
		seals, err = f.with(keyring(t, a).AcceptUnsealed(), "").s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err, "access_token  "+a.ID())
		f.wantToken(at.Version, "in-clear")
		if seals, err = f.with(keyring(t, b), "").s.Reseal(f.ctx(), env); err != nil || len(seals) != 1 || !errors.Is(seals[0].Err, seal.ErrUnknownKey) || seals[0].Key != a.ID() {
			t.Errorf("got %+v, %v", seals, err)
		}
		f.wantToken(at.Version, "in-clear")
		rdb.Set(f.ctx(), f.keys.Grant, "no hash", 0)
		seals, err = f.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err, "access_token "+a.ID()+" "+a.ID())
		if _, err := plain.s.Reseal(f.ctx(), env); !errors.Is(err, store.ErrNoKeyCodec) {
			t.Errorf("without keys: %v", err)
		}
		if _, err := f.s.Seals(f.ctx(), "a b"); !errors.Is(err, store.ErrName) {
			t.Errorf("a wrong name: %v", err)
		}
	})
}

// interposed is a codec that does something between reading a value and writing it sealed anew.
type interposed struct {
	*seal.Keyring
	do func()
}

func (c interposed) Encrypt(p, data []byte) ([]byte, error) {
	c.do()
	return c.Keyring.Encrypt(p, data)
}

// A token that is stored while the one before it is sealed anew stays, and is looked at itself.
func TestResealOverwritesNothingNewer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b := seal.NewKey(), seal.NewKey()
		f := newFixture(t, rdb).with(keyring(t, a), "")
		f.stored("first")
		var second store.Issue
		times := 0
		g := f.with(interposed{keyring(t, b, a), func() {
			if times++; times == 1 {
				second = f.stored("second")
			}
		}}, "")
		seals, err := g.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err, "access_token "+a.ID()+" "+b.ID())
		f.with(keyring(t, b), "").wantToken(second.Version, "second")
		// And one that runs out stays gone.
		h := f.with(interposed{keyring(t, a, b), func() { rdb.Del(f.ctx(), f.keys.Token) }}, "")
		seals, err = h.s.Reseal(f.ctx(), env)
		wantSeals(t, seals, err)
		if n := rdb.Exists(f.ctx(), f.keys.Token).Val(); n != 0 {
			t.Error("it is back, without an end")
		}
	})
}
