package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
)

// ErrClosed is returned once [Manager.Close] was called.
var ErrClosed = errors.New("onetoken: the manager is closed")

// A ConfigError says which setting of a [Config] is at fault.
type ConfigError struct {
	Environment string // "" where it isn't about one
	Err         error
}

func (e *ConfigError) Error() string {
	if e.Environment == "" {
		return "onetoken: " + e.Err.Error()
	}
	return fmt.Sprintf("onetoken: environment %s: %v", e.Environment, e.Err)
}

func (e *ConfigError) Unwrap() error { return e.Err }

// An UnknownEnvironmentError names an environment that isn't configured, and those that are.
type UnknownEnvironmentError struct {
	Environment string
	Known       []string // sorted
}

func (e *UnknownEnvironmentError) Error() string {
	known := e.Known
	const most = 10
	more := ""
	if len(known) > most {
		known, more = known[:most], fmt.Sprintf(" and %d more", len(known)-most)
	}
	return fmt.Sprintf("onetoken: unknown environment %.128q; configured: %s%s", e.Environment, strings.Join(known, ", "), more)
}

// A ResolveError says that an environment could not be looked up by [Config.Resolve]. It wraps that function's error, whose text
// it doesn't repeat: that may hold a secret, such as a database's address with its password.
type ResolveError struct {
	Environment string
	Err         error
}

func (e *ResolveError) Error() string {
	why := "Config.Resolve returned an error"
	if stray, ok := errors.AsType[*strayError](e.Err); ok {
		why = stray.Error()
	} else if errors.Is(e.Err, context.DeadlineExceeded) {
		why = "no answer in time"
	}
	return fmt.Sprintf("onetoken: %s: its configuration could not be looked up: %s", e.Environment, why)
}

func (e *ResolveError) Unwrap() error { return e.Err }

// A RedisError says that Redis can't be asked: for Token, where there is no usable token either. It wraps the client's
// error.
type RedisError struct {
	Environment string
	Err         error
}

func (e *RedisError) Error() string {
	what := printable.Redis(e.Err)
	if status, ok := errors.AsType[*store.StatusError](e.Err); ok {
		what = fmt.Sprintf("%s of %s: %s", status.Op, status.Key, printable.Redis(status.Err))
	}
	return fmt.Sprintf("onetoken: %s: Redis can't be used: %s", e.Environment, what)
}

func (e *RedisError) Unwrap() error { return e.Err }

// An EndpointError says that the token endpoint refused, failed or can't be reached, and when it is asked again. It is
// the answer of one attempt, perhaps another replica's.
type EndpointError struct {
	Environment string
	Code        string // an RFC 6749 §5.2 error code, or http_<status>, timeout, unreachable, bad_reply
	Status      int    // of the HTTP response; 0 where there was none
	Message     string
	Attempt     int       // of a row of failures, from 1
	RetryAt     time.Time // Redis's clock; nobody asks before. The zero time where only this replica holds back
	RetryAfter  time.Duration
	Version     Version // of the attempt
	ReportedBy  string  // the replica that asked
	Err         error   // what lies behind it where this process asked; not printed
}

func (e *EndpointError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "onetoken: %s: the token endpoint ", e.Environment)
	switch {
	case e.Code == endpoint.CodeUnreachable:
		b.WriteString("can't be reached")
	case endpoint.IsRefusal(e.Code):
		b.WriteString("refused")
	default:
		b.WriteString("failed")
	}
	fmt.Fprintf(&b, ": %s", e.Code)
	if e.Message != "" {
		fmt.Fprintf(&b, " (%s)", e.Message)
	}
	left := max(e.RetryAfter, 0).Round(100 * time.Millisecond)
	if e.RetryAt.IsZero() { // not in Redis: it holds for this replica alone
		fmt.Fprintf(&b, "; next try in %v", left)
	} else {
		fmt.Fprintf(&b, "; next try at %s (in %v)", e.RetryAt.UTC().Format("2006-01-02T15:04:05.000Z07:00"), left)
	}
	return b.String()
}

func (e *EndpointError) Unwrap() error { return e.Err }

// A LoginError says that there is no refresh token that can be used, until a person brings one: by "onetoken login", "onetoken
// grant import" or [Manager.ImportGrant]. An *[EndpointError] is in its chain where the endpoint has just said so.
type LoginError struct {
	Environment string
	Reason      string
	Err         error // nil where it is read from Redis
}

func (e *LoginError) Error() string {
	return fmt.Sprintf("onetoken: %s: a person must log in: %s (onetoken login, or onetoken grant import)", e.Environment, e.Reason)
}

func (e *LoginError) Unwrap() error { return e.Err }

// A WaitError says what a caller was waiting for when its context ended. It wraps the context's cause.
type WaitError struct {
	Environment string
	Waiting     string // one phrase: "for replica-7, which is refreshing", …
	Err         error
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("onetoken: %s: %v while waiting %s", e.Environment, e.Err, e.Waiting)
}

func (e *WaitError) Unwrap() error { return e.Err }

// A ConflictError says that the stored token is of another configuration, or can't be read with the keys here, while this
// replica has one that it can use. It ends a refresh behind the callers; of them only those of [Env.TokenFor] get it.
type ConflictError struct {
	Environment string
	Err         error // why it can't be read: a *[store.UnreadableError]; nil where it is of another configuration
}

// Unwrap returns e.Err.
func (e *ConflictError) Unwrap() error { return e.Err }

func (e *ConflictError) Error() string {
	if unreadable, ok := errors.AsType[*store.UnreadableError](e.Err); ok {
		return fmt.Sprintf("onetoken: %s: the stored token can't be read here: %s", e.Environment, whySealed(unreadable))
	}
	return fmt.Sprintf("onetoken: %s: the stored token is of another configuration (a deploy under way, or two services in one namespace)", e.Environment)
}

// A LifeError says that a token's life is too short for what [Env.TokenFor] was asked for, so that a new one wouldn't do
// either.
type LifeError struct {
	Environment string
	Asked       time.Duration // the life that was asked for
	Most        time.Duration // the most that can be asked for
}

func (e *LifeError) Error() string {
	return fmt.Sprintf("onetoken: %s: no token has %v left to live: ask for %v at most", e.Environment, e.Asked.Round(time.Millisecond), e.Most)
}
