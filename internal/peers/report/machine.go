package report

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A Machine is where it was measured, with what.
type Machine struct {
	Date   string
	CPU    string
	Cores  int
	Kernel string
	Go     string
	Redis  string
	Peers  []string // modules with their versions
}

// compared are the modules whose versions matter.
var compared = []string{
	"cloud.google.com/go/auth", "github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go", "github.com/bsm/redislock",
	"github.com/go-redsync/redsync/v4", "github.com/redis/go-redis/v9", "github.com/redis/rueidis", "golang.org/x/oauth2",
}

// ThisMachine describes this machine and this program; what can't be found out is "unknown".
func ThisMachine(ctx context.Context) Machine {
	m := Machine{
		Date: time.Now().UTC().Format(time.DateOnly), CPU: cpu(), Cores: runtime.NumCPU(), Kernel: "unknown",
		Go: strings.TrimPrefix(runtime.Version(), "go"), Redis: "unknown",
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(release)), "-")
	}
	if out, err := exec.CommandContext(ctx, "redis-server", "--version").Output(); err == nil {
		if v := regexp.MustCompile(`v=(\S+)`).FindSubmatch(out); v != nil {
			m.Redis = string(v[1])
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if slices.Contains(compared, dep.Path) {
				m.Peers = append(m.Peers, dep.Path+" "+dep.Version)
			}
		}
	}
	return m
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	if model := regexp.MustCompile(`model name\s*: (.+)`).FindSubmatch(info); model != nil {
		return string(model[1])
	}
	return "unknown"
}
