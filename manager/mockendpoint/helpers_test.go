package mockendpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const formType = "application/x-www-form-urlencoded"

// grant is a form that asks for a token.
func grant() url.Values { return url.Values{"grant_type": {"client_credentials"}} }

// start serves a new endpoint and closes both with the test.
func start(t *testing.T, o mockendpoint.Options) (*mockendpoint.Endpoint, string) {
	t.Helper()
	e := mockendpoint.New(o)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	t.Cleanup(e.Close)
	return e, server.URL + "/oauth2/v1/token"
}

// newRequest is a good token request, which mend may change.
func newRequest(ctx context.Context, t *testing.T, target string, form url.Values, mend func(*http.Request)) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", formType)
	if mend != nil {
		mend(req)
	}
	return req
}

// An answer is what came back, read whole.
type answer struct {
	*http.Response
	body   string
	fields map[string]any // nil: no JSON object
}

func do(req *http.Request) (answer, error) {
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		return answer{}, err
	}
	return readResponse(resp)
}

func readResponse(resp *http.Response) (answer, error) {
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	a := answer{Response: resp, body: string(body)}
	if json.Unmarshal(body, &a.fields) != nil {
		a.fields = nil
	}
	return a, err
}

func read(t *testing.T, w *httptest.ResponseRecorder) answer {
	t.Helper()
	a, err := readResponse(w.Result())
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return a
}

func ask(t *testing.T, target string) answer {
	t.Helper()
	return askWith(t, target, grant(), nil)
}

func askWith(t *testing.T, target string, form url.Values, mend func(*http.Request)) answer {
	t.Helper()
	a, err := do(newRequest(t.Context(), t, target, form, mend))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// token returns the access token, "" where there is none.
func (a answer) token() string {
	s, _ := a.fields["access_token"].(string)
	return s
}

// last returns the request that was recorded last, once it is settled.
func last(t *testing.T, e *mockendpoint.Endpoint) mockendpoint.Request {
	t.Helper()
	all := e.Requests()
	if len(all) == 0 {
		t.Fatal("nothing was recorded")
	}
	return all[len(all)-1]
}

// soon bounds what should take no time.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
