package manager_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// An api is a resource server that records the Authorization headers that reach it.
type api struct {
	*httptest.Server
	mu      sync.Mutex
	headers []string
}

func newAPI(t *testing.T, h http.Handler) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.headers = append(a.headers, r.Header.Get("Authorization"))
		a.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.headers...)
}

func get(t *testing.T, c *http.Client, url string) (status int, body string) {
	t.Helper()
	return do(t, c, http.MethodGet, url, nil)
}

func do(t *testing.T, c *http.Client, method, url string, content io.Reader) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, content)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })

// shortLived are tokens whose version is old enough for a 401 to count after 200 ms.
var shortLived = mockendpoint.Reply{ExpiresIn: 2}

func TestTheClientAddsTheToken(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	server := newAPI(t, f.endpoint.Protect(echo))
	if status, body := do(t, f.managers[0].Client(env), "POST", server.URL, strings.NewReader("hello")); status != 200 || body != "hello" {
		t.Errorf("got %d %q", status, body)
	}
	if got, want := server.seen()[0], "Bearer "+f.endpoint.Issued()[0]; got != want {
		t.Errorf("the header is %q, want %q", got, want)
	}
	if _, err := f.managers[0].Client("nowhere").Get(server.URL); err == nil || !strings.Contains(err.Error(), "unknown environment") {
		t.Errorf("an unknown environment: %v", err)
	}
}

