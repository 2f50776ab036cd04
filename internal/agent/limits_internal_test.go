package agent

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		fail := func(n int) {
			for range n {
				wait, slot := th.wait("192.0.2.1", "client")
				if wait > 0 {
					t.Fatalf("held back for %v", wait)
				}
				th.note(slot)
			}
		}
		fail(failuresAtOnce)
		wait, _ := th.wait("192.0.2.1", "client")
		if wait != failureEvery {
			t.Errorf("after %d failures: %v, want %v", failuresAtOnce, wait, failureEvery)
		}
		for _, other := range [][2]string{{"192.0.2.2", "client"}, {"192.0.2.1", "other"}, {"192.0.2.1client", ""}} {
			// Two may share a slot, by chance: with this seed or that.
			if _, slot := th.wait(other[0], other[1]); slot != slotOf(th, "192.0.2.1", "client") {
				if wait, _ := th.wait(other[0], other[1]); wait > 0 {
					t.Errorf("%v is held back for %v", other, wait)
				}
			}
		}
		<-time.After(wait)
		fail(1)
		if wait, _ := th.wait("192.0.2.1", "client"); wait != failureEvery {
			t.Errorf("after one more: %v", wait)
		}
		<-time.After(time.Hour)
		fail(failuresAtOnce)
	})
}

func slotOf(th *throttle, address, client string) any {
	_, slot := th.wait(address, client)
	return slot
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1:1234":             "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1":   "2001:db8:1:2::/64",
		"[::ffff:192.0.2.1]:1":       "::ffff:192.0.2.1",
		"[fe80::1%eth0]:1":           "fe80::/64",
		"@":                          "",
		"":                           "",
		"[2001:db8:1:2:ffff::1]:444": "2001:db8:1:2::/64",
	} {
		if got := address(&http.Request{RemoteAddr: remote}); got != want {
			t.Errorf("%s: %q, want %q", remote, got, want)
		}
	}
}

func TestHostOf(t *testing.T) {
	t.Parallel()
	for hostport, want := range map[string]string{
		"localhost": "localhost", "localhost:80": "localhost", "127.0.0.1:": "127.0.0.1", "[::1]:80": "::1", "[::1]": "::1",
		"": "", ":80": "", "::1": "", "a:b:c": "", "[::1": "", "[::1]x": "", "[localhost]:80": "", "[": "", "[]": "",
	} {
		if got := hostOf(hostport); got != want {
			t.Errorf("%q: %q, want %q", hostport, got, want)
		}
	}
}

// One connection more than there are places is closed at once; a place that has become free is used again.
func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	var c net.ListenConfig
	raw, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &limited{Listener: raw, places: make(chan struct{}, 2)}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	connect := func() (net.Conn, bool) {
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		answer := make([]byte, 12)
		_, err = io.ReadFull(conn, answer)
		return conn, err == nil && string(answer) == "HTTP/1.1 200"
	}
	first, ok := connect()
	second, ok2 := connect()
	if !ok || !ok2 {
		t.Fatal("not even two")
	}
	defer func() { _ = second.Close() }()
	third, ok := connect()
	if ok {
		t.Error("a third one is served")
	}
	_ = third.Close()
	_ = first.Close()
	for begun := time.Now(); ; {
		conn, ok := connect()
		_ = conn.Close()
		if ok {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal("the place never becomes free")
		}
	}
}

func TestWatchedFiles(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	w, err := watch(slog.New(slog.NewTextHandler(&log, nil)), parseSecret, path)
	if err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		w.look() // as get does in time
		if got := *w.current.Load(); !got.equal(digestOf(want)) {
			t.Errorf("it isn't %s", want)
		}
	}
	is("one")
	write("two") // as long as the one before, perhaps at the same instant by the file system's clock
	is("two")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	is("two")
	write("three")
	is("three")
	write("\n")
	is("three")
	is("three")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	is("three")
	write("four")
	is("four")
	write("five")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	is("four")
	for what, n := range map[string]int{"the file is empty": 1, "no such file": 1, "others may write it": 1, "is mended": 1} {
		if got := strings.Count(log.String(), what); got != n {
			t.Errorf("%q is logged %d times, want %d: %s", what, got, n, log.String())
		}
	}
	for _, secret := range []string{"three", "four", "five"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

func TestPresentedKey(t *testing.T) {
	t.Parallel()
	for authorization, want := range map[string]string{
		"Bearer x": "x", "bearer  x ": "x", "Basic dTpw": "p", "Basic !": "", "": "", "x": "", "Digest x": "", "Bearer": "",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", authorization)
		if got := presentedKey(r); got != want {
			t.Errorf("%q: %q, want %q", authorization, got, want)
		}
	}
}
