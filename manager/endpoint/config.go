package endpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
)

// Defaults of a [Config].
const (
	DefaultConnectTimeout = 3 * time.Second
	DefaultAssertionLife  = 5 * time.Minute
	maxReply              = 1 << 20
)

// Config says which token is asked for, where and as whom. A setting that has no effect with the grant and the client
// authentication that are chosen is an error.
type Config struct {
	TokenURL  string // https, or http on loopback
	Issuer    string // whose metadata has what TokenURL and the other URLs don't say; see [Client.Metadata]
	AllowHTTP bool   // http elsewhere, too

	// For a login and its end: see [Client.Metadata].
	AuthorizationURL       string
	DeviceAuthorizationURL string
	RevocationURL          string

	// Files are read by New, and again when they change.
	ClientID         string // may be missing where a JWT bearer grant or a token exchange goes without client authentication
	ClientSecret     secret.Secret
	ClientSecretFile string     // without the line break at its end
	AuthMethod       AuthMethod // default [ClientSecretBasic]
	// PrivateKeyFile signs client assertions and the JWT bearer grant's: PEM (PKCS #8, PKCS #1, SEC 1), a JWK, or a
	// Google service account's JSON. RSA keys have 2048 bits or more.
	PrivateKeyFile   string
	KeyID            string // "kid"; default the JWK's or the service account's
	SigningAlgorithm string // RFC 7518 §3.1; default the JWK's, RS256 for RSA, else the one that goes with the key

	ClientAssertionAudience string // "aud" of a client assertion; default the token endpoint's URL
	ClientAssertionFile     string // a client assertion that somebody else keeps fresh, in place of one that is signed here
	ClientCertFile          string // PEM, the leaf first
	ClientKeyFile           string
	CAFile                  string // PEM: in place of the system's

	Grant    Grant // default [ClientCredentials]
	Scopes   []string
	Audience []string // each a parameter "audience"
	Resource []string // each a parameter "resource" (RFC 8707)

	Params        url.Values               // further form parameters
	SecretParams  map[string]secret.Secret // further form parameters whose values are secrets
	Headers       map[string]string        // further headers of the token request
	SecretHeaders map[string]secret.Secret // further headers whose values are secrets

	RefreshToken     secret.Secret // for [Client.Seed]
	RefreshTokenFile string

	Assertion Assertion // for [JWTBearer]

	// For [TokenExchange]. Types are URNs, or short names: see [TokenTypeURN].
	SubjectTokenFile   string
	SubjectTokenType   string // default jwt
	ActorTokenFile     string
	ActorTokenType     string // default jwt
	RequestedTokenType string

	// HTTPClient is for a proxy or a CA; its redirect policy and cookie jar are not used. With ClientCertFile or CAFile
	// its transport is copied, which must be an [http.Transport].
	HTTPClient *http.Client

	// ConnectTimeout bounds the dial, and then the TLS handshake, where HTTPClient is nil; default
	// [DefaultConnectTimeout].
	ConnectTimeout time.Duration

	// Report is told, once, why a file's new version isn't used but the last good one still is. It begins with the
	// setting. It may be called by several goroutines at once, and must not call the Client.
	Report func(error)
}

// setDefaults fills in the zero fields, or returns an error that names the setting at fault.
func (c *Config) setDefaults() error {
	c.AuthMethod = cmp.Or(c.AuthMethod, ClientSecretBasic)
	c.Grant = cmp.Or(c.Grant, ClientCredentials)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultConnectTimeout)
	for _, check := range []func() error{
		c.checkURLs, c.checkClient, c.checkGrant, c.checkEffects, c.checkAssertion, c.checkTargets, c.checkParams, c.checkHeaders,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	c.Assertion.Life = cmp.Or(c.Assertion.Life, DefaultAssertionLife)
	if c.Grant != TokenExchange {
		return nil
	}
	for _, t := range []struct {
		name  string
		value *string
		def   string
	}{
		{"subject_token_type", &c.SubjectTokenType, "jwt"},
		{"actor_token_type", &c.ActorTokenType, "jwt"},
		{"requested_token_type", &c.RequestedTokenType, ""},
	} {
		*t.value = TokenTypeURN(cmp.Or(*t.value, t.def))
		if *t.value != "" && !strings.Contains(*t.value, ":") {
			return fmt.Errorf("%s: %.60q is neither a URI nor one of %s", t.name, *t.value, strings.Join(tokenTypes, ", "))
		}
	}
	return nil
}

