package store

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/redistest"
)

var fuzzNow = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// hashOf builds what the read script returns of a hash.
func hashOf(names []string, values ...string) fields {
	var raw []any
	for _, v := range values {
		raw = append(raw, v)
	}
	return fields{raw: raw, names: names, now: fuzzNow}
}

// checkLine fails unless s can be shown: one line, nothing that steers a terminal, and not endless.
func checkLine(t *testing.T, name, s string, limit int) {
	t.Helper()
	if !utf8.ValidString(s) || len(s) > limit || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%s is %q", name, s)
	}
}

// checkVersion fails unless v is one that a record may have whose version stands there as raw.
func checkVersion(t *testing.T, v Version, raw string) {
	t.Helper()
	if v <= 0 || int64(v) > fuzzNow.Add(maxAhead).UnixMicro() {
		t.Errorf("version %d", v)
	}
	if len(raw) > 16 || strings.ContainsFunc(raw, func(r rune) bool { return r < '0' || r > '9' }) {
		t.Errorf("%q was read as version %d", raw, v)
	}
	if again, err := ParseVersion(v.String()); err != nil || again != v {
		t.Errorf("%d is read again as %d, %v", v, again, err)
	}
}

// stands is an instant as the scripts write it.
func stands(at time.Time) string { return at.Format("2006-01-02T15:04:05.000Z07:00") }

