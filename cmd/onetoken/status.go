package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

func (a *app) statusCommand() *cobra.Command {
	var check, watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status [ENV...]",
		Short: "Show what is in Redis of each environment, never a token",
		Long: `Show what is in Redis of each environment in the file and of each that is found in Redis, or of those that are named.
Never a token. Without a file, with --redis-url alone, an environment is judged by the default policy.

With --watch it goes on. On a terminal that is a view that redraws in place; its keys:

  / filter: a part of the name, or :state (:failing, :unusable); enter keeps it, esc clears it
  s sort: what needs a look first, by name, what ends first        r reverse
  up, down, pgup, pgdn, home, end move; below the table is all there is to say of the row
  space pause, and go on        q, esc, ctrl-c leave

Elsewhere --output table prints a new table under the time whenever anything but a TTL has changed, and --output json all rows
as an array on one line, each interval and on every event. SIGINT and SIGTERM end it, with exit code 0.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case watch && check:
				return &usageError{errors.New("--check and --watch don't go together")}
			case !watch && cmd.Flags().Changed("interval"):
				return &usageError{errors.New("--interval is for --watch")}
			}
			o, err := a.open(true)
			if err != nil {
				return err
			}
			if watch {
				return a.watch(cmd.Context(), o, args, interval)
			}
			view := overview.New(o.store, o.manager)
			names, err := view.Choose(cmd.Context(), args)
			if err != nil {
				return err
			}
			rows, err := view.Rows(cmd.Context(), names)
			if err != nil {
				return err
			}
			if err := a.answer(rows, statusTable(rows)); err != nil {
				return err
			}
			if unusable := unusable(rows); check && len(unusable) > 0 {
				return fmt.Errorf("not usable: %s", strings.Join(unusable, ", "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit 1 where one of the environments isn't usable")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what changes")
	cmd.Flags().DurationVar(&interval, "interval", watchInterval, "`time` between two reads of --watch; events are followed at once")
	return cmd
}

func unusable(rows []manager.Status) []string {
	var names []string
	for _, row := range rows {
		if !row.Usable {
			names = append(names, row.Environment)
		}
	}
	return names
}

// statusTable lays the rows out for a terminal.
func statusTable(rows []manager.Status) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ENVIRONMENT\tSTATE\tUSABLE\tTTL\tVERSION\tREFRESHED BY\tDETAIL")
	for _, row := range rows {
		cells := []string{row.Environment, string(row.State), "no", "-", "-", "-", detail(row)}
		if row.Usable {
			cells[2] = "yes"
		}
		if row.TTL > 0 {
			cells[3] = span(time.Duration(row.TTL))
		}
		if row.Version != nil {
			cells[4] = row.Version.String()
		}
		if row.RefreshedBy != nil {
			cells[5] = printable.Line(*row.RefreshedBy, 40)
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush()
	return b.String()
}

// detail says who is refreshing, what failed, and why the token can't be used: whatever there is of it.
func detail(row manager.Status) string {
	var parts []string
	if row.State == manager.StateRefreshing {
		holder := "unknown"
		if row.Lock.Holder != nil {
			holder = printable.Line(*row.Lock.Holder, 40)
		}
		parts = append(parts, fmt.Sprintf("lease held by %s for another %s", holder, span(time.Duration(row.Lock.TTL))))
	}
	if row.Failure.Code != nil {
		parts = append(parts, failureDetail(row.Failure, row.ReadAt))
	}
	if row.Reason != nil {
		parts = append(parts, printable.Line(*row.Reason, 200))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "; ")
}

// failureDetail counts from when it was read, by Redis's clock, as the time of the next try is.
func failureDetail(f manager.FailureStatus, read time.Time) string {
	text := printable.Line(*f.Code, 64)
	if f.Message != nil {
		text += " (" + printable.Line(*f.Message, 80) + ")"
	}
	if f.Attempt != nil && *f.Attempt > 1 {
		text += fmt.Sprintf(", attempt %d", *f.Attempt)
	}
	if f.RetryAt != nil {
		text += ", next try " + f.RetryAt.UTC().Format(time.RFC3339)
		if left := f.RetryAt.Sub(read); left > 0 {
			text += " (in " + span(left) + ")"
		}
	}
	return text
}

// span cuts a duration to what a reader cares for.
func span(d time.Duration) string {
	if d < 10*time.Second {
		return d.Truncate(100 * time.Millisecond).String()
	}
	return d.Truncate(time.Second).String()
}
