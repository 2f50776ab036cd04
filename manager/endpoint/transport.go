package endpoint

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// connections make connections with the certificate and the authorities as they are.
type connections struct {
	mu     sync.Mutex // guards what follows
	client *http.Client
	cert   *certificate
	roots  *roots
}

// client returns the HTTP client for the next request: another than before where the certificate, or those who vouch for
// the endpoint, have changed.
func (c *Client) client() *http.Client {
	var cert *certificate
	var authorities *roots
	if c.cert != nil {
		cert = current(c, c.cert)
	}
	if c.roots != nil {
		authorities = current(c, c.roots)
	}
	h := &c.http
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil || h.cert != cert || h.roots != authorities {
		if h.client != nil {
			h.client.CloseIdleConnections() // made with the old ones
		}
		h.client, h.cert, h.roots = httpClient(c.config, cert, authorities), cert, authorities
	}
	return h.client
}

// httpClient returns a client that follows no redirect (credentials would travel) and keeps no cookie.
func httpClient(c Config, cert *certificate, authorities *roots) *http.Client {
	client := &http.Client{}
	if c.HTTPClient != nil {
		*client = *c.HTTPClient
	} else {
		dialer := &net.Dialer{Timeout: c.ConnectTimeout}
		client.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    c.ConnectTimeout,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // asked once in a token's life: a kept connection would be a dead one
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	if cert != nil || authorities != nil {
		client.Transport = withTLS(client.Transport, cert, authorities)
	}
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// withTLS returns a copy of a transport, which checkTransport has passed, with the certificate and the authorities.
func withTLS(t http.RoundTripper, cert *certificate, authorities *roots) http.RoundTripper {
	if t == nil {
		t = http.DefaultTransport
	}
	transport := t.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if authorities != nil {
		transport.TLSClientConfig.RootCAs = authorities.pool
	}
	if cert != nil {
		// Whatever authorities the endpoint names: a certificate that it knows by itself (RFC 8705 §2.2) is of none.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &cert.pair, nil
		}
	}
	return transport
}

// checkTransport returns an error unless the transport that the caller has set, if any, takes what is to be added to it.
func checkTransport(c Config) error {
	if c.HTTPClient == nil || c.ClientCertFile == "" && c.CAFile == "" {
		return nil
	}
	setting := "ca_file"
	if c.ClientCertFile != "" {
		setting = "client_cert_file"
	}
	t := c.HTTPClient.Transport
	if t == nil {
		t = http.DefaultTransport
	}
	transport, ok := t.(*http.Transport)
	switch {
	case !ok:
		return fmt.Errorf("%s: can't be added to the HTTPClient, whose transport is a %T: set it there", setting, t)
	case transport.DialTLSContext != nil || transport.DialTLS != nil: //nolint:staticcheck // deprecated, and set by some
		return fmt.Errorf("%s: can't be added to the HTTPClient, whose transport makes TLS connections by a function of its own: set it there", setting)
	}
	return nil
}

// parseCertificates returns the certificates of a PEM file, one at least.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a certificate in it can't be read")
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("has no PEM certificates")
	}
	return certs, nil
}
