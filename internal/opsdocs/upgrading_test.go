package opsdocs_test

import (
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

const newSecret = "new-secret-77c2"

func TestUpgrading(t *testing.T) {
	t.Parallel()
	page{
		name: "upgrading.md", commands: 20,
		states: map[string]state{
			"upgrading-onetoken":         listened,
			"downgrading":                downgraded,
			"changing-the-configuration": newScopes,
			"changing-a-secret":          secretChanged,
			"changing-redis":             redisChanged,
			"changing-the-namespace-or-an-environments-name": renamed,
		},
	}.run(t)
}

// listened: a worker that goes on with its token whatever it hears.
func listened(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	s.token(m)
	s.hears(1)
	s.after = func() { s.gets(m, func(tok *manager.Token) bool { return tok.RefreshedBy == "ops-1" }) }
}

func downgraded(s *sandbox) {
	s.write("newer.yaml", s.settings("prod")+"    a_later_setting: 1\n")
}

// newScopes also sees that the worker keeps its own token.
func newScopes(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	tok := s.token(m)
	s.write("new-scopes.yaml", s.settings("prod", "replica: ops-2")+"    scopes: [campaigns.read]\n")
	s.after = func() {
		if still, err := m.Token(s.ctx(), "prod"); err != nil || still.Version != tok.Version {
			s.t.Errorf("the worker has %v (%v), want its own %v", still, err, tok)
		}
	}
}

// secretChanged also sees that a worker with the old secret goes on with the token of the new one.
func secretChanged(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	s.token(m)
	s.hears(1)
	s.write("new-secret.yaml", strings.Replace(s.settings("prod", "replica: ops-2"), clientSecret, newSecret, 1))
	s.between = func(string) { s.endpoint.SetSecret(newSecret) }
	s.after = func() { s.gets(m, func(tok *manager.Token) bool { return tok.RefreshedBy == "ops-2" }) }
}

func redisChanged(s *sandbox) {
	fresh(s)
	s.port("6380", redistest.Start(s.t).Addr())
}

func renamed(s *sandbox) {
	s.write("old.yaml", s.settings("prod", "namespace: old"))
	m := s.worker("worker-3", "old.yaml")
	s.token(m)
	must(s.t, m.Close())
	eventually(s.t, "its subscription has ended", func() bool {
		counts, err := s.rdb.PubSubNumSub(s.ctx(), "old:events").Result()
		return err == nil && counts["old:events"] == 0
	})
	fresh(s)
	s.after = func() {
		if n := s.rdb.DBSize(s.ctx()).Val(); n != 2 {
			s.t.Errorf("%d keys are left, want the 2 of the other namespace", n)
		}
	}
}
