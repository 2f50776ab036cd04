package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Listen says where and how an agent listens.
type Listen struct {
	Addresses   []string // host:port or unix:/path
	AllowRemote bool     // other addresses than loopback, too; needs TLS and a key
	TLSCert     string   // PEM files, read again when they change; with them every address but unix: speaks TLS
	TLSKey      string
	ClientCA    string // PEM file: clients need a certificate that it has signed
	HasKey      bool   // whether Options.KeyFile is set
	Log         *slog.Logger
}

// Check returns what is wrong with the settings themselves, as a *[SettingError].
func (l Listen) Check() error {
	fail := func(setting, format string, args ...any) error {
		return &SettingError{Setting: setting, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case len(l.Addresses) == 0:
		return fail("listen", "no address")
	case (l.TLSCert == "") != (l.TLSKey == ""):
		return fail("tls_cert", "tls_cert and tls_key belong together")
	case l.ClientCA != "" && l.TLSCert == "":
		return fail("client_ca", "client certificates need TLS: tls_cert and tls_key")
	}
	for _, address := range l.Addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			if path == "" {
				return fail("listen", "unix: needs a path")
			}
			continue
		}
		host, _, err := net.SplitHostPort(address)
		switch {
		case err != nil:
			return fail("listen", "%.100q is neither host:port nor unix:/path", address)
		case isLoopbackHost(host):
		case !l.AllowRemote:
			return fail("listen", "%.100q isn't loopback: whoever reaches it would get tokens; allow_remote permits it, with TLS and a key", address)
		case l.TLSCert == "":
			return fail("listen", "%.100q isn't loopback: it needs TLS (tls_cert, tls_key)", address)
		case !l.HasKey:
			return fail("listen", "%.100q isn't loopback: it needs a key (key_file)", address)
		}
	}
	return nil
}

func isLoopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// Hosts returns the names by which the addresses themselves are asked for.
func (l Listen) Hosts() []string {
	var hosts []string
	for _, address := range l.Addresses {
		if host, _, err := net.SplitHostPort(address); err == nil && host != "" && !strings.HasPrefix(address, "unix:") {
			if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// A Listener is where an agent listens.
type Listener struct {
	net.Listener             // without TLS
	tls          *tls.Config // nil: without
}

// URL is how the listener is asked.
func (l *Listener) URL() string {
	switch {
	case l.Addr().Network() == "unix":
		return "unix:" + l.Addr().String()
	case l.tls != nil:
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}

// Open opens all addresses, or none.
func (l Listen) Open(ctx context.Context) ([]*Listener, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	config, err := l.tlsConfig()
	if err != nil {
		return nil, err
	}
	var opened []*Listener
	for _, address := range l.Addresses {
		listener, err := open(ctx, address, config)
		if err != nil {
			for _, o := range opened {
				_ = o.Close()
			}
			return nil, &SettingError{Setting: "listen", Err: err}
		}
		opened = append(opened, listener)
	}
	return opened, nil
}

func open(ctx context.Context, address string, config *tls.Config) (*Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		l, err := listenUnix(ctx, path)
		return &Listener{Listener: l}, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(host, "localhost") { // whatever the machine's resolver makes of it
		address = net.JoinHostPort("127.0.0.1", port)
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", address)
	return &Listener{l, config}, err
}

// A unixListener removes its socket at its end, unless another process has put its own there.
type unixListener struct {
	net.Listener
	path string
	own  os.FileInfo
}

// listenUnix listens at path with mode 0600: the socket gets its name only once it has that. What is left of a process that
// has ended is replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := vacant(ctx, path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".ot")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "s")
	var c net.ListenConfig
	l, err := c.Listen(ctx, "unix", name)
	if err != nil {
		return nil, fmt.Errorf("unix socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	listener := &unixListener{Listener: l, path: path}
	if err = os.Chmod(name, 0o600); err == nil {
		listener.own, err = os.Lstat(name)
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return listener, nil
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
		_ = os.Remove(l.path)
	}
	return l.Listener.Close()
}

// vacant returns an error unless nothing is at path, or a socket on which nobody answers.
func vacant(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and is no socket", path)
	}
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another process listens at %s", path)
	}
	if !isRefused(err) {
		return fmt.Errorf("whether another process listens at %s can't be told: %w", path, err)
	}
	return nil
}

// tlsConfig returns nil where there is no TLS.
func (l Listen) tlsConfig() (*tls.Config, error) {
	if l.TLSCert == "" {
		return nil, nil
	}
	paths := []string{l.TLSCert, l.TLSKey}
	if l.ClientCA != "" {
		paths = append(paths, l.ClientCA)
	}
	current, err := watch(l.Log, parseTLS, paths...)
	if err != nil {
		return nil, &SettingError{Setting: "tls_cert", Err: err}
	}
	warnIfReadable(l.Log, l.TLSKey)
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil },
	}, nil
}

// parseTLS makes a configuration of a certificate, its key and, perhaps, the CA of clients.
func parseTLS(contents [][]byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, errors.New("certificate and key are no pair of PEM files")
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"},
	}
	if len(contents) > 2 {
		config.ClientCAs = x509.NewCertPool()
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.SessionTicketsDisabled = true // a session must not outlive a CA that was taken away
		if !config.ClientCAs.AppendCertsFromPEM(contents[2]) {
			return nil, errors.New("the file of the clients' CA has no PEM certificates")
		}
	}
	return config, nil
}

// IsAddressError reports whether err is the system's, about an address: taken, not this machine's, without the right to it.
func IsAddressError(err error) bool {
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}
