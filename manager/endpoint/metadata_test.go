package endpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// An issuer has metadata under some paths, and a token endpoint.
type issuer struct {
	mu    sync.Mutex
	url   string
	pages map[string]http.HandlerFunc
	asked []string // paths
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{pages: map[string]http.HandlerFunc{"/token": answers(200, goodReply)}}
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked = append(i.asked, r.Method+" "+r.URL.EscapedPath())
	page := i.pages[r.URL.EscapedPath()]
	i.mu.Unlock()
	if page == nil {
		page = http.NotFound
	}
	page(w, r)
}

// has puts a page under a path.
func (i *issuer) has(path string, page http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pages[path] = page
}

// requests returns what was asked for since the last call.
func (i *issuer) requests() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	asked := i.asked
	i.asked = nil
	return strings.Join(asked, ", ")
}

// metadata is a document with the members, on top of issuer and token_endpoint.
func (i *issuer) metadata(path string, members map[string]any) http.HandlerFunc {
	m := map[string]any{"issuer": i.url + path, "token_endpoint": i.url + "/token"}
	maps.Copy(m, members)
	return answers(200, string(must(json.Marshal(m))), "Content-Type", "application/json")
}

// config is that of a client that knows the issuer only.
func (i *issuer) config(path string) endpoint.Config {
	return endpoint.Config{Issuer: i.url + path, ClientID: clientID, ClientSecret: secret.New(clientSecret)}
}

const (
	oauthPath = "/.well-known/oauth-authorization-server"
	oidcPath  = "/.well-known/openid-configuration"
)

func TestTheIssuersMetadataIsFound(t *testing.T) {
	html := answers(200, "<!DOCTYPE html><title>Welcome</title>", "Content-Type", "text/html")
	for _, c := range []struct {
		name, path string // of the issuer
		pages      map[string]http.HandlerFunc
		at         string // where the metadata is
		want       string // the requests
	}{
		{"RFC 8414", "", nil, oauthPath, "GET " + oauthPath},
		{"RFC 8414 with a path", "/t/1", nil, oauthPath + "/t/1", "GET " + oauthPath + "/t/1"},
		{"a slash at the end", "/", nil, oauthPath, "GET " + oauthPath},
		{"a slash at a path's end", "/t/", nil, oauthPath + "/t", "GET " + oauthPath + "/t"},
		{"OpenID Connect", "", nil, oidcPath, "GET " + oauthPath + ", GET " + oidcPath},
		{"OpenID Connect with a path", "/realms/a", nil, "/realms/a" + oidcPath, "GET " + oauthPath + "/realms/a, GET /realms/a" + oidcPath},
		{
			"appended", "/t", nil, "/t" + oauthPath,
			"GET " + oauthPath + "/t, GET /t" + oidcPath + ", GET /t" + oauthPath,
		},
		{"behind a page for everything", "", map[string]http.HandlerFunc{oauthPath: html}, oidcPath, "GET " + oauthPath + ", GET " + oidcPath},
		{"behind a redirect", "", map[string]http.HandlerFunc{oauthPath: answers(302, "", "Location", "/token")}, oidcPath, "GET " + oauthPath + ", GET " + oidcPath},
		{"behind a failure", "", map[string]http.HandlerFunc{oauthPath: answers(500, "")}, oidcPath, "GET " + oauthPath + ", GET " + oidcPath},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newIssuer(t)
			for path, page := range c.pages {
				i.has(path, page)
			}
			i.has(c.at, i.metadata(c.path, nil))
			client := must(endpoint.New(i.config(c.path)))
			if got := i.requests(); got != "" {
				t.Errorf("New asked for %s", got)
			}
			for range 2 {
				if _, err := client.Fetch(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := i.requests(), c.want+", POST /token, POST /token"; got != want {
				t.Errorf("requests %s; want %s", got, want)
			}
		})
	}
}

