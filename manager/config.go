package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/onetoken/onetoken/internal/digest"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/manager/telemetry"
	"github.com/onetoken/onetoken/store"
)

// Aliases, so that a program needs to import this package alone.
type (
	// Secret is text that doesn't print; Reveal returns it.
	Secret = secret.Secret
	// Token is an access token with its version and life. It is immutable and may be shared.
	Token = store.Token
	// Version orders an environment's tokens and failures.
	Version = store.Version
	// AuthMethod is how the client authenticates to the token endpoint.
	AuthMethod = endpoint.AuthMethod
	// Grant is what a token is asked for with.
	Grant = endpoint.Grant
	// Assertion is the JWT of the [JWTBearer] grant.
	Assertion = endpoint.Assertion
	// Reply is what a [Source] returns.
	Reply = endpoint.Reply
)

// The client authentication methods.
const (
	ClientSecretBasic = endpoint.ClientSecretBasic
	ClientSecretPost  = endpoint.ClientSecretPost
	PrivateKeyJWT     = endpoint.PrivateKeyJWT
	TLSClientAuth     = endpoint.TLSClientAuth
	NoClientAuth      = endpoint.NoClientAuth
)

// The grants.
const (
	ClientCredentials = endpoint.ClientCredentials
	RefreshToken      = endpoint.RefreshToken
	JWTBearer         = endpoint.JWTBearer
	TokenExchange     = endpoint.TokenExchange
)

// NewSecret returns a Secret that holds s.
func NewSecret(s string) Secret { return secret.New(s) }

// Config configures a [Manager].
type Config struct {
	// Redis is shared by the fleet: a plain, Sentinel or Cluster client. It stays the caller's, who closes it after the
	// manager. Calls get deadlines of a second, which the client only obeys with ContextTimeoutEnabled; the README
	// has the options that make an unreachable Redis noticed quickly.
	Redis redis.UniversalClient

	// Environments by name ([A-Za-z0-9._-]{1,128}); at least one, unless there is a Resolve. [Manager.SetEnvironment] adds
	// others later.
	Environments map[string]Environment
	// Resolve looks up an environment that is asked for and isn't there: a tenant's, say, in a database. It is called once for
	// all who ask at the same time, at most 64 times at once, under a context of its own that ends after 10 s, and must be safe
	// for concurrent use. A panic is an error, too, and so is one that hasn't returned a second after its context ended. What
	// [Manager.SetEnvironment] or [Manager.RemoveEnvironment] does meanwhile outdates the call. [ErrNoEnvironment] in its
	// error's chain says that there is none of the name; an error is the answer for a second. It is called again for what was
	// let go or removed, and behind the callers when the endpoint has refused a client, whose secret may have been replaced.
	Resolve func(ctx context.Context, name string) (Environment, error)
	// IdleAfter is how long an environment that came from Resolve is kept, half of it longer at most, after its token was last
	// asked for; default 10 min. One with KeepWarm or a listener is kept.
	IdleAfter time.Duration

	Namespace string       // of the keys in Redis; default "onetoken"
	Replica   string       // this process's name, and no other's, in Redis and in logs; default host:pid
	Logger    *slog.Logger // default: nothing is logged
	Codec     store.Codec  // seals secrets in Redis; default: they are stored as they are

	// MeterProvider and TracerProvider take the signals that docs/signals.md describes. Default: those that the program
	// has set by go.opentelemetry.io/otel, and nothing where it has set none. Managers with environments of the same name
	// need providers of their own: their gauges would be one.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	// WallClock is this machine's clock, default [time.Now]. Nothing is decided by it but whether it and the monotonic
	// clock have parted: a suspended machine, a stepped clock.
	WallClock func() time.Time
}

