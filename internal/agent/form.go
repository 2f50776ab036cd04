package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A tokenRequest is what a client asks of a token endpoint (RFC 6749 §4.4.2).
type tokenRequest struct {
	form  url.Values // without empty values, which count as omitted (§3.2)
	login login
}

// A login is how a client says who it is. A secret that doesn't come form-encoded in a Basic header, as RFC 6749 §2.3.1 has
// it, is common: there are two readings then.
type login struct {
	basic    bool // in the header
	readings []credentials
}

// credentials hold a digest in place of the secret: they can't print it.
type credentials struct {
	id        string
	secret    digest
	guessable bool // it is short: tried only as often as a guess may be
}

func newCredentials(id, secret string) credentials {
	return credentials{id, digestOf(secret), len(secret) < minKey}
}

// An oauth2Error is an answer of RFC 6749 §5.2, or of RFC 8707 (invalid_target).
type oauth2Error struct {
	status      int
	code        string
	description string
}

func (e *oauth2Error) Error() string { return e.code + ": " + e.description }

func invalidRequest(format string, args ...any) *oauth2Error {
	return &oauth2Error{http.StatusBadRequest, "invalid_request", fmt.Sprintf(format, args...)}
}

func invalidClient(description string) *oauth2Error {
	return &oauth2Error{http.StatusUnauthorized, "invalid_client", description}
}

// readTokenRequest reads a request's form and credentials. What is wrong with it is found without knowing any client.
func readTokenRequest(r *http.Request) (*tokenRequest, *oauth2Error) {
	form, wrong := readForm(r)
	if wrong != nil {
		return nil, wrong
	}
	if wrong := checkParameters(r.URL.RawQuery, form); wrong != nil {
		return nil, wrong
	}
	login, wrong := readLogin(r.Header["Authorization"], form)
	if wrong != nil {
		return nil, wrong
	}
	return &tokenRequest{form, login}, nil
}

func readForm(r *http.Request) (url.Values, *oauth2Error) {
	tooLarge := &oauth2Error{http.StatusRequestEntityTooLarge, "invalid_request", "a body of at most 64 KiB is read"}
	if r.ContentLength > maxBody { // nothing of it is waited for
		return nil, tooLarge
	}
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || contentType != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("the Content-Type must be application/x-www-form-urlencoded")
	}
	data, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, invalidRequest("the body can't be read")
	}
	form, err := url.ParseQuery(string(data))
	if err != nil {
		return nil, invalidRequest("the body is no form") // the parser's error repeats a part of it
	}
	for name, values := range form {
		form[name] = slices.DeleteFunc(values, func(v string) bool { return v == "" })
		if len(form[name]) == 0 {
			delete(form, name)
		}
	}
	return form, nil
}

// checkParameters applies RFC 6749 §3.2: no parameter twice, but resource (RFC 8707 §2) and audience (RFC 8693 §2.1); and
// §2.3.1: no credentials in the URL.
func checkParameters(query string, form url.Values) *oauth2Error {
	inURL, err := url.ParseQuery(query)
	if err != nil {
		return invalidRequest("the query is malformed")
	}
	for _, name := range []string{"grant_type", "client_id", "client_secret", "scope", "resource", "audience"} {
		if inURL.Has(name) {
			return invalidRequest("%s belongs in the body", name)
		}
	}
	for name, values := range form {
		if len(values) > 1 && name != "resource" && name != "audience" {
			return invalidRequest("%.40q is given more than once", name)
		}
	}
	switch grant := form.Get("grant_type"); grant {
	case "client_credentials":
		return nil
	case "":
		return invalidRequest("grant_type is missing")
	}
	return &oauth2Error{http.StatusBadRequest, "unsupported_grant_type", "client_credentials is the only grant_type"}
}

// readLogin takes credentials from the header or from the form, not from both (RFC 6749 §2.3).
func readLogin(authorization []string, form url.Values) (login, *oauth2Error) {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	switch {
	case len(authorization) > 1:
		return login{}, invalidRequest("more than one Authorization header")
	case len(authorization) == 0 && secret == "":
		return login{}, invalidClient("no client credentials")
	case len(authorization) == 0:
		return login{readings: []credentials{newCredentials(id, secret)}}, nil
	case secret != "":
		return login{}, invalidRequest("credentials in the header and in the body")
	}
	readings := parseBasic(authorization[0])
	if readings == nil {
		return login{}, invalidClient("the Authorization header is no Basic one (RFC 6749 §2.3.1)")
	}
	for _, c := range readings {
		if id == "" || id == c.id {
			return login{basic: true, readings: readings}, nil
		}
	}
	return login{}, invalidRequest("client_id is another one than in the header")
}

// parseBasic returns the credentials in a Basic header: form-encoded as RFC 6749 §2.3.1 has them and, where that makes a
// difference, as they stand; nil where there are none.
func parseBasic(header string) []credentials {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
	if err != nil {
		return nil
	}
	id, secret, ok := strings.Cut(string(data), ":")
	if !ok {
		return nil
	}
	plain := newCredentials(id, secret)
	decodedID, idErr := url.QueryUnescape(id)
	decodedSecret, secretErr := url.QueryUnescape(secret)
	if decoded := newCredentials(decodedID, decodedSecret); idErr == nil && secretErr == nil && decoded != plain {
		return []credentials{decoded, plain}
	}
	return []credentials{plain}
}

// requestedScope returns the scopes that are asked for (RFC 6749 §3.3), none where the parameter is omitted.
func (q *tokenRequest) requestedScope() ([]string, *oauth2Error) {
	scope := q.form.Get("scope")
	if strings.ContainsFunc(scope, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		return nil, &oauth2Error{http.StatusBadRequest, "invalid_scope", "the scope is malformed (RFC 6749 §3.3)"}
	}
	return strings.Fields(scope), nil
}