func (c *Config) checkURLs() error {
	if c.Issuer != "" {
		if err := checkIssuer(c.Issuer, c.AllowHTTP); err != nil {
			return fmt.Errorf("issuer: %w", err)
		}
	}
	if c.TokenURL != "" || c.Issuer == "" {
		if err := CheckURL(c.TokenURL, c.AllowHTTP); err != nil {
			return fmt.Errorf("token_url: %w", err)
		}
	}
	for _, u := range []struct{ name, value string }{
		{"authorization_url", c.AuthorizationURL},
		{"device_authorization_url", c.DeviceAuthorizationURL},
		{"revocation_url", c.RevocationURL},
	} {
		if u.value != "" {
			if err := CheckURL(u.value, c.AllowHTTP); err != nil {
				return fmt.Errorf("%s: %w", u.name, err)
			}
		}
	}
	return nil
}

// checkClient checks that there is all that the client authenticates with.
func (c *Config) checkClient() error {
	secretMissing := c.ClientSecret.IsEmpty() && c.ClientSecretFile == ""
	switch m := c.AuthMethod; {
	case c.ClientID == "" && (m != NoClientAuth || c.Grant != JWTBearer && c.Grant != TokenExchange): // the assertion, or the subject token, says who
		return errors.New("client_id is missing")
	case !slices.Contains(authMethods, m):
		return fmt.Errorf("auth_method %.60q is not one of %s", m, join(authMethods))
	case (m == ClientSecretBasic || m == ClientSecretPost) && secretMissing:
		return errors.New("client_secret is missing")
	case m == PrivateKeyJWT && c.PrivateKeyFile == "" && c.ClientAssertionFile == "":
		return fmt.Errorf("private_key_file is missing: auth_method %s signs with it, or sends what is in client_assertion_file", m)
	case m == TLSClientAuth && c.ClientCertFile == "" && c.HTTPClient == nil:
		return fmt.Errorf("client_cert_file is missing: auth_method %s proves who the client is with it", m)
	case (c.ClientCertFile == "") != (c.ClientKeyFile == ""):
		return errors.New("client_cert_file, client_key_file: one of the two is missing")
	case !c.ClientSecret.IsEmpty() && c.ClientSecretFile != "":
		return errors.New("client_secret, client_secret_file: only one of the two may be set")
	}
	return nil
}

// checkGrant checks that there is all that the grant needs.
func (c *Config) checkGrant() error {
	switch g := c.Grant; {
	case !slices.Contains(grants, g):
		return fmt.Errorf("grant: %.60q is not one of %s", g, join(grants))
	case g == JWTBearer && c.PrivateKeyFile == "" && c.Assertion.File == "":
		return fmt.Errorf("private_key_file is missing: grant %s signs with it, or sends what is in assertion.file", g)
	case g == TokenExchange && c.SubjectTokenFile == "":
		return fmt.Errorf("subject_token_file is missing: grant %s exchanges what is in it", g)
	case !c.RefreshToken.IsEmpty() && c.RefreshTokenFile != "":
		return errors.New("refresh_token, refresh_token_file: only one of the two may be set")
	}
	if err := checkRefreshToken(c.RefreshToken.Reveal()); err != nil && !c.RefreshToken.IsEmpty() {
		return fmt.Errorf("refresh_token: %w", err)
	}
	return nil
}

// signsClient and signsGrant report what the private key is needed for.
func (c *Config) signsClient() bool {
	return c.AuthMethod == PrivateKeyJWT && c.ClientAssertionFile == ""
}

func (c *Config) signsGrant() bool { return c.Grant == JWTBearer && c.Assertion.File == "" }

