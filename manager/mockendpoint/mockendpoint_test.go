package mockendpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestZeroReplyIsAFreshToken(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	first, second := ask(t, target), ask(t, target)
	if first.StatusCode != http.StatusOK || first.fields["token_type"] != "Bearer" || first.fields["expires_in"] != 3600.0 {
		t.Errorf("got %d %v, want 200 and a Bearer token for an hour", first.StatusCode, first.fields)
	}
	if first.token() == "" || first.token() == second.token() {
		t.Errorf("got tokens %q and %q, want two different ones", first.token(), second.token())
	}
	if got := first.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("got Cache-Control %q, want no-store", got)
	}
	if got := e.Issued(); len(got) != 2 || got[0] != first.token() || got[1] != second.token() {
		t.Errorf("Issued() = %q, want both tokens, oldest first", got)
	}
}

func TestReplies(t *testing.T) {
	html := http.Header{"content-type": {"text/html"}}
	for _, c := range []struct {
		name   string
		reply  mockendpoint.Reply
		status int
		header string // "Name: value"
		body   string // "": not looked at; "-": none
		fields string // the members but access_token, as JSON
	}{
		{name: "status", reply: mockendpoint.Reply{Status: 503}, status: 503, body: "503 Service Unavailable\n"},
		{name: "status 201 is a token", reply: mockendpoint.Reply{Status: 201}, status: 201, fields: `{"token_type":"Bearer","expires_in":3600}`},
		{name: "status 204 has no body", reply: mockendpoint.Reply{Status: 204}, status: 204, body: "-"},
		{name: "status 205 has no body", reply: mockendpoint.Reply{Status: 205}, status: 205, body: "-"},
		{name: "Retry-After is rounded up", reply: mockendpoint.Reply{Status: 429, RetryAfter: 3100 * time.Millisecond}, status: 429, header: "Retry-After: 4"},
		{name: "further header", reply: mockendpoint.Reply{Header: http.Header{"X-Trace": {"7"}}}, status: 200, header: "X-Trace: 7"},
		{name: "header wins", reply: mockendpoint.Reply{Header: http.Header{"Cache-Control": {"private"}}}, status: 200, header: "Cache-Control: private"},
		{name: "error", reply: mockendpoint.Reply{Error: "invalid_scope"}, status: 400, fields: `{"error":"invalid_scope"}`},
		{name: "error with description", reply: mockendpoint.Reply{Error: "invalid_grant", ErrorDescription: "too old"}, status: 400, fields: `{"error":"invalid_grant","error_description":"too old"}`},
		{name: "invalid_client", reply: mockendpoint.Reply{Error: "invalid_client"}, status: 401, fields: `{"error":"invalid_client"}`},
		{name: "error with a status", reply: mockendpoint.Reply{Error: "temporarily_unavailable", Status: 503}, status: 503, fields: `{"error":"temporarily_unavailable"}`},
		{name: "error with status 200", reply: mockendpoint.Reply{Error: "invalid_scope", Status: 200}, status: 200, fields: `{"error":"invalid_scope"}`},
		{name: "body", reply: mockendpoint.Reply{Body: new("<html>"), Header: html}, status: 200, header: "Content-Type: text/html", body: "<html>"},
		{name: "empty body", reply: mockendpoint.Reply{Body: new("")}, status: 200, body: "-"},
		{name: "body with a status", reply: mockendpoint.Reply{Body: new("[]"), Status: 500}, status: 500, header: "Content-Type: application/json", body: "[]"},
		{name: "redirect", reply: mockendpoint.Reply{Redirect: "https://elsewhere.test/"}, status: 302, header: "Location: https://elsewhere.test/", body: "-"},
		{name: "redirect with a status", reply: mockendpoint.Reply{Redirect: "/x", Status: 307}, status: 307, header: "Location: /x"},
		{name: "expires_in", reply: mockendpoint.Reply{ExpiresIn: 4}, status: 200, fields: `{"token_type":"Bearer","expires_in":4}`},
		{name: "expires_in as text", reply: mockendpoint.Reply{ExpiresIn: "3600"}, status: 200, fields: `{"token_type":"Bearer","expires_in":"3600"}`},
		{name: "expires_in empty", reply: mockendpoint.Reply{ExpiresIn: ""}, status: 200, fields: `{"token_type":"Bearer","expires_in":""}`},
		{name: "expires_in null", reply: mockendpoint.Reply{ExpiresIn: json.RawMessage("null")}, status: 200, fields: `{"token_type":"Bearer","expires_in":null}`},
		{name: "no expires_in", reply: mockendpoint.Reply{NoExpiresIn: true}, status: 200, fields: `{"token_type":"Bearer"}`},
		{name: "token_type", reply: mockendpoint.Reply{TokenType: "DPoP"}, status: 200, fields: `{"token_type":"DPoP","expires_in":3600}`},
		{name: "no token_type", reply: mockendpoint.Reply{NoTokenType: true}, status: 200, fields: `{"expires_in":3600}`},
		{name: "scope", reply: mockendpoint.Reply{Scope: "a b"}, status: 200, fields: `{"token_type":"Bearer","expires_in":3600,"scope":"a b"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, target := start(t, mockendpoint.Options{})
			e.Push(c.reply)
			a := ask(t, target)
			if a.StatusCode != c.status {
				t.Errorf("got status %d, want %d", a.StatusCode, c.status)
			}
			if name, value, _ := strings.Cut(c.header, ": "); name != "" && a.Header.Get(name) != value {
				t.Errorf("got %s %q, want %q", name, a.Header.Get(name), value)
			}
			if c.body != "" && a.body != strings.TrimPrefix(c.body, "-") {
				t.Errorf("got body %q, want %q", a.body, c.body)
			}
			checkFields(t, a, c.fields)
		})
	}
}

// checkFields compares all members but access_token.
func checkFields(t *testing.T, a answer, want string) {
	t.Helper()
	if want == "" {
		return
	}
	delete(a.fields, "access_token")
	var members map[string]any
	if err := json.Unmarshal([]byte(want), &members); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(a.fields), fmt.Sprint(members); got != want {
		t.Errorf("got members %s, want %s", got, want)
	}
}

func TestExpiresInIsSentToTheLetter(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	e.Push(mockendpoint.Reply{ExpiresIn: json.Number("3600.0")})
	if a := ask(t, target); !strings.Contains(a.body, `"expires_in":3600.0,`) {
		t.Errorf("got %s, want an expires_in of 3600.0", a.body)
	}
}

func TestBodyFuncStreams(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	e.Push(mockendpoint.Reply{BodyFunc: func(w io.Writer) {
		for range 16 {
			_, _ = w.Write(make([]byte, 1<<20))
		}
	}})
	if a := ask(t, target); len(a.body) != 16<<20 {
		t.Errorf("got %d bytes, want 16 MiB", len(a.body))
	}
}

func TestLife(t *testing.T) {
	for life, want := range map[time.Duration]float64{0: 3600, 20 * time.Second: 20, 1500 * time.Millisecond: 1.5} {
		_, target := start(t, mockendpoint.Options{Life: life})
		if a := ask(t, target); a.fields["expires_in"] != want {
			t.Errorf("Life %v: got expires_in %v, want %v", life, a.fields["expires_in"], want)
		}
	}
}

func TestTokenAsScripted(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	e.Push(mockendpoint.Reply{SameToken: true}, mockendpoint.Reply{AccessToken: "a\nb"}, mockendpoint.Reply{SameToken: true})
	first, odd, again := ask(t, target).token(), ask(t, target).token(), ask(t, target).token()
	if first == "" || odd != "a\nb" || again != odd {
		t.Errorf("got %q, %q, %q; want a fresh one, the scripted one, and that again", first, odd, again)
	}
	if got := len(e.Issued()); got != 2 {
		t.Errorf("got %d tokens issued, want 2: one that is given out again counts once", got)
	}
	if got := last(t, e).Token; got != 2 {
		t.Errorf("got ordinal %d, want 2", got)
	}
}

func TestScriptIsTakenInOrderThenTheDefault(t *testing.T) {
	e, target := start(t, mockendpoint.Options{Default: mockendpoint.Reply{Status: 500}})
	e.Push(mockendpoint.Reply{Status: 501}, mockendpoint.Reply{Status: 502})
	e.Push(mockendpoint.Reply{Status: 503})
	for _, want := range []int{501, 502, 503, 500, 500} {
		if a := ask(t, target); a.StatusCode != want {
			t.Errorf("got status %d, want %d", a.StatusCode, want)
		}
	}
	e.SetDefault(mockendpoint.Reply{})
	if a := ask(t, target); a.StatusCode != http.StatusOK {
		t.Errorf("after SetDefault: got status %d, want 200", a.StatusCode)
	}
}

func TestRepliesThatCanNotBeSentPanicWhereTheyAreScripted(t *testing.T) {
	e := mockendpoint.New(mockendpoint.Options{})
	for name, script := range map[string]func(){
		"status":     func() { e.Push(mockendpoint.Reply{Status: 100}) },
		"expires_in": func() { e.SetDefault(mockendpoint.Reply{ExpiresIn: make(chan int)}) },
		"default":    func() { mockendpoint.New(mockendpoint.Options{Default: mockendpoint.Reply{Status: 7}}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			script()
		})
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mockendpoint.New(mockendpoint.Options{Default: mockendpoint.Reply{Delay: 300 * time.Millisecond}})
		begun := time.Now()
		w := httptest.NewRecorder()
		e.ServeHTTP(w, newRequest(t.Context(), t, "/", grant(), nil))
		if took := time.Since(begun); took != 300*time.Millisecond || w.Code != http.StatusOK {
			t.Errorf("got %d after %v, want 200 after 300ms", w.Code, took)
		}
	})
}

func TestGateHoldsTheAnswer(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	gate := make(chan struct{})
	e.SetDefault(mockendpoint.Reply{Gate: gate})
	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() { ask(t, target) })
	}
	if err := e.Await(soon(t), 3); err != nil {
		t.Fatal(err)
	}
	if got := e.InFlight(); got != 3 || len(e.Issued()) != 0 {
		t.Errorf("got %d in flight and %d tokens, want 3 and none", got, len(e.Issued()))
	}
	close(gate)
	callers.Wait()
	if e.InFlight() != 0 || e.MaxInFlight() != 3 || e.Calls() != 3 || len(e.Issued()) != 3 {
		t.Errorf("got %v, at most %d in flight; want 3 calls, none in flight, 3 tokens, at most 3", e, e.MaxInFlight())
	}
}

// hold sends a request that isn't answered, and returns its error once it ends.
func hold(t *testing.T, e *mockendpoint.Endpoint, req *http.Request) <-chan error {
	t.Helper()
	ended, calls := make(chan error, 1), e.Calls()
	go func() {
		_, err := do(req)
		ended <- err
	}()
	if err := e.Await(soon(t), calls+1); err != nil {
		t.Fatal(err)
	}
	return ended
}

func TestCallsThatAreCutOff(t *testing.T) {
	for _, c := range []struct {
		name    string
		reply   mockendpoint.Reply
		end     string // who ends it: client, endpoint, or nobody has to
		outcome string
	}{
		{"hang until the client goes", mockendpoint.Reply{Hang: true}, "client", "hang"},
		{"hang until Close", mockendpoint.Reply{Hang: true}, "endpoint", "hang"},
		{"delay until the client goes", mockendpoint.Reply{Delay: time.Hour}, "client", "gone"},
		{"delay until Close", mockendpoint.Reply{Delay: time.Hour}, "endpoint", "closed"},
		{"gate until the client goes", mockendpoint.Reply{Gate: make(chan struct{})}, "client", "gone"},
		{"drop", mockendpoint.Reply{Drop: true}, "nobody", "drop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			settled := make(chan mockendpoint.Request, 1)
			e, target := start(t, mockendpoint.Options{Log: func(r mockendpoint.Request) { settled <- r }})
			e.Push(c.reply)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := hold(t, e, newRequest(ctx, t, target, grant(), nil))
			switch c.end {
			case "client":
				cancel()
			case "endpoint":
				e.Close()
			}
			if err := <-ended; err == nil {
				t.Error("got an answer, want a cut connection")
			}
			if got := <-settled; got.Outcome != c.outcome || got.Token != 0 {
				t.Errorf("got outcome %q and token %d, want %q and none", got.Outcome, got.Token, c.outcome)
			}
			if e.InFlight() != 0 || e.Calls() != 1 {
				t.Errorf("got %v, want one call and none in flight", e)
			}
		})
	}
}

func TestAfterCloseNothingWaits(t *testing.T) {
	e, target := start(t, mockendpoint.Options{})
	e.Push(mockendpoint.Reply{Hang: true})
	e.Close()
	e.Close()
	if _, err := do(newRequest(t.Context(), t, target, grant(), nil)); err == nil {
		t.Error("a hanging call: got an answer, want a cut connection")
	}
	if a := ask(t, target); a.StatusCode != http.StatusOK {
		t.Errorf("a call that doesn't wait: got status %d, want 200", a.StatusCode)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := mockendpoint.New(mockendpoint.Options{})
		go func() {
			for range 2 {
				<-time.After(time.Second)
				e.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), t, "/", grant(), nil))
			}
		}()
		begun := time.Now()
		if err := e.Await(t.Context(), 2); err != nil || time.Since(begun) != 2*time.Second {
			t.Errorf("got %v after %v, want the second call after 2s", err, time.Since(begun))
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if err := e.Await(ctx, 3); !errors.Is(err, cause) {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	e := mockendpoint.New(mockendpoint.Options{})
	const calls = 20_001
	var first string
	for i := range calls {
		e.ServeHTTP(httptest.NewRecorder(), newRequest(t.Context(), t, "/", grant(), nil))
		if i == 0 {
			first = e.Issued()[0]
		}
	}
	if got := e.Calls(); got != calls {
		t.Errorf("Calls() = %d, want %d", got, calls)
	}
	if got := len(e.Requests()); got < 10_000 || got >= 20_000 {
		t.Errorf("%d requests are kept, want the latest 10,000 and not all", got)
	}
	if got := len(e.Issued()); got < 10_000 || got >= 20_000 {
		t.Errorf("%d tokens are kept, want the latest 10,000 and not all", got)
	}
	if issued := e.Issued(); e.Accepts(first) || !e.Accepts(issued[len(issued)-1]) || last(t, e).Token != calls {
		t.Error("the oldest token is accepted, or the latest is not, or its ordinal is wrong")
	}
}
