package main_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const noLock = `"lock": {
      "holder": null,
      "ttl_ms": 0
    }`

const noFailure = `"failure": {
      "code": null,
      "status": null,
      "message": null,
      "attempt": null,
      "retry_at": null
    }`

func missingRow(env string) string {
	return fmt.Sprintf(`  {
    "environment": %q,
    "state": "missing",
    "usable": false,
    "reason": "no token is stored",
    "ttl_ms": 0,
    "expires_at": null,
    "version": null,
    "refreshed_by": null,
    %s,
    %s
  }`, env, noLock, noFailure)
}

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	out := s.run("status", "--output=json").succeeds(t)
	tok := s.read().Token
	ttl := regexp.MustCompile(`"ttl_ms": (\d{7})`).FindStringSubmatch(out)
	if ttl == nil {
		t.Fatalf("no ttl_ms of an hour in %s", out)
	}
	want := fmt.Sprintf(`[
  {
    "environment": "prod",
    "state": "fresh",
    "usable": true,
    "reason": null,
    "ttl_ms": %s,
    "expires_at": %q,
    "version": %d,
    "refreshed_by": %q,
    %s,
    %s
  },
%s
]
`, ttl[1], tok.ExpiresAt.Format(time.RFC3339Nano), tok.Version, tok.RefreshedBy, noLock, noFailure, missingRow("test"))
	if out != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}

func TestStatusOfAFailure(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
	s.run("get", "prod").fails(t, 4)
	out := s.run("status", "prod", "--output=json").succeeds(t)
	f := s.read().Failure
	want := fmt.Sprintf(`"failure": {
      "code": "http_503",
      "status": 503,
      "message": "Service Unavailable",
      "attempt": 1,
      "retry_at": %q
    }`, f.RetryAt.Format(time.RFC3339Nano))
	if !strings.Contains(out, want) || !strings.Contains(out, `"state": "failing"`) {
		t.Errorf("got %s\nwant in it %s", out, want)
	}
	table := s.run("status", "prod").succeeds(t)
	if !strings.Contains(table, "prod         failing  no      -    -        -             http_503 (Service Unavailable), next try ") {
		t.Errorf("got %s", table)
	}
}

func TestStatusTable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	if err := s.rdb.Set(t.Context(), "onetoken:{test}:lock", "replica-7|x", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	tok := s.read().Token
	width := max(len("REFRESHED BY"), len(tok.RefreshedBy))
	want := fmt.Sprintf(`ENVIRONMENT  STATE       USABLE  TTL     VERSION           %-*s  DETAIL
prod         fresh       yes     59mXXs  %d  %-*s  -
test         refreshing  no      -       -                 %-*s  lease held by replica-7 for another 59mXXs; no token is stored
`, width, "REFRESHED BY", tok.Version, width, tok.RefreshedBy, width, "-")
	got := regexp.MustCompile(`59m[1-5]\ds`).ReplaceAllString(s.run("status").succeeds(t), "59mXXs")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestStatusCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	s.run("status", "prod", "--check").succeeds(t)
	r := s.run("status", "--check")
	if r.code != 1 || r.stderr != "onetoken: not usable: test\n" || !strings.Contains(r.stdout, "test         missing  no ") {
		t.Errorf("exit code %d, stderr %q, stdout %s", r.code, r.stderr, r.stdout)
	}
}

// What is only in Redis has a row, too, with a file and without.
func TestStatusOfWhatIsInRedis(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	if err := s.rdb.HSet(t.Context(), "onetoken:{other}:mark", "issued", 1).Err(); err != nil {
		t.Fatal(err)
	}
	if got, want := environments(t, s.run("status", "--output=json")), "other missing, prod fresh, test missing"; got != want {
		t.Errorf("with a file: %s, want %s", got, want)
	}
	if got, want := environments(t, s.run("status", "--output=json", "test", "other", "test")), "test missing, other missing"; got != want {
		t.Errorf("named: %s, want %s", got, want)
	}
	for _, r := range []result{
		run(t, nil, "status", "--output=json", s.redisURL()),
		run(t, []string{"ONETOKEN_REDIS_URL=redis://" + s.rdb.Options().Addr}, "status", "--output=json"),
	} {
		if got, want := environments(t, r), "other missing, prod fresh"; got != want {
			t.Errorf("without a file: %s, want %s", got, want)
		}
	}
	if got, want := environments(t, run(t, nil, s.redisURL(), "status", "nope", "--output=json")), "nope missing"; got != want {
		t.Errorf("named without a file: %s, want %s", got, want)
	}
}

