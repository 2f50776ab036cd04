// Package mockendpoint is a scripted OAuth 2.0 token endpoint for tests and demonstrations: it gives out made-up access
// tokens, fails, stalls and misbehaves as it is told, and counts and records who asked.
//
// By default that is for the client_credentials grant (RFC 6749 §4.4). With [Options].Grants it is a small authorization
// server: with refresh tokens that rotate (a [Family] is what became of those of one login), logins with a code or a
// device, revocation, and the metadata that names it all. Nobody is asked for a password there.
//
// An [Endpoint] is an [http.Handler]: serve it with net/http/httptest, or with any server. It works in a bubble of
// testing/synctest where the connections do.
package mockendpoint

import (
	"context"
	"crypto"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
)

// An Endpoint is a token endpoint that follows a script. It is safe for concurrent use.
//
// A call that a real endpoint would refuse is refused, whatever the script says, and takes no reply from it: not a POST
// (405), not a form or a malformed one (invalid_request), a wrong client (invalid_client), a grant that isn't among those
// accepted (unsupported_grant_type), a refresh token, code or assertion that isn't good (invalid_grant). It counts and is
// recorded like any other.
type Endpoint struct {
	options Options // but for ClientSecret and ClientKeys, which may change
	base    string  // the path of the issuer
	closed  chan struct{}
	close   func() // closes closed, once

	mu          sync.Mutex // guards what follows
	secret      secret.Secret
	clientKeys  []crypto.PublicKey
	script      []Reply
	fallback    Reply
	calls       int
	inFlight    int
	maxInFlight int
	arrived     chan struct{} // closed, and replaced, with each call
	requests    []*Request    // the latest, oldest first
	tokens      tokens
	refresh     refreshTokens
	assertions  register[struct{}] // of clients, by their jti: each is good once
	codes       register[*authorization]
	devices     register[*device]
	userCodes   register[*device]
	scripts     map[string][]Reply    // of the pages
	visits      map[string][]*Request // of the pages: the latest, oldest first
}

// New returns an Endpoint. It panics if Options.Default can't be sent, and on an Issuer that is no URL, a grant or a
// way to authenticate that isn't known.
func New(o Options) *Endpoint {
	o = o.complete()
	clientSecret, clientKeys := secret.New(o.ClientSecret), o.ClientKeys
	o.ClientSecret, o.ClientKeys = "", nil
	e := &Endpoint{
		options:    o,
		base:       basePath(o.Issuer),
		closed:     make(chan struct{}),
		secret:     clientSecret,
		clientKeys: clientKeys,
		fallback:   o.Default,
		arrived:    make(chan struct{}),
		refresh:    refreshTokens{options: o},
		scripts:    map[string][]Reply{},
		visits:     map[string][]*Request{},
	}
	e.close = sync.OnceFunc(func() { close(e.closed) })
	return e
}

// Push scripts the answers to the next calls, in order, one each, after those that were pushed before; then the default
// is back. It panics on a reply that can't be sent (a status below 200, an ExpiresIn that doesn't marshal).
func (e *Endpoint) Push(replies ...Reply) {
	for _, r := range replies {
		r.check()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.script = append(e.script, replies...)
}

// SetDefault sets the answer to calls that the script doesn't name. It panics like [Endpoint.Push].
func (e *Endpoint) SetDefault(r Reply) {
	r.check()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fallback = r
}

// SetSecret changes the client secret that is accepted from now on; "": any.
func (e *Endpoint) SetSecret(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.secret = secret.New(s)
}

// SetClientKeys changes the public keys that client assertions are verified with from now on: [Options].ClientKeys.
func (e *Endpoint) SetClientKeys(keys ...crypto.PublicKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clientKeys = slices.Clone(keys)
}

// Close lets go of the calls that wait for a Delay, a Gate or in a Hang: they are cut off, and so are such calls from now
// on. Other calls are answered as before. Close it before the server, whose Close waits for its calls.
func (e *Endpoint) Close() { e.close() }

// Calls returns how many calls were received, answered or not. A call is received once its form has been read.
func (e *Endpoint) Calls() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls
}

// InFlight returns how many calls were received and not yet answered. A call counts as answered right before the first
// byte of its answer: whoever has an answer finds his call gone.
func (e *Endpoint) InFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inFlight
}

// MaxInFlight returns the highest that [Endpoint.InFlight] ever was.
func (e *Endpoint) MaxInFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.maxInFlight
}

// Requests returns what was received, oldest first: the latest 10,000 at least.
func (e *Endpoint) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return cloneAll(e.requests)
}

// Await blocks until [Endpoint.Calls] is at least calls, or returns ctx's cause.
func (e *Endpoint) Await(ctx context.Context, calls int) error {
	for {
		e.mu.Lock()
		got, arrived := e.calls, e.arrived
		e.mu.Unlock()
		if got >= calls {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return fmt.Errorf("mockendpoint: %d of %d calls arrived: %w", got, calls, context.Cause(ctx))
		}
	}
}

