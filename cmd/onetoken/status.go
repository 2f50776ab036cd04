package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "status [ENV...]",
		Short: "Show what is in Redis of each environment, never a token",
		Long: `Show what is in Redis of each environment in the file and of each that is found in Redis, or of those that are named.
Never a token. Without a file, with --redis-url alone, an environment is judged by the default policy.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.open(true)
			if err != nil {
				return err
			}
			rows, err := o.statuses(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := a.answer(rows, statusTable(rows, time.Now())); err != nil {
				return err
			}
			if unusable := unusable(rows); check && len(unusable) > 0 {
				return fmt.Errorf("not usable: %s", strings.Join(unusable, ", "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit 1 where one of the environments isn't usable")
	return cmd
}

// statuses returns a row for each of names, or for all there are.
func (o *opened) statuses(ctx context.Context, names []string) ([]manager.Status, error) {
	names, err := o.choose(ctx, names)
	if err != nil {
		return nil, err
	}
	rows := make([]manager.Status, 0, len(names)) // an empty list is [] in JSON
	for _, env := range names {
		row, err := o.status(ctx, env)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (o *opened) status(ctx context.Context, env string) (manager.Status, error) {
	if _, ok := o.file.Environments[env]; ok {
		return o.manager.Status(ctx, env)
	}
	record, err := o.store.Read(ctx, env)
	if err != nil {
		return manager.Status{}, err
	}
	return manager.StatusOf(env, record), nil
}

// choose returns the names that are asked for, each once, or all known ones. Redis is searched only where the file doesn't
// tell: a search walks through all of its keys.
func (o *opened) choose(ctx context.Context, names []string) ([]string, error) {
	inFile := func(env string) bool { _, ok := o.file.Environments[env]; return ok }
	if len(names) > 0 && !slices.ContainsFunc(names, func(env string) bool { return !inFile(env) }) {
		return unique(names), nil
	}
	for _, env := range names {
		if err := store.CheckName(env); err != nil {
			return nil, err
		}
	}
	known, err := o.store.Environments(ctx)
	if err != nil {
		return nil, err
	}
	for env := range o.file.Environments {
		known = append(known, env)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	if len(names) == 0 {
		return known, nil
	}
	for _, env := range names {
		if o.manager != nil && !slices.Contains(known, env) {
			return nil, &manager.UnknownEnvironmentError{Environment: env, Known: known}
		}
	}
	return unique(names), nil
}

// unique returns names in their order, each once.
func unique(names []string) []string {
	var list []string
	for _, name := range names {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
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
func statusTable(rows []manager.Status, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ENVIRONMENT\tSTATE\tUSABLE\tTTL\tVERSION\tREFRESHED BY\tDETAIL")
	for _, row := range rows {
		cells := []string{row.Environment, string(row.State), "no", "-", "-", "-", detail(row, now)}
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
func detail(row manager.Status, now time.Time) string {
	var parts []string
	if row.State == manager.StateRefreshing {
		holder := "unknown"
		if row.Lock.Holder != nil {
			holder = printable.Line(*row.Lock.Holder, 40)
		}
		parts = append(parts, fmt.Sprintf("lease held by %s for another %s", holder, span(time.Duration(row.Lock.TTL))))
	}
	if row.Failure.Code != nil {
		parts = append(parts, failureDetail(row.Failure, now))
	}
	if row.Reason != nil {
		parts = append(parts, printable.Line(*row.Reason, 120))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "; ")
}

func failureDetail(f manager.FailureStatus, now time.Time) string {
	text := printable.Line(*f.Code, 64)
	if f.Message != nil {
		text += " (" + printable.Line(*f.Message, 80) + ")"
	}
	if f.Attempt != nil && *f.Attempt > 1 {
		text += fmt.Sprintf(", attempt %d", *f.Attempt)
	}
	if f.RetryAt != nil {
		text += ", next try " + f.RetryAt.UTC().Format(time.RFC3339)
		if left := f.RetryAt.Sub(now); left > 0 {
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
