package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// connectionsAtOnce is how many endpoints are connected to at the same time.
const connectionsAtOnce = 8

// A target is where the token endpoints of some environments are, which connect to it alike.
type target struct {
	place
	envs    []string
	timeout time.Duration // the longest connect_timeout of them
}

// A place is a server, with what a TLS connection to it is made with.
type place struct {
	url                       string // without path
	caFile, certFile, keyFile string // of the settings; "" where they aren't set
}

// tls returns the configuration of a connection. The manager has read the files, too.
func (p place) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.caFile != "" {
		pem, err := os.ReadFile(p.caFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM(pem)
	}
	if p.certFile != "" {
		pair, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
		if err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c, nil
}

// endpoints connects to each token endpoint, and asks for nothing.
func (e *examination) endpoints(ctx context.Context, r *report) {
	targets := e.targets()
	reports := make([]report, len(targets))
	places := make(chan struct{}, connectionsAtOnce)
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			e.endpoint(ctx, &reports[i], t)
		})
	}
	all.Wait()
	for _, one := range reports {
		r.findings = append(r.findings, one.findings...)
	}
}

func (e *examination) targets() []target {
	found := map[place]target{}
	for _, name := range e.envs {
		env := e.file.Environments[name]
		u, err := url.Parse(asked(env))
		if err != nil {
			continue // the manager has taken it
		}
		at := place{u.Scheme + "://" + u.Host, env.CAFile, env.ClientCertFile, env.ClientKeyFile}
		t := found[at]
		t.place, t.envs = at, append(t.envs, name)
		t.timeout = max(t.timeout, cmp.Or(env.ConnectTimeout, endpoint.DefaultConnectTimeout))
		found[at] = t
	}
	var list []target
	for _, t := range found {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b target) int { return cmp.Or(strings.Compare(a.url, b.url), slices.Compare(a.envs, b.envs)) })
	return list
}

func (e *examination) endpoint(ctx context.Context, r *report, t target) {
	const check = GroupEndpoint + ".connection"
	subject := t.url + " (" + strings.Join(t.envs, ", ") + ")"
	begun := time.Now()
	state, by, err := connect(ctx, t)
	switch {
	case err != nil:
		mend := cmp.Or(connectionMend(err), "see the error; a proxy is taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
		r.fail(check, subject, "can't be reached"+by+": "+err.Error(), mend)
	default:
		r.ok(check, subject, "connected%s within %v; nothing was asked", by, time.Since(begun).Round(time.Millisecond))
		e.certificate(r, GroupEndpoint+".certificate", subject, state)
	}
}

// errConnected ends a request whose connection is there.
var errConnected = errors.New("connected")

// connect makes a connection as the endpoint's client does, over the proxy of the process's environment if there is one,
// and closes it before anything of a request was written to it. by says which proxy.
func connect(ctx context.Context, t target) (state *tls.ConnectionState, by string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*t.timeout) // the dial, and the handshake
	defer cancel()
	config, err := t.tls()
	if err != nil {
		return nil, "", err
	}
	dialer := &net.Dialer{Timeout: t.timeout}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: t.timeout,
		DisableKeepAlives:   true,
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/2 would write before it is told of the connection
	}
	defer transport.CloseIdleConnections()
	var mu sync.Mutex // a dial may go on when the request has ended
	connected := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				state = &s // of the endpoint, after that of a proxy
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			_ = info.Conn.Close()
			mu.Lock()
			defer mu.Unlock()
			connected = true
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, t.url, nil)
	if err != nil {
		return nil, "", errors.New("is no URL")
	}
	if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
		by = " by the proxy " + proxy.Scheme + "://" + proxy.Host
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	mu.Lock()
	defer mu.Unlock()
	if connected {
		return state, by, nil
	}
	return nil, by, cmp.Or(err, errConnected)
}

// tokens has a token of each environment refreshed, as onetoken refresh does: under the fleet's lease, stored for all of
// it. Where the fleet backs off nothing is asked.
func (e *examination) tokens(ctx context.Context, r *report) {
	const check = GroupEndpoint + ".token"
	for _, name := range e.envs {
		if ctx.Err() != nil {
			return
		}
		status, err := e.manager.Status(ctx, name)
		if err == nil && status.Failure.RetryAt != nil && status.Failure.RetryAt.After(status.ReadAt) { // both by Redis's clock
			r.fail(check, name, "not asked: the last attempt failed, and the next is at "+status.Failure.RetryAt.UTC().Format(time.RFC3339), "wait, or mend what failed and run onetoken refresh "+name)
			continue
		}
		tok, err := e.manager.Refresh(ctx, name)
		_, redisAway := errors.AsType[*manager.RedisError](err)
		switch {
		case redisAway:
			r.fail(GroupRedis+".token", name, err.Error(), "see what is wrong with Redis")
		case err != nil:
			r.fail(check, name, err.Error(), tokenMend(err))
		default:
			r.ok(check, name, "version %d was fetched within %v, lives for %v, and is stored for all", tok.Version, tok.Took.Round(time.Millisecond), tok.Life())
		}
	}
}

func tokenMend(err error) string {
	if login, ok := errors.AsType[*manager.LoginError](err); ok {
		return fmt.Sprintf("onetoken login %s, or onetoken grant import %[1]s", login.Environment)
	}
	failed, ok := errors.AsType[*manager.EndpointError](err)
	switch {
	case !ok:
		return "see the error"
	case failed.Code == "invalid_client" || failed.Code == "unauthorized_client":
		return "are client_id, client_secret and auth_method right, and is the client known to that endpoint?"
	case failed.Code == "invalid_scope" || failed.Code == "invalid_target":
		return "are scopes and params what the client may ask for?"
	case failed.Code == endpoint.CodeUnreachable:
		return "see the connection above"
	case failed.Code == "http_404":
		return "is base_url or token_url right?"
	}
	return fmt.Sprintf("ask who runs the endpoint what %s means there", failed.Code)
}
