package mockendpoint

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The paths of what isn't the token endpoint. They stand below the path of [Options].Issuer; but the first one stands
// before it (RFC 8414 §3).
const (
	MetadataPath            = "/.well-known/oauth-authorization-server" // RFC 8414
	OpenIDConfigurationPath = "/.well-known/openid-configuration"       // OpenID Connect Discovery 1.0
	AuthorizePath           = "/authorize"                              // RFC 6749 §4.1, with PKCE (RFC 7636)
	DeviceAuthorizationPath = "/device_authorization"                   // RFC 8628 §3.1
	DevicePath              = "/device"                                 // where a person approves a device
	RevokePath              = "/revoke"                                 // RFC 7009

	tokenPath = "/oauth2/v1/token" // the one that the metadata names
)

// A page makes the answer to a visit, and has it take effect.
type page func(c *call, r *http.Request) Reply

func (e *Endpoint) pages() map[string]page {
	return map[string]page{
		MetadataPath:            e.metadata,
		OpenIDConfigurationPath: e.metadata,
		AuthorizePath:           e.authorize,
		DeviceAuthorizationPath: e.authorizeDevice,
		DevicePath:              e.visitDevice,
		RevokePath:              e.revoke,
	}
}

// find returns the page that a request is for, if it isn't for the token endpoint.
func (e *Endpoint) find(r *http.Request) (path string, p page) {
	if r.URL.Path == MetadataPath+e.base {
		return MetadataPath, e.metadata
	}
	path, ok := strings.CutPrefix(r.URL.Path, e.base)
	if !ok || path == MetadataPath {
		return "", nil
	}
	return path, e.pages()[path]
}

// PushAt is [Endpoint.Push] for another path than the token endpoint's: [RevokePath] and the like. A reply that would be a
// token leaves the page's own answer; an Error without a Status is sent to the redirect_uri by [AuthorizePath]. Unlike at
// the token endpoint a reply is taken by every visit, whatever it asks for.
func (e *Endpoint) PushAt(path string, replies ...Reply) {
	if e.pages()[path] == nil {
		panic(fmt.Sprintf("mockendpoint: there is nothing at %q", path))
	}
	for _, r := range replies {
		r.check()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scripts[path] = append(e.scripts[path], replies...)
}

// RequestsAt is [Endpoint.Requests] for another path than the token endpoint's: [RevokePath] and the like. They don't count
// as [Endpoint.Calls].
func (e *Endpoint) RequestsAt(path string) []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return cloneAll(e.visits[path])
}

// servePage answers a visit.
func (e *Endpoint) servePage(w http.ResponseWriter, r *http.Request, parseErr error, path string, p page) {
	c := e.visit(r, parseErr, path)
	act := sync.OnceValue(func() Reply { return p(c, r) })
	if c.reply.Commit {
		act()
	}
	if outcome := e.wait(r.Context(), c.reply); outcome != "" {
		e.log(e.settleVisit(c, outcome))
		panic(http.ErrAbortHandler)
	}
	reply := c.reply
	if reply.givesToken() || path == AuthorizePath && reply.Error != "" && reply.Status == 0 {
		reply = act()
	}
	e.log(e.settleVisit(c, strconv.Itoa(reply.status())))
	reply.send(w, "")
}

func (e *Endpoint) visit(r *http.Request, parseErr error, path string) *call {
	e.mu.Lock()
	defer e.mu.Unlock()
	form := r.PostForm
	if r.Method == http.MethodGet {
		form = r.Form
	}
	c := &call{Request: e.record(r, form), parseErr: parseErr}
	e.visits[path] = latest(append(e.visits[path], c.Request))
	if script := e.scripts[path]; len(script) > 0 {
		c.reply, e.scripts[path] = script[0], script[1:]
	}
	return c
}

func (e *Endpoint) settleVisit(c *call, outcome string) Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.Outcome = outcome
	return c.clone()
}

// record is what is kept of a request with that form.
func (e *Endpoint) record(r *http.Request, form url.Values) *Request {
	who := readCredentials(r)
	return &Request{
		At:          time.Now(),
		Method:      r.Method,
		Path:        r.URL.Path,
		ContentType: r.Header.Get("Content-Type"),
		AuthMethod:  who.method,
		ClientID:    cmp.Or(who.id, form.Get("client_id")),
		Form:        redact(form, e.options.SecretParams),
	}
}

// admitLocked returns the client of a form that isn't a token request, or a refusal.
func (e *Endpoint) admitLocked(c *call, r *http.Request) (client string, refusal Reply, refused bool) {
	if refusal, refused = checkForm(r, c.parseErr); refused {
		return "", refusal, refused
	}
	who := readCredentials(r)
	refusal, refused = e.checkClientLocked(r, who)
	return who.id, refusal, refused
}

// revoke is RFC 7009: a refresh token ends its family. One that isn't known is no error (§2.2).
func (e *Endpoint) revoke(c *call, r *http.Request) Reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	client, refusal, refused := e.admitLocked(c, r)
	if refused {
		return refusal
	}
	text := r.PostForm.Get("token")
	refresh, access := e.refresh.register.find(text), e.tokens.byText[text]
	switch {
	case text == "":
		refusal, _ = refuseRequest("token is missing")
		return refusal
	case refresh != nil && refresh.family.client != "" && refresh.family.client != client:
		return Reply{Error: "unauthorized_client", ErrorDescription: "the refresh token is another client's"}
	case refresh != nil:
		c.Family = refresh.family.Ordinal
		refresh.family.revoke(c.Request)
	case access != nil:
		access.revoked = true
	}
	return Reply{Body: new("")}
}
