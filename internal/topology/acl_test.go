package topology_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

const password = "hunter2-of-redis"

// userLine returns the line of the user onetoken in the file of the compose example, with the password and further
// rights.
func userLine(t *testing.T, more ...string) string {
	t.Helper()
	data, err := os.ReadFile("../../docs/compose/users.acl")
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "user onetoken ") {
			line = strings.Replace(strings.TrimSpace(line), "#ONETOKEN_SHA256", ">"+password, 1)
			return strings.Join(append([]string{line}, more...), " ")
		}
	}
	t.Fatal("users.acl has no user onetoken")
	return ""
}

// asUser returns o as the user onetoken.
func asUser(o redisclient.Options) redisclient.Options {
	o.Username, o.Password = "onetoken", secret.New(password)
	return o
}

// denied returns what the server has denied to a user, as its log has it, each once.
func denied(t *testing.T, rdb *redis.Client, user string) []string {
	t.Helper()
	entries, err := rdb.ACLLog(t.Context(), 100).Result()
	must(t, err)
	var list []string
	for _, e := range entries {
		what := e.Reason + " " + e.Object
		// go-redis tells its name to those servers that know the command, and doesn't mind a no.
		if e.Username == user && e.Object != "client|setinfo" && !slices.Contains(list, what) {
			list = append(list, what)
		}
	}
	slices.Sort(list)
	return list
}

// life uses all that a manager does with Redis: get, refresh, invalidate, fail, watch, status and the list of the
// environments. It returns the first error.
func (f *fleet) life() error {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	one, two := f.managers[0], f.managers[1]
	first, err := one.Token(ctx, env)
	if err != nil {
		return err
	}
	if got, err := two.Token(ctx, env); err != nil || got.Version != first.Version {
		return errors.Join(err, fmt.Errorf("the other manager has %+v", got))
	}
	second, err := one.Refresh(ctx, env)
	if err != nil {
		return err
	}
	heard := func(what string, above store.Version) error {
		for tick := time.NewTicker(glance); ; <-tick.C {
			got, err := two.Token(ctx, env)
			if err != nil || got.Version > above {
				tick.Stop()
				return err
			}
			if ctx.Err() != nil {
				return errors.New("not heard: " + what)
			}
		}
	}
	if err := heard("a refresh", first.Version); err != nil {
		return err
	}
	dropped, err := one.Invalidate(ctx, env, 0)
	if err != nil {
		return err
	}
	if dropped < second.Version {
		return fmt.Errorf("version %d is dropped, %d was stored", dropped, second.Version)
	}
	if err := heard("an invalidation", dropped); err != nil {
		return err
	}
	f.endpoint.Push(mockendpoint.Reply{Error: "invalid_scope"})
	var refused *manager.EndpointError
	if _, err := one.Refresh(ctx, env); !errors.As(err, &refused) || refused.RetryAt.IsZero() { // zero: not in Redis
		return fmt.Errorf("a failure: %w", errors.Join(err, errors.New("not shared")))
	}
	if s, err := two.Status(ctx, env); err != nil || s.Failure.Code == nil {
		return errors.Join(err, fmt.Errorf("the status is %+v", s))
	}
	s, err := store.New(f.clients[0], store.Options{})
	if err != nil {
		return err
	}
	if names, err := s.Environments(ctx); err != nil || !slices.Contains(names, env) {
		return errors.Join(err, fmt.Errorf("the environments are %q", names))
	}
	return nil
}

