package login

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
)

const (
	defaultListen = "127.0.0.1:0"
	callbackPath  = "/callback"
)

// A callback is where the browser comes back to, once.
type callback struct {
	url         string // of it, as the endpoint is told
	path        string
	issuer      string // who must be the answer's, "" where nobody knows
	namesIssuer bool   // its answers always say who they are of
	state       string // tells this login's answer from others

	listeners []net.Listener
	server    *http.Server
	over      atomic.Bool   // it has come back
	answers   chan answer   // the one
	strays    atomic.Uint32 // answers with another state
}

// listen listens as address and redirectURL say, each of which may be "".
func listen(ctx context.Context, address, redirectURL string) (*callback, error) {
	c := &callback{path: callbackPath, answers: make(chan answer, 1)}
	redirect, err := parseRedirect(redirectURL)
	if err != nil {
		return nil, err
	}
	if redirect == nil {
		if address != "" {
			if err := checkLoopback(address); err != nil {
				return nil, err
			}
		}
		l, err := c.listen(ctx, cmp.Or(address, defaultListen))
		if err != nil {
			return nil, err
		}
		c.url = "http://" + l.Addr().String() + callbackPath
		return c, nil
	}
	c.path = cmp.Or(redirect.EscapedPath(), "/")
	if address == "" {
		if address, err = addressOf(redirect); err != nil {
			return nil, err
		}
	}
	l, err := c.listen(ctx, address)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if redirect.Port() == "0" {
		redirect.Host = strings.TrimSuffix(redirect.Host, "0") + port
	}
	if isLocalhost(redirect) { // which is [::1] to some browsers, on machines that have it
		if _, err := c.listen(ctx, net.JoinHostPort("::1", port)); errors.Is(err, syscall.EADDRINUSE) {
			c.close() // the answer would go elsewhere
			return nil, err
		}
	}
	c.url = redirect.String()
	return c, nil
}

func (c *callback) listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("can't wait for the browser to come back: %w", err)
	}
	c.listeners = append(c.listeners, l)
	return l, nil
}

// parseRedirect returns nil for "".
func parseRedirect(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(raw, "?#") {
		return nil, &SettingError{"--redirect-url", errors.New("is no http or https URL without query and fragment")}
	}
	return u, nil
}

// addressOf returns where to listen for a redirect to u, the browser being on this machine.
func addressOf(u *url.URL) (string, error) {
	if u.Scheme == "http" && u.Port() != "" {
		if isLocalhost(u) {
			return net.JoinHostPort("127.0.0.1", u.Port()), nil
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.IsLoopback() {
			return net.JoinHostPort(u.Hostname(), u.Port()), nil
		}
	}
	return "", &SettingError{"--redirect-url", errors.New("doesn't say where to listen, as http://127.0.0.1:8400/callback does: --listen must")}
}

func isLocalhost(u *url.URL) bool { return strings.EqualFold(u.Hostname(), "localhost") }

// checkLoopback refuses an address that isn't also where this machine's browser finds it.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return &SettingError{"--listen", fmt.Errorf("%.100q is no address such as 127.0.0.1:8400", address)}
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return &SettingError{"--listen", fmt.Errorf("%.100q isn't an address of loopback: --redirect-url must say how the browser gets there", host)}
	}
	return nil
}

// serve answers from now on, until close.
func (c *callback) serve() {
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	for _, l := range c.listeners {
		go func() { _ = c.server.Serve(l) }() // ends with close
	}
}

// wait returns the code once the browser has come back with it.
func (c *callback) wait(ctx context.Context) (secret.Secret, error) {
	select {
	case a := <-c.answers:
		return a.code, a.err
	case <-ctx.Done():
	}
	waiting := "for the browser to come back"
	if n := c.strays.Load(); n > 0 {
		waiting += fmt.Sprintf(" (%d of its answers had another login's state)", n)
	}
	return secret.Secret{}, &WaitError{waiting, context.Cause(ctx)}
}

// close ends it. The pages that were shown are on their way.
func (c *callback) close() {
	if c.server != nil {
		_ = c.server.Close()
	}
	for _, l := range c.listeners {
		_ = l.Close()
	}
}

// ServeHTTP takes the first answer that has this login's state.
func (c *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.EscapedPath() != c.path:
		show(w, http.StatusNotFound, pages.elsewhere)
		return
	case r.Method != http.MethodGet: // a HEAD is somebody who looks ahead
		w.Header().Set("Allow", http.MethodGet)
		show(w, http.StatusMethodNotAllowed, pages.elsewhere)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(c.state)) != 1 {
		c.strays.Add(1)
		show(w, http.StatusBadRequest, pages.stray)
		return
	}
	if !c.over.CompareAndSwap(false, true) {
		show(w, http.StatusGone, pages.again)
		return
	}
	a := c.read(query)
	if a.err != nil {
		show(w, http.StatusOK, pages.refused)
	} else {
		show(w, http.StatusOK, pages.done)
	}
	c.answers <- a
}
