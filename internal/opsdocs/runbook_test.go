package opsdocs_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestRunbook(t *testing.T) {
	t.Parallel()
	page{
		name: "runbook.md", commands: 25,
		redis: map[string][]string{"events-missing": {"user onetoken on nopass resetchannels ~* +@all"}},
		states: map[string]state{
			"missing":        missing,
			"failing":        failing,
			"refused":        refused,
			"conflict":       conflict,
			"refreshing":     refreshing,
			"stale":          func(s *sandbox) { s.aged(s.worker("worker-3", "onetoken.yaml"), 55*time.Minute) },
			"redis-away":     redisAway,
			"events-missing": eventsMissing,
			"clock":          clock,
		},
	}.run(t)
}

// Alert rules link to these sections.
func TestTheRunbookHasASectionForEachState(t *testing.T) {
	t.Parallel()
	want := []string{"missing", "failing", "refused", "conflict", "refreshing", "stale", "redis-away", "events-missing", "clock"}
	var got []string
	for _, s := range readPage(t, "runbook.md")[1:] {
		got = append(got, s.anchor)
	}
	if !slices.Equal(got, want) {
		t.Errorf("its sections are %q, want %q", got, want)
	}
	text := readDoc(t, "runbook.md")
	for _, lead := range []string{"What you see", "What it means", "What the fleet does by itself", "What to check", "What to do", "What not to do"} {
		if n := len(regexp.MustCompile(`(?m)^\*\*`+lead+`\.?\*\*`).FindAllString(text, -1)); n != len(want) {
			t.Errorf("%d sections of %d have %q", n, len(want), lead)
		}
	}
}

// missing: nothing, and then a record that isn't one.
func missing(s *sandbox) {
	s.between = func(string) {
		must(s.t, s.rdb.HSet(s.ctx(), "onetoken:{prod}:token", "access_token", "planted").Err())
	}
}

func failing(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	s.token(m)
	s.endpoint.SetDefault(mockendpoint.Reply{Status: 503, RetryAfter: 2 * time.Minute})
	s.fails(m, "http_503")
	s.fails(m, "http_503")
}

func conflict(s *sandbox) {
	s.token(s.worker("worker-1", "onetoken.yaml"))
	s.write("onetoken.yaml", s.settings("prod")+"    scopes: [campaigns.read]\n")
}

// redisAway: a worker that has a token keeps it, and one that has none logs why.
func redisAway(s *sandbox) {
	m := s.worker("worker-1", "onetoken.yaml", func(c *manager.Config) { c.Logger = nil })
	tok := s.token(m)
	s.redis.Stop()
	var away *manager.RedisError
	if _, err := s.worker("worker-3", "onetoken.yaml").Token(s.ctx(), "prod"); !errors.As(err, &away) {
		s.t.Fatalf("without Redis a worker that has no token gets %v", err)
	}
	s.after = func() {
		if still, err := m.Token(s.ctx(), "prod"); err != nil || still.Version != tok.Version {
			s.t.Errorf("without Redis the worker has %v (%v), want its %v", still, err, tok)
		}
	}
}

// eventsMissing: a user without a right to the channel. Once it has one, the worker hears.
func eventsMissing(s *sandbox) {
	s.write("restricted.yaml", strings.Replace(s.settings("prod"), "redis://", "redis://onetoken:any@", 1))
	m := s.worker("worker-3", "restricted.yaml")
	s.token(m)
	eventually(s.t, "the subscription is refused", func() bool {
		log, err := s.rdb.Do(s.ctx(), "ACL", "LOG").Slice()
		return err == nil && len(log) > 0
	})
	s.after = func() { s.hears(1) }
}

// clock: a worker whose clock is stepped, and then a Redis whose clock seems to have been set back.
func clock(s *sandbox) {
	var stepped atomic.Int64
	m := s.worker("worker-3", "onetoken.yaml", func(c *manager.Config) {
		c.WallClock = func() time.Time { return time.Now().Add(time.Duration(stepped.Load())) }
	})
	s.token(m)
	stepped.Store(int64(time.Hour))
	eventually(s.t, "the step is noticed", func() bool {
		log, err := os.ReadFile(s.dir + "/worker.log")
		return err == nil && strings.Contains(string(log), "outcome=clock")
	})
	must(s.t, m.Close())
	ahead := strconv.FormatInt(time.Now().Add(48*time.Hour).UnixMicro(), 10)
	must(s.t, s.rdb.HSet(s.ctx(), "onetoken:{prod}:token", "version", ahead).Err())
	must(s.t, s.rdb.HSet(s.ctx(), "onetoken:{prod}:mark", "issued", ahead, "stored", ahead).Err())
}