// An Environment is one OAuth2 client at one token endpoint. Its zero fields mean the documented defaults.
type Environment struct {
	// BaseURL is the API's. The token URL is BaseURL without a trailing "/api/v2" (and slashes), plus
	// "/oauth2/v1/token"; and [Manager.Client] adds the token to requests for BaseURL's origin only.
	BaseURL string
	// TokenURL sets the token endpoint outright.
	TokenURL string
	// Issuer finds the token endpoint, and the others of a login, by the issuer's metadata (RFC 8414, OpenID Connect
	// Discovery 1.0), in place of BaseURL's or TokenURL.
	Issuer string
	// AllowHTTP permits plain http to hosts other than loopback.
	AllowHTTP bool

	// Files are read again when they change. Of a secret and a file with it, one is enough.
	ClientID         string
	ClientSecret     Secret
	ClientSecretFile string
	AuthMethod       AuthMethod // default client_secret_basic
	PrivateKeyFile   string     // PEM, JWK or a service account's JSON: signs client assertions and the JWT bearer grant's
	KeyID            string     // the key's "kid" in what it signs
	SigningAlgorithm string     // RFC 7518 §3.1; default: what goes with the key
	// ClientAssertionAudience is the "aud" of a client assertion; default the token endpoint's URL.
	ClientAssertionAudience string
	// ClientAssertionFile holds a client assertion that somebody else keeps fresh, in place of PrivateKeyFile.
	ClientAssertionFile string
	ClientCertFile      string // PEM: for tls_client_auth (RFC 8705 §2), or where the endpoint wants one
	ClientKeyFile       string
	CAFile              string // PEM: those who may vouch for the endpoint, in place of the system's

	Grant  Grant // default client_credentials
	Scopes []string
	// Audience and Resource (RFC 8707) are form parameters, each as often as it has values.
	Audience     []string
	Resource     []string
	Params       url.Values        // further form parameters
	SecretParams map[string]Secret // the same for values that are secret: they take no part in the fingerprint
	Headers      map[string]string // further headers of the request
	// SecretHeaders are the same for values that are secret.
	SecretHeaders map[string]Secret
	HTTPClient    *http.Client // for the token endpoint: a proxy, a CA. Redirects are never followed.

	// RefreshToken, or the file with it, is the one that the [RefreshToken] grant begins with. It is spent on the first
	// use where refresh tokens rotate; from then on the one in Redis counts, until another is configured here.
	RefreshToken     Secret
	RefreshTokenFile string

	// Assertion is for the [JWTBearer] grant (RFC 7523 §2.1).
	Assertion Assertion

	// For the [TokenExchange] grant (RFC 8693 §2.1). Types are URNs; "jwt", "access_token", "id_token", … stand for
	// those of RFC 8693 §3.
	SubjectTokenFile   string
	SubjectTokenType   string // default jwt
	ActorTokenFile     string
	ActorTokenType     string // default jwt
	RequestedTokenType string

	// For a login and its end; Issuer's metadata has them, too.
	AuthorizationURL       string
	DeviceAuthorizationURL string
	RevocationURL          string

	// Source fetches the token in place of the client_credentials grant. SourceID, with what else the fingerprint is
	// made of (TokenURL, ClientID, Scopes, Params), must tell tokens of one kind from those of another. Set ClientSecret,
	// or an entry of SecretParams, to the secret that the Source uses, so that a refusal binds only those with the same.
	Source   Source
	SourceID string

	// Origins are those that [Manager.Client] adds the token for, as "https://host[:port]". Default: BaseURL's; where
	// there is no BaseURL either, any.
	Origins []string

	Policy
}

// Outage is what a replica without a usable token does while Redis is away.
type Outage string

// The outage policies.
const (
	OutageFail         Outage = "fail"          // return an error that says so; the default
	OutageRefreshAlone Outage = "refresh_alone" // fetch a token of its own, at a bounded rate, and don't share it
)

// Backoff is the pause after a failure: Min, doubling with each further one, up to Max.
type Backoff struct{ Min, Max time.Duration }

// Policy says when a token is refreshed and what happens when it can't be. Zero fields mean the defaults.
type Policy struct {
	ExpiryMargin    time.Duration // a token with less life left isn't handed out; default min(10 s, max(10 % of life, 1 s), an eighth of the life)
	RefreshAt       float64       // the part of its life after which a token is refreshed behind its users; default 0.8
	Lease           time.Duration // of the lock, renewed every third; default 6 s
	EndpointTimeout time.Duration // of one request to the token endpoint; default 10 s
	ConnectTimeout  time.Duration // of its connection; default 3 s
	Backoff         Backoff       // after a transient failure; default 1 s to 60 s
	BackoffRefused  Backoff       // after an RFC 6749 error; default 15 s to 2 min
	RetryAfterMax   time.Duration // longest Retry-After that is obeyed; default 15 min
	DefaultLife     time.Duration // of a token without expires_in; default 5 min
	MaxLife         time.Duration // longest life that is believed; default 30 days
	KeepWarm        bool          // refresh without being asked for the token
	Outage          Outage        // default [OutageFail]
}

