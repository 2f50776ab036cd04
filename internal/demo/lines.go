package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// lines writes lines with the time since the demonstration began; by several goroutines.
type lines struct {
	mu    sync.Mutex
	w     io.Writer
	begun time.Time
}

// say writes a timed line.
func (l *lines) say(format string, args ...any) {
	l.plain(fmt.Sprintf("%6.2fs  ", time.Since(l.begun).Seconds()) + fmt.Sprintf(format, args...))
}

// title writes the headline of a scene.
func (l *lines) title(text string) { l.plain("\n" + text) }

func (l *lines) plain(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.w, strings.TrimRight(text, "\n")+"\n")
}
