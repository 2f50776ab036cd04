package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/manager"
)

// A tokenAnswer is what get prints as JSON.
type tokenAnswer struct {
	Environment string          `json:"environment"`
	AccessToken string          `json:"access_token"`
	TokenType   string          `json:"token_type"`
	ExpiresIn   int64           `json:"expires_in"` // whole seconds from now
	ExpiresAt   time.Time       `json:"expires_at"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
}

func (a *app) getCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "get ENV",
		Short: "Print an access token, a fresh one where there is none",
		Args:  oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.token(cmd.Context(), timeout, args[0], (*manager.Manager).Token)
			if err != nil {
				return err
			}
			return a.answer(t, t.AccessToken+"\n")
		},
	}
	waitFlag(cmd, &timeout)
	return cmd
}

// token has a token of env fetched by one of the manager's methods.
func (a *app) token(ctx context.Context, timeout time.Duration, env string,
	fetch func(*manager.Manager, context.Context, string) (*manager.Token, error),
) (tokenAnswer, error) {
	ctx, cancel, err := bounded(ctx, timeout)
	if err != nil {
		return tokenAnswer{}, err
	}
	defer cancel()
	o, err := a.open(false)
	if err != nil {
		return tokenAnswer{}, err
	}
	tok, err := fetch(o.manager, ctx, env)
	if err != nil {
		return tokenAnswer{}, err
	}
	return tokenAnswer{
		Environment: env,
		AccessToken: tok.AccessToken.Reveal(),
		TokenType:   tok.TokenType,
		ExpiresIn:   int64(o.manager.ExpiresIn(env, tok) / time.Second), // down: it doesn't live for longer than promised
		ExpiresAt:   tok.ExpiresAt.UTC().Truncate(time.Millisecond),     // as in Redis: its holder may know it to the microsecond
		Version:     tok.Version,
		RefreshedBy: tok.RefreshedBy,
	}, nil
}
