package faults_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/store"
)

// epoch is when the hand-written histories begin.
var epoch = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// at is an instant of a hand-written history, in milliseconds since its beginning.
func at(ms int) int64 { return epoch.Add(time.Duration(ms) * time.Millisecond).UnixNano() }

// issuedAt is the version that is issued at an instant.
func issuedAt(ms int) store.Version { return store.Version(at(ms) / 1000) }

// answered is an answer with the token of the version issued at an instant, which lives for 3 s.
func answered(replica string, ms, issued int) event {
	return event{
		Kind: kindAnswer, Replica: replica, Process: int(replica[1]), Caller: "patient",
		At: at(ms), End: at(ms + 1), Deadline: at(ms + 1000), Version: issuedAt(issued), Digest: tokenOf(issued), Expires: at(issued + 3000), Left: at(issued+3000) - at(ms) - int64(time.Millisecond),
	}
}

func tokenOf(issued int) string { return "token of " + time.Duration(issued).String() }

func failedAnswer(replica string, ms int, err string) event {
	return event{
		Kind: kindAnswer, Replica: replica, Process: int(replica[1]), Caller: "patient",
		At: at(ms), End: at(ms + 1), Deadline: at(ms + 1000), Err: err,
	}
}

// refreshed is all there is of a refresh whose version is issued at an instant, and which takes 100 ms.
func refreshed(replica string, ms int) history {
	v := issuedAt(ms)
	return history{
		{Kind: kindGranted, Replica: replica, At: at(ms - 1)},
		{Kind: kindIssued, Replica: replica, At: at(ms), Version: v},
		{Kind: kindCall, Replica: replica, At: at(ms + 1), End: at(ms + 99), Version: v, Digest: tokenOf(ms), Life: int64(3 * time.Second)},
		{Kind: kindStored, Replica: replica, At: at(ms + 100), Version: v},
		{Kind: kindFreeing, Replica: replica, At: at(ms + 100)},
		{Kind: kindFreed, Replica: replica, At: at(ms + 101)},
	}
}

// good is a history without fault: a first token, a second one behind the callers.
func good() history {
	return slices.Concat(
		refreshed("r1", 0),
		history{answered("r1", 110, 0), answered("r2", 120, 0), answered("r1", 1000, 0), answered("r2", 1500, 0)},
		refreshed("r2", 2000),
		history{
			answered("r2", 2110, 2000), answered("r1", 2120, 2000), answered("r2", 3800, 2000), answered("r1", 3900, 2000),
			{Kind: kindBye, Replica: "r1", At: at(4000)},
			{Kind: kindBye, Replica: "r2", At: at(4000)},
		},
	)
}

func expected() expectation {
	return expectation{
		margin: 400 * time.Millisecond, lease: 2 * time.Second, begin: at(1000), calls: 1, before: issuedAt(0), quiet: at(2050),
		converge: time.Second, stale: 500 * time.Millisecond, living: []string{"r1", "r2"},
		errs: func(event) bool { return false },
	}
}

func TestAGoodHistoryBreaksNoRule(t *testing.T) {
	t.Parallel()
	if list := expected().check(good()); len(list) > 0 {
		t.Errorf("%v", list)
	}
	if took, ok := expected().converged(good()); !ok || took != 71*time.Millisecond {
		t.Errorf("it converged after %v, %v, want 71ms", took, ok)
	}
}

