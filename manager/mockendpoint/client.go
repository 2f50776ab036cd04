package mockendpoint

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
)

// The ways in which a client authenticates, as in [Request].AuthMethod.
const (
	Basic         = "basic"           // the secret in a Basic header (RFC 6749 §2.3.1)
	Post          = "post"            // the secret in the form
	PrivateKeyJWT = "private_key_jwt" // a signed assertion (RFC 7523 §2.2)
	TLSClientAuth = "tls_client_auth" // a certificate (RFC 8705 §2)
	NoAuth        = "none"            // the client id alone, if that
)

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// credentials are what a client says of itself.
type credentials struct {
	method     string // as in [Request.AuthMethod]
	id, secret string
	assertion  string
	cert       *x509.Certificate
	broken     bool // a Basic header that isn't form-encoded
}

func readCredentials(r *http.Request) credentials {
	if user, password, ok := r.BasicAuth(); ok {
		id, idErr := url.QueryUnescape(user)
		secret, secretErr := url.QueryUnescape(password)
		return credentials{method: Basic, id: id, secret: secret, broken: idErr != nil || secretErr != nil}
	}
	form := r.PostForm
	c := credentials{method: NoAuth, id: form.Get("client_id"), secret: form.Get("client_secret")}
	switch {
	case c.secret != "":
		c.method = Post
	case form.Has("client_assertion_type"):
		c.method, c.assertion = PrivateKeyJWT, form.Get("client_assertion")
		if c.id == "" {
			c.id = subject(c.assertion) // client_id may be left out (RFC 7521 §4.2)
		}
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		c.method, c.cert = TLSClientAuth, r.TLS.PeerCertificates[0]
	}
	return c
}

// subject is what a JWT says of itself, verified or not.
func subject(jwt string) string {
	_, rest, _ := strings.Cut(jwt, ".")
	payload, _, _ := strings.Cut(rest, ".")
	var c claims
	data, _ := base64.RawURLEncoding.DecodeString(payload)
	_ = json.Unmarshal(data, &c)
	return c.Subject
}

// ways counts in how many ways a client authenticates: more than one is an error (RFC 6749 §2.3).
func ways(r *http.Request) int {
	n := 0
	for _, there := range []bool{
		r.Header.Get("Authorization") != "", r.PostForm.Has("client_secret"), r.PostForm.Has("client_assertion_type"),
	} {
		if there {
			n++
		}
	}
	return n
}

// checkClientLocked returns a refusal of a client that isn't who it should be (RFC 6749 §5.2).
func (e *Endpoint) checkClientLocked(r *http.Request, who credentials) (refusal Reply, refused bool) {
	why := e.doubtLocked(r, who)
	if why == "" {
		return Reply{}, false
	}
	refusal = Reply{Error: "invalid_client", ErrorDescription: why}
	if who.method == Basic {
		refusal.Header = http.Header{"Www-Authenticate": {`Basic realm="mockendpoint"`}}
	}
	return refusal, true
}

// doubtLocked says what is wrong with a client; "": nothing.
func (e *Endpoint) doubtLocked(r *http.Request, who credentials) string {
	const unknown = "unknown client, or wrong secret"
	o := e.options
	if o.ClientID != "" && who.id != o.ClientID {
		return unknown
	}
	if len(o.AuthMethods) > 0 && !slices.Contains(o.AuthMethods, who.method) {
		return "the client may not authenticate like this"
	}
	switch who.method {
	case PrivateKeyJWT:
		return e.doubtAssertionLocked(r, who)
	case TLSClientAuth:
		if len(o.ClientCerts) > 0 {
			return doubtCert(who.cert, o.ClientCerts)
		}
	case Basic, Post:
		switch {
		case who.broken:
			return unknown
		case e.secret.IsEmpty():
		case e.secret.Equal(secret.New(who.secret)):
			return ""
		default:
			return unknown
		}
	}
	if len(o.AuthMethods) == 0 && !e.openLocked() {
		return unknown // it has to show something
	}
	return ""
}

// openLocked reports whether there is nothing that a client could be asked for.
func (e *Endpoint) openLocked() bool {
	return e.secret.IsEmpty() && len(e.clientKeys) == 0 && len(e.options.ClientCerts) == 0
}

// doubtAssertionLocked is RFC 7523 §3 for a client assertion, which is good once.
func (e *Endpoint) doubtAssertionLocked(r *http.Request, who credentials) string {
	if r.PostForm.Get("client_assertion_type") != assertionType {
		return "the client_assertion_type is unknown"
	}
	c, err := verify(who.assertion, e.clientKeys, e.audiences(r), time.Now())
	switch {
	case err != nil:
		return "client assertion: " + err.Error()
	case c.Issuer != who.id || c.Subject != who.id:
		return "client assertion: iss or sub isn't the client_id"
	case c.ID == "":
		return "client assertion: jti is missing"
	case e.assertions.has(c.ID):
		return "client assertion: it was used before"
	}
	e.assertions.add(c.ID, struct{}{})
	return ""
}

// audiences are those that an assertion may name.
func (e *Endpoint) audiences(r *http.Request) []string {
	if len(e.options.Audiences) > 0 {
		return e.options.Audiences
	}
	return []string{origin(r) + r.URL.Path, origin(r) + e.base + tokenPath, e.issuer(r)}
}

// doubtCert says what is wrong with a certificate. Its chain is the server's to verify.
func doubtCert(cert *x509.Certificate, known []string) string {
	fingerprint := sha256.Sum256(cert.Raw)
	for _, k := range known {
		if k == cert.Subject.String() || strings.EqualFold(strings.ReplaceAll(k, ":", ""), hex.EncodeToString(fingerprint[:])) {
			return ""
		}
	}
	return "the client's certificate isn't known"
}

// origin is where a request was sent to.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
