package sim

import (
	"fmt"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A familyKind is how an endpoint treats refresh tokens.
type familyKind int

const (
	strict   familyKind = iota // each is good once; a second use ends the family
	lenient                    // a second use within a minute is one more first use
	constant                   // it stays the same
)

func (k familyKind) String() string { return []string{"strict", "lenient", "constant"}[k] }

const leeway = time.Minute

// A family is all that came of one login: refresh tokens, one after the other.
type family struct {
	name  string
	last  *refreshToken
	n     int
	ended string // why none of it is good any more, "" while one is
}

// A refreshToken is one of a family.
type refreshToken struct {
	text   string
	family *family
	spent  *use // the first that was accepted, nil while there is none
}

// login makes a new family, as a person's login does, and returns its refresh token.
func (s *site) login(name, text string) string {
	f := &family{name: name}
	f.last = &refreshToken{text: text, family: f}
	s.refreshTokens[text] = f.last
	return text
}

// loginAgain is login for a person who comes in the course of a run.
func (s *site) loginAgain() string {
	s.logins++
	name := fmt.Sprint("login ", s.logins)
	return s.login(name, fmt.Sprint("rt-", s.logins, "-0"))
}

var errInvalidGrant = &endpoint.Error{Code: "invalid_grant", Status: 400}

// refreshes decides on a use of a refresh token: what speaks against it is returned; else, which one is good from then on: ""
// where that is still the same.
func (s *site) refreshes(o *op) (next string, refused error) {
	w, t := s.w, s.refreshTokens[o.token]
	if t == nil || t.family.ended != "" {
		return "", errInvalidGrant
	}
	f, u := t.family, o.use
	kind := w.setup.rotating.kind
	if t.spent != nil && kind != constant && (kind == strict || w.now()-t.spent.accepted > leeway) {
		f.ended = "a second use of " + t.text
		w.say("    … a second use of %s: %s is over", t.text, f.name)
		w.check.reused(t, u)
		return "", errInvalidGrant
	}
	u.accepted = w.now()
	if t.spent == nil || kind == constant {
		t.spent = u
	}
	w.say("    … %s is accepted", t.text)
	defer func() {
		if len(s.traps) > 0 {
			trap := s.traps[0]
			s.traps = s.traps[1:]
			trap(o)
		}
	}()
	if kind == constant {
		return "", nil
	}
	f.n++
	w.check.stats.rotations++
	f.last = &refreshToken{text: fmt.Sprintf("%s-%d", f.name, f.n), family: f}
	s.refreshTokens[f.last.text] = f.last
	u.next = f.last.text
	return u.next, nil
}

// fails has the endpoint answer with an error. Some of its errors come too late: what was asked for is done.
func (s *site) fails(o *op, err *endpoint.Error) any {
	if o.token != "" && err.Status >= 500 && o.rng.IntN(4) == 0 {
		if _, refused := s.refreshes(o); refused != nil {
			return refused
		}
		o.use.unanswered = true
	}
	return err
}

// silent is an endpoint that doesn't answer, though it may have done what was asked for.
func (s *site) silent(o *op) any {
	if o.token != "" && o.rng.IntN(2) == 0 {
		if _, refused := s.refreshes(o); refused == nil {
			o.use.unanswered = true
		}
	}
	return nil
}

// garbled is an answer without a usable access token.
func (s *site) garbled(o *op) any {
	err := &endpoint.Error{Code: endpoint.CodeBadReply, Status: 200, Message: "no token in it"}
	if o.token == "" {
		return err
	}
	next, refused := s.refreshes(o)
	if refused != nil {
		return refused
	}
	if next != "" {
		err.RefreshToken = manager.NewSecret(next)
	}
	return err
}

// delivered notes that an answer has arrived.
func (s *site) delivered(o *op, answer any) {
	if answer == errInvalidGrant {
		o.r.known[o.about].loginDueAt = s.w.now()
	}
	if u := o.use; u != nil {
		u.delivered = s.w.now()
		if u.then != nil {
			u.then()
		}
		if u.next != "" {
			s.w.check.holds(u)
		}
	}
}

// undelivered notes that an answer won't arrive.
func (s *site) undelivered(o *op) {
	if o.use != nil {
		o.use.lost = true
	}
}

// admitRevocation brings a revocation to the endpoint, and its answer back.
func (s *site) admitRevocation(o *op) {
	w := s.w
	if o.over.Load() || isClosed(o.p.died) || o.r.toSite.refused || o.r.toSite.swallows || s.mood.hangs || o.rng.Float64() < s.mood.lost {
		return
	}
	w.in(s.mood.fastest, func() {
		if t := s.refreshTokens[o.token]; t != nil && t.family.ended == "" {
			t.family.ended = "a logout"
			w.say("%s: %s is revoked", o.r.name, t.family.name)
		}
		if o.r.toSite.mute || o.rng.Float64() < s.mood.lost {
			return
		}
		w.in(s.mood.fastest, func() { o.answer("revoked") })
	})
}
