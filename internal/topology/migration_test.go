package topology_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A migration moves the slot of an environment from one master to another.
type migration struct {
	c        *cluster
	slot     int
	from, to *clusterNode
}

func (c *cluster) migrate(env string, from, to *clusterNode) *migration {
	return &migration{c: c, slot: c.slot("{" + env + "}"), from: from, to: to}
}

func (m *migration) do(n *clusterNode, args ...any) {
	m.c.t.Helper()
	must(m.c.t, n.admin.Do(m.c.t.Context(), args...).Err())
}

// begin has both masters know of the migration.
func (m *migration) begin() {
	m.c.t.Helper()
	m.do(m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.from.id)
	m.do(m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.to.id)
}

// keys returns the slot's keys that have not moved yet.
func (m *migration) keys() []string {
	m.c.t.Helper()
	keys, err := m.from.admin.ClusterGetKeysInSlot(m.c.t.Context(), m.slot, 100).Result()
	must(m.c.t, err)
	return keys
}

// move moves some keys.
func (m *migration) move(keys ...string) {
	m.c.t.Helper()
	args := []any{"MIGRATE", "127.0.0.1", port(m.to.Server), "", 0, 5000, "KEYS"}
	for _, key := range keys {
		args = append(args, key)
	}
	m.do(m.from, args...)
}

// end moves what is left and gives the slot to its new owner.
func (m *migration) end() {
	m.c.t.Helper()
	for keys := m.keys(); len(keys) > 0; keys = m.keys() {
		m.move(keys...)
	}
	m.do(m.to, "CLUSTER", "SETSLOT", m.slot, "NODE", m.to.id)
	for _, n := range m.c.nodes[:3] {
		m.do(n, "CLUSTER", "SETSLOT", m.slot, "NODE", m.to.id)
	}
	// Two masters that took slots in the same epoch would dispute them.
	m.c.all("everybody knows the slot's new owner, and in which epoch it took it", func(n *clusterNode) bool {
		epoch, last, owner := m.view(n)
		_, mine, _ := m.view(m.to)
		return owner == m.to.id && epoch == last && epoch == mine
	})
}

// view returns the epoch of the slot's new owner, the last epoch there is and the slot's owner, as n knows them.
func (m *migration) view(n *clusterNode) (epoch, last, owner string) {
	for line := range strings.Lines(n.admin.ClusterNodes(m.c.t.Context()).Val()) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "master") {
			continue
		}
		if fields[0] == m.to.id {
			epoch = fields[6]
		}
		if len(fields[6]) > len(last) || len(fields[6]) == len(last) && fields[6] > last {
			last = fields[6]
		}
		if slices.ContainsFunc(fields[8:], m.isIn) {
			owner = fields[0]
		}
	}
	return epoch, last, owner
}

// isIn reports whether the slot is in a range of CLUSTER NODES: "811" or "0-5460".
func (m *migration) isIn(text string) bool {
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		last = first
	}
	from, err := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	return err == nil && err2 == nil && from <= m.slot && m.slot <= to
}

// A slot that moves to and fro under load costs nobody a token, and the endpoint no further call.
func TestClusterSlotMoves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, steady)
	const life = 3 * time.Second
	f := newFleet(t, 4, c.options(), map[string]time.Duration{env: life})
	from := c.owner("{" + env + "}")
	nodes := []*clusterNode{c.nodes[from], c.nodes[(from+1)%3]}
	start := time.Now()
	var slowest time.Duration
	moves := 0
	eventually(t, "three lives have passed while the slot moved", func() bool {
		began := time.Now()
		m := c.migrate(env, nodes[0], nodes[1])
		m.begin()
		m.end()
		slowest = max(slowest, time.Since(began))
		slices.Reverse(nodes)
		moves++
		return len(f.calls(env, start)) >= 5
	})
	f.agree(env)
	f.check()
	f.onlyGrow()
	t.Logf("%d moves, the slowest %v; callers without a token: %s; outcomes: %v",
		moves, slowest.Round(time.Millisecond), f.interruption(env, start), f.outcomes.counts())
	f.onceALife(env)
}