// String describes the endpoint by its counters, without secrets and tokens.
func (e *Endpoint) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprintf("mockendpoint: %d calls, %d in flight, %d tokens issued", e.calls, e.inFlight, e.tokens.count)
}

// ServeHTTP answers a token request at any path but [RevokePath] and its like. A connection is cut by a panic with
// [http.ErrAbortHandler], which net/http's servers take for that.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parseErr := r.ParseForm() // up to 10 MB
	if path, page := e.find(r); page != nil {
		e.servePage(w, r, parseErr, path, page)
		return
	}
	c := e.receive(r, parseErr)
	outcome := e.wait(r.Context(), c.reply)
	if outcome != "" {
		e.log(e.settle(c, outcome))
		panic(http.ErrAbortHandler)
	}
	settled, reply, token := e.answer(c)
	e.log(settled)
	reply.send(w, token)
}

// receive records a call and decides what it gets.
func (e *Endpoint) receive(r *http.Request, parseErr error) *call {
	c := &call{Request: e.record(r, r.PostForm), parseErr: parseErr}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = latest(append(e.requests, c.Request))
	e.calls++
	e.inFlight++
	e.maxInFlight = max(e.maxInFlight, e.inFlight)
	close(e.arrived)
	e.arrived = make(chan struct{})
	c.reply = e.nextLocked(c, r)
	if c.device != nil && c.reply.Error == "slow_down" {
		c.device.interval += slower
	}
	if c.reply.Commit {
		if refusal, refused := e.redeemLocked(c); refused {
			c.reply = refusal
		}
	}
	return c
}

// nextLocked returns a refusal if the request deserves one, else what the script or the default has for it.
func (e *Endpoint) nextLocked(c *call, r *http.Request) Reply {
	if refusal, refused := checkForm(r, c.parseErr); refused {
		return refusal
	}
	who := readCredentials(r)
	if refusal, refused := e.checkClientLocked(r, who); refused {
		return refusal
	}
	if refusal, refused := e.checkGrantLocked(c, r, who.id); refused {
		return refusal
	}
	if len(e.script) == 0 {
		return e.fallback
	}
	next := e.script[0]
	e.script = e.script[1:]
	return next
}

// wait lets the time pass that the reply asks for. It returns the outcome of a call that gets no answer, else "".
func (e *Endpoint) wait(ctx context.Context, r Reply) (cut string) {
	gone, closed := "gone", "closed"
	gate, elapsed := r.Gate, (<-chan time.Time)(nil)
	switch {
	case r.Hang:
		gone, closed = "hang", "hang"
		gate = make(chan struct{})
	case r.Delay > 0:
		timer := time.NewTimer(r.Delay)
		defer timer.Stop()
		elapsed = timer.C
	}
	for gate != nil || elapsed != nil {
		select {
		case <-gate:
			gate = nil
		case <-elapsed:
			elapsed = nil
		case <-ctx.Done():
			return gone
		case <-e.closed:
			return closed
		}
	}
	if r.Drop {
		return "drop"
	}
	return ""
}

// settle notes how a call ended, and returns a copy of it.
func (e *Endpoint) settle(c *call, outcome string) Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.settleLocked(c, outcome)
}

func (e *Endpoint) settleLocked(c *call, outcome string) Request {
	c.Outcome = outcome
	e.inFlight--
	return c.clone()
}

// answer settles a call that is about to be answered. It completes the reply, with the token that it issues for it.
func (e *Endpoint) answer(c *call) (settled Request, complete Reply, token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := c.reply
	if r.givesToken() {
		if refusal, refused := e.redeemLocked(c); refused {
			r = refusal
		}
	}
	if r.givesToken() {
		if r.ExpiresIn == nil {
			r.ExpiresIn = expiresIn(e.options.Life)
		}
		t := e.tokens.issue(r)
		t.family = c.redeemed.family
		c.Token, token = t.ordinal, t.text
		r.members = e.furtherMembers(c.redeemed)
	}
	return e.settleLocked(c, strconv.Itoa(r.status())), r, token
}

// furtherMembers are those of a token's answer besides the reply's own.
func (e *Endpoint) furtherMembers(g given) map[string]any {
	members := map[string]any{}
	maps.Copy(members, g.members)
	if g.refresh != nil {
		members["refresh_token"] = g.refresh.text
		if life := e.options.RefreshLife; life > 0 {
			members["refresh_expires_in"] = expiresIn(life)
		}
	}
	return members
}

func (e *Endpoint) log(r Request) {
	if e.options.Log != nil {
		e.options.Log(r)
	}
}
