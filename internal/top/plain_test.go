package top_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A printer notes what is printed, by the second.
type printer struct {
	begun time.Time
	lines []string
	err   error
}

func (p *printer) print(rows []manager.Status, now time.Time) error {
	line := fmt.Sprintf("%.0fs:", now.Sub(p.begun).Seconds())
	for _, row := range rows {
		line += fmt.Sprintf(" %s %s %v", row.Environment, row.State, time.Duration(row.TTL))
	}
	p.lines = append(p.lines, line)
	return p.err
}

func (p *printer) trouble(err error) {
	p.lines = append(p.lines, fmt.Sprintf("%.0fs: %v", time.Since(p.begun).Seconds(), err))
}

// showing runs a plain view in a bubble of synctest; the function that it returns ends it and returns its error.
func showing(t *testing.T, p *printer, r *top.Reader, changes bool) (end func() error) {
	p.begun = time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- top.Plain{Print: p.print, Changes: changes, Trouble: p.trouble}.Show(ctx, r) }()
	return func() error { cancel(); return <-ended }
}

func TestPlainPrintsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newSource(2), &printer{}
		end := showing(t, p, top.NewReader(s.options()), true)
		after(2500 * time.Millisecond)
		s.set(func() { s.state = manager.StateStale })
		after(time.Second)
		s.set(func() { s.err = errors.New("broken") })
		after(2 * time.Second)
		s.set(func() { s.err = nil })
		after(2 * time.Second)
		if err := end(); err != nil {
			t.Error(err)
		}
		same(t, strings.Join(p.lines, "\n"), `
0s: env-0000 fresh 1m0s env-0001 fresh 1m0s
3s: env-0000 stale 1m0s env-0001 stale 1m0s
4s: broken
6s: <nil>`)
	})
}

func TestPlainPrintsEachRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := newSource(1), &printer{}
		r := top.NewReader(s.options())
		end := showing(t, p, r, false)
		after(2200 * time.Millisecond)
		r.Event(store.Event{Env: "env-0000"})
		after(2 * time.Second)
		if err := end(); err != nil {
			t.Error(err)
		}
		same(t, strings.Join(p.lines, "\n"), `
0s: env-0000 fresh 1m0s
1s: env-0000 fresh 1m0s
2s: env-0000 fresh 1m0s
2s: env-0000 fresh 1m0s
3s: env-0000 fresh 1m0s
4s: env-0000 fresh 1m0s`)
	})
}

// Without a first answer there is nothing to go on with, and what can't be printed ends it, too.
func TestPlainErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		s, p := newSource(1), &printer{}
		s.err = broken
		if err := (top.Plain{Print: p.print, Trouble: p.trouble}).Show(t.Context(), top.NewReader(s.options())); !errors.Is(err, broken) || len(p.lines) > 0 {
			t.Errorf("got %v, %q", err, p.lines)
		}
		s, p = newSource(1), &printer{err: broken}
		if err := (top.Plain{Print: p.print, Trouble: p.trouble}).Show(t.Context(), top.NewReader(s.options())); !errors.Is(err, broken) || len(p.lines) != 1 {
			t.Errorf("got %v, %q", err, p.lines)
		}
	})
}
