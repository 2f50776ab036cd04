package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// certificateWarning is how long before its end a certificate should be renewed.
const certificateWarning = 14 * 24 * time.Hour

// certificate looks when the first of a server's certificates ends.
func (e *examination) certificate(r *report, check, subject string, state *tls.ConnectionState) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return
	}
	first := state.PeerCertificates[0]
	for _, c := range chain(state) {
		if c.NotAfter.Before(first.NotAfter) {
			first = c
		}
	}
	until := first.NotAfter.UTC().Format(time.RFC3339)
	left := first.NotAfter.Sub(e.now())
	if left < certificateWarning {
		r.warn(check, subject, fmt.Sprintf("the certificate of %q ends at %s, in %s", first.Subject.CommonName, until, rough(left)), "renew it")
		return
	}
	r.ok(check, subject, "%s, verified; the certificates last until %s", tls.VersionName(state.Version), until)
}

// chain is what must be valid: the chain that was verified, without its root, which ends with the trust in it.
func chain(state *tls.ConnectionState) []*x509.Certificate {
	if len(state.VerifiedChains) == 0 {
		return state.PeerCertificates
	}
	verified := state.VerifiedChains[0]
	return verified[:max(len(verified)-1, 1)]
}

// rough is a duration in the unit that fits.
func rough(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	default:
		return d.Round(time.Second).String()
	}
}

// connectionMend says what to do about a connection that failed; "" where the error doesn't tell.
func connectionMend(err error) string {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		timeout   net.Error
	)
	switch text := err.Error(); {
	case errors.As(err, &dns):
		return "is the host's name right, and can this machine look names up?"
	case errors.As(err, &authority), strings.Contains(text, "unknown authority"):
		return "this machine doesn't trust who signed the certificate: add the CA to the system's, or name it in ca_file (redis.tls.ca_file for Redis)"
	case errors.As(err, &hostname), strings.Contains(text, "certificate is valid for"):
		return "the certificate is for another name: use the name that it is for (redis.tls.server_name for Redis)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired, strings.Contains(text, "expired or is not yet valid"):
		return "the certificate has expired, or isn't valid yet: renew it, or set this machine's clock"
	case errors.As(err, &record), strings.Contains(text, "first record does not look like a TLS handshake"):
		return "there is no TLS on that port: another port, or a URL without it"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is it started, and are host and port right?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer: is it overloaded or stopped, and does a firewall let this machine through?"
	}
	return ""
}
