package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
)

// A rekeyAnswer is what rekey prints as JSON.
type rekeyAnswer struct {
	Key    string     `json:"key"`    // the id of the one that seals
	Fields []rekeyRow `json:"fields"` // all secrets that are in Redis
	Unused []string   `json:"unused"` // the ids of the keyring's other keys that seal none of them; null where only some were looked at
}

// A rekeyRow is one secret in Redis.
type rekeyRow struct {
	Environment string  `json:"environment"`
	Field       string  `json:"field"`   // access_token or refresh_token
	Outcome     string  `json:"outcome"` // one of the outcomes below
	Was         *string `json:"was"`     // the id of its key before; null where it wasn't sealed
	Key         *string `json:"key"`     // the id of its key now; null where it isn't sealed
	Error       *string `json:"error"`   // why it doesn't open
}

const (
	rekeyDone    = "resealed"
	rekeyCurrent = "current"  // it has the first key already
	rekeyOld     = "old"      // it hasn't, and was to be looked at alone
	rekeyFailed  = "unopened" // no key here opens it
)

func (a *app) rekeyCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "rekey [ENV...]",
		Short: "Seal the secrets in Redis anew, with the first key of the keyring",
		Long: `Seal the access and refresh tokens in Redis anew with the first key of the keyring (sealing.keyring_file): of each
environment in the file and of each that is found in Redis, or of those that are named. Their versions and lives stay, and no
replica notices. It may be run again, and while the fleet works.

It says of each secret which key it is sealed with, and which keys seal nothing any more: those may be taken out of the
keyrings, once no replica has them first. Exit code 1 where one can't be opened.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.open(false)
			if err != nil {
				return err
			}
			keys, ok := o.codec.(store.KeyCodec)
			if !ok {
				return &config.Error{File: o.file.Path, Setting: "sealing.keyring_file", Err: errors.New("missing; rekey needs the keys")}
			}
			names, err := overview.New(o.store, o.manager).Choose(cmd.Context(), args)
			if err != nil {
				return err
			}
			ids := []string{keys.SealingKey()}
			if ring, ok := keys.(interface{ IDs() []string }); ok {
				ids = ring.IDs()
			}
			answer, err := o.rekey(cmd.Context(), names, dry)
			if err != nil {
				return err
			}
			answer.Key = ids[0]
			if len(args) == 0 {
				answer.Unused = unusedKeys(ids[1:], answer.Fields)
			}
			if err := a.answer(answer, rekeyText(answer)); err != nil {
				return err
			}
			return unopened(answer.Fields)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say which key each secret is sealed with")
	return cmd
}

// rekey seals anew, or only looks.
func (o *opened) rekey(ctx context.Context, names []string, dry bool) (rekeyAnswer, error) {
	answer := rekeyAnswer{Fields: []rekeyRow{}}
	each := o.store.Reseal
	if dry {
		each = o.store.Seals
	}
	first := o.codec.(store.KeyCodec).SealingKey()
	for _, env := range names {
		seals, err := each(ctx, env)
		if err != nil {
			return answer, err
		}
		for _, s := range seals {
			row := rekeyRow{Environment: env, Field: s.Field, Was: known(s.Was), Key: known(s.Key), Outcome: rekeyCurrent}
			switch {
			case s.Err != nil:
				row.Outcome, row.Error = rekeyFailed, known(printable.Line(s.Err.Error(), 200))
			case s.Was != s.Key:
				row.Outcome = rekeyDone
			case s.Key != first:
				row.Outcome = rekeyOld
			}
			answer.Fields = append(answer.Fields, row)
		}
	}
	return answer, nil
}

// known returns nil for "".
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// unusedKeys are those of ids that seal none of the secrets.
func unusedKeys(ids []string, rows []rekeyRow) []string {
	unused := []string{}
	for _, id := range ids {
		if !slices.ContainsFunc(rows, func(r rekeyRow) bool { return r.Key != nil && *r.Key == id }) {
			unused = append(unused, id)
		}
	}
	return unused
}

func unopened(rows []rekeyRow) error {
	var names []string
	for _, r := range rows {
		if r.Outcome == rekeyFailed {
			names = append(names, fmt.Sprintf("%s of %s (%s)", r.Field, r.Environment, *r.Error))
		}
	}
	if names == nil {
		return nil
	}
	return errors.New("not opened: " + strings.Join(names, ", "))
}

func rekeyText(a rekeyAnswer) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ENVIRONMENT\tSECRET\tKEY\tOUTCOME")
	for _, r := range a.Fields {
		key, outcome := "-", r.Outcome
		if r.Key != nil {
			key = *r.Key
		}
		switch {
		case r.Outcome == rekeyDone && r.Was == nil:
			outcome += ", it wasn't sealed"
		case r.Outcome == rekeyDone:
			outcome += ", it was " + *r.Was
		case r.Error != nil:
			outcome += ": " + *r.Error
		}
		_, _ = fmt.Fprintln(w, strings.Join([]string{r.Environment, r.Field, key, outcome}, "\t"))
	}
	_ = w.Flush()
	switch {
	case a.Unused == nil:
	case len(a.Unused) == 0:
		fmt.Fprintf(&b, "%s seals; there is no key that isn't needed\n", a.Key)
	default:
		fmt.Fprintf(&b, "%s seals; nothing is sealed with %s: to be removed once no replica seals with it\n", a.Key, strings.Join(a.Unused, ", "))
	}
	return b.String()
}
