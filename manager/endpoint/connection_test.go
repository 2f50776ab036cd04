package endpoint_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/endpoint"
)

const moment = 100 * time.Millisecond // long enough for a connection on loopback, and not a wait to speak of

// dials returns a client that connects by dial alone.
func dials(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// listen runs serve on each connection to the address that it returns.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().String()
}

// silent accepts connections and says nothing until the other side goes.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// says answers every request by a text of its own.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, text)
	}
}

// serveTLS starts an endpoint with TLS that logs nothing.
func serveTLS(t *testing.T, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(answers(200, goodReply))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = config
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// A connection that can't be made is this replica's own trouble; one that was made tells of the endpoint.
func TestConnectionFailures(t *testing.T) {
	closed := func(t *testing.T) string {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		return "http://" + l.Addr().String() + "/token?key=do-not-print"
	}
	hung := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	for _, c := range []struct {
		name    string
		config  func(t *testing.T) endpoint.Config
		code    string
		message string // a part of it
		is      func(error) bool
	}{
		{
			"refused", func(t *testing.T) endpoint.Config { return config(closed(t)) },
			endpoint.CodeUnreachable, "connection refused",
			func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) },
		},
		{
			"no such host", func(t *testing.T) endpoint.Config {
				c := config("https://auth.invalid/token")
				c.HTTPClient = dials(t, (&net.Dialer{Resolver: &net.Resolver{
					PreferGo: true,
					Dial: func(context.Context, string, string) (net.Conn, error) {
						return nil, errors.New("no network")
					},
				}}).DialContext)
				return c
			},
			endpoint.CodeUnreachable, "auth.invalid",
			func(err error) bool { return errors.As(err, new(*net.DNSError)) },
		},
		{
			"a hung name server", func(t *testing.T) endpoint.Config {
				c := config("https://auth.invalid/token")
				c.HTTPClient = dials(t, (&net.Dialer{Timeout: moment, Resolver: &net.Resolver{
					PreferGo: true,
					Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return nil, &net.OpError{Op: "dial", Err: waitFor(ctx)}
					},
				}}).DialContext)
				return c
			},
			endpoint.CodeUnreachable, "no connection in time", nil,
		},
		{
			"a hung dial that the client's timeout ends", func(t *testing.T) endpoint.Config {
				c := config("https://auth.example/token")
				c.HTTPClient = dials(t, hung)
				c.HTTPClient.Timeout = moment
				return c
			},
			endpoint.CodeUnreachable, "no connection in time", nil,
		},
		{
			"a hung handshake", func(t *testing.T) endpoint.Config {
				c := config("https://" + listen(t, silent) + "/token")
				c.ConnectTimeout = moment
				return c
			},
			endpoint.CodeUnreachable, "no connection in time", nil,
		},
		{
			"a certificate of an unknown authority", func(t *testing.T) endpoint.Config {
				return config(serveTLS(t, nil).URL + "/token")
			},
			endpoint.CodeUnreachable, "certificate signed by unknown authority",
			func(err error) bool { return errors.As(err, new(x509.UnknownAuthorityError)) },
		},
		{
			"a certificate that the endpoint misses", func(t *testing.T) endpoint.Config {
				server := serveTLS(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert})
				c := config(server.URL + "/token")
				c.HTTPClient = server.Client()
				return c
			},
			endpoint.CodeUnreachable, "certificate required", nil,
		},
		{
			"https to a server of http", func(t *testing.T) endpoint.Config {
				return config(strings.Replace(serve(t, answers(200, goodReply)), "http:", "https:", 1))
			},
			endpoint.CodeUnreachable, "", nil,
		},
		{
			"cut in the handshake", func(t *testing.T) endpoint.Config {
				return config("https://" + listen(t, func(net.Conn) {}) + "/token")
			},
			endpoint.CodeUnreachable, "", nil,
		},
		{
			"a proxy that doesn't connect", func(t *testing.T) endpoint.Config {
				proxy, err := url.Parse(serve(t, answers(502, "")))
				if err != nil {
					t.Fatal(err)
				}
				transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
				t.Cleanup(transport.CloseIdleConnections)
				c := config("https://auth.example/token")
				c.HTTPClient = &http.Client{Transport: transport}
				return c
			},
			endpoint.CodeUnreachable, "Bad Gateway", nil,
		},
		{
			"the second connection of a client that tries again", func(*testing.T) endpoint.Config {
				c := config("https://auth.example/token")
				c.HTTPClient = &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
					trace := httptrace.ContextClientTrace(r.Context())
					if trace.GetConn != nil {
						trace.GetConn("auth.example:443")
					}
					trace.GotConn(httptrace.GotConnInfo{Reused: true}) // an idle one, closed by the endpoint meanwhile
					if trace.GetConn != nil {
						trace.GetConn("auth.example:443")
					}
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
				})}
				return c
			},
			endpoint.CodeUnreachable, "connection refused", nil,
		},
		{
			"no answer", func(t *testing.T) endpoint.Config {
				c := config("http://" + listen(t, silent) + "/token?key=do-not-print")
				c.HTTPClient = dials(t, (&net.Dialer{}).DialContext)
				c.HTTPClient.Timeout = moment
				return c
			},
			endpoint.CodeTimeout, "no answer in time", nil,
		},
		{
			"half an answer", func(t *testing.T) endpoint.Config {
				c := config("http://" + listen(t, func(c net.Conn) {
					says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")(c)
					silent(c)
				}) + "/token?key=do-not-print")
				c.HTTPClient = dials(t, (&net.Dialer{}).DialContext)
				c.HTTPClient.Timeout = moment
				return c
			},
			endpoint.CodeTimeout, "no answer in time", nil,
		},
		{
			"cut before the answer", func(t *testing.T) endpoint.Config {
				return config("http://" + listen(t, says("")) + "/token?key=do-not-print")
			},
			endpoint.CodeBadReply, "the connection broke before the answer was complete", nil,
		},
		{
			"cut in the answer's header", func(t *testing.T) endpoint.Config {
				return config("http://" + listen(t, says("HTTP/1.1 200 OK\r\nContent-")) + "/token")
			},
			endpoint.CodeBadReply, "the connection broke before the answer was complete", nil,
		},
		{
			"cut in the answer's body", func(t *testing.T) endpoint.Config {
				return config("http://" + listen(t, says("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+goodReply)) + "/token")
			},
			endpoint.CodeBadReply, "the connection broke before the answer was complete",
			func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
		},
		{
			"cut in a chunk", func(t *testing.T) endpoint.Config {
				return config("http://" + listen(t, says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"+goodReply)) + "/token")
			},
			endpoint.CodeBadReply, "the connection broke before the answer was complete", nil,
		},
		{
			"not HTTP", func(t *testing.T) endpoint.Config {
				return config("http://" + listen(t, says("220 mail.example ESMTP\r\n")) + "/token")
			},
			endpoint.CodeBadReply, "", nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply, err := fetch(t, c.config(t))
			failed := failure(t, reply, err)
			if failed.Code != c.code || !strings.Contains(failed.Message, c.message) || failed.Status != 0 {
				t.Errorf("code %q, message %q, status %d; want %q, %q, 0", failed.Code, failed.Message, failed.Status, c.code, c.message)
			}
			if c.is != nil && !c.is(err) {
				t.Errorf("the cause is not in the chain of %v: %#v", err, failed.Err)
			}
			if strings.Contains(err.Error(), "do-not-print") {
				t.Errorf("the error shows the URL's query: %v", err)
			}
		})
	}
}

func waitFor(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestContextBoundsTheWholeExchange(t *testing.T) {
	for _, c := range []struct {
		name, code string
		client     func(t *testing.T) *http.Client
	}{
		{"while it connects", endpoint.CodeUnreachable, func(t *testing.T) *http.Client {
			return dials(t, func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, waitFor(ctx) })
		}},
		{"once it is connected", endpoint.CodeTimeout, func(*testing.T) *http.Client { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := config("http://" + listen(t, silent) + "/token")
			conf.HTTPClient = c.client(t)
			client, err := endpoint.New(conf)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), moment)
			defer cancel()
			start := time.Now()
			reply, err := client.Fetch(ctx)
			failed := failure(t, reply, err)
			if failed.Code != c.code || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v (%v); want %s and a deadline", failed, failed.Err, c.code)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v; want about %v", took, moment)
			}
		})
	}
}

