package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// CodeUnreachable is the code of a replica that could not reach the token endpoint (dial, DNS, TLS). Unlike an answer
// of the endpoint it says something about the replica, and doesn't replace a failure whose backoff is running.
const CodeUnreachable = "unreachable"

// A Failure is why the last attempt brought no token. Times are Redis's clock.
type Failure struct {
	Code       string // an RFC 6749 error code, or http_<status>, timeout, unreachable, bad_reply
	Status     int    // of the HTTP response; 0 where there was none
	Message    string // one line for people, never a secret
	Attempt    int    // 1 for the first of a row
	FailedAt   time.Time
	RetryAt    time.Time // nobody asks the endpoint before
	Version    Version   // of the attempt
	ReportedBy string    // the replica; up to three, separated by commas, where Code is [CodeUnreachable]
	Config     string    // fingerprint of the configuration that was refused
	Credential string    // 16-bit digest of the secret that was refused
}

func decodeFailure(f fields) *Failure {
	failure := &Failure{
		Code:       printable.Line(f.text(fieldCode), 64),
		Status:     f.int(fieldStatus),
		Message:    printable.Line(f.text(fieldMessage), 300),
		Attempt:    max(f.int(fieldAttempt), 1),
		Version:    plausible(f.text(fieldVersion), f.now),
		ReportedBy: printable.Line(f.text(fieldReportedBy), 400),
		Config:     printable.Line(f.text(fieldConfig), 128),
		Credential: printable.Line(f.text(fieldCredential), 16),
	}
	var err1, err2 error
	failure.FailedAt, err1 = f.time(fieldFailedAt)
	failure.RetryAt, err2 = f.time(fieldRetryAt)
	if errors.Join(f.hash(), err1, err2) != nil || failure.Code == "" || failure.Version == 0 {
		return nil
	}
	return failure
}

// Fail records that the attempt with f.Version failed: it may be repeated after backoff, and is remembered for keep
// longer, so that a row of failures is known as one. The same version again changes nothing. Redis's clock gives
// f.FailedAt and f.RetryAt; the returned copy has them, and Redis's clock now is returned beside it. Errors: [ErrOlder]
// (a newer token or failure is there: read again), a *[StatusError].
func (s *Store) Fail(ctx context.Context, env string, f Failure, backoff, keep time.Duration) (*Failure, time.Time, error) {
	return s.FailWithGrant(ctx, env, f, backoff, keep, nil)
}

// FailWithGrant is Fail of an attempt that used a refresh token: nobody uses it any more and, where refused, nobody will
// unless a person says so. u may be nil. [ErrChanged]: another refresh token is there than the one that was refused; nothing
// is recorded but that a configured one was used.
func (s *Store) FailWithGrant(ctx context.Context, env string, f Failure, backoff, keep time.Duration, u *Use) (*Failure, time.Time, error) {
	k := s.Keys(env)
	use, grantVersion, label := "", "", ""
	if u != nil {
		use, grantVersion, label = "used", u.version, u.Label
		if u.Refused {
			use = "refused"
		}
	}
	yield := "0"
	if f.Code == CodeUnreachable {
		yield = "1"
	}
	reply, err := s.run(ctx, env, failScript, "record a failure", 1, []string{k.Mark, k.Failure, k.Token, k.Grant},
		f.Version.String(), max(backoff, time.Millisecond).Milliseconds(), keep.Milliseconds(), s.Channel(), env, yield, f.Code,
		use, grantVersion, label,
		fieldStatus, strconv.Itoa(f.Status),
		fieldMessage, f.Message,
		fieldAttempt, strconv.Itoa(f.Attempt),
		fieldReportedBy, f.ReportedBy,
		fieldConfig, f.Config,
		fieldCredential, f.Credential)
	if err != nil {
		return nil, time.Time{}, err
	}
	switch text(reply, 0) {
	case "failed":
	case "changed":
		return nil, time.Time{}, ErrChanged
	default:
		return nil, time.Time{}, ErrOlder
	}
	now := time.UnixMicro(number(reply, 2)).UTC()
	f.FailedAt = now
	if f.RetryAt, err = time.Parse(time.RFC3339, text(reply, 1)); err != nil {
		f.RetryAt = now.Add(backoff)
	}
	return &f, now, nil
}
