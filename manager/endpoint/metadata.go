package endpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// Metadata is where an authorization server's endpoints are (RFC 8414 §2). "" means that there is none, or that nobody
// said.
type Metadata struct {
	Issuer                      string
	TokenEndpoint               string
	AuthorizationEndpoint       string
	DeviceAuthorizationEndpoint string // RFC 8628 §4
	RevocationEndpoint          string
	NamesIssuer                 bool // every answer of the authorization endpoint says whose it is (RFC 9207 §3)
}

// metadataLife is how long metadata is believed unless a request to what it names fails. Metadata that can't be had any more
// is believed on: the endpoints are likely to be where they were.
const metadataLife = time.Hour

// Metadata returns the endpoints: those that are configured and, where there is an issuer, what its metadata has of the
// others. Metadata is kept for an hour. The error is an *[Error].
func (c *Client) Metadata(ctx context.Context) (Metadata, error) {
	var m Metadata
	if c.config.Issuer != "" {
		d, failed := c.discover(ctx)
		if failed != nil {
			return Metadata{}, failed
		}
		m = d.Metadata
	}
	m.TokenEndpoint = cmp.Or(c.config.TokenURL, m.TokenEndpoint)
	m.AuthorizationEndpoint = cmp.Or(c.config.AuthorizationURL, m.AuthorizationEndpoint)
	m.DeviceAuthorizationEndpoint = cmp.Or(c.config.DeviceAuthorizationURL, m.DeviceAuthorizationEndpoint)
	m.RevocationEndpoint = cmp.Or(c.config.RevocationURL, m.RevocationEndpoint)
	return m, nil
}

// tokenURL returns where the token is asked for.
func (c *Client) tokenURL(ctx context.Context) (string, *Error) {
	if c.config.TokenURL != "" {
		return c.config.TokenURL, nil
	}
	d, failed := c.discover(ctx)
	if failed == nil {
		if failed = d.checkAuthMethod(c.config.AuthMethod); failed != nil {
			c.issuer.doubt()
		}
	}
	if failed != nil {
		return "", failed
	}
	return d.TokenEndpoint, nil
}

// A document is what is kept of an issuer's metadata.
type document struct {
	Metadata
	authMethods []string // of the token endpoint; nil where the issuer doesn't say
}

// checkAuthMethod returns an error where the issuer says that it doesn't know the method. Many that have public clients leave
// "none" out.
func (d *document) checkAuthMethod(m AuthMethod) *Error {
	if d.authMethods == nil || m == NoClientAuth || slices.Contains(d.authMethods, string(m)) ||
		m == TLSClientAuth && slices.Contains(d.authMethods, "self_signed_tls_client_auth") {
		return nil
	}
	return &Error{
		Code: "invalid_client", // RFC 6749 §5.2: "unsupported authentication method"
		Message: printable.Line(fmt.Sprintf("auth_method %s: the issuer's metadata has only %s",
			m, strings.Join(d.authMethods, ", ")), 200),
	}
}

// discovery is what is known of the issuer.
type discovery struct {
	mu      sync.Mutex // guards what follows
	known   *document
	at      time.Time // when it was learnt
	doubted bool
	flight  *lookup // the one under way, nil where none is
}

// A lookup is one for all who want to know.
type lookup struct {
	done      chan struct{} // closed by the one who asks; then the others may read the rest
	document  *document
	failed    *Error
	abandoned bool // its context ended, which says nothing to the others
}

// doubt has the metadata asked for anew before its next use.
func (d *discovery) doubt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.doubted = true
}

// discover returns the issuer's metadata, and asks for it where it isn't known.
func (c *Client) discover(ctx context.Context) (*document, *Error) {
	d := &c.issuer
	for {
		d.mu.Lock()
		known := d.known
		if known != nil && !d.doubted && time.Since(d.at) < metadataLife {
			d.mu.Unlock()
			return known, nil
		}
		f := d.flight
		if f == nil {
			f = &lookup{done: make(chan struct{}), abandoned: true}
			d.flight = f
			d.mu.Unlock()
			c.lookUp(ctx, f, known)
			return f.document, f.failed
		}
		d.mu.Unlock()
		select {
		case <-f.done:
			if !f.abandoned {
				return f.document, f.failed
			}
		case <-ctx.Done():
			return nil, &Error{Code: CodeTimeout, Message: aboutMetadata + "no answer in time", Err: context.Cause(ctx)}
		}
	}
}

