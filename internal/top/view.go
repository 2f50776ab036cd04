package top

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/onetoken/onetoken/manager"
)

// states are in the order in which they are counted: trouble first.
var states = [...]manager.State{
	manager.StateFailing, manager.StateConflict, manager.StateMissing, manager.StateRefreshing, manager.StateStale, manager.StateFresh,
}

// A look is how a state is shown. The colour is an addition: symbol and word say the same.
type look struct {
	symbol, ascii string
	style         lipgloss.Style
}

func lookOf(s manager.State) look {
	plain := lipgloss.NewStyle()
	switch s {
	case manager.StateFailing:
		return look{"✗", "x", plain.Foreground(lipgloss.Red).Bold(true)}
	case manager.StateConflict:
		return look{"≠", "=", plain.Foreground(lipgloss.Magenta).Bold(true)}
	case manager.StateMissing:
		return look{"○", "o", plain.Foreground(lipgloss.Red)}
	case manager.StateRefreshing:
		return look{"↻", "@", plain.Foreground(lipgloss.Cyan)}
	case manager.StateStale:
		return look{"◐", "~", plain.Foreground(lipgloss.Yellow)}
	default:
		return look{"●", "*", plain.Foreground(lipgloss.Green)}
	}
}

func (m Model) symbol(s manager.State) string {
	l := lookOf(s)
	if m.ASCII {
		return l.ascii
	}
	return l.symbol
}

// Lines are the view's lines, at most as many as the terminal has, none wider than it.
func (m Model) Lines() []string {
	l := m.layout()
	var lines []string
	add := func(there bool, line func() string) {
		if there {
			lines = append(lines, line())
		}
	}
	add(l.info, m.info)
	add(l.counts, m.counts)
	add(l.problem > 0, m.problem)
	w := columnsFor(m.width, m.longestName())
	add(l.heads, func() string { return m.heads(w) })
	lines = append(lines, m.table(w, l.rows)...)
	lines = append(lines, m.detail(l.detail)...)
	add(l.help, m.help)
	return m.fitted(lines)
}

// fitted makes lines as wide as the terminal at most, and of ASCII where it knows no more.
func (m Model) fitted(lines []string) []string {
	for i, line := range lines {
		if m.ASCII {
			line = strings.Map(func(r rune) rune {
				if r > unicode.MaxASCII {
					return '?'
				}
				return r
			}, strings.ReplaceAll(line, "…", "~"))
		}
		lines[i] = ansi.Truncate(line, m.width, "")
	}
	return lines
}

func (m Model) longestName() int {
	longest := 0
	for _, row := range m.snapshot.Rows {
		longest = max(longest, len(row.Environment))
	}
	return longest
}

// info is the first line: what is looked at, and how.
func (m Model) info() string {
	total, unusable := len(m.snapshot.Rows), 0
	for _, row := range m.snapshot.Rows {
		if !row.usable(m.now) {
			unusable++
		}
	}
	what := plural(total, "environment")
	if !m.snapshot.Complete {
		what += " so far"
	}
	if unusable > 0 {
		what += ", " + thousands(unusable) + " not usable"
	}
	parts := []string{bold(what)}
	if m.paused {
		parts = []string{reversed(" paused at " + clock(m.now, m.now) + " "), bold(what)}
	} else if age := m.age(); age >= 3*time.Second && m.snapshot.Problem == nil {
		parts = append(parts, "read up to "+span(age)+" ago")
	}
	if m.filter != "" {
		parts = append(parts, thousands(len(m.shown))+" match")
	}
	order := "by " + m.order.String()
	if m.reverse {
		order += ", reversed"
	}
	parts = append(parts, order)
	for len(parts) > 1 && ansi.StringWidth(strings.Join(parts, m.separator())) > m.width {
		parts = parts[:len(parts)-1]
	}
	left := strings.Join(parts, m.separator())
	right := faint("namespace " + m.Namespace)
	if space := m.width - ansi.StringWidth(left) - ansi.StringWidth(right); space >= 2 && m.Namespace != "" {
		return left + strings.Repeat(" ", space) + right
	}
	return left
}

func (m Model) separator() string {
	if m.ASCII {
		return " | "
	}
	return " · "
}

