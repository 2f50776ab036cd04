package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/manager"
)

const (
	watchInterval    = time.Second
	minWatchInterval = 200 * time.Millisecond
)

// watch shows the environments that are asked for, all where none is, until it is left.
func (a *app) watch(ctx context.Context, o *opened, args []string, interval time.Duration) error {
	if interval < minWatchInterval {
		return &usageError{fmt.Errorf("--interval: %v is below %v", interval, minWatchInterval)}
	}
	ctx, stop := a.endSignals(ctx)
	defer stop()
	view := overview.New(o.store, o.manager)
	live := a.output == "table" && a.onTerminal()
	first, err := view.Choose(ctx, args)
	if err != nil && (!live || exitCode(err) == exitUsage) {
		return err
	}
	options := top.Options{
		Names: func(ctx context.Context) (names []string, err error) {
			if names, first = first, nil; names == nil {
				names, err = view.Choose(ctx, args)
			}
			if len(args) > 0 {
				first = names // the names that were asked for stay
			}
			return names, err
		},
		Rows:     view.Rows,
		Watch:    o.store.Watch,
		Interval: interval,
	}
	if live {
		return top.Terminal{Out: a.stdout, Environ: os.Environ(), Namespace: o.store.Namespace()}.Show(ctx, top.NewReader(options))
	}
	options.Turn = math.MaxInt
	err = top.Plain{Print: a.printer(), Changes: a.output == "table", Trouble: a.trouble}.Show(ctx, top.NewReader(options))
	if errors.Is(err, syscall.EPIPE) { // nobody reads any more
		return nil
	}
	return err
}

// endSignals returns a context that ends with SIGHUP, too: the view gives the terminal back. Where SIGINT or SIGHUP was ignored
// when we were started, by nohup or by a shell in the background, it stays so.
func (a *app) endSignals(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.interruptIgnored {
		signal.Ignore(os.Interrupt)
	}
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// onTerminal reports whether stdout is a terminal that a view can be drawn on.
func (a *app) onTerminal() bool {
	file, ok := a.stdout.(*os.File)
	name, _ := a.lookup("TERM")
	return ok && term.IsTerminal(int(file.Fd())) && name != "dumb"
}

// roomForStrip reports whether stdout is a terminal with room for lines and a few that stay beneath them.
func (a *app) roomForStrip() bool {
	if !a.onTerminal() {
		return false
	}
	width, height, err := term.GetSize(int(a.stdout.(*os.File).Fd()))
	return err == nil && width >= top.StripWidth && height >= top.StripHeight
}

// printer returns what prints all rows: a line of JSON, or a table under the time.
func (a *app) printer() func([]manager.Status, time.Time) error {
	if a.output == "json" {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetEscapeHTML(false)
		return func(rows []manager.Status, _ time.Time) error { return encoder.Encode(rows) }
	}
	return func(rows []manager.Status, now time.Time) error {
		_, err := io.WriteString(a.stdout, now.UTC().Format(time.RFC3339)+"\n"+statusTable(rows)+"\n")
		return err
	}
}

// trouble says on stderr that reading fails, or works again.
func (a *app) trouble(err error) {
	if err == nil {
		_, _ = fmt.Fprintln(a.stderr, "onetoken: reading works again")
		return
	}
	_, _ = fmt.Fprintln(a.stderr, oneLine(fmt.Errorf("%w; trying again", err)))
}
