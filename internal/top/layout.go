package top

import "slices"

// A layout is what fits into a terminal's size.
type layout struct {
	info, counts, heads, help bool // lines that are there
	problem                   int  // lines
	detail                    int  // lines about the row under the cursor
	rows                      int  // lines for rows
}

// layout gives the lines to what matters most: counts, rows, a problem, help, heads, the rest.
func (m Model) layout() layout {
	h := m.height
	l := layout{counts: h >= 1, help: h >= 4, heads: h >= 6, info: h >= 8}
	switch {
	case h >= 14:
		l.detail = 2
	case h >= 9:
		l.detail = 1
	}
	if m.snapshot.Problem != nil && h >= 2 {
		l.problem = 1
	}
	l.help = l.help || m.typing && h >= 2
	l.rows = h - l.problem - l.detail
	for _, line := range []bool{l.info, l.counts, l.heads, l.help} {
		if line {
			l.rows--
		}
	}
	l.rows = max(l.rows, 0)
	return l
}

// A column of the table.
type column int

const (
	colEnv column = iota
	colState
	colBar
	colLeft
	colVersion
	colBy
	colDetail
	columns
)

func (c column) String() string {
	return [columns]string{"ENVIRONMENT", "STATE", "TTL", "LEFT", "VERSION", "REFRESHED BY", "DETAIL"}[c]
}

// widths are the columns' widths; 0: there is no room for it.
type widths [columns]int

const (
	gutter    = 2 // before a row: the cursor
	gap       = 1 // between columns
	stateWide = 12
	leftWide  = 6
)

// columnsFor shares a terminal's width out. longest is the widest name's.
func columnsFor(width, longest int) widths {
	var w widths
	room := width - gutter
	take := func(c column, n int) {
		w[c] = n
		room -= n + gap
	}
	switch {
	case width < 24: // a symbol and a name
		take(colState, 1)
	case width < 34:
		take(colState, stateWide)
	case width < 60:
		take(colState, stateWide)
		take(colLeft, leftWide)
		if width >= 40 {
			take(colBar, 4)
		}
	case width < 110:
		take(colState, stateWide)
		take(colLeft, leftWide)
		take(colBar, 10)
	default:
		take(colState, stateWide)
		take(colLeft, leftWide)
		take(colBar, min(12+(width-110)/5, 30))
		take(colVersion, 7)
		take(colBy, min(16+(width-110)/8, 28))
	}
	if width < 60 {
		w[colEnv] = max(room, 1)
		return w
	}
	most := max(room*2/5, 12)
	take(colEnv, min(max(longest, len("ENVIRONMENT")), most))
	w[colDetail] = max(room, 0)
	return w
}

// order of the columns on the screen.
func (w widths) there() []column {
	all := []column{colEnv, colState, colBar, colLeft, colVersion, colBy, colDetail}
	if w[colState] == 1 {
		all = []column{colState, colEnv}
	}
	return slices.DeleteFunc(all, func(c column) bool { return w[c] == 0 })
}