const (
	minLease = time.Second
	maxLease = lock.Longest
)

// WithDefaults returns p with its zero fields filled in as a [Manager] does, or an error that names the setting at fault.
// ExpiryMargin stays 0, which means the documented formula.
func (p Policy) WithDefaults() (Policy, error) { return p.withDefaults() }

// withDefaults returns p with its zero fields filled in, or an error that names the setting at fault.
func (p Policy) withDefaults() (Policy, error) {
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"expiry_margin", &p.ExpiryMargin, 0},
		{"lease", &p.Lease, 6 * time.Second},
		{"endpoint_timeout", &p.EndpointTimeout, 10 * time.Second},
		{"connect_timeout", &p.ConnectTimeout, endpoint.DefaultConnectTimeout},
		{"backoff.min", &p.Backoff.Min, time.Second},
		{"backoff.max", &p.Backoff.Max, 60 * time.Second},
		{"backoff_refused.min", &p.BackoffRefused.Min, 15 * time.Second},
		{"backoff_refused.max", &p.BackoffRefused.Max, 2 * time.Minute},
		{"retry_after_max", &p.RetryAfterMax, 15 * time.Minute},
		{"default_life", &p.DefaultLife, 5 * time.Minute},
		{"max_life", &p.MaxLife, 30 * 24 * time.Hour},
	} {
		if *d.value < 0 {
			return p, fmt.Errorf("%s: %v is negative", d.name, *d.value)
		}
		*d.value = cmp.Or(*d.value, d.def)
	}
	p.RefreshAt = cmp.Or(p.RefreshAt, 0.8)
	p.Outage = cmp.Or(p.Outage, OutageFail)
	switch {
	case p.Lease < minLease || p.Lease > maxLease:
		return p, fmt.Errorf("lease: %v is not between %v and %v", p.Lease, minLease, maxLease)
	case !(p.RefreshAt >= 0.5 && p.RefreshAt < 1):
		return p, fmt.Errorf("refresh_at: %v is not between 0.5 and 1 (50%% and 100%% of the life)", p.RefreshAt)
	case p.Backoff.Max < p.Backoff.Min:
		return p, fmt.Errorf("backoff: max %v is shorter than min %v", p.Backoff.Max, p.Backoff.Min)
	case p.BackoffRefused.Max < p.BackoffRefused.Min:
		return p, fmt.Errorf("backoff_refused: max %v is shorter than min %v", p.BackoffRefused.Max, p.BackoffRefused.Min)
	case p.DefaultLife < minLife || p.MaxLife < minLife:
		return p, fmt.Errorf("default_life, max_life: at least %v", minLife)
	case p.Outage != OutageFail && p.Outage != OutageRefreshAlone:
		return p, fmt.Errorf("outage: %q is not one of %s, %s", p.Outage, OutageFail, OutageRefreshAlone)
	}
	return p, nil
}

// TokenEndpoint returns the URL that is asked for tokens: TokenURL, or what BaseURL gives; "" where neither is set, or where
// it is in Issuer's metadata, which counts before BaseURL.
func (e Environment) TokenEndpoint() string {
	if e.TokenURL != "" || e.Issuer != "" || e.BaseURL == "" {
		return e.TokenURL
	}
	base := strings.TrimRight(e.BaseURL, "/")
	return strings.TrimRight(strings.TrimSuffix(base, "/api/v2"), "/") + "/oauth2/v1/token"
}

