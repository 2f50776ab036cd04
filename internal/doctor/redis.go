package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/redisclient"
)

// A node is one server that is written to: the one there is, a master behind Sentinels, or one of a Cluster's.
type node struct {
	name    string // for people
	rdb     *redis.Client
	scratch string // an environment of nobody's whose keys are on this node
	info    info
}

const (
	pings      = 15
	clockApart = time.Second
)

func (e *examination) redis(ctx context.Context, r *report) {
	e.sentinels(ctx, r)
	nodes := e.nodes(ctx, r)
	for _, n := range nodes {
		e.node(ctx, r, n)
	}
	if len(nodes) == 0 || ctx.Err() != nil {
		return
	}
	e.events(ctx, r)
	e.keys(ctx, r, nodes)
}

// nodes returns those that can be reached.
func (e *examination) nodes(ctx context.Context, r *report) []*node {
	var candidates []*redis.Client
	switch rdb := e.rdb.(type) {
	case *redis.Client:
		candidates = append(candidates, rdb)
	case *redis.ClusterClient:
		found := make(chan *redis.Client, 1024)
		if err := rdb.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
			found <- c
			return nil
		}); err != nil {
			r.fail(GroupRedis+".reachable", strings.Join(rdb.Options().Addrs, ", "), "the Cluster can't be asked for its nodes: "+printable.Redis(err), redisMend(err, "+cluster|slots"))
			return nil
		}
		close(found)
		for c := range found {
			candidates = append(candidates, c)
		}
		slices.SortFunc(candidates, func(a, b *redis.Client) int { return cmp.Compare(a.Options().Addr, b.Options().Addr) })
	}
	var nodes []*node
	for _, c := range candidates {
		n := &node{rdb: c, name: c.Options().Addr}
		if e.file.Redis.MasterName != "" {
			n.name = "the master of " + e.file.Redis.MasterName
		}
		if reachable(ctx, r, n) {
			n.scratch = e.scratch(ctx, c)
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// scratch returns the name of an environment whose keys are on a node.
func (e *examination) scratch(ctx context.Context, c *redis.Client) string {
	name := "doctor-" + rand.Text()
	cluster, ok := e.rdb.(*redis.ClusterClient)
	for tries := 0; ok && tries < 10_000; tries++ {
		if at, err := cluster.MasterForKey(ctx, e.store.Keys(name).Token); err != nil || at.Options().Addr == c.Options().Addr {
			break
		}
		name = "doctor-" + rand.Text()
	}
	return name
}

func reachable(ctx context.Context, r *report, n *node) bool {
	const check = GroupRedis + ".reachable"
	begun := time.Now()
	err := n.rdb.Ping(ctx).Err()
	if denied(err) && !strings.Contains(err.Error(), "setname") {
		err = nil // it has answered; the rights are looked at one by one
	}
	if err != nil {
		r.fail(check, n.name, printable.Redis(err), redisMend(err, "+client|setname"))
		return false
	}
	r.ok(check, n.name, "connected within %v", time.Since(begun).Round(time.Millisecond))
	return true
}

// redisMend says what to do about a Redis that can't be used; right is what is missing where a right is.
func redisMend(err error, right string) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "NOAUTH"), strings.Contains(text, "WRONGPASS"), strings.Contains(text, "AUTH failed"):
		return "is the user and the password right (redis.username and redis.password, or those in the URL)?"
	case denied(err):
		return "give the user the right " + right
	case strings.Contains(text, "LOADING"):
		return "Redis is reading its data from disk: wait"
	case strings.Contains(text, "CLUSTERDOWN"):
		return "the Cluster doesn't serve all its slots: see redis-cli cluster info"
	case strings.Contains(text, "all sentinels"), strings.Contains(text, "sentinels specified"):
		return "no Sentinel knows the master: are redis.addresses and redis.master_name right, and do the Sentinels run?"
	}
	return cmp.Or(connectionMend(err), "is redis.url right, and is Redis running?")
}

// denied reports whether Redis denies a command to the user, or to a script that the user runs.
func denied(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "The user executing the script can't"))
}

// node looks at one server.
func (e *examination) node(ctx context.Context, r *report, n *node) {
	e.nodeCertificate(ctx, r, n)
	n.info = readInfo(ctx, n.rdb)
	version(ctx, r, n)
	e.roundTrip(ctx, r, n)
	e.clock(ctx, r, n)
	n.memory(r)
	e.persistence(ctx, r, n)
	n.replication(r)
	e.cluster(ctx, r, n)
	e.rights(ctx, r, n)
}

// nodeCertificate connects once more, for the server's certificate.
func (e *examination) nodeCertificate(ctx context.Context, r *report, n *node) {
	o := n.rdb.Options()
	if o.TLSConfig == nil || o.Dialer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, max(o.DialTimeout, 3*time.Second))
	defer cancel()
	conn, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		r.fail(GroupRedis+".certificate", n.name, printable.Redis(err), connectionMend(err))
		return
	}
	defer func() { _ = conn.Close() }()
	if secured, ok := conn.(*tls.Conn); ok && secured.HandshakeContext(ctx) == nil {
		state := secured.ConnectionState()
		e.certificate(r, GroupRedis+".certificate", n.name, &state)
	}
}

