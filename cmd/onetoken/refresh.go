package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

// A refreshAnswer is what refresh prints as JSON: what get prints, without the token.
type refreshAnswer struct {
	Environment string          `json:"environment"`
	ExpiresIn   int64           `json:"expires_in"` // whole seconds from now
	ExpiresAt   time.Time       `json:"expires_at"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
}

func (a *app) refreshCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "refresh ENV",
		Short: "Have a new token fetched now, for the whole fleet",
		Long: `Have a new token fetched now, for the whole fleet: a backoff that is running is not waited for. The token itself is
not printed.`,
		Args: oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.token(cmd.Context(), timeout, args[0], (*manager.Manager).Refresh)
			if err != nil {
				return err
			}
			answer := refreshAnswer{t.Environment, t.ExpiresIn, t.ExpiresAt, t.Version, t.RefreshedBy}
			return a.answer(answer, answer.line())
		},
	}
	waitFlag(cmd, &timeout)
	return cmd
}

func (r refreshAnswer) line() string {
	return fmt.Sprintf("%s: version %d, expires in %v at %s, refreshed by %s\n", r.Environment, r.Version,
		time.Duration(r.ExpiresIn)*time.Second, r.ExpiresAt.Format(time.RFC3339), printable.Line(r.RefreshedBy, 128))
}
