package mockendpoint

import (
	"cmp"
	"crypto"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"
)

// The grants, as grant_type names them.
const (
	ClientCredentials = "client_credentials"                              // RFC 6749 §4.4
	RefreshToken      = "refresh_token"                                   // RFC 6749 §6
	AuthorizationCode = "authorization_code"                              // RFC 6749 §4.1
	DeviceCode        = "urn:ietf:params:oauth:grant-type:device_code"    // RFC 8628
	JWTBearer         = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523 §2.1
	TokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693 §2.1
)

// required are the parameters that each grant doesn't go without.
var required = map[string][]string{
	ClientCredentials: nil,
	RefreshToken:      {"refresh_token"},
	AuthorizationCode: {"code", "code_verifier", "redirect_uri"},
	DeviceCode:        {"device_code"},
	JWTBearer:         {"assertion"},
	TokenExchange:     {"subject_token", "subject_token_type"},
}

// Options configure an [Endpoint]. Zero fields mean the defaults.
type Options struct {
	// ClientID and ClientSecret are the only ones that are accepted, in a Basic header (form-encoded, RFC 6749 §2.3.1)
	// or in the form. "": any, and none at all.
	ClientID, ClientSecret string

	// AuthMethods are the ways in which a client may authenticate: [Basic], [Post], … By default any that shows the right
	// thing; and the client id alone, where nothing is set that could be asked for.
	AuthMethods []string
	// ClientKeys are the public keys of [PrivateKeyJWT]: *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey. An assertion
	// is for one of Audiences, of the client itself, at most an hour long, and good once.
	ClientKeys []crypto.PublicKey
	// ClientCerts are the certificates of [TLSClientAuth]: subjects, as [pkix.Name.String] writes them, or SHA-256
	// fingerprints in hexadecimal. Their chains are left to the server that serves the endpoint. None: any.
	ClientCerts []string
	// Audiences are those that assertions may be for; default the URL that is called, and the issuer.
	Audiences []string

	Grants []string // that are accepted; default [ClientCredentials] alone. A login gives a refresh token with [RefreshToken]

	// Rotate has each use of a refresh token give a new one and spend the old. A spent one that is used again is taken
	// for stolen, unless it was spent less than ReuseInterval ago: its family is revoked, with all refresh tokens and
	// access tokens that came of one login (RFC 9700 §4.14.2). Otherwise a refresh token is good for any number of uses.
	Rotate        bool
	ReuseInterval time.Duration
	RefreshLife   time.Duration // of a refresh token, from when it was last given out; 0: no end. In refresh_expires_in

	// AssertionKeys are the public keys of [JWTBearer], like ClientKeys; none: any assertion is good.
	AssertionKeys []crypto.PublicKey

	// SubjectTokens are those that [TokenExchange] accepts; none: any.
	SubjectTokens []string

	// Issuer is who the endpoint says that it is; default the origin that it is called at. Its path is where the metadata
	// and the other pages are.
	Issuer   string
	Metadata map[string]any // members to add, to replace, or, as nil, to leave out

	// RedirectURIs are those of [AuthorizePath]; none: any on loopback. OnAuthorize may change what the answer brings to
	// one of them: leave the code out, send another state or iss. Several goroutines may call it at once.
	RedirectURIs []string
	OnAuthorize  func(answer url.Values)

	// ApproveAtPoll approves a device by itself when it asks for the token that often; 1: at once; 0: a device is pending
	// until [Endpoint.ApproveDevice] or a visit of [DevicePath].
	ApproveAtPoll  int
	DeviceInterval time.Duration // between two of its polls; 0: 5 s. Who asks earlier is told to slow_down
	DeviceLife     time.Duration // of a device code; 0: 10 min

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
		if _, known := required[g]; !known {
			panic(fmt.Sprintf("mockendpoint: grant %q isn't known", g))
		}
	}
	for _, m := range o.AuthMethods {
		if methodNames[m] == "" {
			panic(fmt.Sprintf("mockendpoint: %q is no way to authenticate", m))
		}
	}
	o.Life = cmp.Or(o.Life, time.Hour)
	o.DeviceInterval = cmp.Or(o.DeviceInterval, defaultDeviceInterval)
	o.DeviceLife = cmp.Or(o.DeviceLife, defaultDeviceLife)
	o.Metadata = maps.Clone(o.Metadata)
	o.SecretParams = slices.Clone(o.SecretParams)
	for _, list := range []*[]string{&o.AuthMethods, &o.ClientCerts, &o.Audiences, &o.SubjectTokens, &o.RedirectURIs} {
		*list = slices.Clone(*list)
	}
	o.ClientKeys, o.AssertionKeys = slices.Clone(o.ClientKeys), slices.Clone(o.AssertionKeys)
	return o
}