// Every rule has a history that breaks it, and it alone.
func TestABadHistoryIsFlagged(t *testing.T) {
	t.Parallel()
	stop := event{Kind: kindStop, Replica: "r1", At: at(1000), End: at(5000)}
	tests := []struct {
		name, rule string
		spoil      func(history) history
		expect     func(*expectation)
	}{
		{"a token in its margin", "life", adding(answered("r3", 2700, 0)), func(x *expectation) { x.stale = time.Second }},
		{"a life longer than the endpoint's", "life", changing(func(e *event) {
			if e.Kind == kindAnswer && e.At == at(1000) {
				e.Expires += int64(time.Second)
			}
		}), nil},
		{"more life left than there is", "life", changing(func(e *event) {
			if e.Kind == kindAnswer && e.At == at(1000) {
				e.Left += int64(time.Second)
			}
		}), nil},
		{"a token that the endpoint never gave", "origin", changing(func(e *event) {
			if e.Kind == kindAnswer && e.At == at(1000) {
				e.Digest = "made up"
			}
		}), nil},
		{"a token under another's version", "origin", changing(func(e *event) {
			if e.Kind == kindAnswer && e.At == at(1000) {
				e.Version++
				e.Digest = tokenOf(0)
			}
		}), func(x *expectation) { x.errs = nil }},
		{"a token before it was fetched", "origin", adding(answered("r1", 1600, 2000)), nil},
		{"a version that goes back", "order", adding(answered("r2", 2300, 0)), nil},
		{"a late write", "writes", adding(event{Kind: kindStored, Replica: "r3", At: at(2200), Version: issuedAt(1900)}), nil},
		{"an old version long after the faults", "stale", adding(answered("r3", 2595, 0)), func(x *expectation) { x.stale = 300 * time.Millisecond }},
		{
			"an invalidated version where it was invalidated", "invalidated",
			adding(event{Kind: kindDropped, Replica: "r1", At: at(900), End: at(950), Version: issuedAt(0)}), nil,
		},
		{
			"an invalidated version elsewhere, much later", "invalidated",
			adding(event{Kind: kindDropped, Replica: "r3", At: at(2200), End: at(2210), Version: issuedAt(2000)}), nil,
		},
		{
			"an error in spite of a token", "served", adding(failedAnswer("r2", 1200, "redis")),
			func(x *expectation) { x.errs = nil },
		},
		{"a wait in spite of a token", "served", adding(event{
			Kind: kindAnswer, Replica: "r1", Process: int('1'), At: at(1010), End: at(1300), Deadline: at(1300), Err: "wait",
		}), nil},
		{"two holders", "lease", adding(event{Kind: kindGranted, Replica: "r3", At: at(2030)}), nil},
		{"two holders, where a third has freed the lease", "lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindFreeing, Replica: "r2", At: at(2300)},
			event{Kind: kindFreed, Replica: "r2", At: at(2301)}, event{Kind: kindGranted, Replica: "r1", At: at(2310)}), nil},
		{"two holders after a renewal", "lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindRenewed, Replica: "r3", At: at(3000)},
			event{Kind: kindGranted, Replica: "r1", At: at(4500)}), nil},
		{"two holders after a renewal whose reply was late", "lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindRenewed, Replica: "r3", Came: at(3000), At: at(3200)},
			event{Kind: kindGranted, Replica: "r1", At: at(4900)}), nil},
		{"two holders, where the second one gives up what he had asked for before", "lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200), Lease: "r3|A"}, event{Kind: kindFreeing, Replica: "r3", At: at(2250), Lease: "r3|B"},
			event{Kind: kindGranted, Replica: "r1", At: at(2300), Lease: "r1|A"}), nil},
		{"a holder who is granted another lease", "lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200), Lease: "r3|A"}, event{Kind: kindGranted, Replica: "r3", At: at(2300), Lease: "r3|B"}), nil},
		{
			"two at the endpoint", "overlap", adding(event{Kind: kindCall, Replica: "r3", At: at(2050), End: at(2070), Version: issuedAt(2000) + 1}),
			func(x *expectation) { x.calls = 2 },
		},
		{"more calls than needed", "calls", adding(event{Kind: kindCall, Replica: "r3", At: at(1900), End: at(1910), Version: issuedAt(1890)}), nil},
		{"a refresh token that is used twice", "once", changing(func(e *event) {
			if e.Kind == kindCall {
				e.Refresh = "the same"
			}
		}), nil},
		{"a call while the token is young", "needless", adding(event{Kind: kindCall, Replica: "r3", At: at(400), End: at(410), Version: issuedAt(390)}), nil},
		{"a call while the token is young, after an older one was dropped", "needless", adding(
			event{Kind: kindErased, Replica: "r3", At: at(300), Version: issuedAt(-1)},
			event{Kind: kindCall, Replica: "r3", At: at(400), End: at(410), Version: issuedAt(390)}), nil},
		{"a call within a backoff", "backoff", adding(
			event{Kind: kindFailed, Replica: "r1", At: at(1700), Version: issuedAt(1650), RetryAt: at(2500), What: "http_503"}), nil},
		{"an answer after its deadline", "deadline", changing(func(e *event) {
			if e.Kind == kindAnswer && e.At == at(3900) {
				e.End = e.Deadline + int64(1100*time.Millisecond)
			}
		}), nil},
		{"an answer after its deadline in spite of a stop", "deadline", adding(stop, event{
			Kind: kindAnswer, Replica: "r1", At: at(500), End: at(7200), Deadline: at(2000), Err: "wait",
		}), nil},
		{"an error that nothing explains", "errors", adding(failedAnswer("r3", 2200, "redis")), nil},
		{"a wait that ends too soon", "errors", adding(failedAnswer("r3", 2200, "wait")), nil},
		{"no newer token", "convergence", removing(func(e event) bool { return e.Kind == kindAnswer && e.Replica == "r1" && e.At > at(2000) }), nil},
		{"a newer token too late", "convergence", removing(func(e event) bool { return e.Replica == "r1" && e.At == at(2120) }), nil},
		{"two different tokens", "convergence", changing(func(e *event) {
			if e.Kind == kindAnswer && e.Replica == "r1" && e.At > at(2000) {
				*e = failedAnswer("r1", 2120, "wait")
				e.End = e.Deadline
			}
		}), nil},
		{"one newer token that isn't stored", "convergence", removing(func(e event) bool { return e.Kind == kindStored && e.At > at(2000) }), nil},
		{"one who hangs", "end", removing(func(e event) bool { return e.Kind == kindBye && e.Replica == "r2" }), nil},
	}
	flagged := map[string]bool{}
	for _, tt := range tests {
		flagged[tt.rule] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := expected()
			if tt.expect != nil {
				tt.expect(&x)
			}
			list := x.check(tt.spoil(good()))
			if len(list) == 0 {
				t.Fatal("it passes")
			}
			for _, v := range list {
				if v.rule != tt.rule {
					t.Errorf("want the rule %q alone: %v", tt.rule, v)
				}
			}
		})
	}
	for _, r := range rules {
		if !flagged[r.name] {
			t.Errorf("no bad history for the rule %q", r.name)
		}
	}
}

