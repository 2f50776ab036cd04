package store

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
)

// plantable are the fields that a fuzzed plant may overwrite, by key; the last of each key's is one that isn't ours.
var plantable = [][]string{
	{fieldAccessToken, fieldTokenType, fieldScope, fieldIssuedAt, fieldExpiresAt, fieldVersion, fieldRefreshedBy, fieldTookMS, fieldConfig, "x"},
	{"issued", "stored", "dropped", "x"},
	{fieldCode, fieldStatus, fieldMessage, fieldAttempt, fieldFailedAt, fieldRetryAt, fieldVersion, fieldReportedBy, fieldConfig, fieldCredential, "x"},
}

// A garden is a store on a miniredis in which foreign hands plant.
type garden struct {
	rdb  *redis.Client
	s    *Store
	keys Keys
}

const (
	fuzzEnv   = "prod"
	fuzzLease = "replica-1|an-attempt"
)

func newGarden(f *testing.F) *garden {
	server := miniredis.RunT(f) // its TTLs stand still: what is planted doesn't end meanwhile
	rdb := redistest.NewClient(f, redistest.Options(server.Addr()))
	s, err := New(rdb, Options{Timeout: 5 * time.Second})
	if err != nil {
		f.Fatal(err)
	}
	return &garden{rdb: rdb, s: s, keys: s.Keys(fuzzEnv)}
}

// plant overwrites one field, or what is left of it by bits of how: the whole key as a string (1) or a list (2), a TTL
// taken away (4) or given (8). "@" stands for a version that is ahead of Redis's clock.
func (g *garden) plant(ctx context.Context, key, field, how uint8, raw string, ahead int64) error {
	fields := plantable[int(key)%len(plantable)]
	name := []string{g.keys.Token, g.keys.Mark, g.keys.Failure}[int(key)%len(plantable)]
	if raw == "@" {
		now, err := g.rdb.Time(ctx).Result()
		if err != nil {
			return err
		}
		raw = strconv.FormatInt(now.UnixMicro()+ahead, 10)
	}
	pipe := g.rdb.TxPipeline()
	switch {
	case how&1 != 0:
		pipe.Set(ctx, name, raw, time.Hour)
	case how&2 != 0:
		pipe.Del(ctx, name)
		pipe.RPush(ctx, name, raw)
	default:
		pipe.HSet(ctx, name, fields[int(field)%len(fields)], raw)
	}
	if how&4 != 0 {
		pipe.Persist(ctx, name)
	}
	if how&8 != 0 {
		pipe.Expire(ctx, name, time.Minute)
	}
	_, err := pipe.Exec(ctx)
	return err
}

func (g *garden) read(t *testing.T) *Record {
	t.Helper()
	r, err := g.s.Read(t.Context(), fuzzEnv)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return r
}

