package manager

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/store"
)

func TestStatesInTheirOrder(t *testing.T) {
	stale := age(50 * time.Minute)
	for _, c := range []struct {
		name   string
		record *store.Record
		state  State
		usable bool
	}{
		{"the lease held, before all else", recordOf(foreignToken, failed("http_503"), stale, locked(time.Second)), StateRefreshing, false},
		{"the lease held over no token", recordOf(noToken, locked(time.Second)), StateRefreshing, false},
		{"the lease held over a good token", recordOf(locked(time.Second)), StateRefreshing, true},
		{"a foreign token, before a failure", recordOf(foreignToken, failed("http_503"), stale), StateConflict, false},
		{"a foreign token", recordOf(foreignToken), StateConflict, false},
		{"a failure, before a missing token", recordOf(noToken, failed("http_503")), StateFailing, false},
		{"a failure, before an unreadable token", recordOf(unreadableToken, failed("http_503")), StateFailing, false},
		{"a failure, before a stale token", recordOf(stale, failed("http_503")), StateFailing, true},
		{"a failure since a fresh token", recordOf(failed("unreachable")), StateFailing, true},
		{"a failure whose backoff is over", recordOf(noToken, failed("http_503", retryIn(-time.Minute))), StateFailing, false},
		{"a failure older than the token", recordOf(failed("http_503", func(f *store.Failure) { f.Version = 99 })), StateFresh, true},
		{"no token", recordOf(noToken), StateMissing, false},
		{"an unreadable token", recordOf(unreadableToken), StateMissing, false},
		{"an invalidated token", recordOf(droppedUpTo(100)), StateMissing, false},
		{"an invalidated foreign token", recordOf(foreignToken, droppedUpTo(100)), StateMissing, false},
		{"a token about to expire", recordOf(age(time.Hour - 5*time.Second)), StateMissing, false},
		{"a token past its refresh point", recordOf(stale), StateStale, true},
		{"a token at its refresh point", recordOf(age(48 * time.Minute)), StateStale, true},
		{"a token before its refresh point", recordOf(age(48*time.Minute - time.Second)), StateFresh, true},
		{"a new token", recordOf(age(0)), StateFresh, true},
	} {
		s := describe("prod", c.record, defaulted(t, Policy{}), "c1", "")
		if s.State != c.state || s.Usable != c.usable {
			t.Errorf("%s: %s, usable %v; want %s, %v", c.name, s.State, s.Usable, c.state, c.usable)
		}
		if (s.Reason == nil) != s.Usable {
			t.Errorf("%s: usable %v, and a reason: %v", c.name, s.Usable, s.Reason)
		}
		if (s.Version == nil) != (c.record.Token == nil) {
			t.Errorf("%s: version %v; want it wherever a token is stored", c.name, s.Version)
		}
	}
}

func TestReasons(t *testing.T) {
	for _, c := range []struct {
		record *store.Record
		want   string // a part of it
	}{
		{recordOf(noToken), "no token is stored"},
		{recordOf(droppedUpTo(100)), "invalidated"},
		{recordOf(age(time.Hour - 5*time.Second)), "about to expire"},
		{recordOf(foreignToken), "another configuration"},
		{recordOf(unreadableToken), "unreadable"},
		{recordOf(unreadableToken), "not a hash"},
	} {
		s := describe("prod", c.record, defaulted(t, Policy{}), "c1", "")
		if s.Reason == nil || !strings.Contains(*s.Reason, c.want) {
			t.Errorf("reason %v; want one with %q", s.Reason, c.want)
		}
	}
}

func TestStatusOfAnEnvironmentThatIsNotConfigured(t *testing.T) {
	if s := StatusOf("prod", recordOf(foreignToken)); s.State != StateFresh || !s.Usable {
		t.Errorf("%s, usable %v; want fresh, true: whose configuration is the right one isn't known", s.State, s.Usable)
	}
	if s := StatusOf("prod", recordOf(noToken)); s.State != StateMissing || s.Usable {
		t.Errorf("%s, usable %v; want missing, false", s.State, s.Usable)
	}
}

