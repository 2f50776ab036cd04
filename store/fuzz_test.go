package store

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/redistest"
)

var fuzzNow = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// hashOf builds what the read script returns of a hash.
func hashOf(names []any, values ...string) fields {
	raw := []any{"hash"}
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

func checkVersion(t *testing.T, v Version) {
	t.Helper()
	if v <= 0 || int64(v) > fuzzNow.Add(maxAhead).UnixMicro() {
		t.Errorf("version %d", v)
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
	f.Add("tok", "Bearer", "campaigns.read", "2026-07-01T12:00:00.000Z", "2026-07-01T13:00:00.000Z", "1753000000000000",
		"replica-1", "120", "c1", int64(time.Hour))
	f.Fuzz(func(t *testing.T, access, tokenType, scope, issued, expires, version, by, took, config string, ttl int64) {
		const canary = "canary-of-the-token"
		raw := hashOf(readArgs[1:10], access+canary, tokenType, scope, issued, expires, version, by, took, config)
		tok, err := s.decodeToken("prod", raw, time.Duration(ttl))
		if (tok == nil) != (err != nil) {
			t.Fatalf("token %v, error %v", tok, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error repeats the token: %v", err)
			}
			return
		}
		checkVersion(t, tok.Version)
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
	})
}

func FuzzDecodeFailure(f *testing.F) {
	f.Add("http_503", "503", "Service Unavailable", "3", "2026-07-01T11:59:00.000Z", "2026-07-01T12:00:04.000Z",
		"1753000000000000", "replica-1", "c1", "a1b2")
	f.Fuzz(func(t *testing.T, code, status, message, attempt, failed, retry, version, by, config, credential string) {
		failure := decodeFailure(hashOf(readArgs[10:], code, status, message, attempt, failed, retry, version, by, config, credential))
		if failure == nil {
			return
		}
		checkVersion(t, failure.Version)
		checkLine(t, "code", failure.Code, 64)
		checkLine(t, "message", failure.Message, 300)
		checkLine(t, "reported_by", failure.ReportedBy, 400)
		checkLine(t, "config", failure.Config, 128)
		checkLine(t, "credential", failure.Credential, 16)
		if failure.Code == "" || failure.Attempt < 1 {
			t.Errorf("accepted %+v", failure)
		}
	})
}