func TestMetadataThatCantBeUsed(t *testing.T) {
	for _, c := range []struct {
		name    string
		page    func(i *issuer) http.HandlerFunc
		code    string
		message string // with ISSUER for its URL
	}{
		{"none", func(*issuer) http.HandlerFunc { return http.NotFound }, "http_404", "the issuer's metadata: Not Found"},
		{"a redirect", func(*issuer) http.HandlerFunc { return answers(301, "", "Location", "/token") }, "http_301", "the issuer's metadata: Moved Permanently"},
		{"an outage", func(*issuer) http.HandlerFunc { return answers(503, "", "Retry-After", "7") }, "http_503", "the issuer's metadata: Service Unavailable"},
		{"a page", func(*issuer) http.HandlerFunc { return answers(200, "<html>") }, endpoint.CodeBadReply, "the issuer's metadata: is no JSON object"},
		{"null", func(*issuer) http.HandlerFunc { return answers(200, "null") }, endpoint.CodeBadReply, "the issuer's metadata: is no JSON object"},
		{"no issuer", func(*issuer) http.HandlerFunc { return answers(200, "{}") }, endpoint.CodeBadReply, "the issuer's metadata: names no issuer"},
		{
			"another issuer", func(i *issuer) http.HandlerFunc { return i.metadata("/other", nil) },
			endpoint.CodeBadReply, `the issuer's metadata: the metadata is another issuer's: "ISSUER/other", and issuer is "ISSUER"`,
		},
		{
			"a slash more", func(i *issuer) http.HandlerFunc { return i.metadata("/", nil) },
			endpoint.CodeBadReply, `the issuer's metadata: the metadata is another issuer's: "ISSUER/", and issuer is "ISSUER": a slash at the end counts`,
		},
		{
			"no token endpoint", func(i *issuer) http.HandlerFunc {
				return i.metadata("", map[string]any{"token_endpoint": nil})
			},
			endpoint.CodeBadReply, "the issuer's metadata: token_endpoint: is missing",
		},
		{
			"a token endpoint of plain http", func(i *issuer) http.HandlerFunc {
				return i.metadata("", map[string]any{"token_endpoint": "http://auth.example/token"})
			},
			endpoint.CodeBadReply, "the issuer's metadata: token_endpoint: plain http to auth.example would show the client secret to the network: use https, or set allow_http",
		},
		{
			"another endpoint of plain http", func(i *issuer) http.HandlerFunc {
				return i.metadata("", map[string]any{"revocation_endpoint": "ftp://auth.example/revoke"})
			},
			endpoint.CodeBadReply, "the issuer's metadata: revocation_endpoint: is no absolute http or https URL",
		},
		{
			"too long", func(i *issuer) http.HandlerFunc {
				return i.metadata("", map[string]any{"x": strings.Repeat("x", 1<<20)})
			},
			endpoint.CodeBadReply, "the issuer's metadata: is longer than 1 MiB",
		},
		{
			"another method", func(i *issuer) http.HandlerFunc {
				return i.metadata("", map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"}})
			},
			"invalid_client", "auth_method client_secret_basic: the issuer's metadata has only client_secret_post, private_key_jwt",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newIssuer(t)
			i.has(oauthPath, c.page(i))
			client := must(endpoint.New(i.config("")))
			_, err := client.Fetch(t.Context())
			failed, ok := errors.AsType[*endpoint.Error](err)
			if !ok {
				t.Fatalf("%v; want an *endpoint.Error", err)
			}
			want := strings.ReplaceAll(c.message, "ISSUER", i.url)
			if failed.Code != c.code || failed.Message != want {
				t.Errorf("%s: %s; want %s: %s", failed.Code, failed.Message, c.code, want)
			}
			if c.code == "http_503" && failed.RetryAfter != 7*time.Second {
				t.Errorf("Retry-After %v; want 7s", failed.RetryAfter)
			}
			if strings.Contains(i.requests(), "/token") {
				t.Error("the token endpoint was asked")
			}
			// Once it is mended, it is used.
			i.has(oauthPath, i.metadata("", nil))
			if _, err := client.Fetch(t.Context()); err != nil {
				t.Errorf("mended: %v", err)
			}
		})
	}
}

