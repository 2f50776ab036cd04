package top

import (
	"context"
	"io"
	"strings"
	"sync"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// Strip are a few lines of the view, to stand below what a program prints: of each environment, as far as there is room, and
// of the first one all there is.
func (m Model) Strip() []string {
	const room = 4 // rows
	if m.width < StripWidth || m.height < StripHeight {
		return nil
	}
	line := "─"
	if m.ASCII {
		line = "-"
	}
	title := strings.Repeat(line, 3) + " live, as onetoken status --watch shows it "
	title = faint(title + strings.Repeat(line, max(StripWidth-ansi.StringWidth(title), 0)))
	w := columnsFor(m.width, m.longestName())
	lines := []string{title, m.heads(w)}
	for _, row := range m.shown[:min(room, len(m.shown))] {
		lines = append(lines, m.row(row, w, false))
	}
	if len(m.shown) == 0 {
		lines = append(lines, faint("  "+m.nothing()))
	}
	lines = append(lines, m.detail(1)...)
	return m.fitted(lines)
}

// The least size of a terminal that a strip is shown on.
const (
	StripWidth  = 80
	StripHeight = 16
)

// Beneath runs f, which writes lines to out, and meanwhile shows a strip beneath them of what is read: from the call of read
// on, until the function that it returns is called. f's error is the only one: whatever becomes of the terminal, f goes on, and
// its lines are written without a strip. Ctrl-c ends f's context.
func (t Terminal) Beneath(ctx context.Context, f func(ctx context.Context, out io.Writer, read func(Options) (stop func())) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, drawn := make(chan struct{}), make(chan struct{})
	program := tea.NewProgram(view{model: t.model(), strip: true, left: cancel, drawn: drawn}, t.options()...)
	go func() {
		defer close(ended)
		_, _ = program.Run() // ends by Quit, or by itself where the terminal fails
	}()
	defer func() {
		program.Send(over{})
		program.Quit()
		<-ended
	}()
	read := func(o Options) (stop func()) { return show(context.WithoutCancel(ctx), program, NewReader(o)) }
	select {
	case <-drawn:
	case <-ended:
	}
	return f(ctx, &above{program: program, ended: ended, out: t.Out}, read)
}

// over ends a strip: it leaves no line behind.
type over struct{}

// above writes lines above a program's strip, and by itself once the program has ended.
type above struct {
	mu      sync.Mutex // keeps lines in order
	program *tea.Program
	ended   <-chan struct{}
	out     io.Writer
}

// Write writes one or more whole lines.
func (a *above) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.ended:
		return a.out.Write(p)
	default:
	}
	a.program.Send(tea.Println(strings.TrimSuffix(string(p), "\n"))()) // nothing where the program is ending
	return len(p), nil
}
