package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A versionAnswer is what version prints as JSON.
type versionAnswer struct {
	Version  string `json:"version"`  // of the module; "(devel)" of a build from a checkout
	Revision string `json:"revision"` // of the checkout; "" where it isn't known
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versionAnswer{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Version = info.Main.Version
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			return a.answer(v, fmt.Sprintf("onetoken %s %s %s\n", v.Version, v.Go, v.Platform))
		},
	}
}
