// Package mockendpoint is a scripted OAuth 2.0 token endpoint for tests and demonstrations: it gives out made-up access
// tokens for the client_credentials grant (RFC 6749 §4.4) and others, with refresh tokens that rotate, fails, stalls and
// misbehaves as it is told, and counts and records who asked.
//
// An [Endpoint] is an [http.Handler]: serve it with net/http/httptest, or with any server. It works in a bubble of
// testing/synctest where the connections do.
package mockendpoint

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
)

// An Endpoint is a token endpoint that follows a script. It is safe for concurrent use.
//
// A call that a real endpoint would refuse is refused, whatever the script says, and takes no reply from it: not a POST
// (405), not a form or a malformed one (invalid_request), a wrong client (invalid_client), a grant that isn't among those
// accepted (unsupported_grant_type), a refresh token that isn't good (invalid_grant). It counts and is recorded like any
// other.
type Endpoint struct {
	options Options
	closed  chan struct{}
	close   func() // closes closed, once

	mu          sync.Mutex // guards what follows
	secret      secret.Secret
	script      []Reply
	fallback    Reply
	calls       int
	inFlight    int
	maxInFlight int
	arrived     chan struct{} // closed, and replaced, with each call
	requests    []*Request    // the latest, oldest first
	tokens      tokens
	refresh     refreshTokens
}

// New returns an Endpoint. It panics if Options.Default can't be sent, or a grant isn't known.
func New(o Options) *Endpoint {
	o = o.complete()
	e := &Endpoint{
		options:  o,
		closed:   make(chan struct{}),
		secret:   secret.New(o.ClientSecret),
		fallback: o.Default,
		arrived:  make(chan struct{}),
		refresh:  refreshTokens{options: o},
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
	list := make([]Request, len(e.requests))
	for i, r := range e.requests {
		list[i] = r.clone()
	}
	return list
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

// ServeHTTP answers a token request at any path. A connection is cut by a panic with [http.ErrAbortHandler], which
// net/http's servers take for that.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parseErr := r.ParseForm() // up to 10 MB
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
	who := readCredentials(r)
	c := &call{Request: &Request{
		At:          time.Now(),
		Method:      r.Method,
		Path:        r.URL.Path,
		ContentType: r.Header.Get("Content-Type"),
		AuthMethod:  who.method,
		ClientID:    who.id,
		Form:        redact(r.PostForm, e.options.SecretParams),
	}}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = latest(append(e.requests, c.Request))
	e.calls++
	e.inFlight++
	e.maxInFlight = max(e.maxInFlight, e.inFlight)
	close(e.arrived)
	e.arrived = make(chan struct{})
	c.reply = e.nextLocked(c, r, parseErr, who)
	if c.reply.Commit {
		e.redeemLocked(c) // it was good a moment ago
	}
	return c
}

// nextLocked returns a refusal if the request deserves one, else what the script or the default has for it.
func (e *Endpoint) nextLocked(c *call, r *http.Request, parseErr error, who credentials) Reply {
	if refusal, refused := checkForm(r, parseErr); refused {
		return refusal
	}
	if !e.knowsLocked(who) {
		return refuseClient(who.method)
	}
	if refusal, refused := e.checkGrantLocked(c, r.PostForm, who.id); refused {
		return refusal
	}
	if len(e.script) == 0 {
		return e.fallback
	}
	next := e.script[0]
	e.script = e.script[1:]
	return next
}

func (e *Endpoint) knowsLocked(who credentials) bool {
	return !who.broken &&
		(e.options.ClientID == "" || who.id == e.options.ClientID) &&
		(e.secret.IsEmpty() || e.secret.Equal(secret.New(who.secret)))
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
