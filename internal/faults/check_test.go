package faults_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/store"
)

// An expectation is what a history is checked against.
type expectation struct {
	margin time.Duration // that a token is not handed out with less left
	lease  time.Duration

	begin    int64         // when the endpoint's calls begin to count
	calls    int           // most calls since then; 0: any number
	reuse    bool          // the fault loses an answer of the endpoint: its refresh token may be used again
	overlap  bool          // the fault takes the lease from one who holds it: two may ask the endpoint at once
	before   store.Version // what everybody had before the fault
	quiet    int64         // when the last fault had ended
	converge time.Duration // from then until everybody has one and the same newer token
	stale    time.Duration // from then, and from a store, until nobody has anything older
	living   []string      // replicas that are to have converged, and to end in good order

	errs func(event) bool // reports whether an answer may be that error; nil: any
}

// The checker's tolerances. Redis counts a token's life in whole milliseconds; replies on different connections may overtake
// one another; a caller's process may have to wait for a processor once it is ready to run.
const (
	rounding = int64(5 * time.Millisecond)
	crossing = int64(50 * time.Millisecond)
	sluggish = int64(2 * stall)
)

// A violation is a rule that was broken.
type violation struct {
	rule   string
	timely bool // the rule's
	what   string
}

func (v violation) Error() string { return v.rule + ": " + v.what }

// A rule is what must hold of a history. Those that depend on time hold where nothing but the case's fault takes any: a
// machine that has no time for its processes is a fault, too.
type rule struct {
	name   string
	timely bool
	check  func(x expectation, h history, report func(format string, args ...any))
}

var rules = []rule{
	{"life", false, expectation.life},
	{"origin", false, expectation.origin},
	{"order", false, expectation.order},
	{"writes", true, expectation.writes},
	{"stale", true, expectation.outdated},
	{"invalidated", false, expectation.invalidated},
	{"served", false, expectation.served},
	{"lease", true, expectation.oneHolder},
	{"overlap", true, expectation.twoAtOnce},
	{"calls", true, expectation.tooMany},
	{"once", false, expectation.once},
	{"needless", false, expectation.needless},
	{"backoff", false, expectation.backoff},
	{"deadline", true, expectation.deadline},
	{"errors", true, expectation.errors},
	{"convergence", true, expectation.convergence},
	{"end", false, expectation.end},
}

// check returns what is wrong with a history: of each rule, the first few.
func (x expectation) check(h history) []violation {
	var list []violation
	for _, r := range rules {
		n := 0
		r.check(x, h, func(format string, args ...any) {
			if n++; n <= 3 {
				list = append(list, violation{r.name, r.timely, fmt.Sprintf(format, args...)})
			}
		})
		if n > 3 {
			list = append(list, violation{r.name, r.timely, fmt.Sprintf("… and %d more", n-3)})
		}
	}
	return list
}

// life: no token is handed out with less than the margin left, by what the replica knows of it, which is never more than
// what the endpoint gave it. The instant before the call counts: the process may have been stopped after it.
func (x expectation) life(h history, report func(string, ...any)) {
	calls := h.byDigest()
	for _, e := range h.of(kindAnswer) {
		if !e.ok() {
			continue
		}
		if over := e.At - (e.Expires - int64(x.margin)); over > rounding {
			report("%s handed out %d %v too late", e.Replica, e.Version, time.Duration(over))
		}
		if e.Left > e.Expires-e.At+rounding {
			report("%s says that %d has %v left, and it is %v", e.Replica, e.Version, time.Duration(e.Left), time.Duration(e.Expires-e.At))
		}
		if c, ok := calls[e.Digest]; ok && e.Expires > c.At+c.Life+rounding {
			report("%s has %d until %v after the endpoint's end of it", e.Replica, e.Version, time.Duration(e.Expires-c.At-c.Life))
		}
	}
}

// byDigest is the calls that brought tokens.
func (h history) byDigest() map[string]event {
	calls := map[string]event{}
	for _, c := range h.of(kindCall) {
		if c.Digest != "" {
			calls[c.Digest] = c
		}
	}
	return calls
}