// environments returns names and states of what status has printed.
func environments(t *testing.T, r result) string {
	t.Helper()
	var rows []struct{ Environment, State string }
	if err := json.Unmarshal([]byte(r.succeeds(t)), &rows); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, row := range rows {
		list = append(list, row.Environment+" "+row.State)
	}
	return strings.Join(list, ", ")
}

func TestStatusOfNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if got := run(t, nil, "status", s.redisURL(), "--output=json").succeeds(t); got != "[]\n" {
		t.Errorf("got %q, want []", got)
	}
	const header = "ENVIRONMENT  STATE  USABLE  TTL  VERSION  REFRESHED BY  DETAIL\n"
	if got := run(t, nil, "status", s.redisURL(), "--check").succeeds(t); got != header {
		t.Errorf("got %q, want %q", got, header)
	}
}

// Whatever somebody plants in Redis, status works and the terminal is safe.
func TestStatusOfPlantedKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	ctx, esc := t.Context(), "\x1b]0;owned\x07\x1b[2J\n\u202e"
	for _, err := range []error{
		s.rdb.HSet(ctx, "onetoken:{prod}:token", "refreshed_by", esc).Err(),
		s.rdb.Set(ctx, "onetoken:{prod}:lock", esc+"|x", time.Minute).Err(),
		s.rdb.HSet(ctx, "onetoken:{"+esc+"}:token", "version", esc).Err(),
		s.rdb.Set(ctx, "onetoken:{string}:token", esc, 0).Err(),
		s.rdb.LPush(ctx, "onetoken:{list}:token", esc).Err(),
		s.rdb.LPush(ctx, "onetoken:{list}:failure", esc).Err(),
		s.rdb.LPush(ctx, "onetoken:{list}:lock", esc).Err(),
		s.rdb.HSet(ctx, "onetoken:{hash}:token", "version", "-5", "access_token", "hunter2-hunter2").Err(),
		s.rdb.HSet(ctx, "onetoken:{hash}:failure", "code", esc, "message", esc, "version", "1").Err(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"status"}, {"status", "--output", "json"}, {"status", "hash", "list", "string"}} {
		out := s.run(args...).succeeds(t)
		if strings.ContainsAny(out, "\x1b\x07\u202e") || strings.Contains(out, "hunter2") {
			t.Errorf("%v: got %q", args, out)
		}
		if rows := strings.Count(out, "\n"); args[0] == "status" && len(args) == 1 && rows != 6 {
			t.Errorf("got %d lines, want a header, hash, list, prod, string and test:\n%s", rows, out)
		}
	}
}

// How soon the next try is, is told by Redis's clock: this machine's may be off.
func TestStatusCountsByTheClockOfRedis(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{100 * time.Hour, -100 * time.Hour} {
		server := miniredis.RunT(t)
		server.SetTime(time.Now().Add(off))
		s := newSiteOn(t, redistest.NewClient(t, redistest.Options(server.Addr())))
		s.endpoint.SetDefault(mockendpoint.Reply{Status: 503, RetryAfter: 10 * time.Minute})
		s.run("refresh", "prod").fails(t, 4)
		if out := s.run("status", "prod").succeeds(t); !regexp.MustCompile(`Z \(in (10m0|9m\d+)s\)`).MatchString(out) {
			t.Errorf("off by %v:\n%s", off, out)
		}
	}
}
