package manager_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// sixSeconds are tokens whose version is old enough for a 401 to count after oldEnough, and that are not refreshed for
// another reason before they are 3 s old.
var sixSeconds = mockendpoint.Reply{ExpiresIn: 6}

const oldEnough = 650 * time.Millisecond

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestA401AfterItsCallersDeadlineUsesNothingUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(sixSeconds)
	server := newAPI(t, f.endpoint.Protect(echo))
	f.mustToken(f.managers[0])
	pause(t, oldEnough)
	f.endpoint.RevokeAll()
	ctx, cancel := context.WithCancel(t.Context())
	late := &http.Client{Transport: f.managers[0].Transport(env, roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r.WithContext(t.Context()))
		cancel() // with the answer
		return resp, err
	}))}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := late.Do(req); err == nil {
		_ = resp.Body.Close()
	}
	f.calls(1)
	if status, _ := get(t, f.managers[0].Client(env), server.URL); status != 200 {
		t.Errorf("the next one got %d", status)
	}
	f.calls(2)
}

func TestA401WhileAFailureIsRepeatedUsesNothingUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.Push(mockendpoint.Reply{ExpiresIn: 10}, mockendpoint.Reply{Status: 503})
	server := newAPI(t, f.endpoint.Protect(echo))
	f.mustToken(f.managers[0])
	pause(t, 1050*time.Millisecond)
	f.endpoint.RevokeAll()
	_, err := f.managers[0].Refresh(t.Context(), env)
	endpointError(t, err)
	client := f.managers[0].Client(env)
	get(t, client, server.URL)
	once := func() (status int) {
		status, _ = do(t, client, http.MethodPost, server.URL, io.MultiReader(strings.NewReader("once")))
		return status
	}
	once()
	f.calls(2)
	pause(t, 1100*time.Millisecond) // the backoff
	eventually(t, 2*time.Second, "the token is replaced", func() bool { return once() == 200 })
	f.calls(3)
}

func TestA401CountsThoughVersionsHaveGoneBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Mini(t), 1)
	f.endpoint.SetDefault(sixSeconds)
	server := newAPI(t, f.endpoint.Protect(echo))
	far := manager.Version(time.Now().Add(20 * time.Hour).UnixMicro())
	if err := f.rdb.HSet(t.Context(), key("mark"), "issued", far.String()).Err(); err != nil {
		t.Fatal(err)
	}
	replaced := func(calls int) {
		t.Helper()
		pause(t, oldEnough)
		f.endpoint.RevokeAll()
		if status, _ := get(t, f.managers[0].Client(env), server.URL); status != 200 {
			t.Errorf("got %d, want a new token", status)
		}
		f.calls(calls)
	}
	f.mustToken(f.managers[0])
	replaced(2)
	if err := f.rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if tok, err := f.managers[0].Refresh(t.Context(), env); err != nil || tok.Version >= far {
		t.Fatalf("got %v, %v, want a version below %d", tok, err, far)
	}
	replaced(4)
}

func TestARedirectByAResponseWithoutItsRequestGetsNoToken(t *testing.T) {
	f := newFleet(t, redistest.Mini(t), 1)
	var headers []string
	client := &http.Client{Transport: f.managers[0].Transport(env, roundTrip(func(r *http.Request) (*http.Response, error) {
		headers = append(headers, r.Header.Get("Authorization"))
		resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
		if len(headers) == 1 {
			resp.StatusCode = 302
			resp.Header.Set("Location", "https://evil.example/")
		}
		return resp, nil
	}))}
	if status, _ := get(t, client, "https://api.example/"); status != 200 || len(headers) != 2 {
		t.Fatalf("got %d after %d requests", status, len(headers))
	}
	if headers[0] == "" || headers[1] != "" {
		t.Errorf("the headers are %q, want a token in the first one alone", headers)
	}
}
