package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
)

// A Record is all there is in Redis of one environment, read in one step.
type Record struct {
	Now      time.Time     // Redis's clock when it was read
	Token    *Token        // nil where there is none, it is unreadable or doesn't open
	Sealed   *Token        // of one whose access token doesn't open with the keys here: all that is known but that
	TokenErr error         // why Token is nil though there is one: an *[UnreadableError]
	TTL      time.Duration // the token's remaining life by its key's TTL; above 0 where Token or Sealed is set
	Mark     Mark
	Failure  *Failure // nil where there is none or it is unreadable
	Lock     *Lock    // nil where nobody holds it
	Grant    *Grant   // nil where there is none

	tokenRaw, failureRaw string // the versions as they stand in Redis, for Issue to compare
}

// Stored returns Token or Sealed: what is known of the stored token, whether or not it opens here; nil where there is none
// or it is unreadable.
func (r *Record) Stored() *Token { return cmp.Or(r.Token, r.Sealed) }

// A Mark holds the versions that order an environment's writes. It has no TTL; after a FLUSHALL or its eviction it is
// zero, and versions go on growing all the same, since they are never below Redis's clock.
type Mark struct {
	Issued  Version // the last version issued
	Stored  Version // the highest stored
	Dropped Version // the highest invalidated: it and all below it must not be used
}

// A Lock is what the read showed of the lease.
type Lock struct {
	Holder string        // the replica; "" where the key has the wrong type
	TTL    time.Duration // 0 or more; -1 where the key has no TTL, which only a foreign hand can do
}

// An UnreadableError says why a record in Redis can't be used. It never contains what was read.
type UnreadableError struct {
	Key    string
	Reason string
	Err    error // a *[seal.Error], where it is one that doesn't open; else nil
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("store: %s is unreadable: %s", e.Key, e.Reason)
}

// Unwrap returns e.Err.
func (e *UnreadableError) Unwrap() error { return e.Err }

const (
	fieldAccessToken = "access_token"
	fieldTokenType   = "token_type"
	fieldScope       = "scope"
	fieldIssuedAt    = "issued_at"
	fieldExpiresAt   = "expires_at"
	fieldVersion     = "version"
	fieldRefreshedBy = "refreshed_by"
	fieldTookMS      = "took_ms"
	fieldConfig      = "config"

	fieldCode       = "code"
	fieldStatus     = "status"
	fieldMessage    = "message"
	fieldAttempt    = "attempt"
	fieldFailedAt   = "failed_at"
	fieldRetryAt    = "retry_at"
	fieldReportedBy = "reported_by"
	fieldCredential = "credential"

	fieldRefreshToken = "refresh_token"
	fieldObtainedAt   = "obtained_at"
	fieldSeed         = "seed"
	fieldClient       = "client"
	fieldTaken        = "taken"
	fieldTakenBy      = "taken_by"
	fieldTakenUntil   = "taken_until"
	fieldRefused      = "refused"
	fieldReason       = "reason"
)

// The fields that are read of each hash.
var (
	tokenFields = []string{
		fieldAccessToken, fieldTokenType, fieldScope, fieldIssuedAt, fieldExpiresAt, fieldVersion, fieldRefreshedBy,
		fieldTookMS, fieldConfig,
	}
	failureFields = []string{
		fieldCode, fieldStatus, fieldMessage, fieldAttempt, fieldFailedAt, fieldRetryAt, fieldVersion, fieldReportedBy,
		fieldConfig, fieldCredential,
	}
	// Never the refresh token: it is given to the one who is about to use it.
	grantFields = []string{
		fieldVersion, fieldObtainedAt, fieldSeed, fieldClient, fieldTaken, fieldTakenBy, fieldTakenUntil, fieldRefused, fieldReason,
	}
)

// fieldNames are the names of what the read script reads, as it has them: a list would be made in every run.
var fieldNames = luaNames("token_fields", tokenFields) + luaNames("failure_fields", failureFields) + luaNames("grant_fields", grantFields)

func luaNames(name string, fields []string) string {
	return fmt.Sprintf("local function %s() return '%s' end\n", name, strings.Join(fields, "','"))
}

// Read returns all there is of env, in one round trip. What is unreadable is no error: it is missing from the record.
// The only errors are those of the client, as a *[StatusError].
func (s *Store) Read(ctx context.Context, env string) (*Record, error) {
	k := s.Keys(env)
	reply, err := s.run(ctx, env, readScript, "read", readReply, k.read())
	if err != nil {
		return nil, err
	}
	return s.decode(env, reply), nil
}