func TestAnIssuerThatCantBeReached(t *testing.T) {
	i := newIssuer(t)
	c := i.config("")
	var calls atomic.Int32
	c.HTTPClient = &http.Client{Transport: stub(func(*http.Request) (*http.Response, error) {
		calls.Add(1)
		return nil, errors.New("no route to 10.1.2.3")
	})}
	reply, err := fetch(t, c)
	if failed := failure(t, reply, err); failed.Code != endpoint.CodeUnreachable || failed.Message != "the issuer's metadata: no route to 10.1.2.3" {
		t.Errorf("%v; want unreachable", failed)
	}
	if calls.Load() != 1 {
		t.Errorf("%d requests; want 1: the next would end as this one", calls.Load())
	}
	c.HTTPClient = nil
	i.has(oauthPath, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	_, err = must(endpoint.New(c)).Fetch(ctx)
	if failed, ok := errors.AsType[*endpoint.Error](err); !ok || failed.Code != endpoint.CodeTimeout {
		t.Errorf("%v; want %s", err, endpoint.CodeTimeout)
	}
}

func TestMetadataOfTheClient(t *testing.T) {
	i := newIssuer(t)
	i.has(oauthPath, i.metadata("", map[string]any{
		"authorization_endpoint": "https://a.example/authorize", "device_authorization_endpoint": "https://a.example/device",
		"revocation_endpoint": "https://a.example/revoke", "token_endpoint_auth_methods_supported": []string{"client_secret_basic"},
		"mtls_endpoint_aliases": map[string]string{"token_endpoint": "https://mtls.example/token", "revocation_endpoint": "https://mtls.example/revoke"},
	}))
	found := endpoint.Metadata{
		Issuer: i.url, TokenEndpoint: i.url + "/token", AuthorizationEndpoint: "https://a.example/authorize",
		DeviceAuthorizationEndpoint: "https://a.example/device", RevocationEndpoint: "https://a.example/revoke",
	}
	configured := endpoint.Metadata{
		TokenEndpoint: "https://c.example/token", AuthorizationEndpoint: "https://c.example/authorize",
		DeviceAuthorizationEndpoint: "https://c.example/device", RevocationEndpoint: "https://c.example/revoke",
	}
	urls := func(c *endpoint.Config) {
		c.TokenURL, c.AuthorizationURL = configured.TokenEndpoint, configured.AuthorizationEndpoint
		c.DeviceAuthorizationURL, c.RevocationURL = configured.DeviceAuthorizationEndpoint, configured.RevocationEndpoint
	}
	both, withMTLS := configured, found
	both.Issuer = i.url
	withMTLS.TokenEndpoint, withMTLS.RevocationEndpoint = "https://mtls.example/token", "https://mtls.example/revoke"
	for _, c := range []struct {
		name string
		mend func(*endpoint.Config)
		want endpoint.Metadata
	}{
		{"found", func(*endpoint.Config) {}, found},
		{"configured", func(c *endpoint.Config) { urls(c); c.Issuer = "" }, configured},
		{"both: what is configured wins", urls, both},
		{"aliases for certificates", func(c *endpoint.Config) {
			c.AuthMethod, c.ClientSecret, c.HTTPClient = endpoint.TLSClientAuth, secret.Secret{}, http.DefaultClient
		}, withMTLS},
	} {
		conf := i.config("")
		conf.Grant = endpoint.RefreshToken
		c.mend(&conf)
		got, err := must(endpoint.New(conf)).Metadata(t.Context())
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	conf := i.config("/other")
	if got, err := must(endpoint.New(conf)).Metadata(t.Context()); err == nil || got != (endpoint.Metadata{}) {
		t.Errorf("%+v, %v; want an error alone", got, err)
	}
}

func TestMethodsThatAreNotInTheMetadata(t *testing.T) {
	i := newIssuer(t)
	for _, c := range []struct {
		method    endpoint.AuthMethod
		supported any
		ok        bool
	}{
		{endpoint.ClientSecretPost, nil, true},
		{endpoint.ClientSecretPost, "client_secret_basic", true}, // which is no list
		{endpoint.ClientSecretPost, []string{}, false},
		{endpoint.ClientSecretPost, []string{"client_secret_basic"}, false},
		{endpoint.ClientSecretPost, []string{"client_secret_post"}, true},
		{endpoint.NoClientAuth, []string{"client_secret_post"}, true}, // many that have public clients don't say so
		{endpoint.TLSClientAuth, []string{"client_secret_post"}, false},
		{endpoint.TLSClientAuth, []string{"tls_client_auth"}, true},
		{endpoint.TLSClientAuth, []string{"self_signed_tls_client_auth"}, true},
	} {
		i.has(oauthPath, i.metadata("", map[string]any{"token_endpoint_auth_methods_supported": c.supported}))
		conf := i.config("")
		conf.AuthMethod = c.method
		if c.method != endpoint.ClientSecretPost {
			conf.ClientSecret = secret.Secret{}
		}
		conf.HTTPClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		_, err := fetch(t, conf)
		failed, _ := errors.AsType[*endpoint.Error](err)
		if (err == nil) != c.ok || err != nil && (failed == nil || !failed.Refused()) {
			t.Errorf("%s of %v: %v; want it fetched: %v, or else a refusal", c.method, c.supported, err, c.ok)
		}
	}
}

// offline answers requests of a client without a network, for tests in a bubble.
func (i *issuer) offline() *http.Client {
	return &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		i.ServeHTTP(w, r)
		return w.Result(), nil
	})}
}