// resolve returns e with its defaults, its source and its fingerprint, or an error that names the setting at fault. log is
// told of files whose new version can't be used.
func (e Environment) resolve(log *slog.Logger) (resolved, error) {
	var r resolved
	var err error
	if r.policy, err = e.withDefaults(); err != nil {
		return r, err
	}
	if err = e.checkBaseURL(); err != nil {
		return r, err
	}
	if r.origins, err = e.origins(); err != nil {
		return r, err
	}
	if e.Source != nil {
		credential, seed := e.credentialDigest(), e.RefreshToken
		r.source, r.fingerprint, r.credential = e.Source, e.fingerprint(), func() string { return credential }
		if e.Grant == RefreshToken {
			var ok bool
			if r.rotating, ok = e.Source.(Refresher); !ok {
				return r, errors.New("source: with grant refresh_token it must be a Refresher, too")
			}
			r.seeds = func() Secret { return seed }
		}
		return r, e.checkRotation(&r)
	}
	if e.TokenEndpoint() == "" && e.Issuer == "" {
		return r, errors.New("base_url or token_url is missing")
	}
	client, err := endpoint.New(e.endpointConfig(r.policy, log))
	if err != nil {
		return r, err
	}
	if e.Grant == RefreshToken {
		r.rotating, r.seeds = client, client.Seed
	}
	e.Assertion.Issuer = cmp.Or(e.Assertion.Issuer, client.ServiceAccount())
	r.source, r.fingerprint, r.credential = client, e.fingerprint(), client.Credential
	return r, e.checkRotation(&r)
}

// checkRotation checks what goes with refresh tokens.
func (e Environment) checkRotation(r *resolved) error {
	if r.rotating == nil {
		return nil
	}
	if r.policy.Outage == OutageRefreshAlone {
		return fmt.Errorf("outage: %s with grant %s would spend the refresh token that the others need", OutageRefreshAlone, RefreshToken)
	}
	if longest := lock.Longest - sendReserve; r.policy.EndpointTimeout > longest {
		return fmt.Errorf("endpoint_timeout: at most %v with grant %s: the lease must outlast the request", longest, RefreshToken)
	}
	r.client = strings.Clone(digest.Of([]string{"client", e.Issuer, e.TokenEndpoint(), e.SourceID, e.ClientID})[:16])
	return nil
}

// endpointConfig is what e says of the token endpoint.
func (e Environment) endpointConfig(p Policy, log *slog.Logger) endpoint.Config {
	return endpoint.Config{
		TokenURL:               e.TokenEndpoint(),
		Issuer:                 e.Issuer,
		AllowHTTP:              e.AllowHTTP,
		AuthorizationURL:       e.AuthorizationURL,
		DeviceAuthorizationURL: e.DeviceAuthorizationURL,
		RevocationURL:          e.RevocationURL,

		ClientID:                e.ClientID,
		ClientSecret:            e.ClientSecret,
		ClientSecretFile:        e.ClientSecretFile,
		AuthMethod:              e.AuthMethod,
		PrivateKeyFile:          e.PrivateKeyFile,
		KeyID:                   e.KeyID,
		SigningAlgorithm:        e.SigningAlgorithm,
		ClientAssertionAudience: e.ClientAssertionAudience,
		ClientAssertionFile:     e.ClientAssertionFile,
		ClientCertFile:          e.ClientCertFile,
		ClientKeyFile:           e.ClientKeyFile,
		CAFile:                  e.CAFile,

		Grant:         e.Grant,
		Scopes:        slices.Clone(e.Scopes),
		Audience:      slices.Clone(e.Audience),
		Resource:      slices.Clone(e.Resource),
		Params:        cloneValues(e.Params),
		SecretParams:  maps.Clone(e.SecretParams),
		Headers:       maps.Clone(e.Headers),
		SecretHeaders: maps.Clone(e.SecretHeaders),

		RefreshToken:       e.RefreshToken,
		RefreshTokenFile:   e.RefreshTokenFile,
		Assertion:          e.Assertion,
		SubjectTokenFile:   e.SubjectTokenFile,
		SubjectTokenType:   e.SubjectTokenType,
		ActorTokenFile:     e.ActorTokenFile,
		ActorTokenType:     e.ActorTokenType,
		RequestedTokenType: e.RequestedTokenType,

		HTTPClient:     e.HTTPClient,
		ConnectTimeout: p.ConnectTimeout,
		Report:         func(err error) { log.Warn("a file's new version is not used", "error", err) },
	}
}

