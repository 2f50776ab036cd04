package compose_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/internal/redistest"
)

// What docker-compose.yml would start, started here as processes: with the commands, the environment and the files of the
// services, and other names in place of those that only a compose network and a container's file system have.
func TestWhatComposeStarts(t *testing.T) {
	redistest.Start(t).Stop() // skips where there is none
	services := configuration(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, services: services, dir: shortDir(t)}
	s.here("/compose/", here+"/")

	s.startRedis()
	s.startEndpoint()
	s.makeKeys()
	agent := s.startAgent()
	s.waitHealthy("agent")
	token := s.tokenOf(agent)

	if status, _ := s.get(agent+"/v1/environments/prod/token", ""); status != http.StatusUnauthorized {
		t.Errorf("without a key the agent answers %d, want 401", status)
	}
	worker := s.start("worker", binaries.worker, s.words("worker"), s.environment("worker"))
	worker.says(`(?m)^.* 200\b.*$`)
	s.opsSee(token)
	s.observe(s.startPrometheus())
	for _, p := range s.processes {
		if text := p.output(); strings.Contains(text, token) || strings.Contains(text, s.key()) || strings.Contains(text, "demo-secret") {
			t.Errorf("%s writes a secret: %s", p.name, text)
		}
	}
}

// A service is one of docker-compose.yml.
type service struct {
	Entrypoint  []string
	Command     []string
	Environment map[string]string
	Volumes     []string
	Healthcheck struct{ Test []string }
}

// configuration returns the services of all profiles, as docker-compose understands them.
func configuration(t *testing.T) map[string]service {
	t.Helper()
	compose := programs.Need(t, "docker-compose")
	cmd := exec.CommandContext(t.Context(), compose, "--file", "../../docker-compose.yml",
		"--profile", "observe", "--profile", "tools", "config")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker-compose config: %v\n%s", err, &stderr)
	}
	var file struct{ Services map[string]service }
	if err := yaml.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(file.Services))
	want := []string{"agent", "endpoint", "grafana", "keys", "onetoken", "ops", "prometheus", "redis", "worker"}
	if !slices.Equal(names, want) {
		t.Fatalf("the services are %q, want %q", names, want)
	}
	return file.Services
}

