package manager

import (
	"testing"
	"time"

	"github.com/onetoken/onetoken/store"
)

// failed adds a failure to a record, which binds all for a minute as mend leaves it.
func failed(code string, mend ...func(*store.Failure)) func(*store.Record) {
	return func(r *store.Record) {
		r.Failure = &store.Failure{
			Code: code, Attempt: 1, Version: 101, ReportedBy: "replica-2", Config: "c1", Credential: "aaaa",
			FailedAt: r.Now.Add(-time.Second), RetryAt: r.Now.Add(time.Minute),
		}
		for _, f := range mend {
			f(r.Failure)
		}
	}
}

func retryIn(d time.Duration) func(*store.Failure) {
	return func(f *store.Failure) { f.RetryAt = redisNow.Add(d) }
}

func reportedBy(names string) func(*store.Failure) {
	return func(f *store.Failure) { f.ReportedBy = names }
}

func ofConfig(fingerprint, credential string) func(*store.Failure) {
	return func(f *store.Failure) { f.Config, f.Credential = fingerprint, credential }
}

func locked(ttl time.Duration) func(*store.Record) {
	return func(r *store.Record) { r.Lock = &store.Lock{Holder: "replica-2", TTL: ttl} }
}

func issued(v store.Version) func(*store.Record) {
	return func(r *store.Record) { r.Mark.Issued = v }
}

