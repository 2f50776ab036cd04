package mockendpoint

import (
	"fmt"
	"slices"
	"time"
)

// The grants, as grant_type names them.
const (
	ClientCredentials = "client_credentials"                              // RFC 6749 §4.4
	RefreshToken      = "refresh_token"                                   // RFC 6749 §6
	JWTBearer         = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523 §2.1
	TokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 §2.1
)

// grants are those that can be accepted.
var grants = []string{ClientCredentials, RefreshToken, JWTBearer, TokenExchange}

// Options configure an [Endpoint]. Zero fields mean the defaults.
type Options struct {
	// ClientID and ClientSecret are the only ones that are accepted, in a Basic header (form-encoded, RFC 6749 §2.3.1)
	// or in the form. "": any, and none at all.
	ClientID, ClientSecret string

	Grants []string // that are accepted; default [ClientCredentials] alone

	// Rotate has each use of a refresh token give a new one and spend the old. A spent one that is used again is taken
	// for stolen, unless it was spent less than ReuseInterval ago: its family is revoked, with all refresh tokens and
	// access tokens that came of one login (RFC 9700 §4.14.2). Otherwise a refresh token is good for any number of uses.
	Rotate        bool
	ReuseInterval time.Duration
	RefreshLife   time.Duration // of a refresh token, from when it was last given out; 0: no end. In refresh_expires_in

	// SubjectTokens are those that [TokenExchange] accepts; none: any.
	SubjectTokens []string

	Life    time.Duration // default of expires_in; 0: 1 hour. A fraction of a second is sent as one
	Default Reply         // to calls that the script doesn't name

	// SecretParams are names of form parameters to redact in what is recorded, besides those whose names have
	// "secret", "password", "assertion", "token", "code" or "key" in them.
	SecretParams []string

	// Log is called with each request once its Outcome is known, right before the answer is sent; by several
	// goroutines at once.
	Log func(Request)
}

// complete returns a copy of o with its defaults, that shares no list with it. It panics on what can't work.
func (o Options) complete() Options {
	o.Default.check()
	o.Grants = slices.Clone(o.Grants)
	if len(o.Grants) == 0 {
		o.Grants = []string{ClientCredentials}
	}
	for _, g := range o.Grants {
		if !slices.Contains(grants, g) {
			panic(fmt.Sprintf("mockendpoint: grant %q isn't known", g))
		}
	}
	if o.Life == 0 {
		o.Life = time.Hour
	}
	o.SecretParams = slices.Clone(o.SecretParams)
	o.SubjectTokens = slices.Clone(o.SubjectTokens)
	return o
}