func TestARequestGivenToTheTransportIsNotChanged(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	server := newAPI(t, echo)
	req := httptest.NewRequest("GET", server.URL, nil)
	req.RequestURI = ""
	resp, err := f.managers[0].Transport(env, nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(req.Header) != 0 {
		t.Errorf("its header became %v", req.Header)
	}
}

// roundTripper is a base transport that is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What the base may do to a request, and what it may not, reaches neither the caller nor others' requests: here all have one
// header, whose values have room to append to.
func TestWhatTheBaseDoesToAHeaderStaysThere(t *testing.T) {
	room := [4]string{"a", "b", "beyond"}
	header := http.Header{"Accept": {"text/plain"}, "X-List": room[:2], "X-Nil": nil, "authorization": {"odd"}, "Authorization": {"old"}}
	before := header.Clone()
	var mu sync.Mutex
	seen := map[string]int{}
	transport := warm(t).Transport(env, roundTripper(func(r *http.Request) (*http.Response, error) {
		mine := r.URL.Path
		r.Header.Add("X-List", mine)
		r.Header.Add("Authorization", mine)
		r.Header.Set("Accept", mine)
		r.Header.Set("X-New", mine)
		if values, ok := r.Header["X-Nil"]; !ok || values != nil {
			t.Errorf("a nil field became %v", values) // httputil.ReverseProxy tells it from none
		}
		mu.Lock()
		seen[fmt.Sprintf("%q, own %v, %q, %q", r.Header["X-List"][:2], r.Header["X-List"][2] == mine, r.Header["Authorization"][0], r.Header["authorization"])]++ //nolint:staticcheck // not canonical on purpose
		mu.Unlock()
		r.Header["Authorization"][0] = "scrubbed"
		r.Header.Del("X-List")
		return nowhere{}.RoundTrip(r)
	}))
	var work sync.WaitGroup
	for i := range 50 {
		work.Go(func() {
			req := httptest.NewRequest("GET", fmt.Sprintf("https://api.example/%d", i), nil)
			req.Header = header
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	work.Wait()
	if want := map[string]int{`["a" "b"], own true, "Bearer token", ["odd"]`: 50}; !maps.Equal(seen, want) {
		t.Errorf("the base got %v, want %v", seen, want)
	}
	if !reflect.DeepEqual(header, before) || room != [4]string{"a", "b", "beyond"} {
		t.Errorf("the caller's header became %v, and what is behind it %q", header, room)
	}
}

func TestARequestWithoutAHeaderGetsTheToken(t *testing.T) {
	transport := warm(t).Transport(env, roundTripper(func(r *http.Request) (*http.Response, error) {
		if got := r.Header.Get("Authorization"); got != "Bearer token" {
			t.Errorf("got %q", got)
		}
		return nowhere{}.RoundTrip(r)
	}))
	req := httptest.NewRequest("GET", "https://api.example/", nil)
	req.Header = nil
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if req.Header != nil {
		t.Errorf("its header became %v", req.Header)
	}
}

func TestARejectedTokenIsReplacedAndTheRequestRepeated(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(shortLived)
	server := newAPI(t, f.endpoint.Protect(echo))
	f.mustToken(f.managers[0])
	pause(t, 250*time.Millisecond)
	f.endpoint.RevokeAll()
	client := f.managers[0].Client(env)
	if status, body := do(t, client, "POST", server.URL, bytes.NewReader([]byte("again"))); status != 200 || body != "again" {
		t.Errorf("got %d %q, want the request repeated with its body", status, body)
	}
	f.calls(2)
}

func TestABodyThatCannotBeHadAgainIsNotRepeated(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(shortLived)
	server := newAPI(t, f.endpoint.Protect(echo))
	f.mustToken(f.managers[0])
	pause(t, 250*time.Millisecond)
	f.endpoint.RevokeAll()
	client := f.managers[0].Client(env)
	if status, _ := do(t, client, "POST", server.URL, io.MultiReader(strings.NewReader("once"))); status != 401 {
		t.Errorf("got %d, want the 401", status)
	}
	eventually(t, 2*time.Second, "the next request has a new token", func() bool {
		status, _ := get(t, client, server.URL)
		return status == 200
	})
	f.calls(2)
}

func TestAHundredReplicasWithA401AreOneRefresh(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 100)
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 40}) // it is replaced by its age only when all are long through
	server := newAPI(t, f.endpoint.Protect(echo))
	f.oneToken(f.all(token))
	pause(t, 4100*time.Millisecond)
	f.endpoint.RevokeAll()
	f.all(func(_ context.Context, m *manager.Manager) (*manager.Token, error) {
		for range 10 {
			resp, err := m.Client(env).Get(server.URL)
			if _, away := errors.AsType[*manager.RedisError](err); away { // a hundred may be too much for the machine
				continue
			}
			if err != nil {
				t.Error(err)
				return nil, err
			}
			if _ = resp.Body.Close(); resp.StatusCode != 200 {
				t.Errorf("got %d", resp.StatusCode)
			}
			return nil, nil
		}
		t.Error("Redis can't be used")
		return nil, nil
	})
	f.calls(2)
}

func TestAYoungTokenIsNotReplaced(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	server := newAPI(t, f.endpoint.Protect(echo))
	f.mustToken(f.managers[0])
	f.endpoint.RevokeAll()
	for range 5 {
		if status, _ := get(t, f.managers[0].Client(env), server.URL); status != 401 {
			t.Errorf("got %d", status)
		}
	}
	f.calls(1)
}

func TestAnAPIThatAlwaysAnswers401CostsBoundedCalls(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 5)
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 20})
	server := newAPI(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(401)
	}))
	end := time.Now().Add(5 * time.Second) // a version must be 2 s old: replaced after 2 s and after 4 s
	f.all(func(_ context.Context, m *manager.Manager) (*manager.Token, error) {
		for time.Now().Before(end) {
			if status, _ := get(t, m.Client(env), server.URL); status != 401 {
				t.Errorf("got %d", status)
			}
			pause(t, 20*time.Millisecond)
		}
		return nil, nil
	})
	if n := f.endpoint.Calls(); n < 2 || n > 3 {
		t.Errorf("%d calls, want 2 or 3", n)
	}
}

func TestAStray401WhileTheEndpointIsDown(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 3)
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 10})
	var stray atomic.Bool
	server := newAPI(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if stray.Load() {
			w.WriteHeader(401)
		}
	}))
	tok := f.oneToken(f.all(token))
	pause(t, 1100*time.Millisecond)
	f.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	stray.Store(true)
	f.all(func(_ context.Context, m *manager.Manager) (*manager.Token, error) {
		if status, _ := get(t, m.Client(env), server.URL); status != 401 {
			t.Errorf("got %d, want the API's own answer", status)
		}
		return nil, nil
	})
	stray.Store(false)
	for _, o := range f.all(token) {
		if o.err != nil || o.token.Version != tok.Version {
			t.Errorf("the old token isn't served: %v, %v", o.token, o.err)
		}
	}
	f.calls(2)
}