// Some RoundTrippers leave a request that takes too long to itself.
func TestARoundTripperThatGoesOnByItselfIsNoRace(t *testing.T) {
	ended := make(chan struct{})
	c := config("https://auth.example/token")
	c.HTTPClient = &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		ctx := r.Context()
		go func() {
			defer close(ended)
			httptrace.ContextClientTrace(ctx).GotConn(httptrace.GotConnInfo{})
		}()
		return nil, context.DeadlineExceeded
	})}
	reply, err := fetch(t, c)
	failure(t, reply, err)
	<-ended
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		for _, where := range []string{"another host", "the same host", "plain http", "nowhere"} {
			var here, there atomic.Int32
			other := httptest.NewUnstartedServer(answers(200, goodReply))
			other.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					there.Add(1)
				}
			}
			other.Start()
			location := map[string]string{
				"another host": other.URL + "/token", "the same host": "/elsewhere",
				"plain http": "http://" + other.Listener.Addr().String(), "nowhere": "",
			}[where]
			failed := mustFail(t, func(w http.ResponseWriter, r *http.Request) {
				here.Add(1)
				answers(status, goodReply, "Location", location)(w, r)
			})
			other.Close()
			if failed.Status != status || !strings.HasPrefix(failed.Code, "http_3") {
				t.Errorf("%d to %s: code %q, status %d", status, where, failed.Code, failed.Status)
			}
			if here.Load() != 1 || there.Load() != 0 {
				t.Errorf("%d to %s: %d requests here, %d connections there; want 1 and 0", status, where, here.Load(), there.Load())
			}
		}
	}
}

