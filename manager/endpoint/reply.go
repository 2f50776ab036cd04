package endpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/store"
)

// read turns the answer to a token request into a reply or an error. Where refresh tokens are used, one that isn't usable
// is an error.
func (r *request) read(a *answer, refreshes bool) (*Reply, *Error) {
	tooLong := len(a.body) > maxReply
	var members map[string]json.RawMessage
	isObject := !tooLong && json.Unmarshal(a.body, &members) == nil && members != nil
	code, description := str(members["error"]), str(members["error_description"])
	for _, name := range []string{"access_token", "refresh_token", "id_token"} { // which a description could repeat
		r.secrets = append(r.secrets, str(members[name]))
	}
	failed := &Error{Status: a.status, RetryAfter: retryAfter(a.header, time.Now())}
	refused := IsRefusal(code)
	switch {
	case refused && a.status < 500 && a.status != http.StatusTooManyRequests:
		failed.Code, failed.Message = code, r.clean(description)
	case a.status < 200 || a.status > 299:
		failed.Code = "http_" + strconv.Itoa(a.status)
		failed.Message = http.StatusText(a.status)
		if code != "" {
			failed.Message = r.clean(code + " " + description)
		}
	case tooLong:
		failed.Code, failed.Message = CodeBadReply, "the reply is longer than 1 MiB"
	case !isObject:
		failed.Code, failed.Message = CodeBadReply, r.clean("the reply is no JSON object"+contentType(a.header))
	case code != "":
		failed.Code = CodeBadReply
		failed.Message = r.clean(fmt.Sprintf("status %d with an error: %s %s", a.status, code, description))
	default:
		reply, err := parse(members, refreshes)
		if err == nil {
			return reply, nil
		}
		failed.Code, failed.Message = CodeBadReply, err.Error()
	}
	if a.status >= 200 && a.status <= 299 {
		failed.RefreshToken, failed.RefreshExpiresIn, _ = refreshToken(members)
	}
	return nil, failed
}

func contentType(h http.Header) string {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return " but " + media
}

// clean makes one short line of foreign text.
func (r *request) clean(s string) string {
	return printable.Line(hider(r.url, r.secrets).Replace(s), 200)
}

// hider replaces secrets, in the forms that a request, or an answer that repeats it, has them in, and the URL, whose query
// may be one.
func hider(to string, secrets []string) *strings.Replacer {
	hidden := []string{to}
	if _, query, ok := strings.Cut(to, "?"); ok {
		hidden = append(hidden, query)
	}
	for _, text := range secrets {
		hidden = append(hidden, text, html.EscapeString(text))
		inGo, _ := json.Marshal(text)
		for _, inJSON := range []string{string(inGo[1 : len(inGo)-1]), jsonEscapes.Replace(text)} {
			hidden = append(hidden, inJSON, strings.ReplaceAll(inJSON, "/", `\/`))
		}
		for _, escaped := range []string{url.QueryEscape(text), url.PathEscape(text)} {
			hidden = append(hidden, escaped, escapes.ReplaceAllStringFunc(escaped, strings.ToLower))
		}
	}
	// The longest first: one may be the beginning of another.
	slices.SortFunc(hidden, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, text := range slices.Compact(hidden) {
		if text != "" {
			pairs = append(pairs, text, secret.Secret{}.String())
		}
	}
	return strings.NewReplacer(pairs...)
}

var (
	escapes     = regexp.MustCompile(`%[0-9A-F]{2}`)
	jsonEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
)

// str returns a JSON string's text, "" for anything else.
func str(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// parse reads a successful reply (RFC 6749 §5.1).
func parse(members map[string]json.RawMessage, refreshes bool) (*Reply, error) {
	r := &Reply{
		AccessToken:     secret.New(str(members["access_token"])),
		TokenType:       cmp.Or(str(members["token_type"]), "Bearer"),
		Scope:           printable.Line(str(members["scope"]), 4096),
		ExpiresIn:       expiresIn(members["expires_in"]),
		IssuedTokenType: printable.Line(str(members["issued_token_type"]), 200),
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	var err error
	if r.RefreshToken, r.RefreshExpiresIn, err = refreshToken(members); err != nil && refreshes {
		return nil, fmt.Errorf("in the reply: %w", err)
	}
	return r, nil
}

// refreshToken returns the refresh token of a reply, and how long it lives: nothing, and no error, where there is none.
func refreshToken(members map[string]json.RawMessage) (secret.Secret, time.Duration, error) {
	token := str(members["refresh_token"])
	if token == "" {
		return secret.Secret{}, 0, nil
	}
	if err := checkRefreshToken(token); err != nil {
		return secret.Secret{}, 0, err
	}
	// No RFC has a life of refresh tokens: each of these is somebody's name for it.
	return secret.New(token), cmp.Or(expiresIn(members["refresh_expires_in"]), expiresIn(members["refresh_token_expires_in"])), nil
}

// Check returns an error unless the access token and its type may be put in a header. An empty type passes: it means
// Bearer.
func (r *Reply) Check() error {
	err := store.CheckAccessToken(r.AccessToken.Reveal())
	if err == nil && r.TokenType != "" {
		err = store.CheckTokenType(r.TokenType)
	}
	if err != nil {
		return fmt.Errorf("in the reply: %w", err)
	}
	return nil
}

// expiresIn reads a number of seconds: an integer, a float, or a string of either; 0 for anything else.
func expiresIn(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(cmp.Or(str(raw), string(raw))), 64)
	if err != nil && !math.IsInf(seconds, 1) || math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	const most = 100 * 365 * 24 * 3600 // in a Duration's range
	return time.Duration(min(seconds, most) * float64(time.Second))
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds, or a date, which counts from the response's own Date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(v, 10, 31); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second // of a number that is out of range: the most there is
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0)
}
