package manager_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// rejected returns a kit, whose tokens live for 100 s, and one of them that is old enough for its rejection to count.
func rejected(t *testing.T) (*managertest.Kit, *manager.Env, *manager.Token) {
	t.Helper()
	kit, e := listenKit(t, 1, nil)
	tok, err := e.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(11 * time.Second)
	kit.Endpoint.RevokeAll()
	return kit, e, tok
}

func calls(t *testing.T, kit *managertest.Kit, want int) {
	t.Helper()
	if got := kit.Endpoint.Calls(); got != want {
		t.Errorf("%d calls of the endpoint, want %d", got, want)
	}
}

func TestReplaceHasARejectedTokenReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, tok := rejected(t)
		for range 3 { // the second has the newer one at once
			newer, ok := e.Replace(t.Context(), tok)
			if !ok || newer.Version <= tok.Version || !kit.Endpoint.Accepts(newer.AccessToken.Reveal()) {
				t.Fatalf("got %v, %v", newer, ok)
			}
		}
		newer, _ := e.Token(t.Context())
		if _, ok := e.Replace(t.Context(), newer); ok {
			t.Error("a young token was replaced")
		}
		calls(t, kit, 2)
	})
}

func TestReplaceLeavesTheTokenWhereThereIsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, tok := rejected(t)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Status: 503, RetryAfter: time.Minute})
		for range 10 {
			if newer, ok := e.Replace(t.Context(), tok); ok {
				t.Fatalf("got %v", newer)
			}
			if same, err := e.Token(t.Context()); err != nil || same != tok {
				t.Fatalf("Token: %v, %v", same, err)
			}
			<-time.After(time.Second)
		}
		calls(t, kit, 2)
	})
}

func TestReplaceEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, tok := rejected(t)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Delay: 5 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if newer, ok := e.Replace(ctx, tok); ok {
			t.Errorf("got %v", newer)
		}
		if newer, ok := e.Replace(t.Context(), tok); !ok { // that goes on
			t.Errorf("got %v, %v", newer, ok)
		}
		calls(t, kit, 2)
	})
}

func TestRejectDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, tok := rejected(t)
		kit.Endpoint.SetDefault(mockendpoint.Reply{Delay: 5 * time.Second})
		began := time.Now()
		e.Reject(tok)
		e.Reject(tok)
		if same, err := e.Token(t.Context()); err != nil || same != tok || time.Since(began) != 0 {
			t.Errorf("got %v, %v after %v", same, err, time.Since(began))
		}
		<-time.After(6 * time.Second)
		if newer, err := e.Token(t.Context()); err != nil || newer.Version <= tok.Version {
			t.Errorf("got %v, %v", newer, err)
		}
		e.Reject(tok)
		calls(t, kit, 2)
	})
}

func TestReplaceOfAClosedManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, tok := rejected(t)
		_ = kit.Manager.Close()
		e.Reject(tok)
		if newer, ok := e.Replace(t.Context(), tok); ok {
			t.Errorf("got %v", newer)
		}
		calls(t, kit, 1)
	})
}

// direct sends requests to a handler, without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody // as a server's has
	}
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// What docs/using.md shows to those who set the header themselves.
func TestTheHeaderPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e, _ := rejected(t)
		client := &http.Client{Transport: direct{kit.Endpoint.Protect(echo)}}
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := send(t.Context(), e, client, req)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("got %v, %v", resp, err)
			}
		}
		calls(t, kit, 2)
	})
}

func TestRejectsToken(t *testing.T) {
	for _, c := range []struct {
		status    int
		challenge string
		want      bool
	}{
		{401, "", true},
		{401, `Bearer error="invalid_token"`, true},
		{401, `Bearer error="insufficient_scope"`, false},
		{403, `Bearer error="invalid_token"`, false},
		{200, "", false},
	} {
		resp := &http.Response{StatusCode: c.status, Header: http.Header{}}
		if c.challenge != "" {
			resp.Header.Set("WWW-Authenticate", c.challenge)
		}
		if got := manager.RejectsToken(resp); got != c.want {
			t.Errorf("%d %s: %v", c.status, c.challenge, got)
		}
	}
}

func TestAllowsOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			environment manager.Environment
			url         string
			want        bool
		}{
			{manager.Environment{}, "https://anywhere.example/", true},
			{manager.Environment{BaseURL: "https://api.example/api/v2"}, "https://api.example:443/x", true},
			{manager.Environment{BaseURL: "https://api.example/api/v2"}, "http://api.example/x", false},
			{manager.Environment{BaseURL: "https://api.example", Origins: []string{"https://grpc.example"}}, "https://api.example/", false},
			{manager.Environment{BaseURL: "https://api.example", Origins: []string{"https://grpc.example"}}, "https://grpc.example/", true},
		} {
			kit := managertest.New(t, managertest.Options{InMemory: true, Environment: c.environment})
			e, err := kit.Manager.Env(managertest.Environment)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.AllowsOrigin(u); got != c.want {
				t.Errorf("%s: %v", c.url, got)
			}
		}
	})
}

// Who keeps our tokens as clients of golang.org/x/oauth2 do, goes on with one that was invalidated: what a Transport of its
// own, or ours, doesn't. A token that has ended is nobody's.
func TestClientsOfOAuth2ThatKeepATokenAndThatDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		ts := kit.Manager.TokenSource(t.Context(), managertest.Environment)
		ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: direct{kit.Endpoint.Protect(echo)}})
		keeping := oauth2.NewClient(ctx, ts) // by ReuseTokenSource
		asking := &http.Client{Transport: &oauth2.Transport{Source: ts, Base: direct{kit.Endpoint.Protect(echo)}}}
		want := func(keeps, asks int) {
			t.Helper()
			for client, want := range map[*http.Client]int{keeping: keeps, asking: asks} {
				if status, _ := get(t, client, "https://api.example/"); status != want {
					t.Errorf("keeping %v: got %d, want %d", client == keeping, status, want)
				}
			}
		}
		want(200, 200)
		kit.Endpoint.RevokeAll()
		if _, err := e.Invalidate(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		want(401, 200)
		<-time.After(91 * time.Second) // 10 s before its end it asks again
		want(200, 200)
		for range 30 { // and otherwise never sends one that has ended
			<-time.After(9 * time.Second)
			want(200, 200)
		}
	})
}

// A client that takes a token's Expiry for granted, as those of Google's APIs do with option.WithTokenSource, gets a valid
// one each time, and the manager's error with what lies behind it.
func TestATokenSourceForOthersClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kit, e := listenKit(t, 1, nil)
		ts := oauth2.ReuseTokenSourceWithExpiry(nil, kit.Manager.TokenSource(t.Context(), managertest.Environment), 3*time.Second)
		for range 100 {
			tok, err := ts.Token()
			if err != nil || !tok.Valid() || tok.Type() != "Bearer" || tok.RefreshToken != "" || !kit.Endpoint.Accepts(tok.AccessToken) {
				t.Fatalf("got %v, %v", tok.Valid(), err)
			}
			<-time.After(7 * time.Second)
		}
		if n := kit.Endpoint.Calls(); n < 7 || n > 11 {
			t.Errorf("%d calls in 700 s for tokens of 100 s", n)
		}
		kit.Endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client"})
		if _, err := e.Invalidate(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		client := oauth2.NewClient(t.Context(), kit.Manager.TokenSource(t.Context(), managertest.Environment))
		_, err := client.Get("https://api.example/")
		if failed, ok := errors.AsType[*manager.EndpointError](err); !ok || failed.Code != "invalid_client" {
			t.Errorf("got %v", err)
		}
	})
}

// The client of x/oauth2 that a program had before fetches the same token, as a Source.
func TestClientCredentialsOfOAuth2AsASource(t *testing.T) {
	endpoint := mockendpoint.New(mockendpoint.Options{ClientID: id, ClientSecret: secret})
	server := httptest.NewServer(endpoint)
	defer server.Close()
	defer endpoint.Close()
	conf := &clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: server.URL, AuthStyle: oauth2.AuthStyleInHeader}
	kit := managertest.New(t, managertest.Options{Environment: manager.Environment{
		SourceID: "clientcredentials",
		Source: manager.SourceFunc(func(ctx context.Context) (*manager.Reply, error) {
			tok, err := conf.Token(ctx)
			if err != nil {
				return nil, err
			}
			return &manager.Reply{AccessToken: manager.NewSecret(tok.AccessToken), TokenType: tok.TokenType, ExpiresIn: time.Until(tok.Expiry)}, nil
		}),
	}})
	api := httptest.NewServer(endpoint.Protect(echo))
	defer api.Close()
	for range 3 {
		if status, _ := get(t, kit.Manager.Client(managertest.Environment), api.URL); status != http.StatusOK {
			t.Errorf("got %d", status)
		}
	}
	if n := endpoint.Calls(); n != 1 {
		t.Errorf("%d calls", n)
	}
}
