package manager

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
)

// quoted is s as a quoted-string (RFC 9110 §5.6.4).
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Whatever the other parameters say, a challenge's error is the one that is read, and that of a Bearer challenge alone.
func FuzzChallenge(f *testing.F) {
	f.Add("Bearer", "api", "invalid_token", "The access token expired", "Basic")
	f.Add("bearer", `a", error="x`, "insufficient_scope", `Bearer error="invalid_token"`, "Negotiate")
	f.Add("DPoP", "a,b=c", "use_dpop_nonce", "\\", "BEARER")
	f.Add("Bearer", "", "invalid_request", ", ,", "NTLM")
	f.Fuzz(func(t *testing.T, scheme, realm, code, description, other string) {
		const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		if strings.Trim(scheme, token) != "" || scheme == "" || strings.Trim(other, token) != "" || other == "" ||
			strings.Trim(code, token) != "" || code == "" {
			t.Skip()
		}
		var want []string
		if strings.EqualFold(scheme, "bearer") {
			want = []string{code}
		}
		mine := scheme + " realm=" + quoted(realm) + ", error=" + quoted(code) + ",error_description=" + quoted(description)
		for _, field := range []string{
			mine,
			mine + ",",
			" , " + mine,
			scheme + "  error = " + code + " , realm=" + quoted(realm),
			"X-" + other + " realm=" + quoted(realm) + ", " + mine,
			mine + ", X-" + other + " error=" + quoted(description),
			"X-" + other + " YWJjZA==, " + mine,
			"X-" + other + ", " + mine + ", X-" + other,
		} {
			if got := bearerErrors(field); !slices.Equal(got, want) {
				t.Errorf("%s: %q; want %q", field, got, want)
			}
			rejects := len(want) == 0 || code == "invalid_token"
			for _, lines := range [][]string{{field}, {`Basic realm="x"`, field}, {field, `Bearer error="invalid_token"`}} {
				if got := rejectsToken(http.Header{"Www-Authenticate": lines}); got != rejects {
					t.Errorf("%q: %v; want %v", lines, got, rejects)
				}
			}
		}
	})
}

// An origin is the same however it is spelt, and two that are the same are one place to send to.
func FuzzOrigin(f *testing.F) {
	for _, raw := range []string{
		"https://App.Example:443/api/v2", "http://localhost:80", "https://[::1]:8443/x", "https://[FE80::1%25eth0]/", "https://a:0443/",
		"https://user:pw@a/", "https://a:/", "https://bücher.example", "https://\u212aite.example", "https://a%2eb/", "https://1.2.3.4",
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			t.Skip()
		}
		got := originOf(u)
		if again, err := url.Parse(got.String()); err == nil && originOf(again) != got {
			t.Errorf("%q has the origin %q, and that %q", raw, got, originOf(again))
		}
		spelt := *u
		spelt.Path, spelt.RawQuery, spelt.Fragment, spelt.User = "/x", "y", "z", nil
		spelt.Scheme = strings.ToUpper(u.Scheme)
		if u.Port() == "" && !strings.HasSuffix(u.Host, ":") {
			spelt.Host += map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
		}
		if originOf(&spelt) != got {
			t.Errorf("%q has the origin %q, %q has %q", raw, got, spelt.String(), originOf(&spelt))
		}
		for _, host := range []string{u.Host + ".evil.example", "evil.example", u.Hostname() + ":1"} {
			other := *u
			if other.Host = host; u.Port() != "1" && originOf(&other) == got {
				t.Errorf("%q has the origin of %q", host, raw)
			}
		}
	})
}

