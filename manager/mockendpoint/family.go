package mockendpoint

import (
	"crypto/rand"
	"fmt"
	"time"
)

// A Family is what became of one login: of all refresh tokens and access tokens that descend from its first one.
type Family struct {
	Ordinal   int // from 1, in the order in which they were started
	Uses      int // of its refresh tokens, that took effect: see [Reply].Commit
	Rotations int // uses that spent a refresh token and gave another
	Reuses    int // of spent refresh tokens, later than [Options].ReuseInterval: each is a client that kept the wrong one
	Revoked   bool
	RevokedBy *Request // the call that revoked it; nil: none, or [Endpoint.RevokeFamily]
}

type family struct {
	Family
	client    string   // the one that may use its refresh tokens; "": any
	revokedBy *Request // as it is recorded
}

func (f *family) revoke(by *Request) {
	if !f.Revoked {
		f.Revoked, f.revokedBy = true, by
	}
}

type refreshToken struct {
	text    string
	family  *family
	expires time.Time // zero: never
	spent   time.Time // first; zero: it isn't
}

// refreshTokens are those that were given out, with their families.
type refreshTokens struct {
	options  Options
	count    int
	families []*family // the latest, oldest first
	started  int       // how many families there ever were
	register register[*refreshToken]
}

// start starts a family, without a refresh token.
func (ts *refreshTokens) start(client string) *family {
	ts.started++
	f := &family{Family: Family{Ordinal: ts.started}, client: client}
	ts.families = latest(append(ts.families, f))
	return f
}

// add gives a family one more refresh token; text "" is a fresh one.
func (ts *refreshTokens) add(f *family, text string) *refreshToken {
	ts.count++
	if text == "" {
		text = fmt.Sprintf("mock-refresh-%d-%s", ts.count, rand.Text())
	}
	t := &refreshToken{text: text, family: f}
	ts.prolong(t)
	ts.register.add(text, t)
	return t
}

// prolong starts the life of a refresh token that is given out.
func (ts *refreshTokens) prolong(t *refreshToken) {
	if ts.options.RefreshLife > 0 {
		t.expires = time.Now().Add(ts.options.RefreshLife)
	}
}

// refusal says why a refresh token isn't good for a call, if it isn't, without anything coming of it.
func (ts *refreshTokens) refusal(t *refreshToken, client string) (refusal Reply, refused bool) {
	switch {
	case t == nil:
		return refuseGrant("the refresh token is unknown")
	case t.family.client != "" && t.family.client != client:
		return refuseGrant("the refresh token is another client's")
	case t.family.Revoked:
		return refuseGrant("the refresh token is revoked")
	case ts.stale(t):
		return refuseGrant("the refresh token is spent")
	case !t.expires.IsZero() && !time.Now().Before(t.expires):
		return refuseGrant("the refresh token has expired")
	}
	return Reply{}, false
}

// stale reports whether a refresh token was spent too long ago to be used again.
func (ts *refreshTokens) stale(t *refreshToken) bool {
	return !t.spent.IsZero() && time.Since(t.spent) >= ts.options.ReuseInterval
}

// check is refusal for a call that presents the token: a reuse revokes the family.
func (ts *refreshTokens) check(t *refreshToken, client string, call *Request) (refusal Reply, refused bool) {
	if t != nil {
		call.Family = t.family.Ordinal
	}
	refusal, refused = ts.refusal(t, client)
	if refused && t != nil && ts.stale(t) {
		t.family.Reuses++
		t.family.revoke(call)
	}
	return refusal, refused
}

// use has a call's refresh token take effect. It returns the one to answer with; nil: none.
func (ts *refreshTokens) use(t *refreshToken, omit bool) *refreshToken {
	t.family.Uses++
	switch {
	case omit:
		return nil
	case !ts.options.Rotate:
		ts.prolong(t)
		return t
	}
	t.family.Rotations++
	if t.spent.IsZero() {
		t.spent = time.Now()
	}
	return ts.add(t.family, "")
}

func refuseGrant(description string) (refusal Reply, refused bool) {
	return Reply{Error: "invalid_grant", ErrorDescription: description}, true
}

// NewFamily starts a family as a login does, and returns its first refresh token.
func (e *Endpoint) NewFamily() (refreshToken string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refresh.add(e.refresh.start(e.options.ClientID), "").text
}

// AddRefreshToken starts a family with a refresh token of the caller's choosing. It panics if that isn't new.
func (e *Endpoint) AddRefreshToken(refreshToken string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if refreshToken == "" || e.refresh.register.has(refreshToken) {
		panic("mockendpoint: a family's first refresh token must be new, and not empty")
	}
	e.refresh.add(e.refresh.start(e.options.ClientID), refreshToken)
}

// Families returns what became of each login, oldest first: of the latest 10,000 at least.
func (e *Endpoint) Families() []Family {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]Family, len(e.refresh.families))
	for i, f := range e.refresh.families {
		list[i] = f.Family
		if f.revokedBy != nil {
			list[i].RevokedBy = new(f.revokedBy.clone())
		}
	}
	return list
}

// RevokeFamily ends all refresh tokens and access tokens of the family that a refresh token, spent or not, belongs to, as
// an administrator does who ends a session. A token that isn't known does nothing.
func (e *Endpoint) RevokeFamily(refreshToken string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.refresh.register.find(refreshToken); t != nil {
		t.family.revoke(nil)
	}
}

// AcceptsRefreshToken reports whether a refresh token would be taken now. To ask is no use of it.
func (e *Endpoint) AcceptsRefreshToken(refreshToken string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.refresh.register.find(refreshToken)
	if t == nil {
		return false
	}
	_, refused := e.refresh.refusal(t, t.family.client)
	return !refused
}
