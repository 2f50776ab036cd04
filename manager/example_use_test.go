package manager_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// docs/using.md shows parts of these examples.

// startExample starts a manager and an API that takes its tokens only.
func startExample() (m *manager.Manager, api string, stop func()) {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	tokens := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientSecret: "secret"})
	endpoint := httptest.NewServer(tokens)
	campaigns := httptest.NewServer(tokens.Protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	})))
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	m, err = manager.New(manager.Config{Redis: rdb, Environments: map[string]manager.Environment{
		"prod": {BaseURL: campaigns.URL, TokenURL: endpoint.URL, ClientID: "id", ClientSecret: manager.NewSecret("secret")},
	}})
	if err != nil {
		panic(err)
	}
	return m, campaigns.URL, func() {
		_ = m.Close()
		_ = rdb.Close()
		campaigns.Close()
		tokens.Close()
		endpoint.Close()
		server.Close()
	}
}

func show(resp *http.Response) {
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body))
}

func ExampleManager_Client() {
	m, api, stop := startExample()
	defer stop()

	client := m.Client("prod")
	client.Timeout = 30 * time.Second
	resp, err := client.Get(api + "/campaigns")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()

	show(resp)
	// Output: 200 GET /campaigns
}

func ExampleManager_Transport() {
	m, api, stop := startExample()
	defer stop()
	proxy := http.ProxyFromEnvironment

	base := &http.Transport{Proxy: proxy, MaxIdleConnsPerHost: 100}
	client := &http.Client{Transport: m.Transport("prod", base)}

	defer base.CloseIdleConnections()
	resp, err := client.Get(api + "/campaigns")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	show(resp)
	// Output: 200 GET /campaigns
}

// send is client.Do with the token and, where the API rejects that, once more with a newer one.
func send(ctx context.Context, env *manager.Env, client *http.Client, req *http.Request) (*http.Response, error) {
	tok, err := env.Token(ctx)
	if err != nil {
		return nil, err
	}
	tok.SetAuthHeader(req)
	resp, err := client.Do(req)
	if err != nil || !manager.RejectsToken(resp) {
		return resp, err
	}
	newer, ok := env.Replace(ctx, tok)
	if !ok {
		return resp, nil // the API's answer is the one to go by
	}
	_ = resp.Body.Close()
	newer.SetAuthHeader(req)
	return client.Do(req)
}

func ExampleEnv_Replace() {
	m, api, stop := startExample()
	defer stop()
	ctx := context.Background()

	env, err := m.Env("prod")
	if err != nil {
		log.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, api+"/campaigns/7", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := send(ctx, env, http.DefaultClient, req) // the function above
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()

	show(resp)
	// Output: 200 DELETE /campaigns/7
}

func ExampleEnv_OnToken() {
	m, _, stopAll := startExample()
	defer stopAll()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "token")

	env, err := m.Env("prod")
	if err != nil {
		log.Fatal(err)
	}
	stop := env.OnToken(func(t *manager.Token) {
		err := os.WriteFile(path+".new", []byte(t.AccessToken.Reveal()), 0o600)
		if err == nil {
			err = os.Rename(path+".new", path) // whoever reads it gets the one or the other
		}
		if err != nil {
			log.Print(err)
		}
	})
	defer stop()

	for _, err = os.Stat(path); err != nil; _, err = os.Stat(path) {
		<-time.After(time.Millisecond)
	}
	text, _ := os.ReadFile(path)
	tok, _ := env.Token(context.Background())
	fmt.Println(string(text) == tok.AccessToken.Reveal())
	// Output: true
}

// The example of [golang.org/x/oauth2.Config]: what conf.Client does with a token of its own, NewClient does with ours.
func ExampleManager_TokenSource() {
	m, api, stop := startExample()
	defer stop()
	ctx := context.Background()

	client := oauth2.NewClient(ctx, m.TokenSource(ctx, "prod"))
	resp, err := client.Get(api + "/campaigns")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	show(resp)
	// Output: 200 GET /campaigns
}

// The example of [golang.org/x/oauth2.Config] with an HTTP client of the caller's.
func ExampleManager_TokenSource_customHTTP() {
	m, api, stop := startExample()
	defer stop()
	ctx := context.Background()

	// Use the custom HTTP client for the API; that of the token endpoint is Environment.HTTPClient.
	httpClient := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, httpClient)

	client := oauth2.NewClient(ctx, m.TokenSource(ctx, "prod"))
	resp, err := client.Get(api + "/campaigns")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	show(resp)
	// Output: 200 GET /campaigns
}

// What was clientcredentials.Config's Client(ctx): the fetching is the manager's. The Transport asks for the token with each
// request, where NewClient would keep one.
func ExampleManager_TokenSource_transport() {
	m, api, stop := startExample()
	defer stop()
	ctx := context.Background()

	client := &http.Client{Transport: &oauth2.Transport{Source: m.TokenSource(ctx, "prod")}}

	resp, err := client.Get(api + "/campaigns")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	show(resp)
	// Output: 200 GET /campaigns
}

// A tenant is what this example's database has of one.
type tenant struct {
	TokenURL, ClientID string
	ClientSecret       manager.Secret
}

type database map[string]tenant

func (d database) Find(_ context.Context, name string) (t tenant, ok bool, err error) {
	t, ok = d[name]
	return t, ok, nil
}

func ExampleConfig_resolve() {
	server, err := miniredis.Run()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	tokens := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientSecret: "secret"})
	endpoint := httptest.NewServer(tokens)
	defer endpoint.Close()
	tenants := database{"acme": {TokenURL: endpoint.URL, ClientID: "id", ClientSecret: manager.NewSecret("secret")}}
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	defer rdb.Close()

	m, err := manager.New(manager.Config{
		Redis: rdb,
		Resolve: func(ctx context.Context, name string) (manager.Environment, error) {
			t, ok, err := tenants.Find(ctx, name)
			if err != nil {
				return manager.Environment{}, err
			}
			if !ok {
				return manager.Environment{}, manager.ErrNoEnvironment
			}
			return manager.Environment{TokenURL: t.TokenURL, ClientID: t.ClientID, ClientSecret: t.ClientSecret}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	tok, err := m.Token(context.Background(), "acme")
	fmt.Println(tok.TokenType, err)
	_, err = m.Token(context.Background(), "nobody")
	fmt.Println(err)
	// Output:
	// Bearer <nil>
	// onetoken: unknown environment "nobody"; configured: acme
}

func ExampleManager_SetEnvironment() {
	m, _, stop := startExample()
	defer stop()
	changed := manager.Environment{
		TokenURL: "https://auth.example/token", ClientID: "id", ClientSecret: manager.NewSecret("secret"), Scopes: []string{"read"},
	}

	err := m.SetEnvironment("prod", changed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Environments())
	// Output: [prod]
}
