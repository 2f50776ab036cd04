package lock_test

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
)

// Whatever stands under the lock's name is somebody's, is reported as such on one line, and ends: it has a TTL after the
// first look, one that a lease can have. Then the lease can be taken.
func FuzzPlantedLock(f *testing.F) {
	server := miniredis.RunT(f)
	rdb := redistest.NewClient(f, redistest.Options(server.Addr()))
	l, err := lock.New(rdb, "replica-1")
	if err != nil {
		f.Fatal(err)
	}
	for _, value := range []string{"replica-7|ABCDEF", "", "|", "\x1b[2J\r\n|x", "\xff\x00", "replica-1|", "a|b|c", "\u202e|"} {
		f.Add(value, int64(6000), false)
		f.Add(value, int64(0), false)
		f.Add(value, int64(1<<40), true)
	}
	f.Fuzz(func(t *testing.T, value string, ms int64, list bool) {
		ctx := t.Context()
		server.FlushAll()
		if list {
			_, err = server.Push(key, value)
		} else {
			err = server.Set(key, value)
		}
		if err != nil {
			t.Fatal(err)
		}
		if ms > 0 && ms < 1<<42 {
			server.SetTTL(key, time.Duration(ms)*time.Millisecond)
		}
		before := server.TTL(key)
		lease, err := l.Try(ctx, key, 2*time.Second)
		var busy *lock.BusyError
		if lease != nil || !errors.As(err, &busy) {
			t.Fatalf("%v, %v; want a BusyError", lease, err)
		}
		want, _, _ := strings.Cut(value, "|")
		if list {
			want = ""
		}
		if busy.Holder != want || busy.Key != key {
			t.Errorf("%s is held by %q; want %q", busy.Key, busy.Holder, want)
		}
		if text := busy.Error(); strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the error is %q", text)
		}
		after := server.TTL(key)
		switch mended := before <= 0 || before > lock.Longest; {
		case mended && after != 2*time.Second, !mended && after != before, busy.TTL != after:
			t.Errorf("a TTL of %v became %v, and %v in the error", before, after, busy.TTL)
		}
		server.FastForward(after)
		lease, err = l.Try(ctx, key, 2*time.Second)
		if err != nil {
			t.Fatalf("after its end: %v", err)
		}
		if err := lease.Release(ctx); err != nil {
			t.Errorf("release: %v", err)
		}
	})
}
