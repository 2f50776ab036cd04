package telemetry

import (
	"slices"
	"strconv"
	"strings"
)

// Other is what an error is called that has no name here. It is OpenTelemetry's word.
const Other = "_OTHER"

// ErrorType returns code where it is a name known here, an HTTP status that is an error's ("http_503") included, and else
// [Other]: it may come from an endpoint, or from Redis.
func ErrorType(code string) string {
	if slices.Contains(known, code) || isHTTPError(code) {
		return code
	}
	return Other
}

func isHTTPError(code string) bool {
	digits, ok := strings.CutPrefix(code, "http_")
	status, err := strconv.Atoi(digits)
	return ok && err == nil && status >= 300 && status <= 599 && len(digits) == 3
}

// Errors that are no answer of an endpoint.
const (
	GaveUp   = "gave_up"  // the caller's context ended
	Redis    = "redis"    // Redis can't be used
	Closed   = "closed"   // the manager is
	Conflict = "conflict" // the stored token is of another configuration
)

// known are the errors by name: of RFC 6749 §5.2 and RFC 8707, of an endpoint that doesn't say such a one, our own, and
// Redis's (the first word of its answer in lower case, or what befell the call).
var known = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"invalid_target",
	"timeout", "unreachable", "bad_reply",
	GaveUp, Redis, Closed, Conflict,
	"ask", "busy", "clusterdown", "crossslot", "err", "loading", "masterdown", "misconf", "moved", "noauth", "noperm",
	"noreplicas", "noscript", "oom", "readonly", "tryagain", "wrongpass", "wrongtype",
}