// What is mounted from here is here: Docker would make an empty folder of what isn't.
func TestComposeMountsWhatIsThere(t *testing.T) {
	for name, s := range configuration(t) {
		for _, volume := range s.Volumes {
			path, _, _ := strings.Cut(volume, ":")
			if !strings.HasPrefix(path, "/") {
				continue // a volume with a name
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// shortDir returns a folder whose path is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "compose-") //nolint:usetesting // its path would be too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// A site is the compose network in one folder of this machine.
type site struct {
	t         *testing.T
	services  map[string]service
	dir       string
	names     []string // what stands in the files, and what it is here, in turn
	processes []*process
}

// here says what a name is on this machine. The first said is the first tried.
func (s *site) here(name, is string) { s.names = append(s.names, name, is) }

func (s *site) translate(text string) string { return strings.NewReplacer(s.names...).Replace(text) }

// entrypoint returns the service's program.
func (s *site) entrypoint(name string) string {
	s.t.Helper()
	if len(s.services[name].Entrypoint) != 1 {
		s.t.Fatalf("the entrypoint of %s is %q", name, s.services[name].Entrypoint)
	}
	return s.translate(s.services[name].Entrypoint[0])
}

// words returns the service's command.
func (s *site) words(name string) []string {
	list := make([]string, 0, len(s.services[name].Command))
	for _, word := range s.services[name].Command {
		list = append(list, s.translate(word))
	}
	return list
}

// environment returns the service's variables, and nothing else but what a process needs here.
func (s *site) environment(name string) []string {
	list := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir}
	for variable, value := range s.services[name].Environment {
		list = append(list, variable+"="+s.translate(value))
	}
	return list
}

// file writes what a file of the compose example is here, and says so.
func (s *site) file(source, target string, more ...string) string {
	s.t.Helper()
	data, err := os.ReadFile(source)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.dir, filepath.Base(source))
	text := strings.NewReplacer(more...).Replace(s.translate(string(data)))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.here(target, path)
	return path
}

func (s *site) folder(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *site) startRedis() {
	s.t.Helper()
	socket := filepath.Join(s.dir, "redis.sock")
	s.start("redis", s.entrypoint("redis"), []string{"--port", "0", "--unixsocket", socket}, s.environment("redis")).says("Ready to accept|ready to accept")
	s.here("redis://redis:6379/0", "unix://"+socket)
	s.here("redis://onetoken-ops:demo-ops@redis:6379/0", "unix://onetoken-ops:demo-ops@"+socket)
}

func (s *site) startEndpoint() {
	s.t.Helper()
	s.here("0.0.0.0:8086", "127.0.0.1:0")
	p := s.start("endpoint", binaries.onetoken, s.words("endpoint"), s.environment("endpoint"))
	s.here("http://endpoint:8086", p.says(`http://127\.0\.0\.1:\d+`))
}

// makeKeys runs keys.sh, twice: the second time it must leave all as it is.
func (s *site) makeKeys() {
	s.t.Helper()
	s.here("/run/agent", s.folder("agent"))
	s.here("/run/prometheus", s.folder("prometheus"))
	cache, err := exec.CommandContext(s.t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	environment := append(s.environment("keys"), "GOCACHE="+strings.TrimSpace(string(cache)))
	var before string
	for range 2 {
		if out, err := s.command(s.entrypoint("keys"), nil, environment).CombinedOutput(); err != nil || len(out) > 0 {
			s.t.Fatalf("keys.sh: %v: %s", err, out)
		}
		if before != "" && before != s.key() {
			s.t.Error("keys.sh makes another key the second time")
		}
		before = s.key()
	}
	for _, name := range []string{"/run/agent/cert.pem", "/run/agent/key.pem", "/run/agent/keys", "/run/prometheus/cert.pem", "/run/prometheus/key"} {
		info, err := os.Stat(s.translate(name))
		if err != nil || info.Mode().Perm() != 0o400 {
			s.t.Errorf("%s: %v, %v; want mode 0400", name, info, err)
		}
	}
}

func (s *site) key() string { return read(s.t, s.translate("/run/prometheus/key")) }

// startAgent returns the agent's URL.
func (s *site) startAgent() string {
	s.t.Helper()
	s.here("0.0.0.0:8085", "127.0.0.1:0")
	s.file("onetoken.yaml", "/etc/onetoken/onetoken.yaml")
	p := s.start("agent", binaries.onetoken, s.words("agent"), s.environment("agent"))
	agent := p.says(`https://127\.0\.0\.1:\d+`)
	s.here("https://127.0.0.1:8085", agent)
	s.here("agent:8085", strings.TrimPrefix(agent, "https://"))
	return agent
}

// waitHealthy waits until the service's own health check says so.
func (s *site) waitHealthy(name string) {
	s.t.Helper()
	test := s.services[name].Healthcheck.Test
	if len(test) < 3 || test[0] != "CMD" || test[1] != "onetoken" {
		s.t.Fatalf("the health check of %s is %q", name, test)
	}
	words := make([]string, 0, len(test))
	for _, word := range test[2:] {
		words = append(words, s.translate(word))
	}
	var out []byte
	s.eventually(name+" is healthy", func() (ok bool) {
		var err error
		out, err = s.command(binaries.onetoken, words, s.environment(name)).CombinedOutput()
		return err == nil
	}, func() string { return string(out) })
}

// tokenOf returns a token from the agent, which has a key and is asked over TLS.
func (s *site) tokenOf(agent string) string {
	s.t.Helper()
	status, body := s.get(agent+"/v1/environments/prod/token", s.key())
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &token); status != http.StatusOK || err != nil || token.AccessToken == "" {
		s.t.Fatalf("the agent answers %d, %v: %s", status, err, body)
	}
	return token.AccessToken
}

// opsSee waits until the user who only looks sees a usable token, and not the token itself.
func (s *site) opsSee(token string) {
	s.t.Helper()
	row := regexp.MustCompile(`(?m)^prod +\S+ +yes `)
	var out []byte
	s.eventually("ops see prod", func() bool {
		var err error
		out, err = s.command(binaries.onetoken, []string{"status", "--check"}, s.environment("ops")).CombinedOutput()
		return err == nil && row.Match(out)
	}, func() string { return string(out) })
	if bytes.Contains(out, []byte(token)) {
		s.t.Errorf("ops see a token: %s", out)
	}
}

// startPrometheus returns its URL.
func (s *site) startPrometheus() string {
	t := s.t
	t.Helper()
	prometheus, promtool := programs.Need(t, "prometheus"), programs.Need(t, "promtool")
	rules, err := filepath.Abs("../alerts")
	if err != nil {
		t.Fatal(err)
	}
	s.here("/etc/prometheus/rules/", rules+"/")
	config := s.file("prometheus/prometheus.yml", "/etc/prometheus/prometheus.yml", "10s", "1s")
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "config", config).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	s.here("path=/prometheus", "path="+s.folder("data"))
	args := append(s.words("prometheus"), "--web.listen-address=127.0.0.1:0")
	address := s.start("prometheus", prometheus, args, s.environment("prometheus")).says(`msg="Listening on" address=\S+`)
	return "http://" + address[strings.LastIndex(address, "=")+1:]
}

// observe waits until Prometheus has read the agent's metrics, and looks for the alert rules.
func (s *site) observe(prometheus string) {
	t := s.t
	t.Helper()
	query := func(path string) string {
		_, body := s.get(prometheus+path, "")
		return string(body)
	}
	var targets string
	s.eventually("Prometheus reads the agent", func() bool {
		targets = query("/api/v1/targets")
		return strings.Contains(targets, `"health":"up"`)
	}, func() string { return targets })
	var metrics string
	s.eventually("the environment is in the metrics", func() bool {
		metrics = query("/api/v1/query?query=" + url.QueryEscape(`count by (__name__) ({__name__=~"onetoken_.+",job="onetoken"})`))
		return strings.Contains(metrics, `"__name__":"onetoken_`)
	}, func() string { return metrics })
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Type, Health, LastError string }
			}
		}
	}
	alerts := 0
	if err := json.Unmarshal([]byte(query("/api/v1/rules")), &rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Data.Groups {
		for _, rule := range group.Rules {
			if rule.Type == "alerting" {
				alerts++
			}
			if rule.Health == "err" {
				t.Errorf("rule %s: %s", rule.Name, rule.LastError)
			}
		}
	}
	if alerts == 0 {
		t.Errorf("Prometheus has no alert rules: %s", query("/api/v1/rules"))
	}
}

