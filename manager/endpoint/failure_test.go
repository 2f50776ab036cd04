package endpoint_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/endpoint"
)

func TestErrorStatuses(t *testing.T) {
	const html = "<h1>body-of-the-reply</h1>"
	for _, c := range []struct {
		name    string
		status  int
		body    string
		code    string
		message string
		refused bool
	}{
		{"RFC 6749 §5.2, 400", 400, `{"error":"invalid_request"}`, "invalid_request", "", true},
		{"RFC 6749 §5.2, 401", 401, `{"error":"invalid_client","error_description":"unknown client"}`, "invalid_client", "unknown client", true},
		{"RFC 6749 §5.2, 403", 403, `{"error":"unauthorized_client"}`, "unauthorized_client", "", true},
		{"invalid_grant", 400, `{"error":"invalid_grant"}`, "invalid_grant", "", true},
		{"unsupported_grant_type", 400, `{"error":"unsupported_grant_type"}`, "unsupported_grant_type", "", true},
		{"invalid_scope", 400, `{"error":"invalid_scope"}`, "invalid_scope", "", true},
		{"RFC 8707", 400, `{"error":"invalid_target"}`, "invalid_target", "", true},
		{"a refusal with 200", 200, `{"error":"invalid_client"}`, "invalid_client", "", true},
		{"a refusal with 200 and a token", 200, `{"error":"invalid_client","access_token":"abc"}`, "invalid_client", "", true},
		{"a refusal with a redirect", 302, `{"error":"invalid_request"}`, "invalid_request", "", true},
		{"an unknown code", 400, `{"error":"slow_down","error_description":"not so fast"}`, "http_400", "slow_down not so fast", false},
		{"a code in another case", 400, `{"error":"Invalid_Client"}`, "http_400", "Invalid_Client", false},
		{"a code that is an object", 400, `{"error":{"code":"invalid_client"}}`, "http_400", "Bad Request", false},
		{"a refusal in an array", 400, `[{"error":"invalid_client"}]`, "http_400", "Bad Request", false},
		{"400 without a code", 400, html, "http_400", "Bad Request", false},
		{"401 without a code", 401, "", "http_401", "Unauthorized", false},
		{"403 without a code", 403, html, "http_403", "Forbidden", false},
		{"404", 404, html, "http_404", "Not Found", false},
		{"429", 429, "", "http_429", "Too Many Requests", false},
		{"429 with a refusal's code", 429, `{"error":"invalid_request","error_description":"quota"}`, "http_429", "invalid_request quota", false},
		{"500 with a refusal's code", 500, `{"error":"invalid_client","error_description":"database"}`, "http_500", "invalid_client database", false},
		{"502", 502, html, "http_502", "Bad Gateway", false},
		{"503", 503, html, "http_503", "Service Unavailable", false},
		{"503 with a code of its own", 503, `{"error":"temporarily_unavailable"}`, "http_503", "temporarily_unavailable", false},
		{"a status without a name", 599, html, "http_599", "", false},
		{"300", 300, html, "http_300", "Multiple Choices", false},
		{"304", 304, "", "http_304", "Not Modified", false},
		{"a redirect to nowhere", 302, html, "http_302", "Found", false},
		{"a token with an error's status", 500, goodReply, "http_500", "Internal Server Error", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := mustFail(t, answers(c.status, c.body))
			if failed.Code != c.code || failed.Message != c.message || failed.Status != c.status || failed.RetryAfter != 0 {
				t.Errorf("code %q, message %q, status %d, Retry-After %v; want %q, %q, %d, 0s",
					failed.Code, failed.Message, failed.Status, failed.RetryAfter, c.code, c.message, c.status)
			}
			if got := failed.Refused(); got != c.refused {
				t.Errorf("refused: %v; want %v", got, c.refused)
			}
			if strings.Contains(failed.Error(), "body-of-the-reply") {
				t.Errorf("the error repeats the body: %v", failed)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		in   endpoint.Error
		want string
	}{
		{endpoint.Error{Code: "invalid_client"}, "token endpoint: invalid_client"},
		{endpoint.Error{Code: "http_503", Message: "Service Unavailable"}, "token endpoint: http_503: Service Unavailable"},
	} {
		if got := c.in.Error(); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
	cause := errors.New("cause")
	if err := error(&endpoint.Error{Code: "timeout", Err: cause}); !errors.Is(err, cause) || strings.Contains(err.Error(), "cause") {
		t.Errorf("%v; want the cause in its chain and not in its text", err)
	}
}

func TestRetryAfter(t *testing.T) {
	const date = "Fri, 01 Jan 2027 12:00:00 GMT"
	for _, c := range []struct {
		name, value string
		least, most time.Duration
	}{
		{"none", "", 0, 0},
		{"seconds", "4", 4 * time.Second, 4 * time.Second},
		{"seconds with white space", " 7 ", 7 * time.Second, 7 * time.Second},
		{"zero", "0", 0, 0},
		{"negative", "-5", 0, 0},
		{"with a sign", "+5", 0, 0},
		{"a fraction", "1.5", 0, 0},
		{"garbage", "in a while", 0, 0},
		{"hexadecimal", "0x10", 0, 0},
		{"an hour's date", "Fri, 01 Jan 2027 13:00:00 GMT", time.Hour, time.Hour},
		{"a date of RFC 850", "Friday, 01-Jan-27 12:00:30 GMT", 30 * time.Second, 30 * time.Second},
		{"a date of asctime", "Fri Jan  1 12:01:00 2027", time.Minute, time.Minute},
		{"a date that is over", "Fri, 01 Jan 2027 11:59:00 GMT", 0, 0},
		{"an ISO date", "2027-01-01T13:00:00Z", 0, 0},
		// Whatever is asked for, it isn't nothing: the policy has a longest wait.
		{"a huge number", "99999999999", 24 * time.Hour, 1 << 62},
		{"a number beyond 64 bits", "99999999999999999999999999", 24 * time.Hour, 1 << 62},
		{"a date at the end of time", "Fri, 31 Dec 9999 23:59:59 GMT", 24 * time.Hour, 1<<63 - 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := mustFail(t, answers(429, "", "Retry-After", c.value, "Date", date))
			if got := failed.RetryAfter; got < c.least || got > c.most {
				t.Errorf("Retry-After: %s is %v; want %v to %v", c.value, got, c.least, c.most)
			}
		})
	}
}

func TestRetryAfterADateCountsFromNowWithoutTheResponsesDate(t *testing.T) {
	failed := mustFail(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(503)
	})
	if got := failed.RetryAfter; got < 59*time.Minute || got > time.Hour {
		t.Errorf("%v; want about an hour", got)
	}
}

func TestRetryAfterCountsWithEveryFailure(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{
		{400, `{"error":"invalid_client"}`},
		{404, ""},
		{503, `{"error":"temporarily_unavailable"}`},
		{302, ""},
		{200, "<html>"},
		{200, `{"error":"temporarily_unavailable"}`},
		{200, `{}`},
	} {
		if got, want := mustFail(t, answers(c.status, c.body, "Retry-After", "9")).RetryAfter, 9*time.Second; got != want {
			t.Errorf("status %d, %s: %v; want %v", c.status, c.body, got, want)
		}
	}
}
