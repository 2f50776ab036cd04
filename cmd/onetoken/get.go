package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/manager"
)

func (a *app) getCommand() *cobra.Command {
	var timeout, minTTL time.Duration
	cmd := &cobra.Command{
		Use:   "get ENV",
		Short: "Print an access token, a fresh one where there is none",
		Args:  oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			if minTTL < 0 {
				return &usageError{fmt.Errorf("--min-ttl: %v is below 0", minTTL)}
			}
			fetch := func(m *manager.Manager, ctx context.Context, env string) (*manager.Token, error) {
				return m.TokenFor(ctx, env, minTTL)
			}
			t, err := a.token(cmd.Context(), timeout, args[0], fetch)
			if err != nil {
				return err
			}
			return a.answer(t, t.AccessToken+"\n")
		},
	}
	waitFlag(cmd, &timeout)
	cmd.Flags().DurationVar(&minTTL, "min-ttl", 0, "least `life` that the token must have left: for a job that takes long")
	return cmd
}

// token has a token of env fetched by one of the manager's methods.
func (a *app) token(ctx context.Context, timeout time.Duration, env string,
	fetch func(*manager.Manager, context.Context, string) (*manager.Token, error),
) (answer.Token, error) {
	ctx, cancel, err := bounded(ctx, timeout)
	if err != nil {
		return answer.Token{}, err
	}
	defer cancel()
	o, err := a.open(false)
	if err != nil {
		return answer.Token{}, err
	}
	t, err := fetch(o.manager, ctx, env)
	if err != nil {
		return answer.Token{}, err
	}
	return answer.Of(o.manager, env, t), nil
}
