package agent

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A problem is an error as a client gets it (RFC 9457). Its type is always about:blank: Code tells problems apart.
type problem struct {
	Status      int
	Code        string // one word for programs
	Detail      string // for people; never a secret
	Environment string
	Failure     *manager.EndpointError
	RetryAfter  time.Duration // 0: the client isn't told
}

// problemBody is how a problem is written. The failure is as in a row of status.
type problemBody struct {
	Type        string                 `json:"type"`
	Title       string                 `json:"title"`
	Status      int                    `json:"status"`
	Detail      string                 `json:"detail,omitempty"`
	Code        string                 `json:"code"`
	Environment string                 `json:"environment,omitempty"`
	Failure     *manager.FailureStatus `json:"failure,omitempty"`
}

// send answers the request with p.
func (p problem) send(w http.ResponseWriter) {
	body := problemBody{
		Type: "about:blank", Title: http.StatusText(p.Status), Status: p.Status,
		Detail: printable.Line(p.Detail, 1000), Code: p.Code, Environment: p.Environment,
	}
	if f := p.Failure; f != nil {
		body.Failure = &manager.FailureStatus{Code: &f.Code, Attempt: &f.Attempt}
		if f.Status != 0 {
			body.Failure.Status = &f.Status
		}
		if f.Message != "" {
			body.Failure.Message = &f.Message
		}
		if !f.RetryAt.IsZero() {
			at := f.RetryAt.UTC()
			body.Failure.RetryAt = &at
		}
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", seconds(p.RetryAfter))
	}
	writeJSON(w, p.Status, "application/problem+json", body)
}

// seconds are whole seconds, rounded up, for Retry-After.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(math.Ceil(max(d, time.Second).Seconds())), 10)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // only what can be encoded is written
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(b.String()))
}

// Causes for the end of a wait.
var (
	errWaited   = errors.New("the agent waits no longer")
	errStopping = errors.New("the agent is stopping")
)

// For Retry-After, where nobody knows when.
const (
	soon       = time.Second
	loginAfter = 30 * time.Second // a person must log in
)

// problemOf translates an error of the manager's about env.
func (a *Agent) problemOf(env string, err error) problem {
	p := problem{Environment: env, Detail: strings.TrimPrefix(err.Error(), "onetoken: "), RetryAfter: soon}
	var unknown *manager.UnknownEnvironmentError
	var tooLong *manager.LifeError
	var away *manager.RedisError
	var unread *store.StatusError
	var conflict *manager.ConflictError
	var login *manager.LoginError
	switch {
	case errors.As(err, &unknown):
		p.Status, p.Code, p.RetryAfter, p.Environment = http.StatusNotFound, "unknown_environment", 0, ""
	case errors.As(err, &tooLong):
		p.Status, p.Code, p.RetryAfter = http.StatusBadRequest, "life_too_long", 0
	case errors.Is(err, store.ErrImplausible):
		p.Status, p.Code, p.RetryAfter = http.StatusBadRequest, "bad_version", 0
	case errors.As(err, &login):
		p.Status, p.Code, p.RetryAfter = http.StatusServiceUnavailable, "login", loginAfter
		errors.As(err, &p.Failure)
	case errors.As(err, &p.Failure):
		p.Status, p.Code, p.RetryAfter = http.StatusServiceUnavailable, "endpoint", max(p.Failure.RetryAfter, soon)
	case errors.Is(err, errStopping), errors.Is(err, manager.ErrClosed):
		p.Status, p.Code = http.StatusServiceUnavailable, "stopping"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errWaited), errors.Is(err, context.Canceled):
		p.Status, p.Code = http.StatusGatewayTimeout, "timeout"
	case errors.As(err, &away), errors.As(err, &unread):
		p.Status, p.Code = http.StatusServiceUnavailable, "redis"
	case errors.As(err, &conflict):
		p.Status, p.Code = http.StatusServiceUnavailable, "conflict"
	default:
		a.log.Error("unexpected error", "outcome", "internal", "env", env, "error", err)
		p.Status, p.Code, p.Detail, p.RetryAfter = http.StatusInternalServerError, "internal", "an unexpected error; it is in the agent's log", 0
	}
	return p
}
