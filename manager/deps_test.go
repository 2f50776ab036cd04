package manager_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/onetoken/onetoken/"

// dependencies returns the import paths of all that a package pulls in, itself included.
func dependencies(t *testing.T, path string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", path).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", path, err)
	}
	return strings.Fields(string(out))
}

func TestTheManagerPullsInNoMoreThanItNeeds(t *testing.T) {
	deps := dependencies(t, ".")
	for _, d := range deps {
		for _, never := range []string{
			"cobra", "pflag", "miniredis", "prometheus", "yaml", "goleak", "gopher-lua",
			"google.golang.org/grpc", "google.golang.org/protobuf", // manager/grpccreds is there for those who have them
			"opentelemetry.io/otel/sdk", "opentelemetry.io/otel/exporters", // of OpenTelemetry the API alone
		} {
			if strings.Contains(d, never) {
				t.Errorf("manager pulls in %s", d)
			}
		}
		if d == "testing" || strings.HasPrefix(d, "testing/") || d == "net/http/httptest" || d == "flag" {
			t.Errorf("manager pulls in %s", d)
		}
		if strings.HasPrefix(d, module+"manager/") && !slices.Contains([]string{"endpoint", "telemetry"}, strings.TrimPrefix(d, module+"manager/")) || strings.HasPrefix(d, module+"cmd/") {
			t.Errorf("manager pulls in %s", d)
		}
	}
	for _, want := range []string{module + "manager", module + "manager/endpoint", module + "manager/telemetry", module + "store", module + "lock"} {
		if !slices.Contains(deps, want) {
			t.Errorf("manager doesn't pull in %s: is this its list?", want)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, c := range []struct {
		path  string
		never []string
	}{
		{"store", []string{"lock", "manager", "cmd"}},
		{"lock", []string{"store", "manager", "cmd"}},
		{"manager/endpoint", []string{"lock", "cmd"}},
		{"manager/grpccreds", []string{"internal/config", "cmd"}},
		{"cmd/onetoken", []string{"manager/grpccreds"}},
		{"manager/telemetry", []string{"store", "lock", "manager/endpoint", "internal", "cmd"}},
	} {
		for _, d := range dependencies(t, module+c.path) {
			for _, never := range c.never {
				if d == module+never || strings.HasPrefix(d, module+never+"/") {
					t.Errorf("%s pulls in %s", c.path, d)
				}
			}
		}
	}
}