// get asks with a key, where there is one.
func (s *site) get(target, key string) (int, []byte) {
	s.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(s.t, s.translate("/run/prometheus/cert.pem"))))
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots},
	}}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, target, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	answer, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, body
}

// A process is one that a service would be. It is killed at the test's end.
type process struct {
	t    *testing.T
	name string
	gone chan struct{}

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu: what it has written
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func (s *site) command(program string, args, environment []string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Env, cmd.Dir = environment, s.t.TempDir() // there is no onetoken.yaml
	return cmd
}

func (s *site) start(name, program string, args, environment []string) *process {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Dir = environment, s.t.TempDir()
	p := &process{t: s.t, name: name, gone: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		cancel()
		s.t.Fatal(err)
	}
	go func() { defer close(p.gone); _ = cmd.Wait() }()
	s.t.Cleanup(func() { cancel(); <-p.gone })
	s.processes = append(s.processes, p)
	return p
}

// says waits until the process has written what matches, and returns it.
func (p *process) says(pattern string) string {
	p.t.Helper()
	want := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if found := want.FindString(p.output()); found != "" {
			return found
		}
		select {
		case <-p.gone:
			p.t.Fatalf("%s has ended: %s", p.name, p.output())
		case <-deadline:
			p.t.Fatalf("%s doesn't say %q: %s", p.name, pattern, p.output())
		case <-tick.C:
		}
	}
}

// eventually waits until ok; state is what to show where it doesn't come true.
func (s *site) eventually(what string, ok func() bool, state func() string) {
	s.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("not so: %s: %s\n%s", what, state(), s)
		case <-tick.C:
		}
	}
}

// String is what all processes have written.
func (s *site) String() string {
	var b strings.Builder
	for _, p := range s.processes {
		fmt.Fprintf(&b, "-- %s\n%s\n", p.name, p.output())
	}
	return b.String()
}
