package opsdocs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/programs"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

const clientSecret = "old-secret-5f1d"

// A sandbox is where the commands of one section run: a folder with a configuration file, a Redis and a scripted token
// endpoint, and workers, which write worker.log.
type sandbox struct {
	t        *testing.T
	redis    *redistest.Server
	rdb      *redis.Client // for the test's own looks
	endpoint *mockendpoint.Endpoint
	dir      string
	log      *slog.Logger
	ports    [][2]string  // as a page has them, as they are
	env      []string     // of the commands
	live     func()       // what a command that listens is to hear
	between  func(string) // what must hold after a command
	after    func()       // what must hold once the commands have run
}

func newSandbox(t *testing.T, redisConfig ...string) *sandbox {
	t.Helper()
	s := &sandbox{t: t, redis: redistest.Start(t, redisConfig...), dir: t.TempDir()}
	programs.Need(t, "redis-cli")
	o := redistest.Options(s.redis.Addr())
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = patience, patience, patience
	s.rdb = redistest.NewClient(t, o)
	s.endpoint = mockendpoint.New(mockendpoint.Options{ClientSecret: clientSecret})
	server := httptest.NewServer(s.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(s.endpoint.Close)
	s.port("6379", s.redis.Addr())
	s.port("8086", server.Listener.Addr().String())
	s.env = []string{
		"PATH=" + s.dir + "/bin:" + tools + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C",
		"GORACE=atexit_sleep_ms=0", "CLIENT_SECRET=" + clientSecret, "OLD=old-password", "NEW=new-password",
	}
	s.write("onetoken.yaml", s.settings("prod", "replica: ops-1"))
	s.write("bin/redis-cli", fmt.Sprintf(redisCLI, programs.Need(t, "redis-cli"), s.ports[0][1]))
	log, err := os.OpenFile(filepath.Join(s.dir, "worker.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	s.log = slog.New(slog.NewTextHandler(log, nil))
	return s
}

// redisCLI answers as it would on a terminal, unless a program or another file takes the answer.
const redisCLI = `#!/bin/sh
raw=--raw
if [ /dev/stdout -ef "$TERMINAL" ]; then raw=--no-raw; fi
exec %s -p %s $raw "$@"
`

// port has pages name a port otherwise than it is.
func (s *sandbox) port(shown, address string) {
	_, port, err := net.SplitHostPort(address)
	must(s.t, err)
	s.ports = append(s.ports, [2]string{shown, port})
}

var portPattern = `(127\.0\.0\.1:|-p |")%s\b`

func (s *sandbox) real(text string) string {
	for _, p := range s.ports {
		text = regexp.MustCompile(fmt.Sprintf(portPattern, p[0])).ReplaceAllString(text, "${1}"+p[1])
	}
	return text
}

func (s *sandbox) shown(text string) string {
	for _, p := range s.ports {
		text = regexp.MustCompile(fmt.Sprintf(portPattern, p[1])).ReplaceAllString(text, "${1}"+p[0])
	}
	return text
}

// settings is a configuration file for an environment; more are further lines at its beginning.
func (s *sandbox) settings(env string, more ...string) string {
	return s.real(fmt.Sprintf(`%s
redis: {url: "redis://127.0.0.1:6379/0"}
environments:
  %s:
    base_url: http://127.0.0.1:8086/api/v2
    client_id: demo
    client_secret: %s
`, strings.Join(more, "\n"), env, clientSecret))
}

// write writes a file of the sandbox.
func (s *sandbox) write(name, content string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	must(s.t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(s.t, os.WriteFile(path, []byte(content), 0o700))
}

// worker starts a replica with a configuration file, as programs do.
func (s *sandbox) worker(name, file string, changes ...func(*manager.Config)) *manager.Manager {
	s.t.Helper()
	f, err := config.Sources{Path: filepath.Join(s.dir, file), Lookup: os.LookupEnv}.Load()
	must(s.t, err)
	rdb, err := f.Client()
	must(s.t, err)
	f.Replica = name
	m, err := f.Manager(rdb, s.log, changes...)
	must(s.t, err)
	s.t.Cleanup(func() {
		_ = m.Close()
		_ = rdb.Close()
	})
	return m
}

// token has a worker take a token of prod, and waits until nobody holds the lease any more.
func (s *sandbox) token(m *manager.Manager) *manager.Token {
	s.t.Helper()
	tok, err := s.ask(m.Token, "prod")
	must(s.t, err)
	return tok
}

// ask asks for a token until there is an answer other than that Redis can't be used: on a machine that is busy enough its
// calls, which have a second each, fail. It waits until the lease has been given back.
func (s *sandbox) ask(f func(context.Context, string) (*manager.Token, error), env string) (tok *manager.Token, err error) {
	s.t.Helper()
	eventually(s.t, "Redis can be used", func() bool {
		tok, err = f(s.ctx(), env)
		_, away := errors.AsType[*manager.RedisError](err)
		return !away
	})
	s.settled(env)
	return tok, err
}

// settled waits until nobody holds the lease: a caller has its token, or its error, before the lease has been given back.
func (s *sandbox) settled(env string) {
	s.t.Helper()
	eventually(s.t, "the lease is given back", func() bool {
		n, err := s.rdb.Exists(s.ctx(), "onetoken:{"+env+"}:lock").Result()
		return err == nil && n == 0
	})
}

// fails has a worker ask for a new token of prod, which fails with the code.
func (s *sandbox) fails(m *manager.Manager, code string) {
	s.t.Helper()
	var failed *manager.EndpointError
	if _, err := s.ask(m.Refresh, "prod"); !errors.As(err, &failed) || failed.Code != code {
		s.t.Fatalf("a refresh brings %v, want %s", err, code)
	}
}

// gets waits until a worker hands out such a token.
func (s *sandbox) gets(m *manager.Manager, such func(*manager.Token) bool) {
	s.t.Helper()
	eventually(s.t, "the worker has another token", func() bool {
		tok, err := m.Token(s.ctx(), "prod")
		return err == nil && such(tok)
	})
}

// hears waits until as many replicas are subscribed.
func (s *sandbox) hears(n int64) {
	s.t.Helper()
	eventually(s.t, "the workers are subscribed", func() bool {
		counts, err := s.rdb.PubSubNumSub(s.ctx(), "onetoken:events").Result()
		return err == nil && counts["onetoken:events"] == n
	})
}

// holds has a worker ask for a token while the endpoint doesn't answer.
func (s *sandbox) holds(m *manager.Manager) {
	s.t.Helper()
	gate := make(chan struct{})
	s.endpoint.Push(mockendpoint.Reply{Gate: gate})
	calls, done := s.endpoint.Calls(), make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, err := m.Token(s.t.Context(), "prod")
			if _, away := errors.AsType[*manager.RedisError](err); !away {
				return
			}
		}
	}()
	s.t.Cleanup(func() { close(gate); <-done })
	must(s.t, s.endpoint.Await(s.ctx(), calls+1))
}

// patient is a worker whose requests and leases don't end by themselves while the commands run.
func patient(c *manager.Config) {
	e := c.Environments["prod"]
	e.EndpointTimeout, e.Lease = 10*time.Minute, 10*time.Minute
	c.Environments["prod"] = e
}

// aged replaces the worker's token by one of an hour's life that was fetched that long ago.
func (s *sandbox) aged(m *manager.Manager, age time.Duration) {
	s.t.Helper()
	tok := s.token(m)
	st, err := store.New(s.rdb, store.Options{Timeout: patience})
	must(s.t, err)
	at := store.Issue{Version: tok.Version + 1, At: tok.IssuedAt.Add(-age)}
	_, err = st.Put(s.ctx(), "prod", at, time.Hour, store.NewToken(*tok))
	must(s.t, err)
}

func (s *sandbox) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// run runs a command in a shell, and returns what it writes. It runs it again where the machine was too slow for the second
// that a call of Redis has.
func (s *sandbox) run(c command) (answer string) {
	s.t.Helper()
	for range 10 {
		answer = s.runOnce(c)
		if !slow.MatchString(answer) || slow.MatchString(c.answer) {
			break
		}
		s.t.Logf("$ %s\n%s", c.text, answer)
	}
	return answer
}

var slow = regexp.MustCompile(`i/o timeout|deadline exceeded`)

func (s *sandbox) runOnce(c command) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "output")
	out, err := os.Create(path)
	must(s.t, err)
	defer func() { _ = out.Close() }()
	ctx, stop := context.WithTimeout(s.t.Context(), 2*patience)
	defer stop()
	sh := exec.CommandContext(ctx, "sh", "-c", s.real(c.text))
	sh.Dir, sh.Env, sh.Stdout, sh.Stderr = s.dir, append(slices.Clone(s.env), "TERMINAL="+path), out, out
	must(s.t, sh.Start())
	read := func() string {
		b, err := os.ReadFile(path)
		must(s.t, err)
		return s.shown(string(b))
	}
	if strings.Contains(c.text, "redis-cli SUBSCRIBE") {
		s.listen(c, read)
		stop() // it would listen for ever
	}
	_ = sh.Wait() // a command's failure is in what is shown
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.t.Fatalf("$ %s doesn't end; so far:\n%s", c.text, read())
	}
	return read()
}

// listen waits until a command that listens has heard as much as is shown.
func (s *sandbox) listen(c command, read func() string) {
	s.t.Helper()
	lines := func(text string) int { return strings.Count(text, "\n") - strings.Count(text, "Reading messages") }
	eventually(s.t, "it listens", func() bool { return lines(read()) >= 3 })
	s.live()
	eventually(s.t, "it hears what is shown", func() bool { return lines(read()) >= lines(c.answer) })
}
