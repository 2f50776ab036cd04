package top

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// clean makes text of foreign origin one line that fits into n cells.
func clean(s string, n int) string {
	return ansi.Truncate(printable.Line(s, max(4*n, 16)), n, "…")
}

// middle cuts a name to n cells. Names begin alike, and end with what tells them apart.
func middle(s string, n int) string {
	if s = printable.Line(s, 200); len(s) <= n {
		return s
	}
	if n < 5 {
		return ansi.Truncate(s, n, "…")
	}
	end := (n - 1) * 2 / 3
	return s[:n-1-end] + "…" + s[len(s)-end:]
}

// span is a duration in at most 6 cells.
func span(d time.Duration) string {
	s := int(d / time.Second)
	switch {
	case d <= 0:
		return "0s"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	case s < 1000*86400:
		return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
	}
	return fmt.Sprintf("%dd", min(s/86400, 99999))
}

// thousands groups a number's digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural is "1 environment", "2,000 environments".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// clock is a time of day; with the date where it isn't today.
func clock(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly) + " UTC"
	}
	return t.Format(time.DateTime) + " UTC"
}

// brief is what the table says of a row beside its TTL: who is refreshing, what failed, why it can't be used, in few words.
// by: also who refreshed it, where there is no column for that.
func brief(r *Row, now time.Time, by bool) string {
	var parts []string
	if r.State == manager.StateRefreshing {
		parts = append(parts, "lease: "+text(r.Lock.Holder, 40)+" "+span(r.leaseLeft(now)))
	}
	if r.Failure.Code != nil {
		next := "next try due"
		if d := r.nextTry(now); d > 0 {
			next = "next try " + span(d+time.Second-1)
		}
		parts = append(parts, text(r.Failure.Code, 40)+", "+next)
	}
	if len(parts) == 0 && !r.usable(now) {
		parts = append(parts, why(r))
	}
	if len(parts) == 0 && by && r.RefreshedBy != nil {
		parts = append(parts, "by "+text(r.RefreshedBy, 60))
	}
	return strings.Join(parts, "; ")
}

// why says why a row's token can't be used.
func why(r *Row) string {
	if r.Usable {
		return "its life has ended"
	}
	return text(r.Reason, 200)
}

// reason is why reading fails: what Redis or the way to it said, without what was read.
func reason(err error) string {
	if status, ok := errors.AsType[*store.StatusError](err); ok {
		return printable.Redis(status.Err)
	}
	return printable.Line(err.Error(), 300)
}

// full is all there is to say of a row, as parts of a text.
func full(r *Row, now time.Time) []string {
	state := r.state(now)
	parts := []string{string(state)}
	switch {
	case r.usable(now):
	case state == manager.StateMissing, state == manager.StateConflict: // which says so
		parts[0] += ": " + why(r)
	default:
		parts[0] += " and not usable: " + why(r)
	}
	if r.State == manager.StateRefreshing {
		parts = append(parts, fmt.Sprintf("lease held by %s for another %s", text(r.Lock.Holder, 100), span(r.leaseLeft(now))))
	}
	if f := r.Failure; f.Code != nil {
		line := text(f.Code, 64)
		if f.Message != nil {
			line += " (" + text(f.Message, 200) + ")"
		}
		if f.Attempt != nil && *f.Attempt > 1 {
			line += fmt.Sprintf(", attempt %d", *f.Attempt)
		}
		if f.RetryAt != nil {
			line += ", next try " + clock(*f.RetryAt, now)
		}
		parts = append(parts, line)
	}
	if r.Version != nil {
		line := "version " + r.Version.String()
		if r.RefreshedBy != nil {
			line += " by " + text(r.RefreshedBy, 100)
		}
		if r.ExpiresAt != nil {
			line += ", expires " + clock(*r.ExpiresAt, now)
		}
		parts = append(parts, line)
	}
	return parts
}

// text is foreign text, cut to n bytes; "unknown" where there is none.
func text(s *string, n int) string {
	if s == nil {
		return "unknown"
	}
	if t := printable.Line(*s, n); t != "" {
		return t
	}
	return "unknown"
}
