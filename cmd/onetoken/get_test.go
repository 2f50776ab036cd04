package main_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

func TestGet(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.run("get", "prod").succeeds(t)
	if want := s.endpoint.Issued()[0] + "\n"; first != want {
		t.Errorf("got %q, want %q", first, want)
	}
	if second := s.run("get", "prod").succeeds(t); second != first || s.endpoint.Calls() != 1 {
		t.Errorf("the second process got %q, with %d calls", second, s.endpoint.Calls())
	}
}

func TestAOneShotCommandKeepsNothingWarm(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.endpoint.SetDefault(mockendpoint.Reply{Delay: 1500 * time.Millisecond}) // time enough for a process that stays
	s.run("get", "prod").succeeds(t)
	if n := s.endpoint.Calls(); n != 1 {
		t.Errorf("%d calls, want that for prod alone", n)
	}
}

func TestGetJSON(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	out := s.run("get", "prod", "--output", "json").succeeds(t)
	var got struct {
		ExpiresIn   int64     `json:"expires_in"`
		ExpiresAt   time.Time `json:"expires_at"`
		Version     int64     `json:"version"`
		RefreshedBy string    `json:"refreshed_by"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	record := s.read()
	want := fmt.Sprintf(`{
  "environment": "prod",
  "access_token": %q,
  "token_type": "Bearer",
  "expires_in": %d,
  "expires_at": %q,
  "version": %d,
  "refreshed_by": %q
}
`, s.endpoint.Issued()[0], got.ExpiresIn, record.Token.ExpiresAt.Format(time.RFC3339Nano), record.Token.Version, record.Token.RefreshedBy)
	if out != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
	if got.ExpiresIn < 3590 || got.ExpiresIn > 3599 {
		t.Errorf("expires_in is %d, of a token for an hour", got.ExpiresIn)
	}
}

// read returns what is in Redis of prod.
func (s *site) read() *store.Record {
	s.t.Helper()
	st, err := store.New(s.rdb, store.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := st.Read(s.t.Context(), "prod")
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// Processes that start cold at the same time are one call, and have one token.
func TestTwentyColdProcesses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSiteOn(t, rdb)
		s.endpoint.SetDefault(mockendpoint.Reply{Delay: 300 * time.Millisecond})
		results := make([]result, 20)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { results[i] = s.run("get", "prod") })
		}
		wg.Wait()
		for i, r := range results {
			if out := r.succeeds(t); out != s.endpoint.Issued()[0]+"\n" {
				t.Errorf("process %d got %q", i, out)
			}
		}
		if got := s.endpoint.Calls(); got != 1 {
			t.Errorf("%d calls, want 1", got)
		}
	})
}

func TestReplicaIsHostAndPid(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("get", "prod").succeeds(t)
	if by := s.read().Token.RefreshedBy; !strings.Contains(by, ":") {
		t.Errorf("refreshed by %q, want host:pid", by)
	}
}

func TestNamespaceFlag(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.run("--namespace", "mine", "get", "prod").succeeds(t)
	if n := s.rdb.Exists(t.Context(), "mine:{prod}:token").Val(); n != 1 {
		t.Error("the token isn't in the namespace")
	}
}
