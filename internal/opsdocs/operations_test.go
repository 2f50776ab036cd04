package opsdocs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	page{
		name: "operations.md", commands: 30,
		redis: map[string][]string{"cluster": {"cluster-enabled yes"}},
		states: map[string]state{
			"which-environments-are-there":                twoEnvironments,
			"how-long-does-the-token-live":                twoEnvironments,
			"which-version-who-refreshed-it-when":         scoped,
			"who-is-refreshing-and-for-how-long-may-they": refreshing,
			"what-failed-and-when-is-it-tried-again":      refused,
			"what-was-invalidated":                        fresh,
			"do-the-replicas-listen":                      three,
			"watch-it-live":                               watched,
			"drop-a-token":                                droppedByHand,
			"have-it-tried-again-at-once":                 mended,
			"all-at-once-with-onetoken-status":            twoEnvironments,
			"sentinel":                                    sentinel,
			"cluster":                                     cluster,
		},
	}.run(t)
}

// refusal is what an endpoint says to a wrong secret.
var refusal = mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "unknown client or secret"}

// twoEnvironments: one with a token, one whose endpoint refuses.
func twoEnvironments(s *sandbox) {
	fresh(s)
	s.write("test.yaml", s.settings("test"))
	s.endpoint.Push(refusal)
	if _, err := s.ask(s.worker("worker-3", "test.yaml").Token, "test"); err == nil {
		s.t.Fatal("a token that was refused")
	}
}

func fresh(s *sandbox) { s.token(s.worker("worker-3", "onetoken.yaml")) }

func scoped(s *sandbox) {
	s.endpoint.SetDefault(mockendpoint.Reply{Scope: "campaigns.read"})
	fresh(s)
}

func refreshing(s *sandbox) { s.holds(s.worker("worker-3", "onetoken.yaml", patient)) }

func refused(s *sandbox) {
	s.endpoint.SetDefault(refusal)
	s.fails(s.worker("worker-3", "onetoken.yaml"), "invalid_client")
}

func three(s *sandbox) {
	for i := range 3 {
		s.worker(fmt.Sprintf("worker-%d", i+1), "onetoken.yaml")
	}
	s.hears(3)
}

func watched(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	s.live = func() {
		s.token(m)
		s.endpoint.SetDefault(mockendpoint.Reply{Status: 503})
		s.fails(m, "http_503")
		eventually(s.t, "it is invalidated", func() bool {
			_, err := m.Invalidate(s.ctx(), "prod", 0)
			return err == nil
		})
	}
}

// droppedByHand also sees that the worker keeps its token when the key is deleted, and not when it is dropped.
func droppedByHand(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	before := s.token(m)
	s.hears(1)
	s.between = func(command string) {
		if command == "onetoken status prod" {
			if tok, err := m.Token(s.ctx(), "prod"); err != nil || tok.Version != before.Version {
				s.t.Errorf("after DEL the worker has %v (%v), want its %v", tok, err, before)
			}
		}
	}
	s.after = func() { s.gets(m, func(tok *manager.Token) bool { return tok.Version > before.Version }) }
}

func mended(s *sandbox) {
	m := s.worker("worker-3", "onetoken.yaml")
	s.endpoint.Push(mockendpoint.Reply{Status: 503})
	s.fails(m, "http_503")
	s.after = func() { s.gets(m, func(tok *manager.Token) bool { return tok.RefreshedBy == "ops-1" }) }
}

func sentinel(s *sandbox) {
	fresh(s)
	_, port, _ := strings.Cut(s.redis.Addr(), ":")
	watch := redistest.StartSentinel(s.t, "sentinel monitor main 127.0.0.1 "+port+" 1")
	s.port("26379", watch.Addr())
}

func cluster(s *sandbox) {
	must(s.t, s.rdb.ClusterAddSlotsRange(s.ctx(), 0, 16383).Err())
	eventually(s.t, "the cluster is up", func() bool {
		info, err := s.rdb.ClusterInfo(s.ctx()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	s.write("onetoken.yaml", strings.NewReplacer(`{url: "redis://`, `{addresses: ["`, `/0"}`, `"]}`).Replace(s.settings("prod", "replica: ops-1")))
	fresh(s)
}
