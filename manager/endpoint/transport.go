package endpoint

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// client returns an HTTP client for one request, which follows no redirect (credentials would travel) and keeps no cookie. It
// keeps no connection: a request is made once in a token's life, after which it would be a dead one. So nothing is lost by
// making the transport anew, of which each of ten thousand Clients would have one else.
func (c *Client) client() *http.Client {
	client := &http.Client{}
	if c.config.HTTPClient != nil {
		*client = *c.config.HTTPClient
	} else {
		dialer := &net.Dialer{Timeout: c.config.ConnectTimeout}
		client.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    c.config.ConnectTimeout,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true,
			IdleConnTimeout:        c.config.ConnectTimeout, // of one that was made when its request had ended
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	if c.cert != nil || c.roots != nil {
		client.Transport = c.withTLS(client.Transport)
	}
	client.Jar = nil
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// withTLS returns a copy of a transport, which checkTransport has passed, with the certificate and the authorities as they are.
func (c *Client) withTLS(t http.RoundTripper) http.RoundTripper {
	if t == nil {
		t = http.DefaultTransport
	}
	transport := t.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	transport.IdleConnTimeout = c.config.ConnectTimeout
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.roots != nil {
		transport.TLSClientConfig.RootCAs = current(c, c.roots).pool
	}
	if c.cert != nil {
		cert := current(c, c.cert)
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
