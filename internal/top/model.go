package top

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// An order is what rows are sorted by.
type order int

const (
	byTrouble order = iota // what needs a look first
	byName
	byTTL // what ends first
	orders
)

func (o order) String() string { return [orders]string{"state", "name", "TTL"}[o] }

// A Model is what the view shows: a function of the last snapshot, the size of the terminal, the keys pressed and the time.
// Its methods return a changed copy.
type Model struct {
	Namespace string
	ASCII     bool // for terminals without Unicode

	snapshot      Snapshot
	width, height int
	now           time.Time

	order   order
	reverse bool
	filter  string
	typing  bool // keys go into the filter
	paused  bool
	quit    bool

	shown  []*Row // of the snapshot, filtered and sorted
	at     int    // of shown: the row that the cursor is on
	follow string // the environment that the cursor stays on; "": it stays at the top
	top    int    // of shown: the first row in sight
}

// A Key is a key that was pressed: its name ("up", "ctrl+c", "a"), and the text that it stands for, if any.
type Key struct{ Name, Text string }

// Sized is the model in a terminal of another size.
func (m Model) Sized(width, height int) Model {
	m.width, m.height = max(width, 0), max(height, 0)
	return m.scrolled()
}

// At is the model at another time. While it is paused time stands still.
func (m Model) At(now time.Time) Model {
	if !m.paused {
		m.now = now
	}
	return m
}

// With is the model with what was read meanwhile. A paused one takes nothing in.
func (m Model) With(s Snapshot) Model {
	if m.paused {
		return m
	}
	m.snapshot = s
	return m.arranged()
}

// Paused reports whether the view stands still.
func (m Model) Paused() bool { return m.paused }

// Quit reports whether the view was left.
func (m Model) Quit() bool { return m.quit }

// Sight returns the names of the rows in sight.
func (m Model) Sight() []string {
	var names []string
	for _, row := range m.inSight() {
		names = append(names, row.Environment)
	}
	return names
}

func (m Model) inSight() []*Row {
	end := min(m.top+m.layout().rows, len(m.shown))
	return m.shown[min(m.top, end):end]
}

// Press is the model after a key.
func (m Model) Press(k Key) Model {
	if k.Name == "ctrl+c" {
		m.quit = true
		return m
	}
	if m.typing {
		return m.typed(k)
	}
	switch k.Name {
	case "q":
		m.quit = true
	case "esc":
		if m.filter == "" {
			m.quit = true
			return m
		}
		m.filter = ""
		return m.arranged()
	case "/":
		m.typing = true
	case "s":
		m.order = (m.order + 1) % orders
		return m.arranged()
	case "r":
		m.reverse = !m.reverse
		return m.arranged()
	case "space", " ":
		m.paused = !m.paused
	default:
		return m.moved(k.Name)
	}
	return m
}

// moved is the model after a key that moves the cursor.
func (m Model) moved(key string) Model {
	page := max(m.layout().rows-1, 1)
	switch key {
	case "up", "k":
		m.at--
	case "down", "j":
		m.at++
	case "pgup", "ctrl+b":
		m.at -= page
		m.top -= page
	case "pgdown", "ctrl+f":
		m.at += page
		m.top += page
	case "home", "g":
		m.at = 0
	case "end", "G":
		m.at = len(m.shown) - 1
	default:
		return m
	}
	m.at = max(min(m.at, len(m.shown)-1), 0)
	m.follow = ""
	if m.at > 0 {
		m.follow = m.shown[m.at].Environment
	}
	return m.scrolled()
}

// maxFilter is longer than any name.
const maxFilter = 160

// typed is the model after a key while the filter is edited.
func (m Model) typed(k Key) Model {
	switch k.Name {
	case "enter":
		m.typing = false
		return m
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		runes := []rune(m.filter)
		m.filter = string(runes[:max(len(runes)-1, 0)])
	case "ctrl+u":
		m.filter = ""
	case "up", "down", "pgup", "pgdown":
		return m.moved(k.Name)
	default:
		text := strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, k.Text)
		if text == "" || len(m.filter)+len(text) > maxFilter {
			return m
		}
		m.filter += text
	}
	return m.arranged()
}

// matches reports whether a row has all that the filter asks for. A word is a part of a name; one that begins with a colon
// is the beginning of a state, or of "unusable".
func (m Model) matches(row *Row) bool {
	for word := range strings.FieldsSeq(strings.ToLower(m.filter)) {
		state, isState := strings.CutPrefix(word, ":")
		switch {
		case !isState && !strings.Contains(strings.ToLower(row.Environment), word):
			return false
		case isState && !strings.HasPrefix(string(row.state(m.now)), state) &&
			(row.usable(m.now) || !strings.HasPrefix("unusable", state)):
			return false
		}
	}
	return true
}

// arranged filters and sorts, and leaves the cursor on the environment that it was on.
func (m Model) arranged() Model {
	m.shown = make([]*Row, 0, len(m.snapshot.Rows))
	for _, row := range m.snapshot.Rows {
		if m.matches(row) {
			m.shown = append(m.shown, row)
		}
	}
	slices.SortFunc(m.shown, m.compare) // names differ, so the order is total
	if m.follow != "" {
		if i := slices.IndexFunc(m.shown, func(row *Row) bool { return row.Environment == m.follow }); i >= 0 {
			m.at = i
		}
	}
	m.at = max(min(m.at, len(m.shown)-1), 0)
	return m.scrolled()
}

func (m Model) compare(a, b *Row) int {
	c := 0
	switch m.order {
	case byTrouble:
		c = cmp.Compare(a.trouble(m.now), b.trouble(m.now))
	case byTTL:
		c = cmp.Compare(a.left(m.now), b.left(m.now))
	default: // the name decides
	}
	c = cmp.Or(c, strings.Compare(a.Environment, b.Environment))
	if m.reverse {
		return -c
	}
	return c
}

// scrolled keeps the cursor in sight, and no room empty that a row could have.
func (m Model) scrolled() Model {
	rows := m.layout().rows
	m.top = min(m.top, m.at, max(len(m.shown)-rows, 0))
	m.top = max(m.top, m.at-rows+1, 0)
	return m
}
