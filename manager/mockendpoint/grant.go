package mockendpoint

import (
	"net/http"
	"net/url"
	"slices"
	"time"
)

// A redemption is what a good call does when it takes effect. It returns the family that the access token belongs to and
// the refresh token to answer with, if any; or a refusal: since it arrived, things may have changed.
type redemption func(r Reply) (given given, refusal Reply, refused bool)

// given is what a call gets besides an access token.
type given struct {
	family  *family
	refresh *refreshToken
	members map[string]any // further members of the answer
}

// A call is a token request under way.
type call struct {
	*Request
	parseErr error // of its form
	reply    Reply
	redeem   redemption // nil once it has taken effect, and where nothing can change
	redeemed given
	device   *device // that asks; nil: none
}

// redeemLocked has the call take effect, once.
func (e *Endpoint) redeemLocked(c *call) (refusal Reply, refused bool) {
	if c.redeem == nil {
		return Reply{}, false
	}
	c.redeemed, refusal, refused = c.redeem(c.reply)
	c.redeem = nil
	return refusal, refused
}

// checkGrantLocked returns a refusal of a grant that isn't good, else prepares what it gives.
func (e *Endpoint) checkGrantLocked(c *call, r *http.Request, client string) (refusal Reply, refused bool) {
	form := r.PostForm
	grant := form.Get("grant_type")
	if grant == "" {
		return refuseRequest("grant_type is missing")
	}
	if !slices.Contains(e.options.Grants, grant) {
		return Reply{Error: "unsupported_grant_type", ErrorDescription: "this grant isn't accepted here"}, true
	}
	for _, name := range required[grant] {
		if form.Get(name) == "" {
			return refuseRequest(name + " is missing")
		}
	}
	switch grant {
	case RefreshToken:
		return e.checkRefreshLocked(c, form.Get("refresh_token"), client)
	case AuthorizationCode:
		return e.checkCodeLocked(c, form, client)
	case DeviceCode:
		return e.checkDeviceLocked(c, form, client)
	case JWTBearer:
		return e.checkAssertion(r)
	case TokenExchange:
		return e.checkExchange(c, form)
	}
	return Reply{}, false
}

func (e *Endpoint) checkRefreshLocked(c *call, text, client string) (refusal Reply, refused bool) {
	t := e.refresh.register.find(text)
	if refusal, refused = e.refresh.check(t, client, c.Request); refused {
		return refusal, refused
	}
	c.redeem = func(r Reply) (given, Reply, bool) {
		if refusal, refused := e.refresh.check(t, client, c.Request); refused {
			return given{}, refusal, refused
		}
		return given{family: t.family, refresh: e.refresh.use(t, r.OmitRefreshToken)}, Reply{}, false
	}
	return Reply{}, false
}

// checkAssertion is RFC 7523 §3.1.
func (e *Endpoint) checkAssertion(r *http.Request) (refusal Reply, refused bool) {
	if len(e.options.AssertionKeys) == 0 {
		return Reply{}, false
	}
	if _, err := verify(r.PostForm.Get("assertion"), e.options.AssertionKeys, e.audiences(r), time.Now()); err != nil {
		return refuseGrant("assertion: " + err.Error())
	}
	return Reply{}, false
}

// checkExchange is RFC 8693 §2.1.
func (e *Endpoint) checkExchange(c *call, form url.Values) (refusal Reply, refused bool) {
	if form.Has("actor_token") != form.Has("actor_token_type") {
		return refuseRequest("of actor_token and actor_token_type one is missing")
	}
	if known := e.options.SubjectTokens; len(known) > 0 && !slices.Contains(known, form.Get("subject_token")) {
		return refuseRequest("the subject_token isn't accepted") // RFC 8693 §2.2.2
	}
	issued := "urn:ietf:params:oauth:token-type:access_token"
	if asked := form.Get("requested_token_type"); asked != "" {
		issued = asked
	}
	c.redeemed.members = map[string]any{"issued_token_type": issued}
	return Reply{}, false
}

func refuseRequest(description string) (refusal Reply, refused bool) {
	return Reply{Error: "invalid_request", ErrorDescription: description}, true
}