// age is that of the oldest row.
func (m Model) age() time.Duration {
	var oldest time.Duration
	for _, row := range m.snapshot.Rows {
		oldest = max(oldest, m.now.Sub(row.Read))
	}
	return oldest
}

// counts says how many there are of each state, in words where they fit.
func (m Model) counts() string {
	count := map[manager.State]int{}
	for _, row := range m.snapshot.Rows {
		count[row.state(m.now)]++
	}
	var all, some, short []string
	for _, s := range states {
		style, n := lookOf(s).style, count[s]
		if n == 0 {
			all = append(all, faint(m.symbol(s)+" 0 "+string(s)))
			continue
		}
		word := style.Render(m.symbol(s) + " " + thousands(n) + " " + string(s))
		all, some = append(all, word), append(some, word)
		short = append(short, style.Render(m.symbol(s)+" "+thousands(n)))
	}
	for _, line := range []string{strings.Join(all, "  "), strings.Join(some, "  ")} {
		if ansi.StringWidth(line) <= m.width {
			return line
		}
	}
	return strings.Join(short, " ")
}

// problem says since when reading fails, and why.
func (m Model) problem() string {
	line := fmt.Sprintf(" reading fails since %s (%s): %s", clock(m.snapshot.Since, m.now), span(m.now.Sub(m.snapshot.Since)),
		reason(m.snapshot.Problem))
	line = ansi.Truncate(line, m.width, "…")
	return lipgloss.NewStyle().Reverse(true).Bold(true).Foreground(lipgloss.Red).
		Render(line + strings.Repeat(" ", max(m.width-ansi.StringWidth(line), 0)))
}

func (m Model) heads(w widths) string {
	var cells []string
	for _, c := range w.there() {
		head := c.String()
		cells = append(cells, align(head[:min(w[c], len(head))], w[c], c == colLeft))
	}
	line := strings.Repeat(" ", gutter) + strings.Join(cells, strings.Repeat(" ", gap))
	return lipgloss.NewStyle().Faint(true).Render(line)
}

// table returns exactly n lines.
func (m Model) table(w widths, n int) []string {
	lines := make([]string, 0, n)
	for i, row := range m.inSight() {
		lines = append(lines, m.row(row, w, m.top+i == m.at))
	}
	if len(lines) == 0 && n > 0 {
		lines = append(lines, faint("  "+m.nothing()))
	}
	for len(lines) < n {
		lines = append(lines, "")
	}
	return lines
}

// nothing says why there is no row.
func (m Model) nothing() string {
	switch {
	case m.snapshot.Problem != nil:
		return "nothing was read yet"
	case len(m.snapshot.Rows) > 0:
		return "nothing matches " + clean(m.filter, 40)
	case m.snapshot.Complete:
		return "no environment is configured, and none is in Redis"
	}
	return "looking for environments…"
}

func (m Model) row(r *Row, w widths, cursor bool) string {
	state := r.state(m.now)
	style := lookOf(state).style
	dim := lipgloss.NewStyle().Faint(true)
	mark := strings.Repeat(" ", gutter)
	switch {
	case cursor && m.ASCII:
		mark = "> "
	case cursor:
		mark = "› "
	}
	var cells []string
	for _, c := range w.there() {
		cell := m.cell(r, c, w)
		switch {
		case m.snapshot.Problem != nil:
			cell = dim.Render(cell)
		case c == colState, c == colBar:
			cell = style.Render(cell)
		case c == colEnv && cursor:
			cell = bold(cell)
		case c == colVersion, c == colBy:
			cell = dim.Render(cell)
		}
		cells = append(cells, cell)
	}
	return mark + strings.Join(cells, strings.Repeat(" ", gap))
}

// cell is a row's text in a column, as wide as that.
func (m Model) cell(r *Row, c column, w widths) string {
	n, s := w[c], ""
	switch c {
	case colEnv:
		return align(middle(r.Environment, n), n, false)
	case colState:
		if s = m.symbol(r.state(m.now)); n > 1 {
			s += " " + string(r.state(m.now))
		}
	case colBar:
		return m.bar(r, n)
	case colLeft:
		if s = "-"; r.Version != nil {
			s = span(r.left(m.now))
		}
	case colVersion:
		if s = "-"; r.Version != nil {
			digits := r.Version.String()
			s = "…" + digits[max(len(digits)-6, 0):]
			if m.ASCII {
				s = digits[max(len(digits)-6, 0):]
			}
		}
	case colBy:
		if s = "-"; r.RefreshedBy != nil {
			s = *r.RefreshedBy
		}
	default:
		s = brief(r, m.now, w[colBy] == 0)
	}
	return align(clean(s, n), n, c == colLeft)
}