// What a fault explains breaks no rule.
func TestAHistoryThatAFaultExplainsIsNotFlagged(t *testing.T) {
	t.Parallel()
	lost := event{Kind: kindLost, At: at(2130), End: at(2140)}
	for _, tt := range []struct {
		name   string
		spoil  func(history) history
		expect func(*expectation)
	}{
		{"a version that goes back once Redis has lost its history", adding(lost, answered("r2", 2300, 0)), nil},
		{"an invalidated version once Redis has lost its history", adding(
			event{Kind: kindDropped, Replica: "r3", At: at(2100), End: at(2110), Version: issuedAt(2000)}, lost), nil},
		{"a holder who has asked again", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200), Lease: "r3|A"}, event{Kind: kindGranted, Replica: "r3", At: at(2300), Lease: "r3|A"}), nil},
		{"another holder once the lease has run out", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindGranted, Replica: "r1", At: at(4250)}), nil},
		{"another holder once the lease has run out, since it was asked to renew it and not since its late reply", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindRenewed, Replica: "r3", Came: at(3000), At: at(3200)},
			event{Kind: kindGranted, Replica: "r1", At: at(5010)}), nil},
		{"another holder once Redis has forgotten the lease", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2110)}, lost, event{Kind: kindGranted, Replica: "r1", At: at(2250)}), nil},
		{"another holder, whose grant before Redis forgot it is noted after that", adding(lost,
			event{Kind: kindGranted, Replica: "r3", At: at(2145)}, event{Kind: kindGranted, Replica: "r1", At: at(2150)}), nil},
		{"another holder after one who had given up before he was granted the lease", adding(
			event{Kind: kindAsked, Replica: "r3", At: at(2110)}, event{Kind: kindFreeing, Replica: "r3", At: at(2120)},
			event{Kind: kindGranted, Replica: "r3", At: at(2200)}, event{Kind: kindGranted, Replica: "r1", At: at(2210)}), nil},
		{"another holder granted while Redis was forgetting", adding(
			event{Kind: kindGranted, Replica: "r3", At: at(2135)}, lost, event{Kind: kindGranted, Replica: "r1", At: at(2250)}), nil},
		{
			"an error once the token was dropped", adding(
				event{Kind: kindErased, Replica: "r3", At: at(1100), Version: issuedAt(1000)}, failedAnswer("r1", 1200, "redis")),
			func(x *expectation) { x.errs = nil },
		},
		{
			"two at the endpoint when the lease was taken away",
			adding(event{Kind: kindCall, Replica: "r3", At: at(2050), End: at(2070), Version: issuedAt(2000) + 1}),
			func(x *expectation) { x.calls, x.overlap = 2, true },
		},
		{"a call while the token was young when it was lost", adding(
			event{Kind: kindLost, At: at(300), End: at(320)}, event{Kind: kindCall, Replica: "r3", At: at(400), End: at(410), Version: issuedAt(390)}), nil},
		{"a call while the token was young when it was invalidated", adding(
			event{Kind: kindErased, Replica: "r3", At: at(300), Version: issuedAt(300)},
			event{Kind: kindCall, Replica: "r3", At: at(400), End: at(410), Version: issuedAt(390)}), nil},
		{"a call after one who could not reach the endpoint", adding(
			event{Kind: kindFailed, Replica: "r1", At: at(1700), Version: issuedAt(1650), RetryAt: at(2500), What: store.CodeUnreachable}), nil},
		{"an answer after its deadline in a process that was stopped", adding(
			event{Kind: kindStop, Replica: "r1", At: at(1000), End: at(5000)},
			event{Kind: kindAnswer, Replica: "r1", At: at(900), End: at(5100), Deadline: at(1400), Err: "wait"}), nil},
		{"a wait that ends with its deadline", adding(event{
			Kind: kindAnswer, Replica: "r1", At: at(900), End: at(1401), Deadline: at(1400), Err: "wait",
		}), nil},
		{"a token in its margin once its caller was stopped", adding(event{
			Kind: kindAnswer, Replica: "r1", At: at(2119), End: at(9000), Deadline: at(9000), Version: issuedAt(2000), Digest: tokenOf(2000),
			Expires: at(5000),
		}), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := expected()
			if tt.expect != nil {
				tt.expect(&x)
			}
			if list := x.check(tt.spoil(good())); len(list) > 0 {
				t.Errorf("%v", list)
			}
		})
	}
}

