package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestRetryAfterBindsTenGets(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.Push(mockendpoint.Reply{Delay: 300 * time.Millisecond, Status: 429, RetryAfter: 4 * time.Second})
	var all []*process
	for i := range 10 {
		all = append(all, s.onetoken(fmt.Sprintf("get-%d", i), "get", env))
	}
	results := make([]result, len(all))
	for i, p := range all {
		results[i] = p.wait()
	}
	retryAt := nextTry(t, results[0].fails(4))
	if after := retryAt.Sub(s.endpoint.Requests()[0].At); after < 4*time.Second {
		t.Errorf("the next try is %v after the call, and the endpoint asked for 4s", after)
	}
	var last time.Duration
	for _, r := range results {
		line := r.fails(4)
		if at := nextTry(t, line); !at.Equal(retryAt) || !strings.Contains(line, "http_429") {
			t.Errorf("%s says %q, want the next try at %v", r.name, line, retryAt)
		}
		// Promptly: long before there could be a token. One who waits for it would end later.
		if !r.end.Before(retryAt) {
			t.Errorf("%s has ended %v after the next try", r.name, r.end.Sub(retryAt))
		}
		last = max(last, r.end.Sub(s.endpoint.Requests()[0].At))
	}
	s.calls(1)
	t.Logf("ten processes have their error %v after the call was received", last)

	eventually(t, patience, "the time of the next try", func() bool { return time.Now().After(retryAt) })
	s.get()
	s.calls(2)
	if at := s.endpoint.Requests()[1].At; at.Before(retryAt) {
		t.Errorf("the second call is %v early", retryAt.Sub(at))
	}
}

var nextTryPattern = regexp.MustCompile(`next try at (\S+) \(in `)

// nextTry returns the time that an error's line names.
func nextTry(t *testing.T, line string) time.Time {
	t.Helper()
	m := nextTryPattern.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no time of the next try: %s", line)
	}
	at, err := time.Parse(time.RFC3339, m[1])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestTenImpatientReplicasAreFewCallsOfAFailingEndpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	f := s.workers(10, "worker")
	s.awaitCall()
	first := s.endpoint.Requests()[0].At
	eventually(t, patience, "five seconds go by", func() bool { return time.Since(first) > 5*time.Second })
	if n := s.endpoint.Calls(); n > 4 {
		t.Errorf("%d calls in 5 s, want at most 4", n)
	}
	f.all(patience, "everybody says so", func(r worker.Report) bool { return r.Code == "http_503" && r.RetryAt != nil })
	calls := s.endpoint.Calls()
	s.endpoint.SetDefault(mockendpoint.Reply{})
	f.version()
	if n := s.endpoint.Calls(); n > calls+1 {
		t.Errorf("%d calls for the token", n-calls)
	}
	t.Logf("%d calls in 5 s", calls)
}

func TestInvalidClientIsOneCallAndRefreshTriesAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.endpoint.SetSecret("another-one-a1b2")
	for range 2 {
		if line := s.run("get", env).fails(4); !strings.Contains(line, "invalid_client") || !strings.Contains(line, env) {
			t.Errorf("the line names neither the error nor the environment: %s", line)
		}
		s.calls(1)
	}
	if line := s.run("refresh", env).fails(4); !strings.Contains(line, "invalid_client") {
		t.Errorf("the line doesn't name the error: %s", line)
	}
	s.calls(2)
	if row := s.status()[env]; row.State != "failing" || row.Usable {
		t.Errorf("status says %+v", row)
	}
	s.endpoint.SetSecret(clientSecret)
	s.run("get", env).fails(4) // nobody told it that the endpoint has changed its mind
	s.calls(2)
	refreshed := s.refresh()
	if got := s.get(); got.Version != refreshed.Version {
		t.Errorf("get has version %d, refresh has brought %d", got.Version, refreshed.Version)
	}
	s.calls(3)
}

func TestAReplicaThatCannotConnectDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	// The endpoint is known by a name, and reached by a proxy: the right one, or for one replica one that isn't there.
	l := s.using(s.configure(map[string]settings{env: {"token_url": "http://endpoint.test/token", "allow_http": "true"}}))
	right, wrong := l.with("HTTP_PROXY="+s.url), l.with("HTTP_PROXY=http://"+closedPort(t))

	broken := wrong.worker("broken")
	eventually(t, patience, "the broken one says so", func() bool { return broken.last().Code == "unreachable" })
	if line := wrong.run("get", env).fails(4); !strings.Contains(line, "can't be reached") || !strings.Contains(line, "next try at") {
		t.Errorf("the line says neither what nor when: %s", line)
	}
	s.calls(0)

	good := right.workers(3, "good")
	good.version()
	all := append(good, broken)
	all.version()
	s.calls(1)

	for n := range 3 { // whoever comes first
		dropped := right.invalidate()
		all.all(patience, "everybody has another token than the dropped one", above(dropped.Version))
		s.calls(n + 2)
	}
	good.neverFailed()
	for _, r := range good {
		for _, report := range r.reports() {
			if report.RefreshedBy == broken.name {
				t.Fatalf("a token by one that can't connect: %+v", report)
			}
		}
	}
}

// closedPort returns an address that refuses connections: until the test's end it is taken, though nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
}

func TestOddRepliesAreOneCallAndOneLine(t *testing.T) {
	t.Parallel()
	const marker = "body-4711"
	body := func(s string) mockendpoint.Reply { return mockendpoint.Reply{Body: &s} }
	html := body("<html><body>" + marker + "</body></html>")
	html.Header = http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	var elsewhere, huge atomic.Int64
	ended := make(chan struct{})
	s := newSite(t, nil)
	other := s.serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	replies := map[string]mockendpoint.Reply{
		"html":        html,
		"empty":       body(""),
		"no-token":    body(`{"token_type":"Bearer","expires_in":3600,"x":"` + marker + `"}`),
		"empty-token": body(`{"access_token":"","expires_in":3600}`),
		"null":        body("null"),
		"array":       body(`["` + marker + `"]`),
		"string":      body(`"` + marker + `"`),
		"error-200":   {Error: "server_error", Status: 200},
		"line-break":  body(`{"access_token":"` + marker + `\r\nX-Evil: 1","token_type":"Bearer","expires_in":3600}`),
		"204":         {Status: 204},
		"503":         {Status: 503},
		"redirect":    {Redirect: other + "/" + marker},
		"drop":        {Drop: true},
		"huge": {BodyFunc: func(w io.Writer) {
			defer close(ended)
			chunk := []byte(strings.Repeat(marker+" ", 8<<10))
			for huge.Load() < 64<<20 {
				n, err := w.Write(chunk)
				huge.Add(int64(n))
				if err != nil {
					return
				}
			}
		}},
	}
	names := make([]string, 0, len(replies))
	environments := map[string]settings{}
	for name := range replies {
		names = append(names, name)
		environments[name] = nil
	}
	slices.Sort(names)
	l := s.using(s.configure(environments))
	for i, name := range names {
		s.endpoint.Push(replies[name])
		line := l.run("get", name).fails(4)
		if strings.Contains(line, marker) || !strings.Contains(line, name) || !strings.Contains(line, "next try at") {
			t.Errorf("%s: the line repeats the reply, or doesn't name environment and next try: %s", name, line)
		}
		s.calls(i + 1)
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the redirect was followed: %d requests", n)
	}
	eventually(t, patience, "the huge reply ends", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if n := huge.Load(); n >= 64<<20 {
		t.Errorf("the huge reply was read whole: %d bytes", n)
	}
}