func TestMetadataIsKeptForAnHourAndUntilAFailedUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{url: "https://auth.example", pages: map[string]http.HandlerFunc{"/token": answers(200, goodReply)}}
		i.has(oauthPath, i.metadata("", nil))
		c := i.config("")
		c.HTTPClient = i.offline()
		client := must(endpoint.New(c))
		ask := func(name, want string, ok bool) {
			t.Helper()
			if _, err := client.Fetch(t.Context()); (err == nil) != ok {
				t.Errorf("%s: %v; want a token: %v", name, err, ok)
			}
			if got := i.requests(); got != want {
				t.Errorf("%s: %s; want %s", name, got, want)
			}
		}
		const look, post = "GET " + oauthPath, "POST /token"
		pass := func(d time.Duration) { <-time.After(d) }
		ask("at first", look+", "+post, true)
		pass(59 * time.Minute)
		ask("within the hour", post, true)
		pass(2 * time.Minute)
		ask("after it", look+", "+post, true)

		i.has("/token", answers(404, ""))
		ask("the endpoint is gone", post, false)
		i.has("/token", nil)
		i.has("/new", answers(200, goodReply))
		i.has(oauthPath, i.metadata("", map[string]any{"token_endpoint": i.url + "/new"}))
		ask("it has moved", look+", POST /new", true)
		ask("and is known", "POST /new", true)

		i.has("/new", answers(401, `{"error":"invalid_client"}`))
		ask("a refusal", "POST /new", false)
		i.has("/new", answers(200, goodReply))
		ask("which says nothing of the endpoint", "POST /new", true)

		pass(2 * time.Hour)
		i.has(oauthPath, answers(503, ""))
		ask("the metadata can't be had", look+", GET "+oidcPath+", POST /new", true)
		i.has(oauthPath, i.metadata("/other", nil))
		ask("the metadata is another's", look+", GET "+oidcPath, false)
	})
}

func TestOneLookForAllWhoWantToKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{200, 503} {
			i := &issuer{url: "https://auth.example", pages: map[string]http.HandlerFunc{}}
			page := i.metadata("", nil)
			if status != 200 {
				page = answers(status, "")
			}
			gate := make(chan struct{})
			i.has(oauthPath, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-gate:
					page(w, r)
				case <-r.Context().Done():
				}
			})
			c := i.config("")
			base := i.offline().Transport
			c.HTTPClient = &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
				resp, err := base.RoundTrip(r)
				if r.Context().Err() != nil {
					return nil, r.Context().Err()
				}
				return resp, err
			})}
			client := must(endpoint.New(c))
			results := make(chan error, 10)
			// The first, who asks, gives up: the others don't.
			first, giveUp := context.WithCancel(t.Context())
			gone := make(chan error, 1)
			go func() { _, err := client.Metadata(first); gone <- err }()
			synctest.Wait()
			for range cap(results) {
				go func() { _, err := client.Metadata(t.Context()); results <- err }()
			}
			impatient, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := client.Metadata(impatient); err == nil {
				t.Error("the impatient one got metadata")
			}
			cancel()
			giveUp()
			if err := <-gone; err == nil {
				t.Error("the one who gave up got metadata")
			}
			synctest.Wait()
			close(gate)
			for range cap(results) {
				if err := <-results; (err == nil) != (status == 200) {
					t.Errorf("status %d: %v", status, err)
				}
			}
			want := []string{"GET " + oauthPath, "GET " + oauthPath}
			if status != 200 {
				want = append(want, "GET "+oidcPath)
			}
			if !slices.Equal(i.asked, want) {
				t.Errorf("status %d: requests %q; want %q", status, i.asked, want)
			}
		}
	})
}

// A transport that panics must not leave those who wait behind.
func TestAPanicOfATransportEndsTheLook(t *testing.T) {
	i := newIssuer(t)
	i.has(oauthPath, i.metadata("", nil))
	c := i.config("")
	var calls atomic.Int32
	transport := &http.Transport{DisableKeepAlives: true}
	c.HTTPClient = &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		if calls.Add(1) == 1 {
			panic("at the first")
		}
		return transport.RoundTrip(r)
	})}
	client := must(endpoint.New(c))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _ = client.Metadata(t.Context())
	}()
	if _, err := client.Metadata(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadIssuers(t *testing.T) {
	for _, c := range []struct{ issuer, want string }{
		{"auth.example", "issuer: is no absolute http or https URL"},
		{"http://auth.example", "issuer: plain http to auth.example would show the client secret to the network: use https, or set allow_http"},
		{"https://auth.example?x=1", "issuer: must not have a query or a fragment (RFC 8414 §2)"},
		{"https://auth.example/#", "issuer: must not have a query or a fragment (RFC 8414 §2)"},
		{"https://me:hunter2@auth.example", "issuer: must not hold credentials"},
	} {
		conf := endpoint.Config{Issuer: c.issuer, ClientID: clientID, ClientSecret: secret.New(clientSecret)}
		if _, err := endpoint.New(conf); fmt.Sprint(err) != c.want {
			t.Errorf("%s: %v; want %s", c.issuer, err, c.want)
		}
	}
}
