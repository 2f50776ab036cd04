package manager

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// replaceableAge is how old a token must be before something other than its age, a 401 or a caller who needs it for longer,
// has it replaced: 30 s, or a tenth of its life if that is less.
func replaceableAge(life time.Duration) time.Duration { return min(30*time.Second, life/10) }

// Replace returns a usable token above one of this environment that a resource server has rejected: what [Manager.Client]
// does about a 401, for those who set headers themselves.
//
//	tok, err := env.Token(ctx)
//	…
//	tok.SetAuthHeader(req)
//	resp, err := client.Do(req)
//	…
//	if manager.RejectsToken(resp) {
//		if newer, ok := env.Replace(ctx, tok); ok {
//			// send it once more, with newer
//		}
//	}
//
// Where there is a newer token already it returns that at once. Else it has the rejected one replaced, and waits for it:
// once per version in this process, and not before it is 30 s, or a tenth of its life, old. A backoff counts. It is
// not ok where no newer token is to be had by these rules, if the endpoint fails, or if ctx ends before: then the resource
// server's answer is the one to go by. [Env.Token] goes on to return the rejected token until there is another: the answer may
// have been a stray one. Invalidate ends a token that is known to be bad.
//
// To send a request more than once more, or to call Replace with the token that it has returned, would make a loop.
func (e *Env) Replace(ctx context.Context, rejected *Token) (newer *Token, ok bool) {
	e, err := e.current(ctx)
	if err != nil {
		return nil, false
	}
	e.mu.Lock()
	s := e.usableLocked(rejected.Version)
	ask, ok := e.rejectLocked(rejected)
	e.mu.Unlock()
	if s != nil {
		return s.token, true
	}
	if !ok {
		return nil, false
	}
	tok, err := e.joinPresent(ctx, ask)
	return tok, err == nil
}

// Reject is [Env.Replace] for a request that can't be sent again: it has the token replaced by the same rules, and doesn't
// wait for it.
func (e *Env) Reject(rejected *Token) {
	e = e.present()
	e.mu.Lock()
	defer e.mu.Unlock()
	ask, ok := e.rejectLocked(rejected)
	if !ok || e.flight != nil || e.closed || e.retired || e.heldLocked() != nil || e.usableLocked(rejected.Version) != nil {
		return
	}
	ask.background = true
	e.startLocked(ask)
}

// rejectLocked decides whether a rejected token is to be replaced: once, which a flight notes when it asks the endpoint
// for that. While that flight lasts, others join it.
func (e *Env) rejectLocked(t *Token) (ask, bool) {
	a := ask{above: t.Version, rejected: true}
	s := e.snap.Load()
	if s == nil || s.token.Version != t.Version {
		return a, s == nil // gone or replaced meanwhile: any newer one will do
	}
	if e.m.now()-(s.expires-t.Life()) < replaceableAge(t.Life()) {
		return a, false
	}
	if e.rejected == t.Version && t.Version != 0 {
		return a, e.flight != nil && e.flight.above >= t.Version
	}
	return a, true
}

// RejectsToken reports whether a resource server's answer is that the token is no good: a 401, save one with a Bearer
// challenge (RFC 9110 §11.6.1) whose error is another than invalid_token (RFC 6750 §3.1). That is about something that a
// new token doesn't mend.
func RejectsToken(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && rejectsToken(resp.Header)
}

func rejectsToken(h http.Header) bool {
	for _, line := range h.Values("WWW-Authenticate") {
		for _, code := range bearerErrors(line) {
			if code != "invalid_token" {
				return false
			}
		}
	}
	return true
}

// bearerErrors returns the error parameters of the Bearer challenges in a WWW-Authenticate field.
func bearerErrors(field string) []string {
	var codes []string
	scheme := ""
	for _, item := range splitQuoted(field) {
		if strings.TrimSpace(item) == "" {
			continue // RFC 9110 §5.6.1.2: empty elements of a list don't count
		}
		name, value, isParam := strings.Cut(item, "=")
		// The first parameter of a challenge comes after its scheme and a space: `Bearer realm="x"`.
		if before, after, ok := strings.Cut(strings.TrimSpace(name), " "); ok {
			scheme, name = before, strings.TrimSpace(after)
		} else if !isParam {
			scheme = before
		}
		if isParam && strings.EqualFold(scheme, "bearer") && strings.EqualFold(strings.TrimSpace(name), "error") {
			codes = append(codes, strings.Trim(strings.TrimSpace(value), `"`))
		}
	}
	return codes
}

// splitQuoted splits a list at the commas that are not in quotes.
func splitQuoted(s string) []string {
	var items []string
	quoted, escaped, start := false, false, 0
	for i := range len(s) {
		switch c := s[i]; {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			items = append(items, s[start:i])
			start = i + 1
		}
	}
	return append(items, s[start:])
}