// origin: what is handed out is a token of the endpoint's, under the version that was issued to the one who fetched it.
func (x expectation) origin(h history, report func(string, ...any)) {
	calls := h.byDigest()
	for _, e := range h.of(kindAnswer) {
		if !e.ok() {
			continue
		}
		switch c, ok := calls[e.Digest]; {
		case !ok:
			report("%s handed out %d, which the endpoint never gave", e.Replica, e.Version)
		case c.Version != e.Version:
			report("%s handed out as %d the token that was fetched as %d", e.Replica, e.Version, c.Version)
		case c.At > e.End:
			report("%s handed out %d %v before it was fetched", e.Replica, e.Version, time.Duration(c.At-e.End))
		}
	}
}

// order: in one process an answer to a call that began after another had ended is no older than that one, unless Redis has
// lost its history.
func (x expectation) order(h history, report func(string, ...any)) {
	for _, list := range byProcess(h.of(kindAnswer)) {
		byEnd := slices.Clone(list)
		slices.SortStableFunc(byEnd, func(a, b event) int { return int(a.End - b.End) })
		var newest event
		i := 0
		for _, e := range list { // by their beginning
			for ; i < len(byEnd) && byEnd[i].End <= e.At; i++ {
				if byEnd[i].ok() && (byEnd[i].Version >= newest.Version || h.lostBetween(newest.At, byEnd[i].End)) {
					newest = byEnd[i]
				}
			}
			if e.ok() && e.Version < newest.Version && !h.lostBetween(0, e.End) {
				report("%s handed out %d after %d", e.Replica, e.Version, newest.Version)
			}
		}
	}
}

func byProcess(list history) map[int]history {
	m := map[int]history{}
	for _, e := range list {
		m[e.Process] = append(m[e.Process], e)
	}
	return m
}

func byReplica(list history) map[string]history {
	m := map[string]history{}
	for _, e := range list {
		m[e.Replica] = append(m[e.Replica], e)
	}
	return m
}

// writes: what is stored is never older than what was stored before, unless Redis has lost its history.
func (x expectation) writes(h history, report func(string, ...any)) {
	for _, e := range h.of(kindStored) {
		if s := h.storedBy(e.At - crossing); e.Version < s.Version && !h.lostBetween(s.At, e.At) {
			report("%s stored %d, %v after %s had stored %d", e.Replica, e.Version, time.Duration(e.At-s.At), s.Replica, s.Version)
		}
	}
}

// outdated: once the faults are over, what is stored is soon what everybody has.
func (x expectation) outdated(h history, report func(string, ...any)) {
	for _, e := range h.of(kindAnswer) {
		if at := e.At - int64(x.stale); e.ok() && at > x.quiet {
			if s := h.storedBy(at); e.Version < s.Version && !h.lostBetween(s.At, e.End) {
				report("%s handed out %d although %d had been stored for %v", e.Replica, e.Version, s.Version, time.Duration(e.At-s.At))
			}
		}
	}
}

// invalidated: who has invalidated a version doesn't hand it out any more, and soon nobody does.
func (x expectation) invalidated(h history, report func(string, ...any)) {
	for _, d := range h.of(kindDropped) {
		if !d.ok() {
			continue
		}
		for _, e := range h.of(kindAnswer) {
			from := d.End
			if e.Replica != d.Replica {
				from = max(d.End, x.quiet) + int64(x.stale)
			}
			if e.ok() && e.At > from && e.Version <= d.Version && !h.lostBetween(d.At, e.End) {
				report("%s handed out %d, %v after %s had invalidated all up to %d",
					e.Replica, e.Version, time.Duration(e.At-d.End), d.Replica, d.Version)
			}
		}
	}
}

