package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store/seal"
)

// A Token is an access token with what is known of it. It is immutable: copies and pointers may be shared freely.
// Times are Redis's clock, which need not be the replica's.
type Token struct { //nolint:recvcheck // String is for values, too: they must not print the header
	AccessToken Secret
	TokenType   string    // as the endpoint gave it; "Bearer" where it gave none
	Scope       string    // space-separated (RFC 6749 §3.3), as granted; "" where the endpoint didn't say
	IssuedAt    time.Time // before the token endpoint was asked
	ExpiresAt   time.Time // IssuedAt + expires_in
	Version     Version   // 0: fetched while Redis was away, and not shared
	RefreshedBy string    // the replica that fetched it
	Took        time.Duration
	Config      string // fingerprint of the configuration that it was fetched with

	header Secret // made once; a Secret because fmt prints unexported fields
}

// NewToken returns t with its Authorization header made once.
func NewToken(t Token) *Token {
	header := headerType(t.TokenType) + " " + t.AccessToken.Reveal()
	t.header = NewSecret(header)
	t.AccessToken = NewSecret(header[len(header)-len(t.AccessToken.Reveal()):]) // the same text: a JWT is a kilobyte
	return &t
}

// headerType returns the scheme for an Authorization header: RFC 6750 §2.1 has "Bearer", endpoints have "bearer" too.
func headerType(tokenType string) string {
	if tokenType == "Bearer" || tokenType == "" || strings.EqualFold(tokenType, "bearer") {
		return "Bearer"
	}
	return tokenType
}

// Life returns the token's whole life: ExpiresAt − IssuedAt.
func (t *Token) Life() time.Duration { return t.ExpiresAt.Sub(t.IssuedAt) }

// IsBearer reports whether the token is for the Bearer scheme (RFC 6750).
func (t *Token) IsBearer() bool { return headerType(t.TokenType) == "Bearer" }

// SetAuthHeader sets the request's Authorization header. The header holds the token: don't log it.
func (t *Token) SetAuthHeader(r *http.Request) { r.Header["Authorization"] = []string{t.AuthHeader()} }

// AuthHeader returns the value of an Authorization header with the token.
func (t *Token) AuthHeader() string {
	if t.header.IsEmpty() {
		return headerType(t.TokenType) + " " + t.AccessToken.Reveal()
	}
	return t.header.Reveal()
}

// String describes the token without revealing it.
func (t Token) String() string {
	return fmt.Sprintf("token version %d, expires %s", t.Version, t.ExpiresAt.Format(time.RFC3339))
}

// CheckAccessToken returns an error unless s may be put in a header: RFC 6749 Appendix A.12 has access tokens of
// printable ASCII. The error doesn't contain s.
func CheckAccessToken(s string) error {
	if s == "" {
		return errors.New("no access token")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return errors.New("the access token has a character that RFC 6749 doesn't allow (a line break, for example)")
	}
	return nil
}

// CheckTokenType returns an error unless s is a token of RFC 9110 §5.6.2, as a scheme in a header must be.
func CheckTokenType(s string) error {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > 0x7e || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}) {
		return errors.New("the token type is no name of a scheme")
	}
	return nil
}

// associatedData binds a sealed value to its place.
func (s *Store) associatedData(env, field, version string) []byte {
	return []byte(s.namespace + "\x00" + env + "\x00" + field + "\x00" + version)
}

// decodeTokenInto sets Token, or what stands for it, in a record whose TTL is set.
func (s *Store) decodeTokenInto(r *Record, env string, f fields) {
	t, err := decodeToken(f, r.TTL)
	if err == nil {
		var opened []byte
		if opened, err = s.open(env, fieldAccessToken, f.text(fieldVersion), f.text(fieldAccessToken)); err != nil {
			r.Sealed = t
		} else if err = CheckAccessToken(string(opened)); err == nil {
			t.AccessToken = NewSecret(string(opened))
			r.Token = NewToken(*t)
			return
		}
	}
	unreadable := &UnreadableError{Key: s.Keys(env).Token, Reason: err.Error()}
	if reason, ok := errors.AsType[*seal.Error](err); ok {
		unreadable.Err = reason
	}
	r.TokenErr = unreadable
}