// What decides which token comes back decides the fingerprint, and nothing else does: not the way it is written, and no
// secret.
func FuzzFingerprint(f *testing.F) {
	f.Add("https://app.example", "client", "b a", "audience", "campaigns", "hunter2")
	f.Add("https://app.example/api/v2/x", "client", "a a b", "resource", "", "")
	f.Add("http://[::1]:80", "", "", "", "\x00", "\xff")
	f.Fuzz(func(t *testing.T, base, id, scopes, param, value, secret string) {
		base = strings.TrimRight(base, "/")
		if strings.HasSuffix(base, "/api/v2") || base == "" {
			t.Skip()
		}
		one := Environment{
			BaseURL: base, ClientID: id, Scopes: strings.Fields(scopes), Params: url.Values{param: {value}},
			ClientSecret: NewSecret(secret),
		}
		want := one.fingerprint()
		if strings.Trim(want, "0123456789abcdef") != "" || len(want) != 16 {
			t.Errorf("the fingerprint is %q", want)
		}
		for _, spelling := range []string{base + "/", base + "/api/v2", base + "/api/v2/", base + "//api/v2//"} {
			same := one
			same.BaseURL = spelling
			same.Scopes = append(slices.Sorted(slices.Values(one.Scopes)), one.Scopes...)
			same.ClientSecret, same.SecretParams = NewSecret(secret+"x"), map[string]Secret{"assertion": NewSecret(value)}
			same.Lease, same.Origins, same.AuthMethod = time.Minute, []string{base}, ClientSecretPost
			if got := same.fingerprint(); got != want {
				t.Errorf("%q gives %q, %q gives %q", base, want, spelling, got)
			}
		}
		same := one
		same.BaseURL, same.TokenURL = "", one.TokenEndpoint()
		if got := same.fingerprint(); got != want {
			t.Errorf("base_url gives %q, the same token_url %q", want, got)
		}
		for name, change := range map[string]func(*Environment){
			"the URL":     func(e *Environment) { e.TokenURL = one.TokenEndpoint() + "x" },
			"the client":  func(e *Environment) { e.ClientID += "x" },
			"a scope":     func(e *Environment) { e.Scopes = append(slices.Clone(e.Scopes), scopes+"x") },
			"a value":     func(e *Environment) { e.Params = url.Values{param: {value + "x"}} },
			"a name":      func(e *Environment) { e.Params = url.Values{param + "x": {value}} },
			"a parameter": func(e *Environment) { e.Params = url.Values{param: {value, value}} },
			"the pair":    func(e *Environment) { e.Params = url.Values{param + value + "x": {""}} },
		} {
			other := one
			change(&other)
			if other.fingerprint() == want {
				t.Errorf("%s of %+v doesn't count", name, one)
			}
		}
	})
}

// Whatever a record says, its status is one JSON object with the keys that are promised, and no secret.
func FuzzStatus(f *testing.F) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	f.Add(int64(100), int64(0), int64(3600e3), int64(3000e3), int64(101), "http_503", "no", int64(5000), "replica-1", int64(-1))
	f.Add(int64(1), int64(1), int64(1), int64(math.MaxInt64), int64(0), "", "", int64(0), "", int64(math.MaxInt64))
	f.Add(int64(0), int64(9), int64(0), int64(0), int64(7), "invalid_client", "<b>\u2028\"", int64(-1), "\xff", int64(0))
	f.Fuzz(func(t *testing.T, version, dropped, lifeMS, ttl, failed int64, code, message string, retryMS int64, replica string, lock int64) {
		const canary = "canary-of-the-token"
		// As the store reads them: lines.
		code, message, replica = printable.Line(code, 64), printable.Line(message, 300), printable.Line(replica, 128)
		r := &store.Record{Now: now, Mark: store.Mark{Dropped: Version(dropped)}}
		life := time.Duration(lifeMS%(10*365*24*3600*1000)) * time.Millisecond
		if version > 0 && life > 0 && ttl > 0 {
			r.TTL = time.Duration(ttl)
			r.Token = store.NewToken(store.Token{
				AccessToken: NewSecret(canary), TokenType: "Bearer", IssuedAt: now, ExpiresAt: now.Add(life), Version: Version(version),
				RefreshedBy: replica, Config: "c1",
			})
		} else {
			r.TokenErr = &store.UnreadableError{Key: "k", Reason: message}
		}
		if failed > 0 && code != "" {
			r.Failure = &store.Failure{Code: code, Message: message, Attempt: 1, Version: Version(failed), RetryAt: now.Add(time.Duration(retryMS%1e12) * time.Millisecond)}
		}
		if lock != 0 {
			r.Lock = &store.Lock{Holder: replica, TTL: time.Duration(lock)}
		}
		s := StatusOf("prod", r)
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(canary)) || bytes.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("the status is %s", text)
		}
		var keys, lockKeys, failureKeys map[string]json.RawMessage
		if err := json.Unmarshal(text, &keys); err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(keys["lock"], &lockKeys)
		_ = json.Unmarshal(keys["failure"], &failureKeys)
		if len(keys) != 10 || len(lockKeys) != 2 || len(failureKeys) != 5 {
			t.Errorf("keys are missing: %s", text)
		}
		if s.Usable != (s.Reason == nil) || s.Usable && (r.Token == nil || r.Token.Version <= r.Mark.Dropped) ||
			s.State == StateFresh && !s.Usable || s.State == StateStale && !s.Usable || s.TTL < 0 || s.Lock.TTL < 0 {
			t.Errorf("of %+v: %s", r, text)
		}
	})
}