// hello asks the server who it is: every user may.
func hello(ctx context.Context, rdb *redis.Client) (map[string]string, error) {
	reply, err := rdb.Do(ctx, "HELLO").Result()
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	switch reply := reply.(type) {
	case map[any]any:
		for k, v := range reply {
			said[fmt.Sprint(k)] = fmt.Sprint(v)
		}
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			said[fmt.Sprint(reply[i])] = fmt.Sprint(reply[i+1])
		}
	}
	return said, nil
}

func version(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".version"
	said, err := hello(ctx, n.rdb)
	server, number := cmp.Or(said["server"], "redis"), cmp.Or(said["version"], n.info["redis_version"])
	switch {
	case number == "":
		r.warn(check, n.name, fmt.Sprintf("the version isn't known: %v", err), "onetoken needs Redis 6.2 or newer, or Valkey")
	case server == "redis" && !atLeast(number, 6, 2):
		r.fail(check, n.name, "Redis "+number+" is too old", "onetoken needs Redis 6.2 or newer, or Valkey")
	default:
		r.ok(check, n.name, "%s %s", server, number)
	}
	if said["role"] == "replica" || said["role"] == "slave" || n.info["role"] == "slave" {
		r.fail(GroupRedis+".role", n.name, "this is a replica, which takes no writes", "name its master in redis.url, or the Sentinels in redis.addresses")
	}
}

// atLeast compares a version with major.minor.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	a, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 2 {
		return err == nil && a > major
	}
	b, _ := strconv.Atoi(parts[1])
	return a > major || a == major && b >= minor
}

func (e *examination) roundTrip(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".round_trip"
	var took []time.Duration
	for range pings {
		begun := time.Now()
		if err := n.rdb.Ping(ctx).Err(); err != nil && !denied(err) {
			r.fail(check, n.name, printable.Redis(err), redisMend(err, "+ping"))
			return
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	median, longest := took[len(took)/2].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond)
	if median > cmp.Or(e.RoundTrip, DefaultRoundTrip) {
		r.warn(check, n.name, fmt.Sprintf("%v in the median of %d, %v at most: every cold start and every refresh waits for some of them", median, len(took), longest),
			"have Redis nearer to this machine, or see what keeps it busy (redis-cli --latency, SLOWLOG)")
		return
	}
	r.ok(check, n.name, "%v in the median of %d, %v at most", median, len(took), longest)
}

func (e *examination) clock(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".clock"
	sent := e.now()
	theirs, err := n.rdb.Time(ctx).Result()
	took := e.now().Sub(sent)
	if err != nil {
		if !denied(err) { // a missing right is found below
			r.fail(check, n.name, printable.Redis(err), redisMend(err, "+time"))
		}
		return
	}
	apart := theirs.Sub(sent.Add(took / 2))
	if apart.Abs() > clockApart+took/2 {
		r.warn(check, n.name, fmt.Sprintf("its clock is %v from this machine's. Tokens are kept right all the same; times in logs and in status are off", apart.Round(time.Millisecond)),
			"run a time service (NTP) on both")
		return
	}
	r.ok(check, n.name, "%v from this machine's clock, measured to %v", apart.Round(time.Millisecond), (took / 2).Round(time.Millisecond))
}

// sentinels asks each Sentinel for the master.
func (e *examination) sentinels(ctx context.Context, r *report) {
	const check = GroupRedis + ".sentinel"
	clients, err := redisclient.Sentinels(e.file.Redis)
	if err != nil || len(clients) == 0 {
		return // the same error as the configuration's
	}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		c := clients[name]
		addr, err := c.GetMasterAddrByName(ctx, e.file.Redis.MasterName).Result()
		_ = c.Close()
		switch {
		case errors.Is(err, redis.Nil):
			r.warn(check, name, fmt.Sprintf("it knows no master %q", e.file.Redis.MasterName), "is redis.master_name right?")
		case err != nil:
			r.warn(check, name, printable.Redis(err), redisMend(err, "+sentinel|get-master-addr-by-name (and those in docs/configuration.md)"))
		default:
			r.ok(check, name, "the master is at %s", strings.Join(addr, ":"))
		}
	}
	if len(clients) == 1 {
		r.warn(check, e.file.Redis.MasterName, "one Sentinel is named: without it no new process finds the master", "name all of them in redis.addresses")
	}
}

// cluster looks at a Cluster's state, as a node sees it.
func (e *examination) cluster(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".cluster"
	if _, ok := e.rdb.(*redis.ClusterClient); !ok {
		return
	}
	text, err := n.rdb.ClusterInfo(ctx).Result()
	state := parseInfo(text)["cluster_state"]
	switch {
	case denied(err):
		r.unknown(check, n.name, "the user may not run CLUSTER INFO", "run doctor as a user who may (+cluster|info)")
	case err != nil:
		r.fail(check, n.name, printable.Redis(err), redisMend(err, "+cluster|info"))
	case state != "ok":
		r.fail(check, n.name, "cluster_state is "+state, "see redis-cli cluster nodes: a slot has no master, or most masters can't be reached")
	default:
		r.ok(check, n.name, "cluster_state is ok")
	}
}
