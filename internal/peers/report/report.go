// Package report makes tables and plots of what package peers measures, and keeps docs/performance.md up to date.
package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/onetoken/onetoken/internal/peers"
)

// Results are all that was measured.
type Results struct {
	Machine    Machine
	Tokens     []peers.Cost // ours by handle is the last
	Transports []peers.Cost // the base is the first, ours the last
	Herds      []peers.HerdResult
	Slow       []peers.HerdResult // with an endpoint that takes seconds
	Rotations  []peers.RotationResult
}

// Sections returns the tables by the names of their places in docs/performance.md.
func (r Results) Sections() map[string]string {
	return map[string]string{
		"machine":   r.machine(),
		"token":     r.tokens(),
		"transport": r.transports(),
		"herd":      herds(largest(r.Herds)),
		"slow":      herds(r.Slow),
		"rotation":  r.rotations(),
	}
}

// Text returns all tables.
func (r Results) Text() string {
	s := r.Sections()
	var b strings.Builder
	for _, name := range []string{"machine", "token", "transport", "herd", "slow", "rotation"} {
		b.WriteString(s[name] + "\n")
	}
	return b.String()
}

func (r Results) machine() string {
	m := r.Machine
	t := table{
		{"", ""},
		{"date", m.Date},
		{"processor", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)},
		{"kernel", m.Kernel},
		{"Go", m.Go},
		{"redis-server", m.Redis},
	}
	for _, p := range m.Peers {
		path, version, _ := strings.Cut(p, " ")
		t = append(t, []string{path, version})
	}
	return t.String()
}

func (r Results) tokens() string {
	if len(r.Tokens) == 0 {
		return ""
	}
	ours := r.Tokens[len(r.Tokens)-1]
	t := table{{"a token that is there", "ns", "ns, all cores at once", "allocations", "× ours", "× ours, all cores"}}
	for _, c := range r.Tokens {
		t = append(t, []string{
			c.Name, nanoseconds(c.Serial), nanoseconds(c.Parallel), strconv.FormatInt(c.Allocs, 10),
			ratio(c.Serial, ours.Serial), ratio(c.Parallel, ours.Parallel),
		})
	}
	return t.String()
}

func (r Results) transports() string {
	if len(r.Transports) == 0 {
		return ""
	}
	base, ours := r.Transports[0], r.Transports[len(r.Transports)-1]
	t := table{{"a request", "ns", "ns, all cores at once", "more than the base, ns", "allocations", "bytes", "more than the base, × ours"}}
	for _, c := range r.Transports {
		t = append(t, []string{
			c.Name, nanoseconds(c.Serial), nanoseconds(c.Parallel), nanoseconds(c.Serial - base.Serial),
			strconv.FormatInt(c.Allocs, 10), strconv.FormatInt(c.Bytes, 10), ratio(c.Serial-base.Serial, ours.Serial-base.Serial),
		})
	}
	return t.String()
}

// largest returns the results of the herds with the most replicas.
func largest(all []peers.HerdResult) []peers.HerdResult {
	if len(all) == 0 {
		return nil
	}
	most := slices.MaxFunc(all, func(a, b peers.HerdResult) int { return cmp.Compare(a.Replicas, b.Replicas) }).Replicas
	return slices.DeleteFunc(slices.Clone(all), func(h peers.HerdResult) bool { return h.Replicas < most })
}

func herds(all []peers.HerdResult) string {
	if len(all) == 0 {
		return ""
	}
	ours := all[slices.IndexFunc(all, func(h peers.HerdResult) bool { return h.Strategy == peers.Ours })]
	t := table{{
		fmt.Sprintf("%d replicas, %s", ours.Replicas, span(ours.Latency)), "calls of the endpoint", "replicas without a token",
		"wait, median", "wait, longest", "× ours", "requests", "a replica's", "× ours", "connections",
	}}
	for _, h := range all {
		t = append(t, []string{
			h.Strategy, strconv.Itoa(h.Calls), strconv.Itoa(h.Failures), milliseconds(h.P50), milliseconds(h.Max),
			ratio(float64(h.Max), float64(ours.Max)), number(float64(h.Requests)),
			fmt.Sprintf("%.1f", float64(h.Requests)/float64(h.Replicas)), ratio(float64(h.Requests), float64(ours.Requests)),
			number(float64(h.Connections)),
		})
	}
	return t.String()
}

func (r Results) rotations() string {
	if len(r.Rotations) == 0 {
		return ""
	}
	t := table{{
		"", "endpoint's latency", "calls", "blocked", "of the callers' time", "longest", "failed", "calls of the endpoint",
	}}
	for _, o := range r.Rotations {
		t = append(t, []string{
			o.Way, span(o.Latency), number(float64(o.Calls)), number(float64(o.Blocked)), fmt.Sprintf("%.1f %%", 100*o.Waited),
			milliseconds(slices.Max(o.Longest)), strconv.Itoa(o.Failed), strconv.Itoa(o.EndpointCalls),
		})
	}
	return t.String()
}

func nanoseconds(ns float64) string {
	if ns < 100 {
		return fmt.Sprintf("%.1f", ns)
	}
	return fmt.Sprintf("%.0f", ns)
}

func milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// ratio returns a ÷ b with two digits that count, "" where there is none.
func ratio(a, b float64) string {
	if a <= 0 || b <= 0 {
		return ""
	}
	switch r := a / b; {
	case r < 0.995:
		return fmt.Sprintf("%.2f", r)
	case r < 9.95:
		return fmt.Sprintf("%.1f", r)
	default:
		return fmt.Sprintf("%.0f", r)
	}
}

// number returns v with its thousands set apart: 10,000.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if v >= 1000 {
		s = s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}

// span returns d in the unit that fits: 200 ms, 5 s.
func span(d time.Duration) string {
	if d < time.Second {
		return number(float64(d.Milliseconds())) + " ms"
	}
	return number(d.Seconds()) + " s"
}

// A table is rows of cells, of which the first is the heading.
type table [][]string

// String returns the table in Markdown, its columns aligned: numbers, which is all but the first, on the right.
func (t table) String() string {
	width := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, row := range t {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString("| " + cell + pad)
			} else {
				b.WriteString(" | " + pad + cell)
			}
		}
		b.WriteString(" |\n")
		if n > 0 {
			continue
		}
		for i := range row {
			if i == 0 {
				b.WriteString("|" + strings.Repeat("-", width[i]+2))
			} else {
				b.WriteString("|" + strings.Repeat("-", width[i]+1) + ":")
			}
		}
		b.WriteString("|\n")
	}
	return b.String()
}