// checkUnrepeated fails where an error says what was read.
func checkUnrepeated(t *testing.T, err error, values ...string) {
	t.Helper()
	checkLine(t, "the error", err.Error(), 200)
	for _, v := range values {
		if len(v) >= 12 && strings.Contains(err.Error(), v) {
			t.Errorf("the error repeats %q: %v", v, err)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(`{"env":"prod","kind":"stored","version":1753000000000000}`)
	f.Fuzz(func(t *testing.T, payload string) {
		e, ok := decodeEvent(payload)
		if !ok {
			if e != (Event{}) {
				t.Errorf("refused, and yet %+v", e)
			}
			return
		}
		if CheckName(e.Env) != nil || e.Version < 0 {
			t.Errorf("accepted %+v", e)
		}
		switch e.Kind {
		case EventStored, EventFailed, EventInvalidated:
		default:
			t.Errorf("accepted the kind %q", e.Kind)
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if e2, ok := decodeEvent(string(again)); !ok || e2 != e {
			t.Errorf("%+v becomes %+v, %v", e, e2, ok)
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	s, err := New(redistest.NewClient(f, redistest.Options("127.0.0.1:1")), Options{})
	if err != nil {
		f.Fatal(err)
	}
	decode := func(raw fields, ttl time.Duration) (*Token, error) {
		r := &Record{TTL: ttl}
		s.decodeTokenInto(r, "prod", raw)
		return r.Token, r.TokenErr
	}
	f.Add("tok", "Bearer", "campaigns.read", "2026-07-01T12:00:00.000Z", "2026-07-01T13:00:00.000Z", "1753000000000000",
		"replica-1", "120", "c1", int64(time.Hour))
	f.Fuzz(func(t *testing.T, access, tokenType, scope, issued, expires, version, by, took, config string, ttl int64) {
		const canary = "canary-of-the-token"
		raw := hashOf(tokenFields, access+canary, tokenType, scope, issued, expires, version, by, took, config)
		tok, err := decode(raw, time.Duration(ttl))
		if (tok == nil) != (err != nil) {
			t.Fatalf("token %v, error %v", tok, err)
		}
		if err != nil {
			checkUnrepeated(t, err, canary, tokenType, scope, issued, expires, version, by, took, config)
			return
		}
		checkVersion(t, tok.Version, version)
		checkLine(t, "scope", tok.Scope, 4096)
		checkLine(t, "refreshed_by", tok.RefreshedBy, 128)
		checkLine(t, "config", tok.Config, 128)
		if tok.Config == "" || tok.Life() <= 0 || tok.Took < 0 || tok.Took > time.Hour || ttl <= 0 {
			t.Errorf("accepted %+v with TTL %d", tok, ttl)
		}
		if header := tok.AuthHeader(); strings.ContainsFunc(header, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("the header is %q", header)
		}
		if tok.AccessToken.Reveal() != access+canary {
			t.Errorf("the token is %q; want %q", tok.AccessToken.Reveal(), access+canary)
		}
		if _, err := json.Marshal([]time.Time{tok.IssuedAt, tok.ExpiresAt}); err != nil {
			t.Errorf("the status of %v can't be shown: %v", tok, err)
		}
		// What was read is written as the same token, if its times have no more than the milliseconds that scripts write.
		if tok.IssuedAt != tok.IssuedAt.Truncate(time.Millisecond) || tok.ExpiresAt != tok.ExpiresAt.Truncate(time.Millisecond) {
			return
		}
		again, err := decode(hashOf(tokenFields, tok.AccessToken.Reveal(), tok.TokenType, tok.Scope,
			stands(tok.IssuedAt), stands(tok.ExpiresAt), tok.Version.String(), tok.RefreshedBy,
			strconv.FormatInt(tok.Took.Milliseconds(), 10), tok.Config), time.Duration(ttl))
		if err != nil {
			t.Fatalf("written again, it is unreadable: %v", err)
		}
		if !again.AccessToken.Equal(tok.AccessToken) || !again.header.Equal(tok.header) {
			t.Error("written again, it is another token")
		}
		again.AccessToken, again.header = tok.AccessToken, tok.header
		if *again != *tok {
			t.Errorf("%+v becomes %+v", tok, again)
		}
	})
}

func FuzzDecodeFailure(f *testing.F) {
	f.Add("http_503", "503", "Service Unavailable", "3", "2026-07-01T11:59:00.000Z", "2026-07-01T12:00:04.000Z",
		"1753000000000000", "replica-1", "c1", "a1b2")
	f.Fuzz(func(t *testing.T, code, status, message, attempt, failed, retry, version, by, config, credential string) {
		failure := decodeFailure(hashOf(failureFields, code, status, message, attempt, failed, retry, version, by, config, credential))
		if failure == nil {
			return
		}
		checkVersion(t, failure.Version, version)
		checkLine(t, "code", failure.Code, 64)
		checkLine(t, "message", failure.Message, 300)
		checkLine(t, "reported_by", failure.ReportedBy, 400)
		checkLine(t, "config", failure.Config, 128)
		checkLine(t, "credential", failure.Credential, 16)
		if failure.Code == "" || failure.Attempt < 1 {
			t.Errorf("accepted %+v", failure)
		}
		if _, err := json.Marshal([]time.Time{failure.FailedAt, failure.RetryAt}); err != nil {
			t.Errorf("the status of %+v can't be shown: %v", failure, err)
		}
		if failure.FailedAt != failure.FailedAt.Truncate(time.Millisecond) || failure.RetryAt != failure.RetryAt.Truncate(time.Millisecond) {
			return
		}
		again := decodeFailure(hashOf(failureFields, failure.Code, strconv.Itoa(failure.Status), failure.Message,
			strconv.Itoa(failure.Attempt), stands(failure.FailedAt), stands(failure.RetryAt), failure.Version.String(),
			failure.ReportedBy, failure.Config, failure.Credential))
		if again == nil || *again != *failure {
			t.Errorf("%+v becomes %+v", failure, again)
		}
	})
}

// What the read showed of a lock is one line, and a life that is none says so.
func FuzzDecodeLock(f *testing.F) {
	f.Add("replica-7|ABCDEF", int64(6000))
	f.Add("host:12|x|y", int64(-1))
	f.Add("", int64(-2))
	f.Add("\x1b[2J\r\n|", int64(0))
	f.Fuzz(func(t *testing.T, value string, pttl int64) {
		l := decodeLock(value, pttl)
		if l == nil {
			if pttl != -2 {
				t.Errorf("no lock with a PTTL of %d", pttl)
			}
			return
		}
		checkLine(t, "the holder", l.Holder, 128)
		if strings.Contains(l.Holder, "|") {
			t.Errorf("the holder is %q", l.Holder)
		}
		switch {
		case pttl < 0 && l.TTL != -1:
			t.Errorf("a PTTL of %d is %v", pttl, l.TTL)
		case pttl >= 0 && (l.TTL < 0 || l.TTL.Milliseconds() > pttl):
			t.Errorf("a PTTL of %d is %v", pttl, l.TTL)
		}
	})
}
