package interop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const (
	clientID     = "worker in/another+language" // a colon can't be in an id that isn't form-encoded in a Basic header
	clientSecret = "hunter2/+ %secret&=5f1d:~"
	sharedID     = "reports"
	sharedSecret = "another+s3cret:%"
	scope        = "campaigns.read campaigns.write"
)

// onetoken is the command under test, built once.
var onetoken string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "onetoken-interop-")
	if err == nil {
		onetoken = filepath.Join(dir, "onetoken")
		var out []byte
		if out, err = exec.CommandContext(context.Background(), "go", "build", "-o", onetoken, "github.com/onetoken/onetoken/cmd/onetoken").CombinedOutput(); err != nil {
			err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// A site is an agent with what lies behind it.
type site struct {
	endpoint *mockendpoint.Endpoint
	agent    string // its URL
	socket   string // of the same agent, where it has one
}

// newSite starts an agent with the environment prod, which listens at the addresses ("127.0.0.1:0" where there are none).
func newSite(t *testing.T, listen ...string) *site {
	t.Helper()
	redis := miniredis.RunT(t)
	redis.ClockTTL(true)
	s := &site{endpoint: mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret})}
	server := httptest.NewServer(s.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(s.endpoint.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "shared-secret"), sharedSecret+"\n")
	config := filepath.Join(dir, "onetoken.yaml")
	write(t, config, fmt.Sprintf(`redis: {url: "redis://%s"}
environments:
  prod:
    token_url: %s/token
    client_id: ${CLIENT_ID}
    client_secret: ${CLIENT_SECRET}
    scopes: [campaigns.read, campaigns.write]
agent:
  clients:
    - {id: %s, secret_file: shared-secret, environments: [prod]}
`, redis.Addr(), server.URL, sharedID))
	s.start(t, config, listen)
	return s
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs the agent for the life of t.
func (s *site) start(t *testing.T, config string, listen []string) {
	t.Helper()
	args := []string{"serve", "--config", config, "--output", "json"}
	if len(listen) == 0 {
		listen = []string{"127.0.0.1:0"}
	}
	for _, address := range listen {
		args = append(args, "--listen", address)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), onetoken, args...)
	cmd.Env = append(os.Environ(), "CLIENT_ID="+clientID, "CLIENT_SECRET="+clientSecret)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v", err)
		}
	})
	decoder := json.NewDecoder(bufio.NewReader(stdout))
	var answer struct{ Listen []string }
	if err := decoder.Decode(&answer); err != nil {
		t.Fatalf("the agent's first line: %v", err)
	}
	for _, address := range answer.Listen {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			s.socket = path
		} else {
			s.agent = address
		}
	}
}

// refusal is the answer of an endpoint that refuses the client, and not to be asked again before d is over.
func refusal(d time.Duration) mockendpoint.Reply {
	return mockendpoint.Reply{Error: "invalid_client", RetryAfter: d}
}