// checkEffects refuses settings without effect: whoever set them expects one.
func (c *Config) checkEffects() error {
	byAuth, byGrant := "auth_method "+string(c.AuthMethod), "grant "+string(c.Grant)
	both := byAuth + " and " + byGrant
	secrets := c.AuthMethod == ClientSecretBasic || c.AuthMethod == ClientSecretPost
	signs := c.signsClient() || c.signsGrant()
	if c.AuthMethod == PrivateKeyJWT && !signs {
		both = "client_assertion_file"
	} else if c.Grant == JWTBearer && !signs {
		both = "assertion.file"
	}
	a := c.Assertion
	for _, s := range []struct {
		name      string
		set, used bool
		with      string
	}{
		{"client_secret", !c.ClientSecret.IsEmpty(), secrets, byAuth},
		{"client_secret_file", c.ClientSecretFile != "", secrets, byAuth},
		{"client_assertion_file", c.ClientAssertionFile != "", c.AuthMethod == PrivateKeyJWT, byAuth},
		{"client_assertion_audience", c.ClientAssertionAudience != "", c.signsClient(), both},
		{"private_key_file", c.PrivateKeyFile != "", signs, both},
		{"key_id", c.KeyID != "", signs, both},
		{"signing_algorithm", c.SigningAlgorithm != "", signs, both},
		{"refresh_token", !c.RefreshToken.IsEmpty(), c.Grant == RefreshToken, byGrant},
		{"refresh_token_file", c.RefreshTokenFile != "", c.Grant == RefreshToken, byGrant},
		{"authorization_url", c.AuthorizationURL != "", c.Grant == RefreshToken, byGrant},
		{"device_authorization_url", c.DeviceAuthorizationURL != "", c.Grant == RefreshToken, byGrant},
		{"revocation_url", c.RevocationURL != "", c.Grant == RefreshToken, byGrant},
		{"assertion.file", a.File != "", c.Grant == JWTBearer, byGrant},
		{"assertion", a.signed(), c.Grant == JWTBearer, byGrant},
		{"assertion", a.signed(), a.File == "", "assertion.file"},
		{"subject_token_file", c.SubjectTokenFile != "", c.Grant == TokenExchange, byGrant},
		{"subject_token_type", c.SubjectTokenType != "", c.Grant == TokenExchange, byGrant},
		{"actor_token_file", c.ActorTokenFile != "", c.Grant == TokenExchange, byGrant},
		{"actor_token_type", c.ActorTokenType != "", c.Grant == TokenExchange, byGrant},
		{"requested_token_type", c.RequestedTokenType != "", c.Grant == TokenExchange, byGrant},
	} {
		if s.set && !s.used {
			return fmt.Errorf("%s: has no effect with %s", s.name, s.with)
		}
	}
	if c.ActorTokenType != "" && c.ActorTokenFile == "" {
		return errors.New("actor_token_type: has no effect without actor_token_file")
	}
	if c.SigningAlgorithm != "" && !slices.Contains(algorithmNames(), c.SigningAlgorithm) {
		return fmt.Errorf("signing_algorithm: %.60q is not one of %s", c.SigningAlgorithm, strings.Join(algorithmNames(), ", "))
	}
	return nil
}

// signed reports whether a says anything of an assertion that is signed here.
func (a Assertion) signed() bool {
	return a.Issuer != "" || a.Subject != "" || a.Audience != "" || a.Life != 0 || len(a.Claims) > 0
}

func (c *Config) checkAssertion() error {
	if l := c.Assertion.Life; l != 0 && l < time.Second || l > 24*time.Hour {
		return fmt.Errorf("assertion.life: %v is not between 1s and 24h", l)
	}
	_, err := encodeClaims(c.Assertion.Claims)
	return err
}

// encodeClaims makes JSON of an assertion's further claims.
func encodeClaims(claims map[string]any) (map[string]json.RawMessage, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	encoded := map[string]json.RawMessage{}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		switch name {
		case "":
			return nil, errors.New("assertion.claims: a claim without a name")
		case "iss", "sub", "aud":
			return nil, fmt.Errorf("assertion.claims: %q has a setting of its own", name)
		case "iat", "exp", "jti":
			return nil, fmt.Errorf("assertion.claims: %q is another in each assertion", name)
		}
		value, err := json.Marshal(claims[name])
		if err != nil {
			return nil, fmt.Errorf("assertion.claims: %q is nothing that JSON has a form for", printable.Line(name, 60))
		}
		encoded[name] = value
	}
	return encoded, nil
}

// checkTargets checks what says for whom and for what the token is.
func (c *Config) checkTargets() error {
	for _, s := range c.Scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return fmt.Errorf("scopes: %q is no scope (RFC 6749 §3.3)", s)
		}
	}
	if slices.Contains(c.Audience, "") {
		return errors.New("audience: an empty one")
	}
	for _, r := range c.Resource {
		if u, err := url.Parse(r); err != nil || !u.IsAbs() || u.Host == "" && u.Opaque == "" && u.Path == "" || strings.Contains(r, "#") {
			return fmt.Errorf("resource: %q is no absolute URI without a fragment (RFC 8707 §2)", printable.Line(r, 100))
		}
	}
	return nil
}

