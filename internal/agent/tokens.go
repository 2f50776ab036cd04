package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// token answers GET /v1/environments/{env}/token[?min_ttl=…].
func (a *Agent) token(w http.ResponseWriter, r *http.Request) {
	e, ok := a.setup().envs[r.PathValue("env")]
	if !ok {
		a.unknown(r.PathValue("env"), a.options.Manager.Environments()).send(w)
		return
	}
	a.answerToken(w, r, e)
}

// asksForToken returns the environment whose token a request asks for, nil for all other requests. It is what the mux would
// find, at a third of the cost: this path is the one that programs use all the time.
func (a *Agent) asksForToken(r *http.Request) *environment {
	if r.Method != http.MethodGet {
		return nil
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/environments/")
	name, found := strings.CutSuffix(rest, "/token")
	if !ok || !found {
		return nil
	}
	return a.setup().envs[name] // in whose names there is no slash
}

func (a *Agent) answerToken(w http.ResponseWriter, r *http.Request, e *environment) {
	t, p := a.fetch(r, e)
	if p != nil {
		p.send(w)
		return
	}
	body := e.cache.of(a.options.Manager, e.name, t)
	h := w.Header()
	h["Content-Type"] = contentTypeJSON
	h["Content-Length"] = body.length
	_, _ = w.Write(body.text)
}

// The values of headers that go into every answer, which nobody changes: a slice made for each costs as much as the rest.
var (
	contentTypeJSON = []string{"application/json"}
	noStore         = []string{"no-store"}
	noSniff         = []string{"nosniff"}
	noCache         = []string{"no-cache"}
)

// fetch returns a token of e with the life that the request asks for. One that is at hand costs no context and no timer.
func (a *Agent) fetch(r *http.Request, e *environment) (*manager.Token, *problem) {
	if r.URL.RawQuery == "" {
		if t, err := e.handle.Token(a.ended); err == nil { //nolint:contextcheck // a look, not a wait
			return t, nil
		}
	}
	left, err := minTTL(r.URL.RawQuery)
	if err != nil {
		return nil, &problem{Status: http.StatusBadRequest, Code: "bad_min_ttl", Environment: e.name, Detail: err.Error()}
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), a.options.MaxWait, errWaited)
	defer cancel()
	t, err := e.handle.TokenFor(ctx, left)
	if err != nil {
		p := a.problemOf(e.name, err)
		return nil, &p
	}
	return t, nil
}

// longestTTL is more than any token lives, and can be counted in a Duration.
const longestTTL = 100 * 365 * 24 * time.Hour

// minTTL reads min_ttl from a query: seconds, or a Go duration. The error is for the client.
func minTTL(query string) (time.Duration, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0, fmt.Errorf("the query is malformed")
	}
	given, ok := values["min_ttl"]
	if !ok {
		return 0, nil
	}
	if len(given) > 1 {
		return 0, fmt.Errorf("min_ttl is given twice")
	}
	left, err := time.ParseDuration(given[0])
	if n, numErr := strconv.ParseUint(given[0], 10, 32); numErr == nil {
		left, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || left < 0 || left > longestTTL {
		return 0, fmt.Errorf("min_ttl: %.40q is neither a number of seconds nor a duration (300, 5m)", given[0])
	}
	return left, nil
}

// rendered keeps a token's answer, which is the same for a whole second.
type rendered struct{ last atomic.Pointer[body] }

type body struct {
	token     *manager.Token
	expiresIn int64
	text      []byte
	length    []string // of text, as a header's value
}

func (c *rendered) of(m *manager.Manager, env string, t *manager.Token) *body {
	left := answer.Seconds(m.ExpiresIn(env, t))
	last := c.last.Load()
	if last != nil && last.token == t && last.expiresIn == left {
		return last
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	a := answer.Of(m, env, t)
	if err := encoder.Encode(a); err != nil {
		panic(err) // it can be encoded
	}
	next := &body{token: t, expiresIn: a.ExpiresIn, text: b.Bytes(), length: []string{strconv.Itoa(b.Len())}}
	c.last.Store(next)
	return next
}

// refresh answers POST /v1/environments/{env}/refresh.
func (a *Agent) refresh(w http.ResponseWriter, r *http.Request) {
	env := r.PathValue("env")
	ctx, cancel := context.WithTimeoutCause(r.Context(), a.options.MaxWait, errWaited)
	defer cancel()
	t, err := a.options.Manager.Refresh(ctx, env)
	if err != nil {
		a.problemOf(env, err).send(w)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", answer.Of(a.options.Manager, env, t).Refresh())
}

// invalidate answers POST /v1/environments/{env}/invalidate[?version=V].
func (a *Agent) invalidate(w http.ResponseWriter, r *http.Request) {
	env := r.PathValue("env")
	v, err := version(r.URL.RawQuery)
	if err != nil {
		problem{Status: http.StatusBadRequest, Code: "bad_version", Environment: env, Detail: err.Error()}.send(w)
		return
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), a.options.MaxWait, errWaited)
	defer cancel()
	if _, err := a.options.Manager.Invalidate(ctx, env, v); err != nil {
		a.problemOf(env, err).send(w)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// version reads version from a query; 0 means all. An unknown parameter is refused here: a misspelt one would drop all.
func version(query string) (store.Version, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0, fmt.Errorf("the query is malformed")
	}
	for name := range values {
		if name != "version" {
			return 0, fmt.Errorf("unknown parameter %.40q: version is the only one", name)
		}
	}
	given, ok := values["version"]
	if !ok {
		return 0, nil
	}
	if len(given) > 1 {
		return 0, fmt.Errorf("version is given twice")
	}
	v, err := store.ParseVersion(given[0])
	if err != nil || v == 0 {
		return 0, fmt.Errorf("version: %.40q is no version: 1 to 16 digits, above 0", given[0])
	}
	return v, nil
}