// resolved is an environment ready for use. It is immutable.
type resolved struct {
	policy      Policy
	source      Source
	rotating    Refresher     // nil where no refresh tokens are used; else asked in place of source
	seeds       func() Secret // the configured refresh token; nil where none can be
	client      string        // digest of the client, and of where it is one: whom a refresh token may be shown to
	origins     []origin      // nil: any
	fingerprint string
	credential  func() string // of the secrets as they are now: those in files may be replaced
	server      telemetry.Server
}

func cloneValues(v url.Values) url.Values {
	if len(v) == 0 {
		return nil
	}
	c := make(url.Values, len(v))
	for name, values := range v {
		c[name] = slices.Clone(values)
	}
	return c
}

// checkBaseURL checks what the token URL and the allowed origin are made of.
func (e Environment) checkBaseURL() error {
	if e.BaseURL == "" {
		return nil
	}
	if err := endpoint.CheckURL(e.BaseURL, e.AllowHTTP); err != nil {
		return fmt.Errorf("base_url: %w", err)
	}
	if strings.Contains(e.BaseURL, "?") {
		return errors.New("base_url: must not have a query")
	}
	return nil
}

// origins returns the origins that a token may be sent to, nil for any.
func (e Environment) origins() ([]origin, error) {
	list := e.Origins
	if len(list) == 0 && e.BaseURL != "" {
		list = []string{e.BaseURL}
	}
	var allowed []origin
	for i, raw := range list {
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			return nil, fmt.Errorf("origins: the %d. is no http or https origin (https://host:port)", i+1)
		}
		allowed = append(allowed, originOf(u))
	}
	return allowed, nil
}

// fingerprint is a digest of all that decides which token comes back, and of no secret. Where only what releases before
// the other grants knew is set, it is what it was with them.
func (e Environment) fingerprint() string {
	scopes := slices.Compact(slices.Sorted(slices.Values(e.Scopes)))
	parts := []string{string(cmp.Or(e.Grant, ClientCredentials)), e.TokenEndpoint(), e.ClientID, strings.Join(scopes, " ")}
	if e.Source != nil {
		parts[0] = "source " + e.SourceID
	}
	params := url.Values{}
	maps.Copy(params, e.Params)
	params["audience"] = slices.Concat(params["audience"], e.Audience) // the same request
	params["resource"] = slices.Concat(params["resource"], e.Resource)
	for _, name := range slices.Sorted(maps.Keys(params)) {
		for _, value := range params[name] {
			parts = append(parts, name, value)
		}
	}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, "", name, value) // no parameter has an empty name
		}
	}
	if e.TokenURL == "" {
		add("issuer", e.Issuer)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		add("header "+http.CanonicalHeaderKey(name), e.Headers[name])
	}
	if e.Grant == JWTBearer {
		add("assertion.issuer", e.Assertion.Issuer)
		add("assertion.subject", e.Assertion.Subject)
		add("assertion.audience", e.Assertion.Audience)
		if claims, err := json.Marshal(e.Assertion.Claims); err == nil && len(e.Assertion.Claims) > 0 {
			add("assertion.claims", string(claims))
		}
	}
	if e.Grant == TokenExchange {
		add("subject_token_type", endpoint.TokenTypeURN(cmp.Or(e.SubjectTokenType, "jwt")))
		if e.ActorTokenFile != "" {
			add("actor_token_type", endpoint.TokenTypeURN(cmp.Or(e.ActorTokenType, "jwt")))
		}
		add("requested_token_type", endpoint.TokenTypeURN(e.RequestedTokenType))
	}
	return strings.Clone(digest.Of(parts)[:16]) // it is kept, and the rest isn't
}

// credentialDigest is, for a Source, what [endpoint.Client.Credential] is of the same secrets.
func (e Environment) credentialDigest() string {
	parts := []string{"credential", e.ClientSecret.Reveal()}
	for _, name := range slices.Sorted(maps.Keys(e.SecretParams)) {
		parts = append(parts, name, e.SecretParams[name].Reveal())
	}
	return digest.Of(parts)[:4]
}

// defaultReplica returns host:pid.
func defaultReplica() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

// checkReplica refuses names that would break a list or a line of Redis's.
func checkReplica(name string) error {
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '|' || r == ',' || r == '"' || r == '\\'
	}) {
		return fmt.Errorf(`replica: %.150q is not 1 to 128 printable ASCII characters without space, "|", "," or quotes`, name)
	}
	return nil
}
