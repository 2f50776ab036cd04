package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/manager"
)

// A logoutAnswer is what logout prints as JSON.
type logoutAnswer struct {
	Environment string `json:"environment"`
	Found       bool   `json:"found"`   // there was a refresh token, or a token
	Revoked     bool   `json:"revoked"` // at the endpoint, too
}

func (a *app) logoutCommand() *cobra.Command {
	var timeout time.Duration
	var noRevoke bool
	cmd := &cobra.Command{
		Use:   "logout ENV",
		Short: "End a login: revoke the refresh token, and forget it everywhere",
		Long: `End a login: the refresh token is revoked at the endpoint (RFC 7009), and it and the access token are forgotten by the whole
fleet. Where the endpoint doesn't revoke it nothing is forgotten; --no-revoke forgets without asking the endpoint, which
leaves a refresh token that still is good to whoever has it.`,
		Args: oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel, err := bounded(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer cancel()
			g, err := a.openGrant(args[0])
			if err != nil {
				return err
			}
			return a.logout(ctx, g, noRevoke)
		},
	}
	waitFlag(cmd, &timeout)
	cmd.Flags().BoolVar(&noRevoke, "no-revoke", false, "don't ask the endpoint")
	return cmd
}

func (a *app) logout(ctx context.Context, g *grantSite, noRevoke bool) error {
	done := logoutAnswer{Environment: g.env}
	asked := false
	revoke := func(ctx context.Context, refreshToken manager.Secret) error {
		asked = true
		_, err := login.Call(ctx, "revocation", g.timeout, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, g.client.Revoke(ctx, refreshToken)
		})
		done.Revoked = err == nil
		return err
	}
	if noRevoke {
		revoke = nil
	}
	var err error
	done.Found, err = g.manager.Logout(ctx, g.env, revoke)
	if err != nil {
		if asked { // it is the endpoint that stands in the way
			return fmt.Errorf("%w; nothing is forgotten, which --no-revoke does without asking", g.describe(err))
		}
		return err
	}
	text := "logged out: the refresh token is revoked and forgotten"
	switch {
	case !done.Found:
		text = "nobody is logged in: nothing is stored"
	case !done.Revoked:
		text = "logged out: the refresh token is forgotten, not revoked"
	}
	return a.answer(done, fmt.Sprintf("%s: %s\n", g.env, text))
}
