package faults_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onetoken/onetoken/store"
)

// A kind is what an event tells of.
type kind string

const (
	kindAnswer  kind = "answer"  // a replica's Token returned
	kindCall    kind = "call"    // the endpoint was asked
	kindAsked   kind = "asked"   // the replica asks for the lease
	kindGranted kind = "granted" // Redis granted the lease
	kindRenewed kind = "renewed" // Redis renewed it
	kindFreeing kind = "freeing" // the replica gives it back, whether or not its word arrives
	kindFreed   kind = "freed"   // Redis let go of it
	kindIssued  kind = "issued"  // a version was issued
	kindStored  kind = "stored"  // a token was stored
	kindFailed  kind = "failed"  // a failure was recorded
	kindErased  kind = "erased"  // Redis dropped a version and all below it
	kindDropped kind = "dropped" // a replica's Invalidate returned
	kindLost    kind = "lost"    // Redis lost its history
	kindFault   kind = "fault"   // what was done, to whom
	kindStop    kind = "stop"    // the replica's process was stopped
	kindPause   kind = "pause"   // Redis's process was stopped
	kindStall   kind = "stall"   // the machine had no time for the replica, for Redis, or for the test itself
	kindBye     kind = "bye"     // the replica's process has ended in good order
)

// An event is a line of the history. Instants are nanoseconds since the epoch by the machine's one wall clock, which
// Redis's is, too. What Redis and the endpoint did is noted before the replica hears of it.
type event struct {
	Kind    kind   `json:"kind"`
	Replica string `json:"replica,omitempty"`
	Process int    `json:"process,omitempty"` // of an answer: the replica's process id
	Caller  string `json:"caller,omitempty"`  // of an answer
	At      int64  `json:"at"`
	End     int64  `json:"end,omitempty"`  // of what takes time; 0: it has not ended
	Came    int64  `json:"came,omitempty"` // of what Redis has done: when the request for it came; At is when its reply did

	Version  store.Version `json:"version,omitempty"`
	Lease    string        `json:"lease,omitempty"`    // of what is about the lease: the lock's value
	Digest   string        `json:"digest,omitempty"`   // of the access token
	Refresh  string        `json:"refresh,omitempty"`  // of a call: the refresh token that it was made with, as a digest
	Expires  int64         `json:"expires,omitempty"`  // the token's end, as the replica has it
	Left     int64         `json:"left,omitempty"`     // its remaining life, as the replica says, nanoseconds
	Life     int64         `json:"life,omitempty"`     // what the endpoint gave it, nanoseconds
	Deadline int64         `json:"deadline,omitempty"` // of the caller
	RetryAt  int64         `json:"retry_at,omitempty"` // of a failure
	Err      string        `json:"err,omitempty"`      // a kind of error: see errorKind
	What     string        `json:"what,omitempty"`     // for people
}

func (e event) ok() bool { return e.Err == "" }

// A history is the events of one case.
type history []event

// of returns the events of a kind, by their beginning.
func (h history) of(k kind) history {
	var list history
	for _, e := range h {
		if e.Kind == k {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b event) int { return cmp.Compare(a.At, b.At) })
	return list
}

// by returns the events of a replica.
func (h history) by(replica string) history {
	var list history
	for _, e := range h {
		if e.Replica == replica {
			list = append(list, e)
		}
	}
	return list
}

// lostBetween reports whether Redis lost its history at some time from one instant to another.
func (h history) lostBetween(from, to int64) bool {
	return slices.ContainsFunc(h, func(e event) bool {
		return e.Kind == kindLost && e.At <= to && (e.End == 0 || e.End >= from)
	})
}

// storedBy returns the highest version that was known to be stored at an instant and not lost since; 0: none. What is noted
// right after a loss may have been stored before it.
func (h history) storedBy(at int64) (best event) {
	for _, e := range h {
		if e.Kind == kindStored && e.At <= at && e.Version > best.Version && !h.lostBetween(e.At-crossing, at) {
			best = e
		}
	}
	return best
}

// stalled returns the stalls since an instant that no fault of ours explains.
func (h history) stalled(since int64) history {
	var list history
	for _, e := range h.of(kindStall) {
		ours := slices.ContainsFunc(h, func(f event) bool {
			mine := f.Kind == kindStop && f.Replica == e.Replica || e.Replica == redisName && (f.Kind == kindPause || f.Kind == kindLost)
			return mine && f.At <= e.End && (f.End == 0 || f.End >= e.At)
		})
		if e.End >= since && !ours {
			list = append(list, e)
		}
	}
	return list
}