// served: who has a token that can be used gets no error, whatever goes on. A replica may count its life from a request
// that took as long as the store lets it.
func (x expectation) served(h history, report func(string, ...any)) {
	for _, list := range byProcess(h.of(kindAnswer)) {
		var last event // the one that can be used for longest
		for _, e := range list {
			switch {
			case e.ok() && e.Expires > last.Expires:
				last = e
			case !e.ok() && last.End != 0 && last.End <= e.At && !h.droppedBy(last.Version, e.End):
				if left := last.Expires - int64(x.margin+store.DefaultTimeout) - e.End; left > 0 {
					report("%s was told %q although it had %d to hand out for another %v", e.Replica, e.Err, last.Version, time.Duration(left))
				}
			}
		}
	}
}

// oneHolder: Redis grants the lease to one at a time, until he gives it back himself or it has run out.
func (x expectation) oneHolder(h history, report func(string, ...any)) {
	type hold struct {
		by, lease string
		from      int64 // when it was granted, or renewed last, at the earliest
	}
	var held hold
	gaveUp := map[string]bool{} // by replica and lease, since that was asked for
	var all history
	for _, k := range []kind{kindAsked, kindGranted, kindRenewed, kindFreeing} {
		all = append(all, h.of(k)...)
	}
	slices.SortStableFunc(all, func(a, b event) int { return int(a.At - b.At) })
	for _, e := range all {
		switch e.Kind {
		case kindAsked:
			gaveUp[e.Replica+e.Lease] = false
		case kindGranted:
			same := held.by == e.Replica && held.lease == e.Lease // asked for again, by one who had no reply
			if left := held.from + int64(x.lease) - crossing - e.At; held.by != "" && !same && left > 0 && !h.lostBetween(held.from-crossing, e.At) {
				report("%s was granted the lease %v before that of %s was over", e.Replica, time.Duration(left), held.by)
			}
			if held = (hold{e.Replica, e.Lease, cmp.Or(e.Came, e.At)}); gaveUp[e.Replica+e.Lease] {
				held = hold{} // it has been given back before it was granted, by what follows at once
			}
		case kindRenewed:
			if e.Replica == held.by {
				held.from = max(held.from, cmp.Or(e.Came, e.At))
			}
		case kindFreeing:
			gaveUp[e.Replica+e.Lease] = true
			if e.Replica == held.by && e.Lease == held.lease {
				held = hold{}
			}
		default:
		}
	}
}

// twoAtOnce: the lease keeps all but one from the endpoint.
func (x expectation) twoAtOnce(h history, report func(string, ...any)) {
	if x.overlap {
		return
	}
	calls := h.of(kindCall)
	for i, a := range calls {
		for _, b := range calls[i+1:] {
			if b.At < a.End {
				report("%s asked the endpoint %v before %s had its answer", b.Replica, time.Duration(a.End-b.At), a.Replica)
			}
		}
	}
}

// tooMany: a fault costs so many calls, and no more.
func (x expectation) tooMany(h history, report func(string, ...any)) {
	calls := h.of(kindCall)
	n := len(slices.DeleteFunc(calls, func(e event) bool { return e.At < x.begin }))
	if x.calls > 0 && n > x.calls {
		report("%d calls of the endpoint, at most %d are needed", n, x.calls)
	}
}

// once: a refresh token that has brought a token isn't used again.
func (x expectation) once(h history, report func(string, ...any)) {
	spent := map[string]event{}
	for _, c := range h.of(kindCall) {
		if first, ok := spent[c.Refresh]; ok && c.Refresh != "" && !x.reuse {
			report("%s used the refresh token %s, %v after it had brought %s a token", c.Replica, c.Refresh, time.Duration(c.At-first.End), first.Replica)
		}
		if c.Digest != "" {
			spent[c.Refresh] = c
		}
	}
}

// needless: nobody gets leave to ask the endpoint while a token is stored that isn't even half through its life, as a
// reader sees it: he counts its remaining life from before his request, which takes at most the store's time-out. A version
// is Redis's clock in microseconds when it was issued.
func (x expectation) needless(h history, report func(string, ...any)) {
	life := map[store.Version]int64{}
	for _, c := range h.of(kindCall) {
		if c.Life > 0 {
			life[c.Version] = c.Life
		}
	}
	for _, c := range h.of(kindCall) {
		issued := int64(c.Version) * 1000
		s := h.storedBy(issued)
		age := issued - int64(s.Version)*1000
		if s.Version != 0 && age < life[s.Version]/2-int64(store.DefaultTimeout)-rounding && !h.droppedBy(s.Version, issued) {
			report("%s asked for %d when %d was stored, %v old", c.Replica, c.Version, s.Version, time.Duration(age))
		}
	}
}

