package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	clientID     = "client-1"
	clientSecret = "hunter2-hunter2"
	goodReply    = `{"access_token":"abc","token_type":"Bearer","expires_in":3600}`
)

// config is a valid configuration for the token URL.
func config(tokenURL string) endpoint.Config {
	return endpoint.Config{TokenURL: tokenURL, ClientID: clientID, ClientSecret: secret.New(clientSecret)}
}

// serve starts an endpoint and returns its token URL.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL + "/oauth2/v1/token"
}

// answers serves one status and body, with header lines given as name and value in turn.
func answers(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// fetch asks the endpoint that is configured, once.
func fetch(t *testing.T, c endpoint.Config) (*endpoint.Reply, error) {
	t.Helper()
	client, err := endpoint.New(c)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return client.Fetch(ctx)
}

// mustFail fetches from an endpoint that is served by h and returns its error, after the checks that hold for any.
func mustFail(t *testing.T, h http.HandlerFunc) *endpoint.Error {
	t.Helper()
	reply, err := fetch(t, config(serve(t, h)))
	return failure(t, reply, err)
}

// failure returns err as what it must be. There is no reply beside it, and its text is one short line without the secret
// or a URL.
func failure(t *testing.T, reply *endpoint.Reply, err error) *endpoint.Error {
	t.Helper()
	if reply != nil {
		t.Fatalf("there is a reply beside the error %v", err)
	}
	failed := (*endpoint.Error)(nil)
	if !errors.As(err, &failed) {
		t.Fatalf("error of type %T: %v; want an *endpoint.Error", err, err)
	}
	for _, text := range []string{failed.Error(), failed.Text(), failed.Message, fmt.Sprintf("%+v %#v %q", err, err, err)} {
		for _, never := range []string{clientSecret, "://", "/oauth2/v1/token", "\n"} {
			if strings.Contains(text, never) {
				t.Errorf("the error has %q in it: %s", never, text)
			}
		}
	}
	if n := len(failed.Error()); n > 300 {
		t.Errorf("the error has %d bytes: %v", n, failed)
	}
	return failed
}

// A stub is a RoundTripper made of a function.
type stub func(*http.Request) (*http.Response, error)

func (f stub) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
