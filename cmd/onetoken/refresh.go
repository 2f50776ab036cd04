package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

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
			return a.answer(t.Refresh(), refreshLine(t.Refresh()))
		},
	}
	waitFlag(cmd, &timeout)
	return cmd
}

func refreshLine(r answer.Refresh) string {
	return fmt.Sprintf("%s: version %d, expires in %v at %s, refreshed by %s\n", r.Environment, r.Version,
		time.Duration(r.ExpiresIn)*time.Second, r.ExpiresAt.Format(time.RFC3339), printable.Line(r.RefreshedBy, 128))
}