// droppedBy reports whether v was invalidated at an instant.
func (h history) droppedBy(v store.Version, at int64) bool {
	return slices.ContainsFunc(h, func(e event) bool { return e.Kind == kindErased && e.At <= at && e.Version >= v })
}

// backoff: nobody gets leave to ask the endpoint while a failure binds. One who could not reach it binds nobody else.
func (x expectation) backoff(h history, report func(string, ...any)) {
	for _, f := range h.of(kindFailed) {
		if f.What == store.CodeUnreachable {
			continue
		}
		for _, c := range h.of(kindCall) {
			issued := int64(c.Version) * 1000
			cleared := h.storedBy(issued).Version >= f.Version || h.droppedBy(f.Version, issued)
			if issued > f.At && issued < f.RetryAt-rounding && !cleared && !h.lostBetween(f.At, issued) {
				report("%s asked the endpoint %v before the backoff of %s was over", c.Replica, time.Duration(f.RetryAt-issued), f.Replica)
			}
		}
	}
}

// deadline: every call of Token ends by its deadline, the time aside in which its process was stopped.
func (x expectation) deadline(h history, report func(string, ...any)) {
	stops := byReplica(h.of(kindStop))
	for _, e := range h.of(kindAnswer) {
		late := e.End - e.Deadline
		for _, s := range stops[e.Replica] {
			late -= max(min(e.End, s.End)-max(e.At, s.At), 0)
		}
		if late > sluggish {
			report("%s had its answer %v after its deadline", e.Replica, time.Duration(late))
		}
	}
}

// errors: who gets an error gets one that the fault explains, and a wait ends with the deadline, not before.
func (x expectation) errors(h history, report func(string, ...any)) {
	for _, e := range h.of(kindAnswer) {
		switch {
		case e.ok():
		case e.Err == "wait" && e.End < e.Deadline-rounding:
			report("%s gave up waiting %v before its deadline", e.Replica, time.Duration(e.Deadline-e.End))
		case e.Err != "wait" && x.errs != nil && !x.errs(e):
			report("%s was told %q", e.Replica, e.Err)
		}
	}
}

// convergence: not long after the last fault everybody has the same token, which is the stored one and newer than that
// before the fault.
func (x expectation) convergence(h history, report func(string, ...any)) {
	took, ok := x.converged(h)
	switch {
	case !ok:
		report("it never came to one newer token for %s", strings.Join(x.living, ", "))
	case took > x.converge:
		report("it took %v, and may take %v", took, x.converge)
	}
}

// converged returns how long after the last fault everybody had been given one and the same newer token, the highest that
// was stored until then.
func (x expectation) converged(h history) (time.Duration, bool) {
	last := map[string]event{}
	answers := slices.DeleteFunc(h.of(kindAnswer), func(e event) bool { return e.End < x.quiet || !slices.Contains(x.living, e.Replica) })
	slices.SortStableFunc(answers, func(a, b event) int { return int(a.End - b.End) })
	for _, e := range answers {
		last[e.Replica] = e
		if len(last) < len(x.living) || !e.ok() || e.Version <= x.before {
			continue
		}
		same := true
		for _, o := range last {
			same = same && o.ok() && o.Version == e.Version
		}
		// Redis may have lost what was stored, and who has a token keeps it.
		if stored := h.storedBy(e.End).Version; same && (stored == e.Version || stored == 0 && h.lostBetween(0, e.End)) {
			return time.Duration(e.End - x.quiet), true
		}
	}
	return 0, false
}

// end: who was told to end in good order did, with no call of Token left hanging.
func (x expectation) end(h history, report func(string, ...any)) {
	for _, name := range x.living {
		if len(h.by(name).of(kindBye)) == 0 {
			report("%s didn't end in good order", name)
		}
	}
}