// The rights that the user has on a lone Redis are enough behind Sentinels. What it needs of the Sentinels is little.
func TestSentinelRights(t *testing.T) {
	t.Parallel()
	rights := []string{"client|setname", "ping", "subscribe", "sentinel|get-master-addr-by-name", "sentinel|sentinels"}
	d := newDeployment(t, userLine(t))
	for _, s := range d.sentinels {
		admin := s.Client(t)
		rules := []string{"on", ">" + password, "resetchannels", "&+switch-master", "&+replica-reconf-done", "-@all"}
		for _, right := range rights {
			rules = append(rules, "+"+right)
		}
		must(t, admin.ACLSetUser(t.Context(), "watcher", rules...).Err())
	}
	o := asUser(d.options())
	o.SentinelUsername, o.SentinelPassword = "watcher", secret.New(password)
	f := startFleet(t, 2, o, calm)
	must(t, f.life())
	for _, n := range d.nodes {
		if got := denied(t, n.Client(t), "onetoken"); len(got) > 0 {
			t.Errorf("a node has denied %q", got)
		}
	}
	for _, s := range d.sentinels {
		if got := denied(t, s.Client(t), "watcher"); len(got) > 0 {
			t.Errorf("a Sentinel has denied %q", got)
		}
	}
	// The failover is followed, too.
	old := d.master()
	must(t, d.views[0].Failover(t.Context(), masterName).Err())
	d.failedOver(old, time.Now())
	eventually(t, "a refresh on the new master", func() bool {
		got := <-f.refresh(1)
		return got.err == nil && d.master().Client(t).HGet(t.Context(), "onetoken:{prod}:token", "version").Val() == got.token.Version.String()
	})
	t.Logf("on the nodes: as for a lone Redis; on the Sentinels: %s", "+"+strings.Join(rights, " +"))

	allow := func(rule string) {
		for _, s := range d.sentinels {
			must(t, s.Client(t).ACLSetUser(t.Context(), "watcher", rule).Err())
		}
	}
	for _, right := range rights {
		for _, s := range d.sentinels {
			must(t, s.Client(t).Do(t.Context(), "ACL", "LOG", "RESET").Err())
		}
		allow("-" + right)
		err := f.newcomer(newClient(t, o))
		if fatal := right == "client|setname" || right == "sentinel|get-master-addr-by-name"; fatal != isDenied(err, right) {
			t.Errorf("without +%s: %v", right, err)
		}
		eventually(t, "a Sentinel denies "+right, func() bool {
			return slices.ContainsFunc(d.sentinels, func(s *redistest.Server) bool {
				return slices.Contains(denied(t, s.Client(t), "watcher"), "command "+right)
			})
		})
		t.Logf("on the Sentinels without +%s: %v", right, err)
		allow("+" + right)
	}
}

// newcomer returns what a new replica on rdb gets that asks for a token.
func (f *fleet) newcomer(rdb redis.UniversalClient) error {
	f.t.Helper()
	f.newcomers++
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	_, err := f.add(rdb, fmt.Sprintf("newcomer-%d", f.newcomers)).Token(ctx, env)
	return err
}

// isDenied reports whether err says on one line, without a secret, that Redis denies a command.
func isDenied(err error, command string) bool {
	var away *manager.RedisError
	return errors.As(err, &away) && strings.Contains(err.Error(), "NOPERM") && strings.Contains(err.Error(), command) &&
		!strings.Contains(err.Error(), "\n") && !strings.Contains(err.Error(), "hunter2")
}

// In a Cluster the user also has to ask where the slots are, and to follow one that moves.
func TestClusterRights(t *testing.T) {
	t.Parallel()
	c := newCluster(t, steady, userLine(t, "+cluster|slots +command +asking"))
	o := asUser(c.options())
	f := startFleet(t, 2, o, calm)
	must(t, f.life())
	from := c.owner("{" + env + "}")
	m := c.migrate(env, c.nodes[from], c.nodes[(from+1)%3])
	m.begin()
	rdb := newClient(t, o)
	// With all five keys in one place scripts are run, wherever that is.
	must(t, rdb.HSet(t.Context(), "onetoken:{prod}:grant", "version", "").Err())
	must(t, rdb.Set(t.Context(), "onetoken:{prod}:lock", "somebody|x", time.Minute).Err())
	m.move(m.keys()...)
	status, err := f.managers[0].Status(t.Context(), env)
	if err != nil || status.State != manager.StateRefreshing {
		t.Errorf("while the slot moves: %+v, %v", status, err)
	}
	for i, n := range c.nodes {
		if got := denied(t, n.admin, "onetoken"); len(got) > 0 {
			t.Errorf("node %d has denied %q", i, got)
		}
	}

	allow := func(rule string) {
		for _, n := range c.nodes {
			must(t, n.admin.ACLSetUser(t.Context(), "onetoken", rule).Err())
		}
	}
	allow("-asking")
	if _, err = f.managers[0].Status(t.Context(), env); err == nil {
		t.Error("without +asking a slot that moves is followed")
	}
	t.Logf("without +asking: %v", err)
	allow("+asking")
	m.end()
	must(t, rdb.Del(t.Context(), "onetoken:{prod}:lock").Err())

	allow("-cluster|slots")
	if err := f.newcomer(newClient(t, o)); !isDenied(err, "cluster|slots") {
		t.Errorf("without +cluster|slots: %v", err)
	} else {
		t.Logf("without +cluster|slots: %v", err)
	}
	allow("+cluster|slots")

	allow("-command")
	if err := f.newcomer(newClient(t, o)); err != nil {
		t.Errorf("without +command: %v", err)
	}
	if !slices.ContainsFunc(c.nodes, func(n *clusterNode) bool { return slices.Contains(denied(t, n.admin, "onetoken"), "command command") }) {
		t.Error("COMMAND isn't asked for")
	}
	t.Log("without +command: all works, and Redis's ACL log fills")
}
