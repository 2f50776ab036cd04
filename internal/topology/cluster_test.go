package topology_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/store"
)

const slots = 16384

// A cluster is three masters, each with a third of the slots and a replica.
type cluster struct {
	t     *testing.T
	nodes []*clusterNode // masters first, then their replicas in the same order
}

type clusterNode struct {
	*redistest.Server
	id    string
	admin *redis.Client
}

// How long a node of a cluster must be silent to be replaced: soon where that is what is tested, else later than a busy
// machine makes a node be.
const (
	brisk  = 1500 * time.Millisecond
	steady = 20 * time.Second
)

func newCluster(t *testing.T, timeout time.Duration, lines ...string) *cluster {
	t.Helper()
	c := &cluster{t: t}
	ctx := t.Context()
	lines = append(slices.Clone(lines), "cluster-enabled yes", fmt.Sprintf("cluster-node-timeout %d", timeout.Milliseconds()), "cluster-replica-validity-factor 0",
		"repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
		"user replica on >replica ~* &* +@all", "masteruser replica", "masterauth replica")
	for i := range 6 {
		s := redistest.Start(t, lines...)
		o := redistest.Options(s.Addr())
		o.ReadTimeout, o.WriteTimeout, o.DialTimeout = patience, patience, patience // MIGRATE takes its time
		n := &clusterNode{Server: s, admin: redistest.NewClient(t, o)}
		c.nodes = append(c.nodes, n)
		var err error
		n.id, err = n.admin.Do(ctx, "CLUSTER", "MYID").Text()
		must(t, err)
		must(t, n.admin.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
		if i < 3 {
			must(t, n.admin.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err())
		}
	}
	met := time.Time{}
	eventually(t, "everybody knows everybody", func() bool {
		if time.Since(met) > 3*time.Second { // a handshake that is late is forgotten
			met = time.Now()
			for _, n := range c.nodes[1:] {
				must(t, n.admin.ClusterMeet(ctx, "127.0.0.1", port(c.nodes[0].Server)).Err())
			}
		}
		return !slices.ContainsFunc(c.nodes, func(n *clusterNode) bool {
			return strings.Count(n.admin.ClusterNodes(ctx).Val(), " connected") != 6
		})
	})
	for i, n := range c.nodes[3:] {
		eventually(t, "a node is a replica", func() bool { return n.admin.ClusterReplicate(ctx, c.nodes[i].id).Err() == nil })
	}
	c.all("the cluster is up", func(n *clusterNode) bool {
		return c.up(n) && strings.Count(n.admin.ClusterNodes(ctx).Val(), "slave") == 3
	})
	for _, n := range c.nodes[:3] {
		eventually(t, "a master has its replica", func() bool {
			return strings.Contains(n.admin.Info(ctx, "replication").Val(), "state=online")
		})
	}
	return c
}

func (c *cluster) up(n *clusterNode) bool {
	return strings.Contains(n.admin.ClusterInfo(c.t.Context()).Val(), "cluster_state:ok")
}

// all waits until ok holds for every node.
func (c *cluster) all(what string, ok func(*clusterNode) bool) {
	c.t.Helper()
	for _, n := range c.nodes {
		eventually(c.t, what, func() bool { return ok(n) })
	}
}

func (c *cluster) options() redisclient.Options {
	var o redisclient.Options
	for _, n := range c.nodes {
		o.Addresses = append(o.Addresses, n.Addr())
	}
	return o
}

// slot returns the slot of a key.
func (c *cluster) slot(key string) int {
	c.t.Helper()
	slot, err := c.nodes[1].admin.ClusterKeySlot(c.t.Context(), key).Result()
	must(c.t, err)
	return int(slot)
}

// owner returns which of the first masters has the slot of a key.
func (c *cluster) owner(key string) int { return c.slot(key) * 3 / slots }

// names returns an environment on each of the first masters.
func (c *cluster) names() []string {
	list := make([]string, 3)
	for i := 0; slices.Contains(list, ""); i++ {
		name := fmt.Sprintf("env-%d", i)
		list[c.owner("{"+name+"}")] = name
	}
	return list
}

// lives returns a life for each of some environments.
func lives(life time.Duration, names ...string) map[string]time.Duration {
	m := map[string]time.Duration{}
	for _, name := range names {
		m[name] = life
	}
	return m
}

func TestClusterFailover(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"the master is killed", "the master is killed, without full coverage", "the master hangs", "asked for"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			coverage := "yes" // Redis's default: with a part of the slots away, all are
			if strings.HasSuffix(name, "without full coverage") {
				coverage = "no"
			}
			timeout := brisk
			if name == "asked for" {
				timeout = steady
			}
			c := newCluster(t, timeout, "cluster-require-full-coverage "+coverage)
			names := c.names()
			victim := c.owner("onetoken:events") // the subscriptions are there, too
			f := newFleet(t, 4, c.options(), lives(6*time.Second, names...))
			f.newer(names[victim], time.Now())

			failed := time.Now()
			replica := c.nodes[victim+3]
			switch name {
			default:
				c.nodes[victim].Stop()
			case "the master hangs":
				c.nodes[victim].Pause(t)
			case "asked for":
				must(t, replica.admin.ClusterFailover(t.Context()).Err())
			}
			eventually(t, "the replica is the master", func() bool { return role(t, replica.Server) == "master" && c.up(replica) })
			took := time.Since(failed).Round(time.Millisecond)
			for i, env := range names {
				t.Logf("%s (victim: %v): everybody has a token fetched since after %v", env, i == victim, f.newer(env, failed))
			}
			if name == "the master hangs" {
				c.nodes[victim].Continue(t)
				back := time.Now()
				eventually(t, "the old master is a replica", func() bool { return role(t, c.nodes[victim].Server) == "slave" })
				t.Logf("the old master is a replica %v after it came back", time.Since(back).Round(time.Millisecond))
			}
			for _, env := range names {
				f.agree(env)
			}
			f.check()
			f.logBack()
			if name == "asked for" { // nothing is lost
				f.onlyGrow()
				for _, env := range names {
					f.onceALife(env)
				}
			}
			for i, env := range names {
				t.Logf("%s (victim: %v): callers without a token: %s", env, i == victim, f.interruption(env, failed))
			}
			t.Logf("new master after %v; outcomes: %v", took, f.outcomes.counts())
		})
	}
}

