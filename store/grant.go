package store

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// A Grant is what is known of an environment's refresh token, without it. Times are Redis's clock.
type Grant struct {
	Version    Version // of the write that brought it; 0 where there is none
	ObtainedAt time.Time
	TTL        time.Duration // the refresh token's remaining life; 0 where it has no known end
	Client     string        // digest of the client that it was given to, and of whom by
	Labels     []string      // of the configured refresh tokens that were used, the latest first

	Taken      Version   // of the attempt that uses it; 0 where none does, or its outcome is known
	TakenBy    string    // that attempt's lock value
	TakenUntil time.Time // the others leave it alone

	Refused Version // of the attempt that was told that it is no good any more, or of the logout; 0: it may be used
	Reason  string  // why: an error code of RFC 6749 §5.2, or [ReasonLogout]

	Err error // why there is something that can't be read: a *[UnreadableError]. It must not be overwritten but by a person

	state string // as the issue script compares it
}

// ReasonLogout is the reason of a grant that a person has ended.
const ReasonLogout = "logout"

func (s *Store) decodeGrant(env string, f fields, pttl time.Duration) *Grant {
	if f.missing() {
		return nil
	}
	key := s.Keys(env).Grant
	unreadable := func(reason string) *Grant {
		return &Grant{Err: &UnreadableError{Key: key, Reason: reason}}
	}
	if err := f.hash(); err != nil {
		return unreadable(err.Error())
	}
	raw := f.text(fieldVersion)
	g := &Grant{
		Version: plausible(raw, f.now),
		TTL:     max(pttl, 0),
		Client:  printable.Line(f.text(fieldClient), 128),
		Taken:   plausible(f.text(fieldTaken), f.now),
		TakenBy: printable.Line(f.text(fieldTakenBy), 200),
		Refused: plausible(f.text(fieldRefused), f.now),
		Reason:  printable.Line(f.text(fieldReason), 64),
		state:   strings.Join([]string{raw, f.text(fieldTaken), f.text(fieldRefused), f.text(fieldSeed)}, "|"),
	}
	if raw != "" && g.Version == 0 {
		return unreadable("its version is implausible")
	}
	g.Labels = strings.FieldsFunc(printable.Line(f.text(fieldSeed), 1024), func(r rune) bool { return r == ',' })
	g.ObtainedAt, _ = f.time(fieldObtainedAt)
	g.TakenUntil, _ = f.time(fieldTakenUntil)
	return g
}

// HasLabel reports whether the configured refresh token with the label was used. It may be called on nil.
func (g *Grant) HasLabel(label string) bool { return g != nil && slices.Contains(g.Labels, label) }

// A Use is what an attempt was given a refresh token for.
type Use struct {
	RefreshToken Secret // as it stands in the grant; empty where there is none
	Label        string // for the caller to set: of the configured one that is used instead, "" where it isn't
	Refused      bool   // for the caller to set, before a failure is recorded

	version string // of the grant, as it stands there
}

// IssueWithGrant is [Store.Issue] for an attempt that is to use a refresh token: the one that stands in the grant is returned,
// and others leave it alone for as long as hold, or until the attempt's outcome is recorded by [Store.PutWithGrant],
// [Store.FailWithGrant], [Store.KeepGrant] or [Store.SettleGrant]. Further errors: an *[UnreadableError] where there is
// something that is none, or doesn't open; in the latter case the version is issued and the grant taken.
func (s *Store) IssueWithGrant(ctx context.Context, env, lockValue string, seen *Record, hold time.Duration) (Issue, *Use, error) {
	state := "|||"
	if seen.Grant != nil {
		if seen.Grant.Err != nil {
			return Issue{}, nil, seen.Grant.Err
		}
		state = seen.Grant.state
	}
	at, reply, err := s.issue(ctx, env, lockValue, seen, state, hold.Milliseconds())
	if err != nil {
		return Issue{}, nil, err
	}
	u := &Use{version: text(reply, 4)}
	if sealed := text(reply, 3); sealed != "" {
		opened, err := s.open(env, fieldRefreshToken, u.version, sealed)
		if err == nil {
			err = CheckRefreshToken(string(opened))
		}
		if err != nil {
			return at, u, &UnreadableError{Key: s.Keys(env).Grant, Reason: err.Error()}
		}
		u.RefreshToken = NewSecret(string(opened))
	}
	return at, u, nil
}

// CheckRefreshToken returns an error unless s is a refresh token of RFC 6749 Appendix A.17: printable ASCII. The error
// doesn't contain s.
func CheckRefreshToken(s string) error {
	if s == "" {
		return errors.New("no refresh token")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return errors.New("the refresh token has a character that RFC 6749 doesn't allow (a line break, for example)")
	}
	return nil
}