func TestDecide(t *testing.T) {
	serve, fail, holdBack := decision{step: stepServe}, decision{step: stepFail}, decision{step: stepHoldBack}
	yield, acquire := decision{step: stepYield}, decision{step: stepAcquire}
	wait := func(d time.Duration) decision { return decision{step: stepWait, pause: d} }
	soon := func(d time.Duration) decision { return decision{step: stepWait, pause: d, soon: true} }
	unavailable := failed("http_503")
	record := recordOf
	for _, c := range []struct {
		name string
		view view // its policy, fingerprint and credential are filled in
		want decision
	}{
		// A token that is usable and new enough is the answer, whatever else there is.
		{"a usable token", view{record: record()}, serve},
		{"a usable token above the one known", view{record: record(), above: 99}, serve},
		{"a usable token, and a failure", view{record: record(unavailable)}, serve},
		{"a usable token, and the lease held", view{record: record(locked(time.Second))}, serve},
		{"a usable token above the one known, for a refresh", view{record: record(), above: 99, explicit: true}, serve},
		{"a usable token, for a replica that holds back", view{record: record(), localPause: time.Minute}, serve},

		// What isn't usable, or isn't above the one known, is fetched.
		{"no token", view{record: record(noToken)}, acquire},
		{"an unreadable token", view{record: record(unreadableToken)}, acquire},
		{"an invalidated token", view{record: record(droppedUpTo(100))}, acquire},
		{"a token about to expire", view{record: record(age(time.Hour - time.Second))}, acquire},
		{"the token known", view{record: record(), above: 100}, acquire},
		{"one below the token known", view{record: record(), above: 200}, acquire},
		{"the token known, for a refresh", view{record: record(), above: 100, explicit: true}, acquire},

		// A failure that binds comes before a held lease: its holder hasn't released yet.
		{"a failure", view{record: record(noToken, unavailable)}, fail},
		{"a failure, and the lease held", view{record: record(noToken, unavailable, locked(time.Second))}, fail},
		{"a failure, and the token known", view{record: record(unavailable), above: 100}, fail},
		{"a failure, and a foreign token", view{record: record(foreignToken, unavailable), hasUsable: true}, fail},
		{"a failure, for a replica that holds back", view{record: record(noToken, unavailable), localPause: time.Minute}, fail},
		{"a failure whose backoff is over", view{record: record(noToken, failed("http_503", retryIn(0)))}, acquire},
		{"a failure since a refresh was called", view{record: record(noToken, unavailable), explicit: true}, fail},
		{"a failure before a refresh was called", view{record: record(noToken, unavailable), explicit: true, failureIsOld: true}, acquire},
		{"an older failure, and the lease held", view{record: record(noToken, unavailable, locked(time.Second)), explicit: true, failureIsOld: true}, wait(time.Second)},
		{"a failure with an implausible retry_at", view{record: record(noToken, failed("http_503", retryIn(time.Hour)))}, acquire},
		{"an implausible retry_at, and the lease held", view{record: record(noToken, failed("http_503", retryIn(time.Hour)), locked(time.Second))}, wait(time.Second)},
		{"a refusal", view{record: record(noToken, failed("invalid_client"))}, fail},
		{"a refusal of another configuration", view{record: record(noToken, failed("invalid_client", ofConfig("c2", "aaaa")))}, acquire},
		{"a refusal of another secret", view{record: record(noToken, failed("invalid_client", ofConfig("c1", "bbbb")))}, acquire},
		{"an outage that another configuration met", view{record: record(noToken, failed("http_503", ofConfig("c2", "bbbb")))}, fail},
		{"one replica that can't connect", view{record: record(noToken, failed("unreachable", reportedBy("a")))}, acquire},
		{"two replicas that can't connect", view{record: record(noToken, failed("unreachable", reportedBy("a,b")))}, acquire},
		{"three replicas that can't connect", view{record: record(noToken, failed("unreachable", reportedBy("a,b,c")))}, fail},

		// Whoever holds the lease is waited for.
		{"the lease held", view{record: record(noToken, locked(5*time.Second))}, wait(5 * time.Second)},
		{"the lease held, and the token known", view{record: record(locked(5 * time.Second)), above: 100}, soon(5 * time.Second)},
		{"the lease held, for a refresh", view{record: record(locked(5 * time.Second)), above: 100, explicit: true}, soon(5 * time.Second)},
		{"the lease held, for a replica that holds back", view{record: record(noToken, locked(5*time.Second)), localPause: time.Minute}, wait(5 * time.Second)},
		{"the lease held, and a foreign token that isn't needed", view{record: record(foreignToken, locked(5*time.Second)), hasUsable: true}, soon(5 * time.Second)},
		{"the lease held for a version above the token", view{record: record(issued(101), locked(5*time.Second)), above: 100, explicit: true}, wait(5 * time.Second)},
		{"the lease held, and the last version's failure is old", view{record: record(issued(101), unavailable, locked(time.Second)), above: 100, explicit: true, failureIsOld: true}, soon(time.Second)},
		{"the lease about to end", view{record: record(noToken, locked(0))}, wait(0)},
		{"a lock without TTL", view{record: record(noToken, locked(-1))}, acquire},
		{"a lock without TTL, and a failure", view{record: record(noToken, unavailable, locked(-1))}, fail},

		// A foreign token is never served, and replaced only by those who need their own, when it is old enough.
		{"a foreign token, and no need", view{record: record(foreignToken), above: 50, hasUsable: true, replaceAfter: time.Second}, yield},
		{"a foreign token, no need, and held back", view{record: record(foreignToken), hasUsable: true, localPause: time.Minute}, yield},
		{"an old foreign token", view{record: record(foreignToken), replaceAfter: time.Minute}, acquire},
		{"an older foreign token", view{record: record(foreignToken), replaceAfter: 10 * time.Second}, acquire},
		{"a young foreign token", view{record: record(foreignToken, age(10*time.Second)), replaceAfter: time.Minute}, wait(50 * time.Second)},
		{"a foreign token from the future", view{record: record(foreignToken, age(-time.Hour)), replaceAfter: time.Minute}, acquire},
		{"a young foreign token, for a refresh", view{record: record(foreignToken, age(10*time.Second)), replaceAfter: time.Minute, explicit: true, hasUsable: true}, wait(50 * time.Second)},
		{"an old foreign token, for a refresh", view{record: record(foreignToken), replaceAfter: time.Second, explicit: true, hasUsable: true}, acquire},
		{"a young foreign token, for a replica that holds back", view{record: record(foreignToken, age(10*time.Second)), replaceAfter: time.Minute, localPause: time.Second}, wait(50 * time.Second)},
		{"a foreign token that was invalidated", view{record: record(foreignToken, droppedUpTo(100)), hasUsable: true, replaceAfter: time.Minute}, acquire},
		{"a foreign token about to expire", view{record: record(foreignToken, age(time.Hour-time.Second)), hasUsable: true, replaceAfter: 2 * time.Hour}, acquire},

		// A replica that can't reach the endpoint leaves it to others, but for a refresh.
		{"held back", view{record: record(noToken), localPause: time.Millisecond}, holdBack},
		{"held back, with an old foreign token", view{record: record(foreignToken), localPause: time.Second, replaceAfter: time.Second}, holdBack},
		{"held back, with others that can't connect", view{record: record(noToken, failed("unreachable", reportedBy("a,b"))), localPause: time.Second}, holdBack},
		{"held back, and a refresh", view{record: record(noToken), localPause: time.Minute, explicit: true}, acquire},
		{"no longer held back", view{record: record(noToken), localPause: -time.Second}, acquire},
	} {
		c.view.policy, c.view.fingerprint, c.view.credential = defaulted(t, Policy{}), "c1", "aaaa"
		if got := decide(c.view); got != c.want {
			t.Errorf("%s: %+v; want %+v", c.name, got, c.want)
		}
	}
}

