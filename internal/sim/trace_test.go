package sim

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/onetoken/onetoken/store"
)

// A trace is what happened, line by line.
type trace struct{ lines []line }

type line struct {
	at   time.Duration
	text string
}

func (t *trace) add(at time.Duration, text string) { t.lines = append(t.lines, line{at, text}) }

// last returns the end of the trace: n lines.
func (t *trace) last(n int) string {
	var b strings.Builder
	for _, l := range t.lines[max(len(t.lines)-n, 0):] {
		fmt.Fprintf(&b, "%10.4fs  %s\n", l.at.Seconds(), l.text)
	}
	return b.String()
}

// String is the whole of it.
func (t *trace) String() string { return t.last(len(t.lines)) }

// writer makes lines of a replica's log a part of the trace.
func (t *trace) writer(w *world, name string) io.Writer { return logWriter{t, w, name} }

type logWriter struct {
	t    *trace
	w    *world
	name string
}

func (l logWriter) Write(p []byte) (int, error) {
	l.t.add(l.w.now(), "          "+l.name+" logs: "+strings.TrimSpace(string(p)))
	return len(p), nil
}

// number is a version, or the digits of one, as a person can tell it from others: its time in the run.
func (w *world) number(v any) string {
	var n int64
	switch v := v.(type) {
	case store.Version:
		n = int64(v)
	case string:
		var err error
		if n, err = strconv.ParseInt(v, 10, 64); err != nil {
			return strconv.Quote(v)
		}
	}
	if n == 0 {
		return "v0"
	}
	us := n - w.start.UnixMicro()
	return fmt.Sprintf("v%.6f", float64(us)/1e6)
}

func (o *op) String() string {
	if o.about == "" {
		return o.what
	}
	return o.what + " " + o.about
}

// describe is an executed command with what came of it.
func (w *world) describe(o *op, reply any, after state) string {
	text := o.String()
	switch o.what {
	case "claim":
		if v := claimed(reply); v != 0 {
			text += " takes " + w.number(v)
		}
		return text + ": " + w.stateText(after)
	case "read":
		return text + ": " + w.stateText(after)
	case "issue":
		if l, ok := reply.([]any); ok && len(l) >= 3 {
			return text + ": " + w.number(l[1])
		}
	case "put", "fail", "keep", "settle", "adopt", "forget":
		version, _, _ := strings.Cut(strings.TrimPrefix(o.id, "eval "), " ")
		text += " " + w.number(version)
	}
	return text + ": " + w.replyText(reply)
}

func (w *world) replyText(reply any) string {
	switch v := reply.(type) {
	case nil:
		return "no"
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = w.replyText(x)
		}
		return strings.Join(parts, " ")
	case string:
		if len(v) == 16 && strings.Trim(v, "0123456789") == "" {
			return w.number(v)
		}
		holder, _, _ := strings.Cut(v, "|") // the rest of a lock's value is different in each run
		return holder
	}
	return fmt.Sprint(reply)
}

func (w *world) stateText(s state) string {
	var parts []string
	if s.token.version != "" {
		parts = append(parts, fmt.Sprintf("%s %s for %v", w.number(s.token.version), s.token.text, s.token.ttl))
	} else {
		parts = append(parts, "no token")
	}
	if s.dropped > 0 {
		parts = append(parts, "dropped "+w.number(s.dropped))
	}
	if s.failure.version != "" {
		parts = append(parts, fmt.Sprintf("failure %s %s until %v", w.number(s.failure.version), s.failure.code, s.failure.retryAt.Sub(w.start)))
	}
	if g := s.grant; g.kind != "" {
		text := fmt.Sprintf("grant %s %s", w.number(g.number), g.text)
		if g.taken != 0 {
			holder, _, _ := strings.Cut(g.takenBy, "|")
			text += fmt.Sprintf(" taken by %s's %s until %v", holder, w.number(g.taken), g.takenUntil.Sub(w.start))
		}
		if g.refused != 0 {
			text += " refused (" + g.reason + ")"
		}
		parts = append(parts, text)
	}
	if s.lock != "" {
		holder, _, _ := strings.Cut(s.lock, "|")
		parts = append(parts, fmt.Sprintf("lock of %s for %v", holder, s.lockTTL))
	}
	return strings.Join(parts, ", ")
}
