package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/doctor"
)

// A findingError says that something was found that isn't as it should be.
type findingError struct {
	worst              doctor.Finding
	failures, warnings int
}

func (e *findingError) Error() string {
	return fmt.Sprintf("doctor: %s, %s; the worst is %s of %s: %s", doctor.Count(e.failures, "failure"), doctor.Count(e.warnings, "warning"),
		e.worst.Check, e.worst.Subject, e.worst.Message)
}

// code is the exit code of a failure of the group that the worst finding belongs to.
func (e *findingError) code() int {
	switch e.worst.Group() {
	case doctor.GroupConfiguration:
		return exitUsage
	case doctor.GroupRedis:
		return exitRedis
	default:
		return exitEndpoint
	}
}

func (a *app) doctorCommand() *cobra.Command {
	var timeout, roundTrip time.Duration
	var strict, token bool
	cmd := &cobra.Command{
		Use:   "doctor [ENV...]",
		Short: "Check configuration, Redis and token endpoints, and say what to mend",
		Long: `Check configuration, Redis and token endpoints, of all environments in the file or of those that are named, and say of
each thing that is wrong what to do. Without a file, with --redis-url alone, only Redis is looked at.

Redis: whether it can be reached, version, TLS certificate, round trip, clock, memory and eviction, persistence, each right
that onetoken needs (every command is run on scratch keys, which are removed), events, and keys that look wrong. What needs
a right that onetoken itself doesn't (INFO) is looked at where the user has it. Of a token endpoint only a connection is
made, over a proxy where there is one, and its certificate looked at. --token has a new token fetched of each environment as
refresh does, for the whole fleet, unless that backs off. No secret is printed.

Findings go to stdout; in JSON a list of {check, level, subject, message, mend}, whose level is ok, warning or failure. The
exit code is 0, or that of the worst finding: 2 configuration, 3 Redis, 4 token endpoint; of several failures the first in
that order, since each needs those before it. Warnings count with --strict, behind all failures.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if roundTrip <= 0 {
				return &usageError{fmt.Errorf("--round-trip: %v is not above 0", roundTrip)}
			}
			ctx, cancel, err := bounded(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer cancel()
			findings, err := doctor.Run(ctx, doctor.Options{Sources: a.sources, Environments: args, Token: token, RoundTrip: roundTrip, Log: a.log})
			if err != nil {
				return err
			}
			if err := a.answer(findings, findingsText(findings)); err != nil {
				return err
			}
			if cmd.Context().Err() != nil {
				return fmt.Errorf("doctor: %w before all was looked at", context.Cause(cmd.Context()))
			}
			return judgement(findings, strict)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "longest `time` for all checks; what isn't done by then is a failure")
	cmd.Flags().DurationVar(&roundTrip, "round-trip", doctor.DefaultRoundTrip, "`time` of a round trip to Redis above which there is a warning")
	cmd.Flags().BoolVar(&strict, "strict", false, "have warnings count as failures of their group")
	cmd.Flags().BoolVar(&token, "token", false, "have a new token fetched, for the whole fleet")
	return cmd
}

// judgement is the error of a run with findings that count.
func judgement(findings []doctor.Finding, strict bool) error {
	worst := doctor.Worst(findings, strict)
	if worst == nil {
		return nil
	}
	e := &findingError{worst: *worst}
	for _, f := range findings {
		switch f.Level {
		case doctor.LevelFailure:
			e.failures++
		case doctor.LevelWarning:
			e.warnings++
		case doctor.LevelOK:
		}
	}
	return e
}

// findingsText lays the findings out for people: a line for each, and one below it with what to do.
func findingsText(findings []doctor.Finding) string {
	var b strings.Builder
	for _, group := range doctor.Groups() {
		headed := false
		for _, f := range findings {
			if f.Group() != group {
				continue
			}
			if !headed {
				fmt.Fprintf(&b, "%s\n", group)
				headed = true
			}
			name := strings.TrimPrefix(f.Check, group+".")
			subject := f.Subject
			if subject != "" {
				subject += ": "
			}
			fmt.Fprintf(&b, "  %s %-13s %s%s\n", mark(f), name, subject, f.Message)
			if f.Mend != "" {
				fmt.Fprintf(&b, "      → %s\n", f.Mend)
			}
		}
	}
	return b.String()
}

func mark(f doctor.Finding) string {
	switch {
	case f.Level == doctor.LevelOK && f.Mend != "": // it wasn't looked at
		return "-"
	case f.Level == doctor.LevelOK:
		return "✓"
	case f.Level == doctor.LevelWarning:
		return "!"
	}
	return "✗"
}
