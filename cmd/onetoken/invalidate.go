package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/store"
)

// An invalidateAnswer is what invalidate prints as JSON.
type invalidateAnswer struct {
	Environment string        `json:"environment"`
	Version     store.Version `json:"version"` // the highest that is dropped now
}

func (a *app) invalidateCommand() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "invalidate ENV",
		Short: "Drop what is stored, everywhere: the next caller has a new token fetched",
		Args:  oneEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := parseVersion(version, cmd.Flags().Changed("version"))
			if err != nil {
				return err
			}
			o, err := a.open(true)
			if err != nil {
				return err
			}
			dropped, err := o.invalidate(cmd.Context(), args[0], v)
			if err != nil {
				return err
			}
			return a.answer(invalidateAnswer{args[0], dropped},
				fmt.Sprintf("%s: version %d and all before it are dropped\n", args[0], dropped))
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "drop this `version` and those before it (default: all there are)")
	return cmd
}

// parseVersion returns 0, which means all, where no version is given.
func parseVersion(s string, given bool) (store.Version, error) {
	if !given {
		return 0, nil
	}
	v, err := store.ParseVersion(s)
	if err != nil || v == 0 {
		return 0, &usageError{fmt.Errorf("--version: %.40q is no version: 1 to 16 digits, above 0", s)}
	}
	return v, nil
}

// invalidate drops tokens of an environment of the file or, where there is no file, of any.
func (o *opened) invalidate(ctx context.Context, env string, v store.Version) (store.Version, error) {
	if o.manager != nil {
		return o.manager.Invalidate(ctx, env, v)
	}
	if err := store.CheckName(env); err != nil {
		return 0, err
	}
	return o.store.Invalidate(ctx, env, v)
}
