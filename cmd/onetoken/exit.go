package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/onetoken/onetoken/internal/child"
	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
)

// The exit codes, which scripts rely on.
const (
	exitDone     = 0
	exitOther    = 1
	exitUsage    = 2
	exitRedis    = 3
	exitEndpoint = 4
	exitTimeout  = 5
)

// A usageError says that the command line or the configuration is at fault.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// A timeoutError ends a wait that the command line has bounded.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string   { return fmt.Sprintf("timed out after %v", e.after) }
func (e *timeoutError) Is(t error) bool { return t == context.DeadlineExceeded }

// bounded returns a context that ends with ctx, or with a *[timeoutError] as its cause.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	if timeout <= 0 {
		return nil, nil, &usageError{fmt.Errorf("--timeout: %v is not above 0", timeout)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &timeoutError{timeout})
	return ctx, cancel, nil
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case isA[*commandError](err):
		return as[*commandError](err).code
	case isA[*findingError](err):
		return as[*findingError](err).code()
	case isA[*child.StartError](err):
		return as[*child.StartError](err).Code
	case isA[*usageError](err), isA[*login.SettingError](err), isA[*config.Error](err), isA[*manager.ConfigError](err),
		isA[*manager.UnknownEnvironmentError](err), isA[*manager.LifeError](err), errors.Is(err, store.ErrName), errors.Is(err, store.ErrImplausible):
		return exitUsage
	case isA[*manager.EndpointError](err), isA[*manager.LoginError](err), isA[*endpoint.Error](err), errors.Is(err, login.ErrNoRefreshToken):
		return exitEndpoint
	case isA[*manager.WaitError](err) && errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case isA[*manager.WaitError](err), errors.Is(err, context.Canceled):
		return exitOther // interrupted
	case isA[*manager.RedisError](err), isA[*store.StatusError](err), isA[*lock.UnavailableError](err):
		return exitRedis
	}
	return exitOther
}

func isA[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// as returns the T that isA has found in err.
func as[T error](err error) T {
	found, _ := errors.AsType[T](err)
	return found
}

// oneLine is how an error is shown: text from Redis or an endpoint can't break the line or the terminal.
func oneLine(err error) string {
	const name = "onetoken: "
	return name + strings.TrimPrefix(printable.Line(err.Error(), 1000), name)
}