// open opens a sealed field. Of a codec's errors the text is taken only where it is known to hold nothing of the value.
func (s *Store) open(env, field, version, sealed string) ([]byte, error) {
	opened, err := s.codec.Decrypt([]byte(sealed), s.associatedData(env, field, version))
	if err == nil {
		return opened, nil
	}
	if reason, ok := errors.AsType[*seal.Error](err); ok {
		return nil, fmt.Errorf("%s doesn't open: %w", field, reason)
	}
	return nil, fmt.Errorf("%s doesn't open with the configured keys", field)
}

// decodeToken decodes all of a token but the access token.
func decodeToken(f fields, ttl time.Duration) (*Token, error) {
	if err := f.hash(); err != nil {
		return nil, err
	}
	raw := f.text(fieldVersion)
	t := Token{
		TokenType:   f.text(fieldTokenType),
		Scope:       printable.Line(f.text(fieldScope), 4096),
		Version:     plausible(raw, f.now),
		RefreshedBy: printable.Line(f.text(fieldRefreshedBy), 128),
		Took:        time.Duration(min(max(f.int(fieldTookMS), 0), 3600_000)) * time.Millisecond,
		Config:      printable.Line(f.text(fieldConfig), 128),
	}
	if t.Version == 0 {
		return nil, errors.New("its version is missing or implausible")
	}
	if ttl <= 0 {
		return nil, errors.New("its key has no TTL")
	}
	var err error
	if t.IssuedAt, err = f.time(fieldIssuedAt); err != nil {
		return nil, err
	}
	if t.ExpiresAt, err = f.time(fieldExpiresAt); err != nil {
		return nil, err
	}
	if t.Life() <= 0 {
		return nil, errors.New("it expires before it was issued")
	}
	if t.Config == "" {
		return nil, errors.New("config is missing")
	}
	if f.text(fieldAccessToken) == "" {
		return nil, errors.New("access_token is missing")
	}
	if err := CheckTokenType(t.TokenType); err != nil {
		return nil, err
	}
	return &t, nil
}

// An Issue is what a holder of the lease gets for one attempt.
type Issue struct {
	Version Version
	At      time.Time // Redis's clock when it was issued: the token's life counts from here
}

// Errors of the scripts' own answers. They are no faults: each says what to do next.
var (
	// ErrLost: the lock key no longer holds this attempt's value. Read again.
	ErrLost = errors.New("store: the lease was lost")
	// ErrChanged: token or failure aren't those of the read that the attempt is based on. Read again.
	ErrChanged = errors.New("store: the record has changed since it was read")
	// ErrOlder: something newer is stored; what was to be written is obsolete. Read again.
	ErrOlder = errors.New("store: a newer version is stored")
	// ErrDropped: the version was invalidated meanwhile. Start over.
	ErrDropped = errors.New("store: the version was invalidated")
	// ErrExpired: the token's life was over before it could be stored.
	ErrExpired = errors.New("store: the token's life was over on arrival")
	// ErrImplausible: no such version can have been issued.
	ErrImplausible = errors.New("store: the version is 0 or more than 24 hours ahead of Redis's clock")
)

// Issue issues the version of one attempt to the holder of the lease, whose lock value is lockValue. seen is the read
// that the attempt is based on. Errors: [ErrLost], [ErrChanged], a *[StatusError].
func (s *Store) Issue(ctx context.Context, env, lockValue string, seen *Record) (Issue, error) {
	at, _, err := s.issue(ctx, env, lockValue, seen)
	return at, err
}

