package page

import (
	"maps"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

// A row is a status as the browser gets it. Its durations count from the frame that it is in.
type row struct {
	manager.Status
	Life    manager.Milliseconds  `json:"life_ms"`     // the token's whole life, what the bar is a part of
	RetryIn *manager.Milliseconds `json:"retry_in_ms"` // until the next try, by Redis's clock; below 0 where it is due
	Here    bool                  `json:"here"`        // whether it is configured here, so that it can be refreshed

	read time.Time // when it was read, by this machine's monotonic clock
}

func newRow(s manager.Status, here bool, read time.Time) row {
	s.Reason = cleaned(s.Reason)
	s.RefreshedBy = cleaned(s.RefreshedBy)
	s.Lock.Holder = cleaned(s.Lock.Holder)
	s.Failure.Code = cleaned(s.Failure.Code)
	s.Failure.Message = cleaned(s.Failure.Message)
	r := row{Status: s, Life: manager.Milliseconds(s.Life), Here: here, read: read}
	if s.Failure.RetryAt != nil {
		left := manager.Milliseconds(s.Failure.RetryAt.Sub(s.ReadAt))
		r.RetryIn = &left
	}
	return r
}

func cleaned(s *string) *string {
	if s == nil {
		return nil
	}
	clean := printable.Line(*s, 400)
	return &clean
}

// at returns the row as it is some time after it was read, if nothing has happened: with less to live.
func (r row) at(now time.Time) row {
	passed := manager.Milliseconds(now.Sub(r.read))
	r.TTL = max(r.TTL-passed, 0)
	r.Lock.TTL = max(r.Lock.TTL-passed, 0)
	if r.RetryIn != nil {
		left := *r.RetryIn - passed
		r.RetryIn = &left
	}
	r.read = now
	return r
}

// drift is how far a remaining life may be off what was to be expected before it is news: two reads are never exactly as far
// apart as they seem.
const drift = manager.Milliseconds(400 * time.Millisecond)

// news reports whether r tells more than old and the time that has passed since.
func (r row) news(old row) bool {
	expected := old.at(r.read)
	return apart(r.TTL, expected.TTL) || apart(r.Lock.TTL, expected.Lock.TTL) ||
		r.State != old.State || r.Usable != old.Usable || r.Here != old.Here || r.Life != old.Life ||
		!same(r.Reason, old.Reason) || !same(r.Version, old.Version) || !same(r.RefreshedBy, old.RefreshedBy) ||
		!same(r.Lock.Holder, old.Lock.Holder) || !sameFailure(r.Failure, old.Failure)
}

func apart(a, b manager.Milliseconds) bool { return a-b > drift || b-a > drift }

func sameFailure(a, b manager.FailureStatus) bool {
	return same(a.Code, b.Code) && same(a.Status, b.Status) && same(a.Message, b.Message) && same(a.Attempt, b.Attempt) &&
		(a.RetryAt == nil) == (b.RetryAt == nil) && (a.RetryAt == nil || a.RetryAt.Equal(*b.RetryAt))
}

func same[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// rows are the known rows by environment.
type rows map[string]row

// take takes the rows that are news and returns them. The others stay as they were told, with the time that they were read
// at, so that small differences don't add up unseen.
func (known rows) take(read []row) (changed []row) {
	for _, r := range read {
		if old, ok := known[r.Environment]; !ok || r.news(old) {
			changed = append(changed, r)
			known[r.Environment] = r
		}
	}
	return changed
}

// keep forgets all but names and returns what was forgotten.
func (known rows) keep(names map[string]bool) (removed []string) {
	maps.DeleteFunc(known, func(env string, _ row) bool {
		if !names[env] {
			removed = append(removed, env)
		}
		return !names[env]
	})
	return removed
}