// What the endpoint says of times stays within the policy, whatever it says: a life in (0, max_life], a point to refresh at
// before its end, a pause that grows with the attempts and is never longer than the longest.
func FuzzTimes(f *testing.F) {
	f.Add(int64(time.Hour), int64(time.Second), int64(3), int64(0), int64(0), int64(0))
	f.Add(int64(-1), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(time.Second), int64(math.MaxInt64))
	f.Add(int64(time.Millisecond), int64(time.Minute), int64(math.MinInt64), int64(-1), int64(time.Hour), int64(time.Minute))
	f.Add(int64(math.MaxInt64), int64(0), int64(70), int64(5), int64(1), int64(20*365*24*time.Hour))
	f.Fuzz(func(t *testing.T, expiresIn, took, attempt, retryAfter, backoffMin, maxLife int64) {
		const decades = int64(100 * 365 * 24 * time.Hour) // the longest that anybody may mean by a setting
		p, err := Policy{
			Backoff: Backoff{Min: time.Duration(backoffMin % decades), Max: time.Duration(max(backoffMin%decades, int64(time.Minute)))},
			MaxLife: time.Duration(maxLife % decades),
		}.withDefaults()
		if err != nil {
			t.Skip()
		}
		life := p.life(time.Duration(expiresIn))
		if life < 0 || life > p.MaxLife || life == 0 && (expiresIn <= 0 || expiresIn >= int64(time.Millisecond)) {
			t.Errorf("expires_in %d is a life of %v", expiresIn, life)
		}
		if life >= minLife {
			margin := p.margin(life)
			if margin <= 0 || margin > life/8 {
				t.Errorf("of %v the last %v aren't used", life, margin)
			}
			for _, draw := range []float64{0, 0.5, 0.999999} {
				took := time.Duration(max(took, 0) % int64(time.Hour))
				at := p.refreshPoint(life, took, draw)
				if at < life/2 || at > life-margin {
					t.Errorf("a life of %v with a margin of %v is refreshed after %v", life, margin, at)
				}
				if then := p.standInPoint(life, took, at, draw); then < at || then > life-margin {
					t.Errorf("a life of %v with a margin of %v, due after %v, is refreshed by others after %v", life, margin, at, then)
				}
			}
		}
		for _, code := range []string{"http_503", "invalid_client", "timeout"} {
			pause := p.backoff(code, int(attempt), time.Duration(retryAfter))
			shortest, longest := p.Backoff.Min, max(p.longestOf(code), p.RetryAfterMax)
			if code == "invalid_client" {
				shortest = p.BackoffRefused.Min
			}
			if pause < shortest || pause > longest || pause > p.longest() {
				t.Errorf("%s, attempt %d, Retry-After %v: %v; want it between %v and %v", code, attempt, time.Duration(retryAfter), pause, shortest, longest)
			}
			if attempt > 1 {
				if before := p.backoff(code, int(attempt-1), time.Duration(retryAfter)); before > pause {
					t.Errorf("%s, attempt %d: %v, after %v", code, attempt, pause, before)
				}
			}
		}
	})
}
