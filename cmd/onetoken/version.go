package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is stamped by the linker (-X main.version=v1.2.3), which takes nothing but a variable; no code writes it. Read it
// through thisBuild.
var version string

// A versionAnswer is what version prints as JSON.
type versionAnswer struct {
	Version  string `json:"version"`  // stamped by the release, else the module's; "(devel)" where neither is known
	Revision string `json:"revision"` // of the checkout; "" where it isn't known
	Modified bool   `json:"modified"` // the checkout had changes that aren't in the revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisBuild describes this program.
func thisBuild() versionAnswer {
	v := versionAnswer{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version = cmp.Or(v.Version, info.Main.Version)
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	v.Version = cmp.Or(v.Version, "(devel)")
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := thisBuild()
			return a.answer(v, fmt.Sprintf("onetoken %s %s %s\n", v.Version, v.Go, v.Platform))
		},
	}
}