// While a slot moves, scripts with keys of which some aren't there are refused, wherever the others are: an environment
// in it can be neither read nor refreshed, and its valid token is served on.
func TestClusterSlotStuckHalfWay(t *testing.T) {
	t.Parallel()
	c := newCluster(t, steady)
	f := newFleet(t, 4, c.options(), calm)
	f.agree(env)
	before := f.loops[0].last().version
	from := c.owner("{" + env + "}")
	m := c.migrate(env, c.nodes[from], c.nodes[(from+1)%3])
	began := time.Now()
	m.begin()
	keys := m.keys()
	if len(keys) < 2 {
		t.Fatalf("the slot has only %q", keys)
	}
	for i, half := range []string{"no key has moved", "some have moved", "all have moved"} {
		switch i {
		case 1:
			m.move(keys[0])
		case 2:
			m.move(keys[1:]...)
		}
		cold := f.coldReplica(c)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		asked := time.Now()
		_, err := cold.Token(ctx, env)
		cancel()
		var away *manager.RedisError
		if !errors.As(err, &away) || !strings.Contains(err.Error(), "TRYAGAIN") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: a replica without a token gets %v", half, err)
		}
		t.Logf("%s: a replica without a token gets, after %v: %v", half, time.Since(asked).Round(time.Millisecond), err)
		if got := <-f.refresh(i); !errors.As(got.err, &away) {
			t.Errorf("%s: a refresh brings %v", half, got.err)
		}
	}
	stuck := time.Since(began)
	m.end()
	ended := time.Now()
	eventually(t, "a refresh succeeds", func() bool { return (<-f.refresh(0)).err == nil })
	worked := time.Since(ended)
	eventually(t, "everybody has the new token", func() bool {
		return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version <= before })
	})
	f.check()
	f.onlyGrow()
	if calls := f.endpoint.Calls(); calls != 2 {
		t.Errorf("%d calls of the endpoint, want 2", calls)
	}
	t.Logf("stuck for %v; refreshed %v after the end; callers without a token: %s; outcomes: %v", stuck.Round(time.Millisecond),
		worked.Round(time.Millisecond), f.interruption(env, began), f.outcomes.counts())
}

func (f *fleet) coldReplica(c *cluster) *manager.Manager {
	f.t.Helper()
	return f.add(newClient(f.t, c.options()), "cold")
}

// A token that was fetched while its environment's slot moves can't be stored until that is over. The holder's callers
// have it meanwhile; the others wait for it, and don't ask the endpoint once more.
func TestClusterSlotMovesWhileTheEndpointIsAsked(t *testing.T) {
	t.Parallel()
	for name, long := range map[string]time.Duration{"for a moment": 0, "for 3 s": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, steady)
			f := startFleet(t, 4, c.options(), calm)
			gate := make(chan struct{})
			f.endpoint.Push(mockendpoint.Reply{Gate: gate})
			f.load()
			f.called(1)
			from := c.owner("{" + env + "}")
			m := c.migrate(env, c.nodes[from], c.nodes[(from+1)%3])
			began := time.Now()
			m.begin()
			close(gate)
			if long > 0 {
				took := eventually(t, "the holder's callers have the token", func() bool {
					return slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version != 0 })
				})
				t.Logf("the holder's callers have the token %v after it was given", took)
				eventually(t, "the slot has been moving for long", func() bool { return time.Since(began) > long })
			}
			m.end()
			ended := time.Now()
			took := f.agree(env)
			f.check()
			f.onlyGrow()
			t.Logf("the slot moved for %v; calls of the endpoint: %d; all agree %v after the end; outcomes: %v",
				ended.Sub(began).Round(time.Millisecond), f.endpoint.Calls(), took, f.outcomes.counts())
			if calls := f.endpoint.Calls(); calls != 1 {
				t.Errorf("%d calls of the endpoint, want 1", calls)
			}
		})
	}
}