func (c *Config) checkParams() error {
	taken := []string{"grant_type", "client_id", "client_secret", "scope"}
	switch c.Grant {
	case ClientCredentials:
	case RefreshToken:
		taken = append(taken, "refresh_token")
	case JWTBearer:
		taken = append(taken, "assertion")
	case TokenExchange:
		taken = append(taken, "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type")
	}
	if c.AuthMethod == PrivateKeyJWT {
		taken = append(taken, "client_assertion", "client_assertion_type")
	}
	if len(c.Audience) > 0 {
		taken = append(taken, "audience")
	}
	if len(c.Resource) > 0 {
		taken = append(taken, "resource")
	}
	if err := checkNames(maps.Keys(c.Params), taken); err != nil {
		return fmt.Errorf("params: %w", err)
	}
	if err := checkNames(maps.Keys(c.SecretParams), taken); err != nil {
		return fmt.Errorf("secret_params: %w", err)
	}
	return nil
}

func checkNames(names iter.Seq[string], taken []string) error {
	for _, name := range slices.Sorted(names) {
		if name == "" {
			return errors.New("a parameter without a name")
		}
		if slices.Contains(taken, name) {
			return fmt.Errorf("%q has a setting of its own", name)
		}
	}
	return nil
}

// checkHeaders refuses what would break a request, and the headers that say what it is.
func (c *Config) checkHeaders() error {
	values := map[string]map[string]string{"headers": c.Headers, "secret_headers": {}}
	for name, value := range c.SecretHeaders {
		values["secret_headers"][name] = value.Reveal()
	}
	seen := map[string]bool{}
	for _, setting := range []string{"headers", "secret_headers"} {
		for _, name := range slices.Sorted(maps.Keys(values[setting])) {
			canonical := http.CanonicalHeaderKey(name)
			switch {
			case name == "" || strings.ContainsFunc(name, func(r rune) bool {
				return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
			}):
				return fmt.Errorf("%s: %q is no name of a header", setting, printable.Line(name, 60))
			case slices.Contains(ownHeaders, canonical):
				return fmt.Errorf("%s: %s is set by the request itself", setting, canonical)
			case seen[canonical]:
				return fmt.Errorf("%s: %s is there twice", setting, canonical)
			case strings.ContainsFunc(values[setting][name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
				return fmt.Errorf("%s: the value of %s has a control character (a line break, for example)", setting, canonical)
			}
			seen[canonical] = true
		}
	}
	return nil
}

// ownHeaders have a meaning of their own: whoever sets them would break the request, or its authentication.
var ownHeaders = []string{
	"Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect",
	"Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// CheckURL returns an error, to stand behind a setting's name, unless raw is an absolute https URL (or http, on loopback
// or where allowed) without credentials and fragment. The error doesn't repeat raw, which may hold a secret.
func CheckURL(raw string, allowHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("is missing")
	case err != nil:
		return errors.New("is no URL") // the parser's error repeats it, with what may be in its query
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return errors.New("is no absolute http or https URL")
	case u.User != nil:
		return errors.New("must not hold credentials")
	case u.Fragment != "":
		return errors.New("must not have a fragment (RFC 6749 §3.2)")
	case u.Scheme == "http" && !allowHTTP && !isLoopback(u.Hostname()):
		return fmt.Errorf("plain http to %s would show the client secret to the network: use https, or set allow_http",
			printable.Line(u.Hostname(), 100))
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

var (
	authMethods = []AuthMethod{ClientSecretBasic, ClientSecretPost, PrivateKeyJWT, TLSClientAuth, NoClientAuth}
	grants      = []Grant{ClientCredentials, RefreshToken, JWTBearer, TokenExchange}
	tokenTypes  = []string{"access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"} // RFC 8693 §3
)

func join[T ~string](list []T) string {
	var texts []string
	for _, t := range list {
		texts = append(texts, string(t))
	}
	return strings.Join(texts, ", ")
}

// TokenTypeURN returns the identifier of RFC 8693 §3 that a short name ("jwt", "access_token", …) stands for; any other
// text comes back as it is.
func TokenTypeURN(name string) string {
	if slices.Contains(tokenTypes, name) {
		return "urn:ietf:params:oauth:token-type:" + name
	}
	return name
}
