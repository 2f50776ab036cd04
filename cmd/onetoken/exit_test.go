package main_test

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []struct {
		args string
		want string
	}{
		{"gte prod", `onetoken: unknown command "gte" for "onetoken" Did you mean this? get`},
		{"get", "onetoken: get takes one environment, not 0: onetoken get ENV [flags]"},
		{"get prod test", "onetoken: get takes one environment, not 2: onetoken get ENV [flags]"},
		{"get nope", `onetoken: unknown environment "nope"; configured: prod, test`},
		{"refresh nope", `onetoken: unknown environment "nope"; configured: prod, test`},
		{"invalidate nope", `onetoken: unknown environment "nope"; configured: prod, test`},
		{"status prod nope", `onetoken: unknown environment "nope"; configured: prod, test`},
		{"status a:b", `onetoken: "a:b": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"help gte", `onetoken: unknown help topic "gte"`},
		{"completion tcsh", `onetoken: completion: unknown shell "tcsh"; onetoken completion --help names them`},
		{"get prod --colour", "onetoken: unknown flag: --colour"},
		{"get prod --timeout 5", `onetoken: invalid argument "5" for "--timeout" flag: time: missing unit in duration "5"`},
		{"get prod --timeout -5s", "onetoken: --timeout: -5s is not above 0"},
		{"get prod --output yaml", `onetoken: --output: "yaml" is neither table nor json`},
		{"--log-level loud get prod", `onetoken: --log-level: "loud" is none of debug, info, warn, error`},
		{"--namespace a/b get prod", `onetoken: --namespace: "a/b": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"--redis-url http://x get prod", "onetoken: --redis-url or $ONETOKEN_REDIS_URL: no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; special characters in a password are percent-encoded)"},
		{"invalidate prod --version 0", `onetoken: --version: "0" is no version: 1 to 16 digits, above 0`},
		{"invalidate prod --version 1e9", `onetoken: --version: "1e9" is no version: 1 to 16 digits, above 0`},
		{"invalidate prod --version 9999999999999999", "onetoken: store: the version is 0 or more than 24 hours ahead of Redis's clock"},
		{"demo --replicas 1", "onetoken: --replicas: 1 is not between 3 and 100"},
		{"demo --worker ./not-there", `onetoken: --worker: exec: "./not-there": stat ./not-there: no such file or directory`},
		{"--config nope.yaml get prod", "onetoken: nope.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another"},
	} {
		t.Run(c.args, func(t *testing.T) {
			if got := s.run(strings.Fields(c.args)...).fails(t, 2); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if got := s.endpoint.Calls(); got != 0 {
		t.Errorf("%d calls of the endpoint", got)
	}
}

// The file's errors are tested in internal/config; here, that they come through.
func TestConfigurationErrors(t *testing.T) {
	t.Parallel()
	const good = "redis: {url: 'redis://127.0.0.1:1'}\nenvironments:\n  prod:\n    base_url: https://x\n    client_id: x\n    client_secret: hunter2\n"
	for _, c := range []struct{ name, content, want string }{
		{"empty", "", "onetoken: c.yaml: environments: missing"},
		{"unset variable", good + "    scopes: ['${NOPE}']\n", "onetoken: c.yaml:7: environments.prod.scopes[0]: the environment variable NOPE is not set"},
		{"unknown key", good + "    leese: 6s\n", "onetoken: c.yaml:7: environments.prod.leese: unknown setting; did you mean lease?"},
		{"bad duration", good + "    lease: 6x\n", `onetoken: c.yaml:7: environments.prod.lease: "6x" is no duration (6s, 500ms, 2m)`},
		{"missing", strings.Replace(good, "    client_id: x\n", "", 1), "onetoken: c.yaml:3: environments.prod.client_id: missing"},
		{"empty setting", strings.Replace(good, "client_id: x", "client_id: ''", 1), "onetoken: c.yaml:5: environments.prod.client_id: empty"},
		{"plain http", strings.Replace(good, "https:", "http:", 1), "onetoken: c.yaml:4: environments.prod.base_url: plain http to x would show the client secret to the network: use https, or set allow_http"},
		{"bad environment name", strings.Replace(good, "prod", "pr/od", 1), `onetoken: c.yaml:3: environments: "pr/od": names are 1 to 128 of the characters A-Z a-z 0-9 "." "_" "-"`},
		{"no Redis", strings.Replace(good, "redis: {url: 'redis://127.0.0.1:1'}\n", "", 1), "onetoken: c.yaml: redis.url: missing; --redis-url or $ONETOKEN_REDIS_URL gives one, too"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, args := range [][]string{{"get", "prod"}, {"status"}, {"invalidate", "prod"}, {"refresh", "prod"}} {
				cmd := command(t.Context(), t, []string{"ONETOKEN_CONFIG=c.yaml"}, args...)
				if err := os.WriteFile(filepath.Join(cmd.Dir, "c.yaml"), []byte(c.content), 0o600); err != nil {
					t.Fatal(err)
				}
				if got := finish(t, cmd, nil).fails(t, 2); got != c.want {
					t.Errorf("%v: got  %s\nwant %s", args, got, c.want)
				}
			}
		})
	}
}

func TestNoFile(t *testing.T) {
	t.Parallel()
	const want = "onetoken: onetoken.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another"
	for _, args := range [][]string{{"get", "prod"}, {"refresh", "prod"}, {"status"}, {"invalidate", "prod"}, {"get", "prod", "--redis-url=redis://127.0.0.1:1"}} {
		if got := run(t, nil, args...).fails(t, 2); got != want {
			t.Errorf("%v: got  %s\nwant %s", args, got, want)
		}
	}
}

func TestRedisUnreachable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, args := range [][]string{{"get", "prod"}, {"refresh", "prod"}, {"status"}, {"status", "prod"}, {"invalidate", "prod"}} {
		r := s.run(append(args, "--redis-url=redis://:hunter2@127.0.0.1:1")...)
		if got := r.fails(t, 3); !strings.Contains(got, "connection refused") || strings.Contains(got, "hunter2") {
			t.Errorf("%v: %s", args, got)
		}
		if r.took > soon {
			t.Errorf("%v took %v", args, r.took)
		}
	}
	if got := s.endpoint.Calls(); got != 0 {
		t.Errorf("%d calls of the endpoint", got)
	}
}