func TestA401ThatIsNotAboutTheTokenReplacesNothing(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(shortLived)
	server := newAPI(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x", Bearer realm="a, b", error="insufficient_scope"`)
		w.WriteHeader(401)
	}))
	f.mustToken(f.managers[0])
	pause(t, 250*time.Millisecond)
	if status, _ := get(t, f.managers[0].Client(env), server.URL); status != 401 {
		t.Errorf("got %d", status)
	}
	f.calls(1)
}

func TestARedirectToAnotherOriginDoesNotGetTheToken(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	other := newAPI(t, echo)
	var target atomic.Value
	first := newAPI(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/same" {
			return
		}
		http.Redirect(w, r, target.Load().(string), http.StatusTemporaryRedirect)
	}))
	client := f.managers[0].Client(env)

	target.Store(other.URL + "/elsewhere")
	get(t, client, first.URL)
	if got := other.seen(); len(got) != 1 || got[0] != "" {
		t.Errorf("the other origin got %q", got)
	}
	target.Store(first.URL + "/same")
	get(t, client, first.URL)
	if got := first.seen(); len(got) != 3 || got[2] == "" {
		t.Errorf("the same origin got %q", got)
	}
}

func TestOnlyTheBaseURLsOriginGetsTheToken(t *testing.T) {
	other := newAPI(t, echo)
	own := newAPI(t, echo)
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, _ *manager.Config, e *manager.Environment) { e.BaseURL = own.URL + "/api/v2" })
	client := f.managers[0].Client(env)
	get(t, client, other.URL)
	get(t, client, own.URL)
	if got := other.seen()[0]; got != "" {
		t.Errorf("another origin got %q", got)
	}
	if got := own.seen()[0]; !strings.HasPrefix(got, "Bearer ") {
		t.Errorf("the own origin got %q", got)
	}
}

func TestATokenOfAnotherTypeIsRefused(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(mockendpoint.Reply{TokenType: "DPoP"})
	server := newAPI(t, echo)
	_, err := f.managers[0].Client(env).Get(server.URL)
	if err == nil || !strings.Contains(err.Error(), `"DPoP"`) || len(server.seen()) != 0 {
		t.Errorf("got %v; the API saw %q", err, server.seen())
	}
	if tok := f.mustToken(f.managers[0]); tok.TokenType != "DPoP" {
		t.Errorf("Token itself has type %q", tok.TokenType)
	}
}

func TestTheTokenSourceOfOAuth2(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1, func(_ int, c *manager.Config, _ *manager.Environment) {})
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 100, Scope: "a b"})
	server := newAPI(t, f.endpoint.Protect(echo))
	ts := f.managers[0].TokenSource(t.Context(), env)
	tok, err := ts.Token()
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(tok.Expiry); !tok.Valid() || left > 100*time.Second || left < 98*time.Second || tok.Extra("scope") != "a b" {
		t.Errorf("valid %v, %v left, scope %v", tok.Valid(), left, tok.Extra("scope"))
	}
	client := &http.Client{Transport: &oauth2.Transport{Source: ts}}
	if status, _ := get(t, client, server.URL); status != 200 {
		t.Errorf("got %d", status)
	}
	f.endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client"})
	if _, err := f.managers[0].Invalidate(t.Context(), env, 0); err != nil {
		t.Fatal(err)
	}
	var failed *manager.EndpointError
	if _, err := ts.Token(); !errors.As(err, &failed) {
		t.Errorf("got %v", err)
	}
}

// Many requests share one header of any size, and one slice of values that has room.
func TestRoundTripsThatShareAHeader(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1)
	f.mustToken(f.managers[0])
	tr := f.managers[0].Transport(env, roundTripper(func(r *http.Request) (*http.Response, error) {
		r.Header.Add("X-A", "more")
		r.Header.Set("X-B", "mine")
		r.Header.Del("X-C")
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: r}, nil
	}))
	for _, n := range []int{0, 1, 7, 8, 9, 20} {
		var h http.Header
		if n > 0 {
			h = http.Header{"X-A": append(make([]string, 0, 8), "a"), "X-B": {"b"}, "X-C": {"c"}}
			for i := len(h); i < n; i++ {
				h["X-"+string(rune('D'+i))] = []string{"v"}
			}
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/x", nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header = h
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
			})
		}
		wg.Wait()
		if n > 0 && (len(h["X-A"]) != 1 || h["X-B"][0] != "b" || h["X-C"] == nil || h["Authorization"] != nil) {
			t.Errorf("the caller's header is %v", h)
		}
	}
}
