package manager

import (
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/manager/endpoint"
	"github.com/onetoken/onetoken/store"
)

// unreachableQuorum is how many replicas in a row must fail to reach the endpoint before that binds all.
const unreachableQuorum = 3

// A view is all that the next step of a flight depends on: what was read, who reads it and what is asked for.
type view struct {
	record      *store.Record
	sent        time.Duration // when the read was sent
	policy      Policy
	fingerprint string
	credential  string

	above        Version       // a version above this one is asked for
	base         Version       // the same, without those who want more than any usable token
	failureIsOld bool          // an explicit refresh was called after the failure
	explicit     bool          // an explicit refresh is asked for
	hasUsable    bool          // this replica has a token that it can hand out
	local        local         // what this replica knows alone
	localPause   time.Duration // how long it holds back by itself
	replaceAfter time.Duration // how old a token of another configuration must be to be replaced
	grant        grantView
}

// plainly is v without those who want more than any usable token.
func (v view) plainly() view {
	v.above, v.explicit, v.failureIsOld = v.base, false, false
	return v
}

// A step is what a flight does next.
type step int

const (
	stepServe     step = iota // the token read is the answer
	stepFail                  // the failure read is the answer
	stepLogin                 // no refresh token can be used until a person brings one
	stepHoldBack              // this replica holds back by itself, and nobody else is at it
	stepYield                 // a token of another configuration, or other keys, is stored, and this replica can do without its own
	stepWait                  // another is at it, or it is too early: look again later
	stepUnwritten             // this replica has a newer refresh token, which Redis doesn't take
	stepAcquire               // try the lease
)

// A decision is a step with, for stepWait, how long at most and whether it may be over in a moment; for stepLogin and, where one
// must, for stepFail, why a person must log in.
type decision struct {
	step   step
	pause  time.Duration
	soon   bool
	reason string
}

// decide is the whole of the flow's policy. A failure comes before a held lock: those who wait for its holder get its
// answer though the holder hasn't released yet.
func decide(v view) decision {
	r := v.record
	what := judge(r, v.policy, v.fingerprint)
	login := v.grant.needsLogin(r.Grant)
	switch {
	case what == usable && r.Token.Version > v.above:
		return decision{step: stepServe}
	case login != "" && (!v.explicit || !v.grant.mayTry(r.Grant)):
		return decision{step: stepLogin, reason: login}
	case !v.failureIsOld && binds(r, v.policy, v.fingerprint, v.credential):
		return decision{step: stepFail, reason: login}
	case r.Lock != nil && r.Lock.TTL >= 0 && r.Lock.TTL <= maxLease: // else nobody's: trying it mends it
		return decision{step: stepWait, pause: r.Lock.TTL, soon: settled(r)}
	case what == foreign && v.hasUsable && !v.explicit:
		return decision{step: stepYield}
	case what == foreign && !r.Stored().IssuedAt.After(r.Now) && r.Now.Sub(r.Stored().IssuedAt) < v.replaceAfter:
		return decision{step: stepWait, pause: v.replaceAfter - r.Now.Sub(r.Stored().IssuedAt)}
	case v.localPause > 0 && !v.explicit:
		return decision{step: stepHoldBack}
	case v.grant.held:
		return decision{step: stepUnwritten}
	case v.grant.takenFor(r) > 0:
		return decision{step: stepWait, pause: v.grant.takenFor(r)}
	default:
		return decision{step: stepAcquire}
	}
}

// settled reports whether the outcome of the last version issued stands in r. A lease that is held then is about to be given
// back, of which no event tells, or has just been taken.
func settled(r *store.Record) bool {
	t, f := r.Stored(), r.Failure
	return t != nil && t.Version == r.Mark.Issued || f != nil && f.Version == r.Mark.Issued
}

// binds reports whether the failure in r keeps a replica with the fingerprint and credential from asking the endpoint.
func binds(r *store.Record, p Policy, fingerprint, credential string) bool {
	f := r.Failure
	if f == nil {
		return false
	}
	rest := f.RetryAt.Sub(r.Now)
	switch {
	case rest <= 0 || rest > p.longest(): // over, or nothing that we could have written
		return false
	case f.Code == endpoint.CodeUnreachable:
		return len(reporters(f)) >= unreachableQuorum
	case endpoint.IsRefusal(f.Code):
		return f.Config == fingerprint && f.Credential == credential
	default:
		return true
	}
}

// reporters are the different replicas that a failure to reach the endpoint names.
func reporters(f *store.Failure) []string {
	var names []string
	for name := range strings.SplitSeq(f.ReportedBy, ",") {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// withReporter returns the last few different replicas in a row that couldn't reach the endpoint, this one last.
func withReporter(prev *store.Failure, replica string) string {
	var names []string
	if prev != nil && prev.Code == endpoint.CodeUnreachable {
		names = slices.DeleteFunc(reporters(prev), func(n string) bool { return n == replica })
	}
	names = append(names, replica)
	return strings.Join(names[max(len(names)-unreachableQuorum, 0):], ",")
}

// attemptNumber continues the row of failures that prev belongs to: the endpoint's for everybody, or that of the one who
// is refused.
func attemptNumber(prev *store.Failure, fingerprint, credential string) int {
	switch {
	case prev == nil, prev.Code == endpoint.CodeUnreachable:
		return 1
	case endpoint.IsRefusal(prev.Code) && (prev.Config != fingerprint || prev.Credential != credential):
		return 1
	}
	return prev.Attempt + 1
}

// A conflict remembers how long this replica waits before it replaces a token of another configuration.
type conflict struct {
	pause    time.Duration
	replaced time.Duration // when it last did; 0: never
}

const (
	conflictMin = time.Second
	conflictMax = time.Minute
)

// wait returns how old a foreign token must be, now.
func (c conflict) wait(now time.Duration) time.Duration {
	if c.replaced == 0 || now-c.replaced > 2*conflictMax {
		return conflictMin
	}
	return c.pause
}

// grown is c after another replacement.
func (c conflict) grown(now time.Duration) conflict {
	return conflict{pause: min(2*c.wait(now), conflictMax), replaced: now}
}
