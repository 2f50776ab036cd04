package top

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Strip are a few lines of the view, to stand below what a program prints: of each environment, as far as there is room, and
// of the first one all there is.
func (m Model) Strip() []string {
	const room = 4 // rows
	if m.width < stripWidth || m.height < stripHeight {
		return nil
	}
	line := "─"
	if m.ASCII {
		line = "-"
	}
	title := strings.Repeat(line, 3) + " live, as onetoken status --watch shows it "
	title = faint(title + strings.Repeat(line, max(m.width-ansi.StringWidth(title), 0)))
	w := columnsFor(m.width, m.longestName())
	lines := []string{title, m.heads(w)}
	for _, row := range m.shown[:min(room, len(m.shown))] {
		lines = append(lines, m.row(row, w, false))
	}
	if len(m.shown) == 0 {
		lines = append(lines, faint("  "+m.nothing()))
	}
	lines = append(lines, m.detail(1)...)
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	return lines
}

// The least size of a terminal that a strip is shown on.
const (
	stripWidth  = 80
	stripHeight = 16
)
