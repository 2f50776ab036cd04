package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A platform is a GOOS and a GOARCH.
type platform struct{ system, architecture string }

func (p platform) String() string { return p.system + "/" + p.architecture }

func parsePlatforms(list []string) ([]platform, error) {
	if len(list) == 0 {
		return nil, errors.New("-platforms: there is none")
	}
	platforms := make([]platform, 0, len(list))
	for _, text := range list {
		system, architecture, ok := strings.Cut(text, "/")
		if !ok || system == "" || architecture == "" || strings.ContainsAny(architecture, `/\`) {
			return nil, fmt.Errorf("-platforms: %.40q isn't system/architecture, such as linux/amd64", text)
		}
		platforms = append(platforms, platform{system, architecture})
	}
	return platforms, nil
}

// compile builds the programs of the module in root into dir. No path of this machine is in them, and no C library.
func compile(ctx context.Context, root, dir, version string, p platform) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version,
		"-o", dir+string(os.PathSeparator), "./cmd/onetoken", "./cmd/worker")
	cmd.Dir = root
	// What else decides on the machine code has its default.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.system, "GOARCH="+p.architecture,
		"GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