// ReadOrIssue is [Store.Read] for one who, where there is nothing (no token, failure, grant or lock), would take the lease and
// have a version issued: that is done in the same step. The lock key then holds lockValue, for ttl since the call was run first, and
// the record is what stood there before. Without a version in the Issue, nothing was taken; after an error it isn't known. No two
// calls have the same lockValue.
func (s *Store) ReadOrIssue(ctx context.Context, env, lockValue string, ttl time.Duration) (*Record, Issue, error) {
	reply, err := s.run(ctx, env, readScript, "read", readReply, s.Keys(env).read(), lockValue, ttl.Milliseconds())
	if err != nil {
		return nil, Issue{}, err
	}
	r := s.decode(env, reply)
	issue := Issue{Version: Version(number(reply, replyIssued))}
	if issue.Version != 0 {
		issue.At = r.Now
	}
	return r, issue, nil
}

// The elements of the read script's reply.
const (
	replySeconds = iota // Redis's clock
	replyMicros         // and the microseconds of the second
	replyMark           // three of them
	_
	_
	replyLockTTL
	replyHolder
	replyFailureTTL
	replyFailure
	replyGrantTTL
	replyGrant
	replyIssued // nil where none was
	replyTokenTTL
	replyToken // this and what follows
	readReply  = replyToken
)

// read are the keys of the read script.
func (k Keys) read() []string { return []string{k.Token, k.Mark, k.Failure, k.Lock, k.Grant} }

// decode reads a reply of the read script.
func (s *Store) decode(env string, reply []any) *Record {
	now := time.Unix(number(reply, replySeconds), number(reply, replyMicros)*1000).UTC()
	mark := func(i int) Version { return plausible(text(reply, replyMark+i), now) }
	r := &Record{
		Now:  now,
		Mark: Mark{mark(0), mark(1), mark(2)},
		Lock: decodeLock(text(reply, replyHolder), number(reply, replyLockTTL)),
	}
	token := fields{raw: reply[replyToken:], names: tokenFields, now: now}
	r.tokenRaw = token.text(fieldVersion)
	r.TTL = milliseconds(number(reply, replyTokenTTL))
	if !token.missing() {
		s.decodeTokenInto(r, env, token)
	}
	if r.Stored() == nil {
		r.TTL = 0
	}
	failure := fields{raw: list(reply, replyFailure), names: failureFields, now: now}
	r.failureRaw = failure.text(fieldVersion)
	if !failure.missing() && number(reply, replyFailureTTL) > 0 {
		r.Failure = decodeFailure(failure) // an unreadable one binds nobody and is replaced by the next
	}
	r.Grant = s.decodeGrant(env, fields{raw: list(reply, replyGrant), names: grantFields, now: now}, milliseconds(number(reply, replyGrantTTL)))
	return r
}

// milliseconds is a PTTL as a duration: Redis counts further than that does.
func milliseconds(pttl int64) time.Duration {
	return time.Duration(min(pttl, int64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}

func decodeLock(value string, pttl int64) *Lock {
	if pttl == -2 {
		return nil
	}
	holder, _, _ := strings.Cut(value, "|")
	l := &Lock{Holder: printable.Line(holder, 128), TTL: milliseconds(pttl)}
	if pttl < 0 {
		l.TTL = -1
	}
	return l
}

// fields are a hash's values as the read script returns them.
type fields struct {
	raw   []any // a value for each name; that of another type, its name alone; empty where the key is missing
	names []string
	now   time.Time
}

func (f fields) missing() bool { return len(f.raw) == 0 }

func (f fields) text(name string) string {
	if i := slices.Index(f.names, name); i >= 0 && f.hash() == nil {
		return text(f.raw, i)
	}
	return ""
}

// timeForm is how the scripts write an instant, and the only form in which they read one.
const timeForm = "2006-01-02T15:04:05.000Z"

func (f fields) time(name string) (time.Time, error) {
	raw := f.text(name)
	t, err := time.Parse(timeForm, raw)
	if err != nil || string(t.AppendFormat(make([]byte, 0, len(timeForm)), timeForm)) != raw { // Parse takes a comma for the point, too
		return time.Time{}, fmt.Errorf("%s is no RFC 3339 time in UTC with milliseconds", name)
	}
	return t, nil
}

// int returns a field as a number, 0 where it is none.
func (f fields) int(name string) int {
	n, _ := strconv.Atoi(f.text(name))
	return n
}

func (f fields) hash() error {
	if len(f.raw) != len(f.names) {
		return errors.New("not a hash")
	}
	return nil
}