func TestAStallIsTheMachinesUnlessAFaultOfOursExplainsIt(t *testing.T) {
	t.Parallel()
	h := history{
		{Kind: kindStall, Replica: "r1", At: at(1000), End: at(1300)},
		{Kind: kindStop, Replica: "r1", At: at(1010), End: at(1290)},
		{Kind: kindStall, Replica: "r2", At: at(1000), End: at(1300)},
		{Kind: kindStall, Replica: redisName, At: at(2000), End: at(2300)},
		{Kind: kindPause, Replica: redisName, At: at(2010), End: at(2290)},
		{Kind: kindStall, Replica: redisName, At: at(3000), End: at(3300)},
		{Kind: kindStall, Replica: testName, At: at(100), End: at(400)},
	}
	got := h.stalled(at(1000))
	if len(got) != 2 || got[0].Replica != "r2" || got[1].At != at(3000) {
		t.Errorf("%+v", got)
	}
}

func adding(events ...event) func(history) history {
	return func(h history) history { return slices.Concat(h, events) }
}

func removing(which func(event) bool) func(history) history {
	return func(h history) history { return slices.DeleteFunc(h, which) }
}

func changing(change func(*event)) func(history) history {
	return func(h history) history {
		for i := range h {
			change(&h[i])
		}
		return h
	}
}