// A recorder collects a history, and what the proxies know of the lease.
type recorder struct {
	mu     sync.Mutex // guards what follows
	events history
	issued map[string]store.Version // the last one, by replica
	holder string                   // who was granted the lease last; "" once it was freed
	last   map[string]event         // the last answer, by replica
}

func newRecorder() *recorder {
	return &recorder{issued: map[string]store.Version{}, last: map[string]event{}}
}

func (r *recorder) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case kindGranted:
		r.holder = e.Replica
	case kindFreed, kindLost:
		r.holder = ""
	case kindIssued:
		r.issued[e.Replica] = e.Version
	case kindAnswer:
		if e.At >= r.last[e.Replica].At {
			r.last[e.Replica] = e
		}
	default:
	}
	r.events = append(r.events, e)
}

func (r *recorder) issuedTo(replica string) store.Version {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issued[replica]
}

func (r *recorder) holding() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.holder
}

func (r *recorder) lastAnswers() map[string]event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.last)
}

func (r *recorder) history() history {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// stall is how long nothing may happen at all before that counts as a fault of the machine's. The shortest bound that a
// replica has is 1 s, for an answer of Redis; several processes take part in one.
const stall = 250 * time.Millisecond

// redisName and testName are what has stalls besides the replicas.
const (
	redisName = "redis"
	testName  = "test"
)

// watchStalls calls beat again and again until done is closed, and notes where that takes too long.
func watchStalls(done <-chan struct{}, beat func(), note func(event)) {
	ticker := time.NewTicker(stall / 10)
	defer ticker.Stop()
	for last := now(); ; {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		beat()
		at := now()
		if at-last > int64(stall) {
			note(event{Kind: kindStall, At: last, End: at})
		}
		last = at
	}
}

func now() int64 { return time.Now().UnixNano() }

// trace is the history for people: a line an event, answers that say the same in one.
func (h history) trace() string {
	sorted := slices.Clone(h)
	slices.SortStableFunc(sorted, func(a, b event) int { return cmp.Compare(a.At, b.At) })
	if len(sorted) == 0 {
		return "nothing happened"
	}
	zero := sorted[0].At
	names := h.versionNames()
	var b strings.Builder
	runs := map[string]*run{}
	var lines []traceLine
	for _, e := range sorted {
		if e.Kind != kindAnswer {
			lines = append(lines, traceLine{at: e.At, text: e.line(names)})
			continue
		}
		key := e.Replica + " " + e.Caller
		if r := runs[key]; r != nil && r.first.Version == e.Version && r.first.Err == e.Err {
			r.n, r.last = r.n+1, e
			continue
		}
		r := &run{first: e, last: e, n: 1}
		runs[key] = r
		lines = append(lines, traceLine{at: e.At, run: r})
	}
	for _, l := range lines {
		text := l.text
		if l.run != nil {
			text = l.run.line(names, zero)
		}
		fmt.Fprintf(&b, "%+9.3fs %s\n", seconds(l.at-zero), text)
	}
	return b.String()
}

type traceLine struct {
	at   int64
	text string
	run  *run
}

// A run is a caller's answers in a row that say the same.
type run struct {
	first, last event
	n           int
}

func (r *run) line(names map[store.Version]string, zero int64) string {
	what := names[r.first.Version]
	if !r.first.ok() {
		what = "error " + r.first.Err
	}
	return fmt.Sprintf("%-4s %-9s %4d × %s, the last called at %.3fs and answered at %.3fs",
		r.first.Replica, r.first.Caller, r.n, what, seconds(r.last.At-zero), seconds(r.last.End-zero))
}

// versionNames gives versions short names, in their order.
func (h history) versionNames() map[store.Version]string {
	found := map[store.Version]struct{}{}
	for _, e := range h {
		found[e.Version] = struct{}{}
	}
	delete(found, 0)
	names := map[store.Version]string{0: "v0"}
	for i, v := range slices.Sorted(maps.Keys(found)) {
		names[v] = fmt.Sprintf("v%d", i+1)
	}
	return names
}

func (e event) line(names map[store.Version]string) string {
	s := fmt.Sprintf("%-4s %-9s", e.Replica, e.Kind)
	if e.Version != 0 {
		s += " " + names[e.Version]
	}
	if e.What != "" {
		s += " " + e.What
	}
	if e.Refresh != "" {
		s += " by the refresh token " + e.Refresh
	}
	if e.End != 0 {
		s += fmt.Sprintf(" for %.3fs", seconds(e.End-e.At))
	}
	if e.RetryAt != 0 {
		s += fmt.Sprintf(", to be tried again in %.3fs", seconds(e.RetryAt-e.At))
	}
	if e.Err != "" {
		s += ": " + e.Err
	}
	return s
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }
