package main_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/internal/tmuxtest"
)

// small is a benchmark that takes seconds.
var small = []string{"bench", "--replicas=5", "--latency=20ms", "--life=2s", "--rotations=1", "--callers=2"}

// untouched fails where there is anything in Redis but the site's own.
func untouched(t *testing.T, rdb *redis.Client) {
	t.Helper()
	keys, err := rdb.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 1 || keys[0] != "onetoken:{prod}:mark" {
		t.Errorf("in Redis there is %v, %v", keys, err)
	}
}

func newBenchSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	if err := s.rdb.HSet(t.Context(), "onetoken:{prod}:mark", "issued", 1).Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBench(t *testing.T) {
	t.Parallel()
	s := newBenchSite(t)
	out := s.run(small...).succeeds(t)
	for _, want := range []string{
		`^5 replicas in this process, which share \d+ cores?; a token endpoint that takes 20ms.\nThe namespace was onetoken-bench-[a-z2-7]{12}; nothing is left in it.\n`,
		`\nHERD: all ask at once for a token, where there is none\n +MEASURED +EXPECT\n  endpoint calls +1 +1, `,
		`\n  wait beyond the endpoint: median +\S+ms +round trips`,
		`\nDEPLOY: all are started at once, and ask\n.*\n  endpoint calls +1 `,
		`\n  connections made +[12]\d\n`,
		`\nROTATION: 10 callers use a token of 2s while it is replaced, 1 time\n`,
		`\n  … with a token whose life was over +0 +0\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	untouched(t, s.rdb)
	if n := s.endpoint.Calls(); n != 0 {
		t.Errorf("%d calls of the configured endpoint", n)
	}
}

func TestBenchAsJSON(t *testing.T) {
	t.Parallel()
	s := newBenchSite(t)
	out := run(t, nil, append(small, s.redisURL(), "--namespace=other", "--only=rotation", "--output=json")...).succeeds(t)
	var answer struct {
		Namespace    string
		Herd, Deploy *struct{}
		Rotation     struct {
			Replicas, Callers, Rotations, Calls, Expired, Failures int
			EndpointCalls                                          int     `json:"endpoint_calls"`
			LifeMS                                                 float64 `json:"life_ms"`
			BlockedByRotation                                      []int   `json:"blocked_by_rotation"`
			Error                                                  *string
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := answer.Rotation
	if !strings.HasPrefix(answer.Namespace, "other-bench-") || answer.Herd != nil || answer.Deploy != nil || r.Replicas != 5 || r.Callers != 10 ||
		r.Rotations != 1 || r.LifeMS != 2000 || r.Calls < 100 || r.Expired != 0 || r.Failures != 0 || r.EndpointCalls != 1 || len(r.BlockedByRotation) != 1 || r.Error != nil {
		t.Errorf("got %s", out)
	}
	for _, name := range []string{"cores", "herd", "deploy", "blocked", "longest_call_ms", "requests_per_replica_and_rotation", "latency_ms"} {
		if !strings.Contains(out, `"`+name+`": `) {
			t.Errorf("no %s in %s", name, out)
		}
	}
	out = s.run(append(small, "--only=herd", "--output=json")...).succeeds(t)
	for _, want := range []string{`"wait_ms": {`, `"p99": `, `"asked_after_ms": `, `"evalsha": `, `"requests_per_replica": `, `"connections": `, `"failures": 0`, `"error": null`, `"rotation": null`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	untouched(t, s.rdb)
}

// Interrupted it leaves nothing, and says why it ended.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newBenchSite(t)
	cmd := command(t.Context(), t, nil, "bench", s.redisURL(), "--replicas=5", "--latency=50s", "--life=1m")
	r := finish(t, cmd, func(p *os.Process) {
		go func() {
			for len(s.rdb.Keys(t.Context(), "onetoken-bench-*lock").Val()) == 0 && t.Context().Err() == nil {
				<-time.After(10 * time.Millisecond)
			}
			_ = p.Signal(syscall.SIGTERM)
		}()
	})
	if got := r.fails(t, 1); !strings.Contains(got, "terminated") {
		t.Errorf("got %s", got)
	}
	untouched(t, s.rdb)
}

// On a terminal it says what it is about to do, and how far it is; nothing of the latter is left.
func TestBenchOnATerminal(t *testing.T) {
	t.Parallel()
	needSignals(t)
	s := newBenchSite(t)
	term := tmuxtest.Start(t, 120, 40, nil, append([]string{binaries.onetoken, s.redisURL(), "--replicas=7"}, small[0], "--latency=2s", "--only=herd")...)
	term.Await("up to 28 connections to Redis; keys in the namespace onetoken-bench-", "herd: connect 7 of 7")
	term.Await("HERD: all ask")
	screen := term.Restored(0)
	if strings.Contains(screen, " of 7") {
		t.Errorf("got\n%s", screen)
	}
}

func TestBenchRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for args, want := range map[string]string{
		"--replicas=0":              "onetoken: --replicas: 0 is not between 1 and 2000",
		"--replicas=2001":           "onetoken: --replicas: 2001 is not between 1 and 2000",
		"--latency=2m":              "onetoken: --latency: 2m0s is not between 0s and 1m0s",
		"--latency=9500ms":          "onetoken: --latency: 9.5s leaves nothing of a --life of 10s",
		"--life=1s":                 "onetoken: --life: 1s is not between 2s and 10m0s",
		"--rotations=101":           "onetoken: --rotations: 101 is not between 1 and 100",
		"--callers=1000":            "onetoken: --callers: 1000 for each of 50 replicas are not between 1 and 10000 in all",
		"--only=all":                `onetoken: --only: "all" is none of herd, deploy, rotation`,
		"--colour":                  "onetoken: unknown flag: --colour",
		"prod":                      `onetoken: unknown command "prod" for "onetoken bench"`,
		"--redis-url=redis://h/x/y": "onetoken: --redis-url or $ONETOKEN_REDIS_URL: no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; special characters in a password are percent-encoded)",
	} {
		if got := s.run("bench", args).fails(t, 2); got != want {
			t.Errorf("%s: got  %s\nwant %s", args, got, want)
		}
	}
	if got := run(t, nil, "bench").fails(t, 2); got != "onetoken: onetoken.yaml: there is no such file; --config or $ONETOKEN_CONFIG names another" {
		t.Errorf("got %s", got)
	}
	if got := s.run("bench", "--redis-url=redis://:hunter2@127.0.0.1:1").fails(t, 3); !strings.Contains(got, "connection refused") || strings.Contains(got, "hunter2") {
		t.Errorf("got %s", got)
	}
}

// It needs the rights of a replica, on keys and a channel of its own; and others keep their connections.
func TestBenchOnARedisThatIsNotOurs(t *testing.T) {
	t.Parallel()
	acl, err := os.ReadFile("../../docs/compose/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^user onetoken on #ONETOKEN_SHA256 (.*)$`).FindStringSubmatch(string(acl))
	rights := strings.NewReplacer("~onetoken:*", "~onetoken-bench-*", "&onetoken:events", "&onetoken-bench-*").Replace(line[1])
	server := redistest.Start(t, "maxclients 60", "user onetoken on >pw "+rights, "user other on >pw "+line[1], "user looks on >pw "+rights+" +info")
	url := func(user string) string { return "--redis-url=redis://" + user + ":pw@" + server.Addr() }
	run(t, nil, append(small, url("onetoken"), "--only=herd")...).succeeds(t)
	if got := run(t, nil, append(small, url("other"), "--only=herd")...).fails(t, 3); !strings.Contains(got, "NOPERM") {
		t.Errorf("got %s", got)
	}
	got := run(t, nil, append(small, url("looks"), "--replicas=20")...).fails(t, 2)
	if !regexp.MustCompile(`^onetoken: --replicas: herd: it takes up to 80 connections of Redis, and there is room for 5\d: fewer replicas$`).MatchString(got) {
		t.Errorf("got %s", got)
	}
}