// A failover to a replica that lags loses what was written since: the lock, or the token.
func TestClusterFailoverThatLosesWrites(t *testing.T) {
	t.Parallel()
	for name, loses := range map[string]func(*testing.T, *fleet, *redistest.Server, func() time.Duration){
		"the lock": func(t *testing.T, f *fleet, master *redistest.Server, failOver func() time.Duration) {
			losesTheLock(t, f, master, true, failOver)
		},
		"the token": losesTheToken,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, brisk)
			f := newFleet(t, 4, c.options(), calm)
			victim := c.owner("{" + env + "}")
			loses(t, f, c.nodes[victim].Server, func() time.Duration {
				failed := time.Now()
				c.nodes[victim].Stop()
				replica := c.nodes[victim+3]
				eventually(t, "the replica is the master", func() bool { return role(t, replica.Server) == "master" && c.up(replica) })
				return time.Since(failed).Round(time.Millisecond)
			})
		})
	}
}

// What is published in a script on one node is heard on every node. None is sent the name of a script that it doesn't know. All
// replicas listen at the same one, as docs/sizing.md has it: at the master of the channel's slot.
func TestClusterEventsReachEveryNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, steady)
	names := c.names()
	const replicas = 3
	f := startFleet(t, replicas, c.options(), lives(time.Minute, names...))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	eventually(t, "all replicas listen at one node", func() bool {
		return slices.ContainsFunc(c.nodes, func(n *clusterNode) bool {
			return n.admin.PubSubNumSub(ctx, "onetoken:events").Val()["onetoken:events"] == replicas
		})
	})
	var subscriptions []*redis.PubSub
	for _, n := range c.nodes {
		s := n.admin.Subscribe(ctx, "onetoken:events")
		defer s.Close()
		_, err := s.Receive(ctx)
		must(t, err)
		subscriptions = append(subscriptions, s)
	}
	for _, env := range names {
		tok, err := f.managers[0].Token(ctx, env)
		must(t, err)
		want := fmt.Sprintf(`{"env":"%s","kind":"stored","version":%d}`, env, tok.Version)
		for i, s := range subscriptions {
			m, err := s.ReceiveMessage(ctx)
			must(t, err)
			if m.Payload != want {
				t.Errorf("node %d: %s, want %s", i, m.Payload, want)
			}
		}
	}
	another, err := store.New(newClient(t, c.options()), store.Options{})
	must(t, err)
	_, err = another.ReadMany(ctx, names)
	must(t, err)
	for i, n := range c.nodes {
		if stats := n.admin.Info(ctx, "errorstats").Val(); strings.Contains(stats, "NOSCRIPT") {
			t.Errorf("node %d: %s", i, stats)
		}
	}
}