// A NewGrant is a refresh token that is good from now on.
type NewGrant struct {
	RefreshToken Secret
	Client       string        // digest of the client that it was given to
	Label        string        // of the configured one that was used for it, "" where none was
	Life         time.Duration // 0: without a known end
	SameLife     bool          // it is the old one: its end is what it was

	Lost bool // set by [Store.PutWithGrant]: something that is no grant stands in its place, and it isn't stored
}

// grantArgs are the arguments of keep_grant.
func (s *Store) grantArgs(env string, v Version, g *NewGrant) ([]any, error) {
	sealed, err := s.codec.Encrypt([]byte(g.RefreshToken.Reveal()), s.associatedData(env, fieldRefreshToken, v.String()))
	if err != nil {
		return nil, &StatusError{Op: "seal", Key: s.Keys(env).Grant, Err: err}
	}
	life := strconv.FormatInt(max(g.Life, 0).Milliseconds(), 10)
	if g.SameLife {
		life = ""
	}
	return []any{string(sealed), g.Client, g.Label, life}, nil
}

// KeepGrant writes the refresh token that the attempt with version v brought, without an access token: that could not be used.
// The same version again is a success and changes nothing. Errors: [ErrOlder] (a newer one is there), an
// *[UnreadableError] (something is there that is none), a *[StatusError].
func (s *Store) KeepGrant(ctx context.Context, env string, v Version, g NewGrant) error {
	args, err := s.grantArgs(env, v, &g)
	if err != nil {
		return err
	}
	return s.keep(ctx, env, append([]any{v.String()}, args...)...)
}

// SettleGrant says that the attempt with version v doesn't use the refresh token after all. Errors: a *[StatusError].
func (s *Store) SettleGrant(ctx context.Context, env string, v Version) error {
	return s.keep(ctx, env, v.String())
}

func (s *Store) keep(ctx context.Context, env string, args ...any) error {
	k := s.Keys(env)
	reply, err := s.run(ctx, env, keepScript, "keep the grant", 1, []string{k.Grant}, args...)
	if err != nil {
		return err
	}
	switch answer := text(reply, 0); answer {
	case "kept", "settled":
		return nil
	case "older":
		return ErrOlder
	case "unreadable":
		return &UnreadableError{Key: k.Grant, Reason: "not a hash"}
	default:
		return &StatusError{Op: "keep the grant", Key: k.Grant, Err: unknownAnswer(answer)}
	}
}

// adopts is how often a person's grant is tried to be written while attempts with the old one come between.
const adopts = 5

// AdoptGrant makes a person's refresh token the grant, whatever stands there, drops all tokens that were issued before and
// forgets the failure. g.Label is that of the configured refresh token, which is not to be used after this. It returns the
// grant's version. Errors: [ErrOlder] where attempts with the old one come between again and again, a *[StatusError].
func (s *Store) AdoptGrant(ctx context.Context, env string, g NewGrant) (Version, error) {
	for range adopts {
		v, err := s.next(ctx, env)
		if err != nil {
			return 0, err
		}
		args, err := s.grantArgs(env, v, &g)
		if err != nil {
			return 0, err
		}
		err = s.adopt(ctx, env, v, g.Label, "adopt", args[0], args[1], args[3])
		if !errors.Is(err, ErrOlder) {
			return v, err
		}
	}
	return 0, ErrOlder
}

// ForgetGrant ends the grant that the attempt with version v has taken, drops all tokens that were issued before and forgets
// the failure. label is that of the configured refresh token, which is not to be used after this. Errors: [ErrOlder] where
// there is another one meanwhile, a *[StatusError].
func (s *Store) ForgetGrant(ctx context.Context, env string, v Version, label string) error {
	return s.adopt(ctx, env, v, label, "forget")
}

func (s *Store) next(ctx context.Context, env string) (Version, error) {
	k := s.Keys(env)
	reply, err := s.run(ctx, env, nextScript, "issue a version", 2, []string{k.Token, k.Mark, k.Grant})
	if err != nil {
		return 0, err
	}
	return Version(number(reply, 1)), nil
}

func (s *Store) adopt(ctx context.Context, env string, v Version, label string, args ...any) error {
	k := s.Keys(env)
	reply, err := s.run(ctx, env, adoptScript, "change the grant", 1, []string{k.Token, k.Mark, k.Failure, k.Grant},
		append([]any{v.String(), s.Channel(), env, label}, args...)...)
	if err != nil {
		return err
	}
	if text(reply, 0) == "older" {
		return ErrOlder
	}
	return nil
}