func TestNothingIsEverServedAtOrBelowTheVersionKnown(t *testing.T) {
	for _, above := range []Version{100, 101, 1 << 50} {
		v := view{record: recordOf(), policy: defaulted(t, Policy{}), fingerprint: "c1", above: above}
		if got := decide(v); got.step == stepServe {
			t.Errorf("version 100 is served to one who knows %v", above)
		}
	}
	v := view{record: recordOf(), policy: defaulted(t, Policy{}), fingerprint: "c1", above: anyVersion}
	if got := decide(v); got.step != stepServe {
		t.Errorf("%+v to one who takes any version; want it served", got)
	}
}

func TestBinds(t *testing.T) {
	for _, c := range []struct {
		name   string
		record *store.Record
		want   bool
	}{
		{"none", recordOf(), false},
		{"a millisecond left", recordOf(failed("http_503", retryIn(time.Millisecond))), true},
		{"over", recordOf(failed("http_503", retryIn(0))), false},
		{"long over", recordOf(failed("http_503", retryIn(-time.Hour))), false},
		{"as far off as can be", recordOf(failed("http_429", retryIn(15*time.Minute))), true},
		{"farther off than can be", recordOf(failed("http_429", retryIn(15*time.Minute+time.Millisecond))), false},
		{"a year off", recordOf(failed("invalid_client", retryIn(365*day))), false},
		{"a timeout", recordOf(failed("timeout")), true},
		{"no token in the reply", recordOf(failed("bad_reply")), true},
		{"a redirect", recordOf(failed("http_302")), true},
		{"an unknown code", recordOf(failed("whatever")), true},
		{"a refusal of both", recordOf(failed("invalid_scope")), true},
		{"a refusal of neither", recordOf(failed("invalid_scope", ofConfig("c2", "bbbb"))), false},
		{"a refusal of nobody", recordOf(failed("invalid_scope", ofConfig("", ""))), false},
		{"unreachable for nobody", recordOf(failed("unreachable", reportedBy(""))), false},
		{"unreachable for three, over", recordOf(failed("unreachable", reportedBy("a,b,c"), retryIn(0))), false},
		{"unreachable for three of another configuration", recordOf(failed("unreachable", reportedBy("a,b,c"), ofConfig("c2", "bbbb"))), true},
	} {
		if got := binds(c.record, defaulted(t, Policy{}), "c1", "aaaa"); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestReportersAreTheLastThreeDifferentInARow(t *testing.T) {
	unreachable := func(names string) *store.Failure { return &store.Failure{Code: "unreachable", ReportedBy: names} }
	for _, c := range []struct {
		name string
		prev *store.Failure
		want string
	}{
		{"the first", nil, "me"},
		{"after a failure of another kind", &store.Failure{Code: "http_503", ReportedBy: "a"}, "me"},
		{"after nobody", unreachable(""), "me"},
		{"after another", unreachable("a"), "a,me"},
		{"after two others", unreachable("a,b"), "a,b,me"},
		{"after three others", unreachable("a,b,c"), "b,c,me"},
		{"after many, planted", unreachable("a,b,c,d,e"), "d,e,me"},
		{"again", unreachable("me"), "me"},
		{"again, after another", unreachable("me,a"), "a,me"},
		{"again, among three", unreachable("a,me,b"), "a,b,me"},
	} {
		if got := withReporter(c.prev, "me"); got != c.want {
			t.Errorf("%s: %q; want %q", c.name, got, c.want)
		}
	}
}

func TestAttemptNumber(t *testing.T) {
	prev := func(code, config, credential string, attempt int) *store.Failure {
		return &store.Failure{Code: code, Config: config, Credential: credential, Attempt: attempt}
	}
	for _, c := range []struct {
		name string
		prev *store.Failure
		want int
	}{
		{"the first", nil, 1},
		{"the second", prev("http_503", "c1", "aaaa", 1), 2},
		{"the tenth", prev("invalid_client", "c1", "aaaa", 9), 10},
		{"after a failure of another kind", prev("timeout", "c1", "aaaa", 3), 4},
		{"after another configuration's", prev("http_503", "c2", "aaaa", 3), 4},
		{"after another configuration's refusal", prev("invalid_client", "c2", "aaaa", 3), 1},
		{"after another secret's", prev("invalid_client", "c1", "bbbb", 3), 1},
		{"after a replica that couldn't connect", prev("unreachable", "c1", "aaaa", 3), 1},
	} {
		if got := attemptNumber(c.prev, "c1", "aaaa"); got != c.want {
			t.Errorf("%s: %d; want %d", c.name, got, c.want)
		}
	}
}

func TestConflictGrowsFromASecondToAMinute(t *testing.T) {
	var c conflict
	now := time.Hour
	for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		want := time.Duration(seconds) * time.Second
		if got := c.wait(now); got != want {
			t.Errorf("after %d replacements: %v; want %v", i, got, want)
		}
		c = c.grown(now)
		now += want
	}
}

func TestConflictIsForgottenAfterTwoMinutes(t *testing.T) {
	c := conflict{pause: 32 * time.Second, replaced: time.Hour}
	for _, row := range []struct{ later, want time.Duration }{
		{0, 32 * time.Second},
		{2 * time.Minute, 32 * time.Second},
		{2*time.Minute + time.Millisecond, time.Second},
		{day, time.Second},
	} {
		if got := c.wait(time.Hour + row.later); got != row.want {
			t.Errorf("%v after the last replacement: %v; want %v", row.later, got, row.want)
		}
	}
	if got, want := c.grown(2*time.Hour), (conflict{2 * time.Second, 2 * time.Hour}); got != want {
		t.Errorf("replaced again an hour later: %+v; want %+v", got, want)
	}
}

// Who waits for somebody else's explicit refresh with a refused refresh token learns what helps, too.
func TestAFailureThatBindsSaysThatAPersonMustLogIn(t *testing.T) {
	r := recordOf(noToken, failed("http_503"))
	r.Grant = &store.Grant{Version: 90, Refused: 101, Reason: "invalid_grant", Client: "client"}
	v := view{record: r, explicit: true, policy: defaulted(t, Policy{}), grant: grantView{used: true, client: "client"}}
	got := decide(v)
	if want := (decision{step: stepFail, reason: v.grant.needsLogin(r.Grant)}); got != want || got.reason == "" {
		t.Errorf("got %+v, want %+v, with a reason", got, want)
	}
}