// issue runs the issue script, with further arguments where a refresh token is to be used.
func (s *Store) issue(ctx context.Context, env, lockValue string, seen *Record, further ...any) (Issue, []any, error) {
	k := s.Keys(env)
	reply, err := s.run(ctx, env, issueScript, "issue a version", 1, []string{k.Token, k.Mark, k.Failure, k.Lock, k.Grant},
		append([]any{lockValue, seen.tokenRaw, seen.failureRaw}, further...)...)
	if err != nil {
		return Issue{}, nil, err
	}
	switch answer := text(reply, 0); answer {
	case "issued":
		return Issue{Version: Version(number(reply, 1)), At: time.UnixMicro(number(reply, 2)).UTC()}, reply, nil
	case "lost":
		return Issue{}, nil, ErrLost
	case "changed":
		return Issue{}, nil, ErrChanged
	case "unreadable":
		return Issue{}, nil, &UnreadableError{Key: k.Grant, Reason: "not a hash"}
	default:
		return Issue{}, nil, &StatusError{Op: "issue a version", Key: k.Token, Err: unknownAnswer(answer)}
	}
}

func unknownAnswer(a string) error { return fmt.Errorf("unknown answer %.40q", a) }

// Put stores a token with the version and clock reading of its [Issue] and a life of t.Life(), in whole milliseconds,
// and returns the TTL that its key has now. The same version again is a success and changes nothing. t.IssuedAt,
// t.ExpiresAt and t.Version are taken from at and life, not from t. Errors: [ErrOlder], [ErrDropped], [ErrExpired], a
// *[StatusError]; after the latter it isn't known whether the token is stored, and Put may be run again.
func (s *Store) Put(ctx context.Context, env string, at Issue, life time.Duration, t *Token) (time.Duration, error) {
	return s.PutWithGrant(ctx, env, at, life, t, nil)
}

// PutWithGrant is Put that also writes the refresh token that is good from now on, in the same step: also where the token is
// refused, and not where a newer one is there. g may be nil.
func (s *Store) PutWithGrant(ctx context.Context, env string, at Issue, life time.Duration, t *Token, g *NewGrant) (time.Duration, error) {
	k := s.Keys(env)
	sealed, err := s.codec.Encrypt([]byte(t.AccessToken.Reveal()), s.associatedData(env, fieldAccessToken, at.Version.String()))
	if err != nil {
		return 0, &StatusError{Op: "seal", Key: k.Token, Err: err}
	}
	token := []any{
		fieldAccessToken, string(sealed),
		fieldTokenType, t.TokenType,
		fieldScope, t.Scope,
		fieldRefreshedBy, t.RefreshedBy,
		fieldTookMS, strconv.FormatInt(t.Took.Milliseconds(), 10),
		fieldConfig, t.Config,
	}
	args := append([]any{at.Version.String(), at.At.UnixMicro(), life.Milliseconds(), s.Channel(), env, len(token)}, token...)
	if g != nil {
		grant, err := s.grantArgs(env, at.Version, g)
		if err != nil {
			return 0, err
		}
		args = append(args, grant...)
	}
	reply, err := s.run(ctx, env, putScript, "store", 1, []string{k.Token, k.Mark, k.Failure, k.Grant}, args...)
	if err != nil {
		return 0, err
	}
	if g != nil && text(reply, 2) == "unreadable" {
		g.Lost = true
	}
	switch answer := text(reply, 0); answer {
	case "stored":
		return time.Duration(number(reply, 1)) * time.Millisecond, nil
	case "older":
		return 0, ErrOlder
	case "dropped":
		return 0, ErrDropped
	case "expired":
		return 0, ErrExpired
	default:
		return 0, &StatusError{Op: "store", Key: k.Token, Err: unknownAnswer(answer)}
	}
}

// Invalidate drops version v of env and all below it or, where v is 0, all that was issued so far, and returns the
// highest version that is dropped now. Errors: [ErrImplausible], a *[StatusError].
func (s *Store) Invalidate(ctx context.Context, env string, v Version) (Version, error) {
	k := s.Keys(env)
	arg := ""
	if v != 0 {
		arg = v.String()
	}
	reply, err := s.run(ctx, env, invalidateScript, "invalidate", 1, []string{k.Token, k.Mark}, arg, s.Channel(), env)
	if err != nil {
		return 0, err
	}
	if text(reply, 0) == "implausible" {
		return 0, ErrImplausible
	}
	return Version(number(reply, 1)), nil
}