func TestUsersClientIsUsedAndNotChanged(t *testing.T) {
	var requests int
	tokenURL := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests++
		if got := r.Header["Cookie"]; got != nil {
			t.Errorf("cookies were sent: %q", got)
		}
		answers(307, "", "Location", "/elsewhere", "Set-Cookie", "session=1")(w, r)
	})
	target, err := url.Parse(tokenURL)
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(target, []*http.Cookie{{Name: "mine", Value: "1"}})
	var asked, sentBy int
	transport := &http.Transport{DisableKeepAlives: true}
	users := &http.Client{
		Transport: stub(func(r *http.Request) (*http.Response, error) {
			sentBy++
			return transport.RoundTrip(r)
		}),
		CheckRedirect: func(*http.Request, []*http.Request) error {
			asked++
			return nil
		},
		Jar:     jar,
		Timeout: time.Minute,
	}
	policy := reflect.ValueOf(users.CheckRedirect).Pointer()

	c := config(tokenURL)
	c.HTTPClient = users
	reply, err := fetch(t, c)
	failed := failure(t, reply, err)

	if failed.Code != "http_307" || requests != 1 || sentBy != 1 || asked != 0 {
		t.Errorf("%v after %d requests, %d by the user's transport, %d questions to its redirect policy; want http_307, 1, 1, 0",
			failed, requests, sentBy, asked)
	}
	if users.Transport == nil || users.Jar != jar || users.Timeout != time.Minute || reflect.ValueOf(users.CheckRedirect).Pointer() != policy {
		t.Errorf("the user's client was changed: %+v", users)
	}
	if got := jar.Cookies(target); len(got) != 1 || got[0].Name != "mine" {
		t.Errorf("the user's cookies were changed: %v", got)
	}
}

func TestUsersClientBringsItsAuthority(t *testing.T) {
	server := serveTLS(t, nil)
	c := config(server.URL + "/token")
	c.HTTPClient = server.Client()
	if _, err := fetch(t, c); err != nil {
		t.Error(err)
	}
}