func TestStatusInJSON(t *testing.T) {
	refused := failed("invalid_client", func(f *store.Failure) { f.Status, f.Message, f.Attempt = 401, "no such client", 3 })
	for _, c := range []struct {
		name   string
		record *store.Record
		want   string
	}{
		{"nothing is there", recordOf(noToken), `{"environment":"prod","state":"missing","usable":false,` +
			`"reason":"no token is stored","ttl_ms":0,"expires_at":null,"version":null,"refreshed_by":null,` +
			`"lock":{"holder":null,"ttl_ms":0},` +
			`"failure":{"code":null,"status":null,"message":null,"attempt":null,"retry_at":null}}`},
		{"all is there", recordOf(refused, locked(4500*time.Millisecond)), `{"environment":"prod","state":"refreshing","usable":true,` +
			`"reason":null,"ttl_ms":3540000,"expires_at":"2027-01-01T12:59:00Z","version":100,"refreshed_by":"replica-1",` +
			`"lock":{"holder":"replica-2","ttl_ms":4500},` +
			`"failure":{"code":"invalid_client","status":401,"message":"no such client","attempt":3,"retry_at":"2027-01-01T12:01:00Z"}}`},
		{"a failure without a response", recordOf(noToken, failed("unreachable")), `{"environment":"prod","state":"failing","usable":false,` +
			`"reason":"no token is stored","ttl_ms":0,"expires_at":null,"version":null,"refreshed_by":null,` +
			`"lock":{"holder":null,"ttl_ms":0},` +
			`"failure":{"code":"unreachable","status":null,"message":null,"attempt":1,"retry_at":"2027-01-01T12:01:00Z"}}`},
		{
			"a lock of another type, without TTL", recordOf(noToken, func(r *store.Record) { r.Lock = &store.Lock{TTL: -1} }),
			`{"environment":"prod","state":"refreshing","usable":false,` +
				`"reason":"no token is stored","ttl_ms":0,"expires_at":null,"version":null,"refreshed_by":null,` +
				`"lock":{"holder":null,"ttl_ms":0},` +
				`"failure":{"code":null,"status":null,"message":null,"attempt":null,"retry_at":null}}`,
		},
	} {
		got, err := json.Marshal(describe("prod", c.record, defaulted(t, Policy{}), "c1", ""))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

func TestStatusHasNoTokenInIt(t *testing.T) {
	for name, mend := range map[string]func(*store.Record){
		"fresh": func(*store.Record) {}, "foreign": foreignToken, "invalidated": droppedUpTo(100), "failing": failed("http_503"),
	} {
		s := describe("prod", recordOf(mend), defaulted(t, Policy{}), "c1", "")
		marshaled, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if out := fmt.Sprintf("%v %+v %#v %s", s, s, s, marshaled); strings.Contains(out, "t0ken-text") {
			t.Errorf("%s: the token is in it: %s", name, out)
		}
	}
}

func TestMillisecondsAreWholeNumbers(t *testing.T) {
	for in, want := range map[time.Duration]string{0: "0", 1999 * time.Microsecond: "1", time.Hour: "3600000"} {
		got, err := json.Marshal(Milliseconds(in))
		if err != nil || string(got) != want {
			t.Errorf("%v: %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestStatusSaysThatAPersonMustLogIn(t *testing.T) {
	const refused = "the refresh token was refused (invalid_grant)"
	for _, c := range []struct {
		name    string
		grant   *store.Grant
		login   string
		state   State
		code    string
		says    string // in the failure's message or, without a code, in the reason
		without string // in the reason
	}{
		{"refused", &store.Grant{Version: 1, Refused: 2, Reason: "invalid_grant"}, refused, StateFailing, "invalid_grant", "a person must log in: " + refused, "log in"},
		{"none", nil, "there is no refresh token", StateMissing, "", "a person must log in: there is no refresh token", "invalid_grant"},
		{"logged out", &store.Grant{Version: 2, Refused: 2, Reason: store.ReasonLogout}, "somebody has logged out", StateMissing, "", "a person must log in: somebody has logged out", "invalid_grant"},
	} {
		r := &store.Record{Grant: c.grant}
		s := describe("prod", r, defaulted(t, Policy{}), "c1", c.login)
		said := *s.Reason
		if strings.Contains(said, c.without) {
			t.Errorf("%s: the reason is %q", c.name, said)
		}
		if c.code != "" {
			if s.Failure.Code == nil || *s.Failure.Code != c.code {
				t.Fatalf("%s: the failure is %+v", c.name, s.Failure)
			}
			said = *s.Failure.Message
		} else if s.Failure.Code != nil {
			t.Errorf("%s: the failure's code is %q", c.name, *s.Failure.Code)
		}
		if s.State != c.state || !strings.Contains(said, c.says) {
			t.Errorf("%s: %s, %q; want %s, %q", c.name, s.State, said, c.state, c.says)
		}
	}
}