// align fills s up to n cells.
func align(s string, n int, right bool) string {
	space := strings.Repeat(" ", max(n-ansi.StringWidth(s), 0))
	if right {
		return space + s
	}
	return s + space
}

// bar is the remaining part of a token's life.
func (m Model) bar(r *Row, n int) string {
	if r.Version == nil || r.Life <= 0 {
		return strings.Repeat(" ", n)
	}
	part := min(float64(r.left(m.now))/float64(r.Life), 1)
	if m.ASCII {
		full := int(part*float64(n) + 0.5)
		return strings.Repeat("#", full) + strings.Repeat("-", n-full)
	}
	eighths := int(part*float64(8*n) + 0.5)
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s + strings.Repeat("·", n-ansi.StringWidth(s))
}

// detail returns exactly n lines about the row under the cursor.
func (m Model) detail(n int) []string {
	lines := make([]string, n)
	if n == 0 || m.at >= len(m.shown) {
		return lines
	}
	r := m.shown[m.at]
	name := middle(r.Environment, max(m.width/3, 8))
	text := name + ": " + strings.Join(full(r, m.now), m.separator())
	if columnsFor(m.width, 0)[colDetail] == 0 {
		text = brief(r, m.now, true) // what there is no column for
	}
	wrapped := strings.Split(ansi.Wrap(text, max(m.width-1, 1), " "), "\n")
	for i := range lines {
		switch {
		case i >= len(wrapped):
		case i == n-1 && len(wrapped) > n:
			lines[i] = ansi.Truncate(strings.Join(wrapped[i:], " "), m.width, "…")
		default:
			lines[i] = wrapped[i]
		}
	}
	if rest, ok := strings.CutPrefix(lines[0], name); ok {
		lines[0] = bold(name) + rest
	}
	return lines
}

// help is the last line: the keys, or the filter that is typed.
func (m Model) help() string {
	if m.typing {
		return "filter: " + tail(m.filter, m.width-10) + reversed(" ") + m.hint("  part of a name, :state; enter keeps it, esc clears it", m.width-9-ansi.StringWidth(m.filter))
	}
	var keys []string
	if m.filter != "" {
		keys = append(keys, "filter "+bold(clean(m.filter, max(m.width/3, 6))), "esc clear")
	}
	pause := "space pause"
	if m.paused {
		pause = "space go on"
	}
	keys = append(keys, "/ filter", "s sort", "r reverse", pause, "↑↓ move", "q quit")
	if m.ASCII {
		keys[len(keys)-2] = "up/down move"
	}
	for len(keys) > 1 && ansi.StringWidth(strings.Join(keys, "  ")) > m.width {
		keys = append(keys[:len(keys)-2], keys[len(keys)-1]) // how to leave is the last to go
	}
	line := faint(strings.Join(keys, "  "))
	place := m.place()
	if space := m.width - ansi.StringWidth(line) - ansi.StringWidth(place); space >= 2 {
		line += strings.Repeat(" ", space) + faint(place)
	}
	return line
}

// place says which rows are in sight, where that isn't all of them.
func (m Model) place() string {
	n := len(m.inSight())
	if n == 0 || n == len(m.shown) {
		return ""
	}
	return fmt.Sprintf("%s to %s of %s", thousands(m.top+1), thousands(m.top+n), thousands(len(m.shown)))
}

// hint is s where there is room for it.
func (m Model) hint(s string, room int) string {
	if len(s) > room {
		return ""
	}
	return faint(s)
}

// tail is the end of s that fits into n cells.
func tail(s string, n int) string {
	return ansi.TruncateLeft(s, max(ansi.StringWidth(s)-max(n, 1), 0), "")
}

func bold(s string) string     { return lipgloss.NewStyle().Bold(true).Render(s) }
func faint(s string) string    { return lipgloss.NewStyle().Faint(true).Render(s) }
func reversed(s string) string { return lipgloss.NewStyle().Reverse(true).Render(s) }