func TestATraceIsShortAndHasNoSecret(t *testing.T) {
	t.Parallel()
	h := good()
	for ms := 2200; ms < 3800; ms += 2 {
		h = append(h, answered("r1", ms, 2000))
	}
	h = append(h, failedAnswer("r1", 3950, "redis"), event{Kind: kindFault, Replica: "r1", At: at(2100), End: at(2200), What: "killed"})
	trace := h.trace()
	if n := strings.Count(trace, "\n"); n > 25 {
		t.Errorf("%d lines:\n%s", n, trace)
	}
	for _, want := range []string{"802 × v2", "error redis", "killed for 0.100s", "stored    v2"} {
		if !strings.Contains(trace, want) {
			t.Errorf("%q is missing:\n%s", want, trace)
		}
	}
	if strings.Contains(trace, "token of") {
		t.Errorf("it shows digests:\n%s", trace)
	}
}

func TestAnEventSurvivesItsLine(t *testing.T) {
	t.Parallel()
	e := answered("r1", 110, 0)
	line, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var got event
	if err := json.Unmarshal(line, &got); err != nil || got != e {
		t.Errorf("%s is read as %+v, %v", line, got, err)
	}
}

// A first look that takes the lease is both.
func TestAClaimIsALeaseAndAVersion(t *testing.T) {
	t.Parallel()
	got := outcomes(faultproxy.Frame{
		Step: faultproxy.Claim, Args: []string{"EVALSHA", "…", "2", "…", "…", "r1|A", "3000"}, Reply: append(make([]string, 11), "7", "-2"),
	})
	if want := []event{{Kind: kindGranted, Lease: "r1|A"}, {Kind: kindIssued, Version: 7}}; !slices.Equal(got, want) {
		t.Errorf("%+v; want %+v", got, want)
	}
}

// What the history says of Redis is read from its replies.
func TestOutcomesAreReadFromReplies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   faultproxy.Frame
		want event // Kind "": none
	}{
		{"looked", faultproxy.Frame{Step: faultproxy.Claim, Reply: make([]string, 13)}, event{}},
		{
			"granted",
			faultproxy.Frame{Step: faultproxy.Acquire, Args: []string{"EVALSHA", "…", "1", "…", "r1|A", "3000", "…"}, Reply: []string{"acquired"}},
			event{Kind: kindGranted, Lease: "r1|A"},
		},
		{"taken", faultproxy.Frame{Step: faultproxy.Acquire, Reply: []string{"busy", "replica|x", "3000"}}, event{}},
		{"issued", faultproxy.Frame{Step: faultproxy.Issue, Reply: []string{"issued", "7", "7"}}, event{Kind: kindIssued, Version: 7}},
		{"changed", faultproxy.Frame{Step: faultproxy.Issue, Reply: []string{"changed"}}, event{}},
		{"stored", faultproxy.Frame{
			Step: faultproxy.Put, Reply: []string{"stored", "3000"}, Args: []string{"EVALSHA", "sha", "3", "t", "m", "f", "7", "7", "3000"},
		}, event{Kind: kindStored, Version: 7}},
		{"older", faultproxy.Frame{Step: faultproxy.Put, Reply: []string{"older", "9"}, Args: []string{"EVALSHA", "sha", "3", "t", "m", "f", "7"}}, event{}},
		{"failed", faultproxy.Frame{
			Step: faultproxy.Fail, Reply: []string{"failed", "2026-11-23T12:00:01.500Z", "1"},
			Args: []string{"EVALSHA", "sha", "2", "m", "f", "7", "300", "2000", "channel", "prod", "0", "http_503", "status", "503"},
		}, event{Kind: kindFailed, Version: 7, RetryAt: at(1500), What: "http_503"}},
		{"dropped", faultproxy.Frame{Step: faultproxy.Invalidate, Reply: []string{"dropped", "7"}}, event{Kind: kindErased, Version: 7, At: 7000}},
		{"released", faultproxy.Frame{Step: faultproxy.Release, Reply: []string{"1"}}, event{Kind: kindFreed}},
		{"not ours", faultproxy.Frame{Step: faultproxy.Release, Reply: []string{"0"}}, event{}},
	} {
		var want []event
		if tt.want.Kind != "" {
			want = []event{tt.want}
		}
		if got := outcomes(tt.in); !slices.Equal(got, want) {
			t.Errorf("%s: %+v; want %+v", tt.name, got, want)
		}
	}
}