// A Redis that takes connections and doesn't answer.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, args := range [][]string{{"get", "prod"}, {"status"}, {"invalidate", "prod"}} {
		t.Run(args[0], func(t *testing.T) {
			r := s.run(append(args, "--redis-url=redis://"+l.Addr().String())...)
			r.fails(t, 3)
			if r.took > soon {
				t.Errorf("it took %v", r.took)
			}
		})
	}
}

func TestEndpointRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.configure("wrong-" + clientSecret)
	nextTry := regexp.MustCompile(`^onetoken: prod: the token endpoint refused: invalid_client .*; next try at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \(in [0-9.]+s\)$`)
	if got := s.run("get", "prod").fails(t, 4); !nextTry.MatchString(got) {
		t.Errorf("got %s", got)
	}
	// Backing off: said at once, without a call.
	r := s.run("get", "prod")
	if got := r.fails(t, 4); !nextTry.MatchString(got) {
		t.Errorf("got %s", got)
	}
	if s.endpoint.Calls() != 1 {
		t.Errorf("%d calls, want 1", s.endpoint.Calls())
	}
	// refresh tries at once; a mended secret, too.
	s.run("refresh", "prod").fails(t, 4)
	if s.endpoint.Calls() != 2 {
		t.Errorf("%d calls, want 2", s.endpoint.Calls())
	}
	s.configure(clientSecret)
	s.run("get", "prod").succeeds(t)
}

func TestEndpointFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		reply mockendpoint.Reply
		want  string
	}{
		{"503", mockendpoint.Reply{Status: 503}, "the token endpoint failed: http_503 (Service Unavailable); next try at "},
		{"429", mockendpoint.Reply{Status: 429, RetryAfter: time.Minute}, "the token endpoint failed: http_429 (Too Many Requests); next try at "},
		{"HTML", mockendpoint.Reply{Body: new("<html>hunter2</html>")}, "the token endpoint failed: bad_reply ("},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.endpoint.SetDefault(c.reply)
			if got := s.run("get", "prod").fails(t, 4); !strings.HasPrefix(got, "onetoken: prod: "+c.want) || strings.Contains(got, "hunter2") {
				t.Errorf("got %s", got)
			}
			if s.endpoint.Calls() != 1 {
				t.Errorf("%d calls, want 1", s.endpoint.Calls())
			}
		})
	}
}

func TestEndpointUnreachable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gone := httptest.NewServer(nil)
	gone.Close()
	s.url = gone.URL
	s.configure(clientSecret)
	if got := s.run("get", "prod").fails(t, 4); !strings.HasPrefix(got, "onetoken: prod: the token endpoint can't be reached: unreachable (") {
		t.Errorf("got %s", got)
	}
}

// hold takes the lease as another replica would that never ends.
func (s *site) hold(env string) {
	s.t.Helper()
	if err := s.rdb.Set(s.t.Context(), "onetoken:{"+env+"}:lock", "replica-7|x", time.Hour).Err(); err != nil {
		s.t.Fatal(err)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.hold("prod")
	for _, command := range []string{"get", "refresh"} {
		r := s.run(command, "prod", "--timeout", "5s")
		got := r.fails(t, 5)
		if !strings.HasPrefix(got, "onetoken: prod: timed out after 5s while waiting ") || !strings.Contains(got, "replica-7") {
			t.Errorf("got %s", got)
		}
		if r.took > soon {
			t.Errorf("%s took %v", command, r.took)
		}
	}
}

func TestSignalsEndTheWait(t *testing.T) {
	t.Parallel()
	needSignals(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := newSite(t) // one for each: the subscription of a process that has ended may be seen for a while
		s.hold("prod")
		cmd := command(t.Context(), t, s.env, "get", "prod")
		r := finish(t, cmd, func(p *os.Process) {
			s.awaitSubscriber()
			if err := p.Signal(signal); err != nil {
				t.Error(err)
			}
		})
		if got := r.fails(t, 1); !strings.Contains(got, "signal received while waiting ") {
			t.Errorf("%v: %s", signal, got)
		}
		if r.took > soon {
			t.Errorf("%v: it took %v", signal, r.took)
		}
	}
}

// awaitSubscriber waits until a process listens to the events: it is in its wait then, or about to be.
func (s *site) awaitSubscriber() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	for {
		n, err := s.rdb.PubSubNumSub(ctx, "onetoken:events").Result()
		if err != nil && ctx.Err() != nil { // else the machine may be too slow for a second
			s.t.Error(err)
			return
		}
		if n["onetoken:events"] > 0 {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// A process that is interrupted while it asks the endpoint says so at once, and stores what it gets before it ends.
func TestInterruptedCallIsFinished(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newSite(t)
	s.endpoint.SetDefault(mockendpoint.Reply{Delay: 4 * time.Second}) // the signal must come before it
	r := finish(t, command(t.Context(), t, s.env, "get", "prod"), func(p *os.Process) {
		if err := s.endpoint.Await(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	r.fails(t, 1)
	if s.read().Token == nil {
		t.Error("the token got lost")
	}
}

// A real Redis that was stopped, and one that was paused.
func TestRealRedisStops(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := newSiteOn(t, server.Client(t))
	server.Pause(t)
	if r := s.run("get", "prod"); r.took > soon {
		t.Errorf("paused: it took %v", r.took)
	} else {
		r.fails(t, 3)
	}
	server.Continue(t)
	s.run("get", "prod").succeeds(t)
	server.Stop()
	if r := s.run("get", "prod"); r.took > soon {
		t.Errorf("stopped: it took %v", r.took)
	} else {
		r.fails(t, 3)
	}
	if got := s.endpoint.Calls(); got != 1 {
		t.Errorf("%d calls, want 1", got)
	}
}