// lookUp asks the issuer, for all who wait for f. Where known metadata can't be had anew it goes on being used, unless what
// is there instead is another issuer's.
func (c *Client) lookUp(ctx context.Context, f *lookup, known *document) {
	d := &c.issuer
	defer func() { // a transport of the user's may panic
		d.mu.Lock()
		d.flight = nil
		d.mu.Unlock()
		close(f.done)
	}()
	asking := ctx
	if known != nil { // leave time for the token endpoint
		const most = 5 * time.Second
		limit := most
		if deadline, ok := ctx.Deadline(); ok {
			limit = min(limit, time.Until(deadline)/2)
		}
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	found, failed := c.askIssuer(asking)
	if failed != nil {
		f.abandoned = ctx.Err() != nil
		if known != nil && !errors.Is(failed, errOtherIssuer) {
			f.document = known
			return
		}
		f.failed = failed
		return
	}
	f.document, f.abandoned = found, false
	d.mu.Lock()
	d.known, d.at, d.doubted = found, time.Now(), false
	d.mu.Unlock()
}

var errOtherIssuer = errors.New("the metadata is another issuer's")

const aboutMetadata = "the issuer's metadata: "

// askIssuer tries the places where metadata may be. What connects to none of them is over at once; of the other failures
// the one that says most is returned.
func (c *Client) askIssuer(ctx context.Context) (*document, *Error) {
	var worst *Error
	for _, at := range wellKnown(c.config.Issuer) {
		d, failed := c.askMetadata(ctx, at)
		if failed == nil {
			return d, nil
		}
		failed.Message = aboutMetadata + failed.Message
		if failed.Status == 0 {
			return nil, failed
		}
		if worst == nil || weight(failed) > weight(worst) {
			worst = failed
		}
	}
	return nil, worst
}

// weight orders failures by how much they say: that there is nothing under one of the places says least.
func weight(e *Error) int {
	switch {
	case errors.Is(e, errOtherIssuer):
		return 3
	case e.Status >= 500 || e.Status == http.StatusTooManyRequests:
		return 2
	case e.Code == CodeBadReply:
		return 1
	}
	return 0
}

// wellKnown returns where an issuer's metadata may be: RFC 8414 §3.1 puts the well-known part between host and path, OpenID
// Connect Discovery §4 after the path, and there are servers that have RFC 8414's there.
func wellKnown(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil // checkIssuer has parsed it
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	base := u.Scheme + "://" + u.Host
	const oauth, oidc = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	if path == "" {
		return []string{base + oauth, base + oidc}
	}
	return []string{base + oauth + path, base + path + oidc, base + path + oauth}
}

func (c *Client) askMetadata(ctx context.Context, at string) (*document, *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, &Error{Code: CodeBadReply, Message: "is at no URL"} // checkIssuer has parsed it
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "onetoken")
	asked := &request{url: at}
	a, failed := c.do(req, asked.clean)
	if failed != nil {
		return nil, failed
	}
	failed = &Error{Code: CodeBadReply, Status: a.status, RetryAfter: retryAfter(a.header, time.Now())}
	switch {
	case a.status != http.StatusOK: // RFC 8414 §3.2
		failed.Code, failed.Message = "http_"+strconv.Itoa(a.status), cmp.Or(http.StatusText(a.status), "an unknown status")
		return nil, failed
	case len(a.body) > maxReply:
		failed.Message = "is longer than 1 MiB"
		return nil, failed
	}
	d, err := parseMetadata(a.body, c.config)
	if err != nil {
		failed.Message, failed.Err = printable.Line(err.Error(), 250), err
		return nil, failed
	}
	return d, nil
}

// parseMetadata reads an issuer's metadata (RFC 8414 §2), which must be that of the issuer that is configured (§3.3).
func parseMetadata(body []byte, c Config) (*document, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || members == nil {
		return nil, errors.New("is no JSON object")
	}
	issuer := str(members["issuer"])
	switch {
	case issuer == "":
		return nil, errors.New("names no issuer")
	case issuer != c.Issuer:
		return nil, differs(c.Issuer, issuer)
	}
	d := &document{Metadata: Metadata{Issuer: issuer}}
	var aliases map[string]json.RawMessage
	if c.AuthMethod == TLSClientAuth {
		_ = json.Unmarshal(members["mtls_endpoint_aliases"], &aliases) // RFC 8705 §5
	}
	for _, e := range []struct {
		name string
		to   *string
	}{
		{"token_endpoint", &d.TokenEndpoint},
		{"authorization_endpoint", &d.AuthorizationEndpoint},
		{"device_authorization_endpoint", &d.DeviceAuthorizationEndpoint},
		{"revocation_endpoint", &d.RevocationEndpoint},
	} {
		*e.to = cmp.Or(str(aliases[e.name]), str(members[e.name]))
		if *e.to == "" && (e.name != "token_endpoint" || c.TokenURL != "") {
			continue
		}
		if err := CheckURL(*e.to, c.AllowHTTP); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if json.Unmarshal(members["token_endpoint_auth_methods_supported"], &d.authMethods) != nil {
		d.authMethods = nil
	}
	if json.Unmarshal(members["authorization_response_iss_parameter_supported"], &d.NamesIssuer) != nil {
		d.NamesIssuer = false
	}
	return d, nil
}

// differs says which issuers differ, and by what if it is hard to see.
func differs(configured, named string) error {
	var hint string
	if strings.TrimRight(configured, "/") == strings.TrimRight(named, "/") {
		hint = ": a slash at the end counts"
	}
	return fmt.Errorf(`%w: "%s", and issuer is "%s"%s`, errOtherIssuer, printable.Line(named, 80), printable.Line(configured, 80), hint)
}

// checkIssuer returns an error, to stand behind the setting's name, unless raw may be an issuer (RFC 8414 §2).
func checkIssuer(raw string, allowHTTP bool) error {
	if err := CheckURL(raw, allowHTTP); err != nil {
		return err
	}
	if strings.ContainsAny(raw, "?#") {
		return errors.New("must not have a query or a fragment (RFC 8414 §2)")
	}
	return nil
}