// issue takes the lease and issues a version; nothing planted may keep it from that.
func (g *garden) issue(t *testing.T) Issue {
	t.Helper()
	if err := g.rdb.Set(t.Context(), g.keys.Lock, fuzzLease, time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	seen := g.read(t)
	at, err := g.s.Issue(t.Context(), fuzzEnv, fuzzLease, seen)
	if err != nil {
		t.Fatalf("issue: %v", err)
	}
	known := max(seen.Mark.Issued, seen.Mark.Stored, seen.Mark.Dropped)
	if seen.Token != nil {
		known = max(known, seen.Token.Version)
	}
	if at.Version <= known || int64(at.Version) > at.At.Add(maxAhead).UnixMicro() {
		t.Errorf("version %d was issued after %d, when the clock was at %d", at.Version, known, at.At.UnixMicro())
	}
	return at
}

func (g *garden) put(t *testing.T, at Issue, text string) error {
	_, err := g.s.Put(t.Context(), fuzzEnv, at, time.Hour, NewToken(Token{
		AccessToken: NewSecret(text), TokenType: "Bearer", Scope: "a b", RefreshedBy: "replica-1", Config: "c1",
	}))
	return err
}

func (g *garden) fail(t *testing.T, at Issue, code string) error {
	_, _, err := g.s.Fail(t.Context(), fuzzEnv, Failure{
		Code: code, Status: 503, Message: "no", Attempt: 1, Version: at.Version, ReportedBy: "replica-1", Config: "c1",
	}, time.Minute, time.Minute)
	return err
}

// wantWhole fails unless the token that was just stored is all there is.
func (g *garden) wantWhole(t *testing.T, at Issue, text string, dropped Version) {
	t.Helper()
	r := g.read(t)
	if r.Token == nil || r.Token.Version != at.Version || r.Token.AccessToken.Reveal() != text || r.TTL <= 0 {
		t.Fatalf("token %v (%v), TTL %v; want version %d", r.Token, r.TokenErr, r.TTL, at.Version)
	}
	if want := (Mark{Issued: at.Version, Stored: at.Version, Dropped: dropped}); r.Mark != want || r.Failure != nil {
		t.Errorf("mark %+v, failure %+v; want %+v and none", r.Mark, r.Failure, want)
	}
	if ttl := g.rdb.PTTL(t.Context(), g.keys.Mark).Val(); ttl != -1 {
		t.Errorf("the mark has a TTL of %v", ttl)
	}
}

// Whatever stands in any field: it can be read, Go and the scripts take it for the same, no write but one for which there
// is a readable reason is refused, and one refresh later all is whole again.
func FuzzPlanted(f *testing.F) {
	g := newGarden(f)
	const day = int64(24 * time.Hour / time.Microsecond)
	for _, c := range []struct {
		key, field uint8
		raw        string
		ahead      int64
	}{
		{0, 0, "", 0},
		{0, 0, "tok\r\nX-Injected: 1", 0},
		{0, 1, "Bearer x", 0},
		{0, 3, "9999-12-31T23:59:59.999Z", 0},
		{0, 4, "2001-01-01T00:00:00.000Z", 0},
		{0, 5, "-5", 0},
		{0, 5, "9007199254740991", 0},
		{0, 5, "@", day - 60e6},
		{0, 5, "@", day + 60e6},
		{0, 5, "007", 0},
		{0, 5, "1e15", 0},
		{0, 5, "inf", 0},
		{0, 7, "99999999999999999999", 0},
		{1, 0, "@", day - 60e6},
		{1, 0, "@", day + 60e6},
		{1, 1, "@", 3600e6},
		{1, 2, "@", 3600e6},
		{1, 1, "nan", 0},
		{1, 2, "0x1F", 0},
		{2, 3, "9223372036854775807", 0},
		{2, 5, "2200-01-01T00:00:00.000Z", 0},
		{2, 5, "soon", 0},
		{2, 6, "@", 3600e6},
		{2, 6, "@", -3600e6},
		{2, 0, "", 0},
		{2, 7, ",,,", 0},
	} {
		f.Add(c.key, c.field, uint8(0), c.raw, c.ahead, c.field%2 == 0, true)
	}
	for key := range uint8(3) {
		for _, how := range []uint8{1, 2, 4, 8} {
			f.Add(key, uint8(0), how, "x", int64(0), false, how == 2)
		}
	}
	f.Fuzz(func(t *testing.T, key, field, how uint8, raw string, ahead int64, refused, late bool) {
		ctx := t.Context()
		if err := g.rdb.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := g.put(t, g.issue(t), "before"); err != nil {
			t.Fatalf("put: %v", err)
		}
		code := "http_503"
		if refused {
			code = "invalid_client"
		}
		if err := g.fail(t, g.issue(t), code); err != nil {
			t.Fatalf("fail: %v", err)
		}
		if late { // between the version and the store
			at := g.issue(t)
			if err := g.plant(ctx, key, field, how, raw, ahead); err != nil {
				t.Fatalf("plant: %v", err)
			}
			err := g.put(t, at, "late")
			r := g.read(t)
			switch {
			case errors.Is(err, ErrOlder) && max(r.Mark.Stored, plausible(r.tokenRaw, r.Now)) > at.Version,
				errors.Is(err, ErrDropped) && r.Mark.Dropped >= at.Version:
			case err != nil:
				t.Errorf("put: %v, after the read %+v", err, r)
			case r.Token == nil || r.Token.Version != at.Version:
				t.Errorf("version %d was stored, and %v (%v) is read", at.Version, r.Token, r.TokenErr)
			}
		} else if err := g.plant(ctx, key, field, how, raw, ahead); err != nil {
			t.Fatalf("plant: %v", err)
		}

		r := g.read(t)
		if (r.Stored() != nil) != (r.TTL > 0) || (r.Stored() != nil && r.TokenErr != nil) != (r.Sealed != nil) {
			t.Errorf("token %v, TTL %v, error %v", r.Token, r.TTL, r.TokenErr)
		}
		if r.TokenErr != nil {
			checkUnrepeated(t, r.TokenErr, raw)
		}
		// Only a failure that readers see, too, and whose time hasn't come, keeps another one out.
		at := g.issue(t)
		err := g.fail(t, at, CodeUnreachable)
		bound := r.Failure != nil && r.Failure.RetryAt.After(r.Now) && r.Failure.Code != CodeUnreachable
		if err != nil && (!errors.Is(err, ErrOlder) || !bound) {
			t.Errorf("unreachable: %v, with the failure %+v", err, r.Failure)
		}
		if err := g.fail(t, g.issue(t), "timeout"); err != nil {
			t.Errorf("fail: %v", err)
		}
		if f := g.read(t).Failure; f == nil || f.Code != "timeout" {
			t.Errorf("the failure that was recorded is read as %+v", f)
		}
		dropped := g.read(t).Mark.Dropped
		at = g.issue(t)
		if err := g.put(t, at, "after"); err != nil {
			t.Fatalf("put: %v", err)
		}
		g.wantWhole(t, at, "after", dropped)
	})
}

// An invalidation drops what stands there, whatever it is, and nothing after it.
func FuzzPlantedInvalidate(f *testing.F) {
	g := newGarden(f)
	f.Add(uint8(0), uint8(5), uint8(0), "@", int64(3600e6), int64(0))
	f.Add(uint8(1), uint8(2), uint8(0), "9007199254740991", int64(0), int64(-1))
	f.Add(uint8(1), uint8(0), uint8(1), "x", int64(0), int64(1))
	f.Add(uint8(0), uint8(5), uint8(4), "", int64(0), int64(1<<53-1))
	f.Fuzz(func(t *testing.T, key, field, how uint8, raw string, ahead, version int64) {
		ctx := t.Context()
		if err := g.rdb.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if err := g.put(t, g.issue(t), "before"); err != nil {
			t.Fatalf("put: %v", err)
		}
		if err := g.plant(ctx, key, field, how, raw, ahead); err != nil {
			t.Fatalf("plant: %v", err)
		}
		before := g.read(t)
		dropped, err := g.s.Invalidate(ctx, fuzzEnv, Version(version))
		r := g.read(t)
		plausible := version == 0 || version > 0 && plausible(strconv.FormatInt(version, 10), r.Now) != 0
		switch {
		case errors.Is(err, ErrImplausible):
			if plausible {
				t.Errorf("version %d is implausible?", version)
			}
			if r.Mark != before.Mark {
				t.Errorf("refused, and yet %+v became %+v", before.Mark, r.Mark)
			}
		case err != nil || !plausible:
			t.Fatalf("invalidate %d: %v", version, err)
		case dropped < Version(version), dropped < before.Mark.Dropped, r.Mark.Dropped != dropped, r.Mark.Issued < dropped:
			t.Errorf("invalidate %d gives %d; %+v became %+v", version, dropped, before.Mark, r.Mark)
		case r.Token != nil && r.Token.Version <= dropped:
			t.Errorf("version %d is still there, %d is dropped", r.Token.Version, dropped)
		case version == 0 && (r.Token != nil || before.Token != nil && before.Token.Version > dropped):
			t.Errorf("all was dropped (%d), and yet %v of %v is there", dropped, r.Token, before.Token)
		}
		at := g.issue(t)
		if err := g.put(t, at, "after"); err != nil {
			t.Fatalf("put: %v", err)
		}
		g.wantWhole(t, at, "after", r.Mark.Dropped)
	})
}
