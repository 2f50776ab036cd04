package topology_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

const masterName = "main"

// A deployment is a master, two replicas and three Sentinels. Replicas replicate as a user of their own, whom the tests
// take the right to, to have a failover lose what was written since.
type deployment struct {
	t         *testing.T
	nodes     []*redistest.Server // the first master first
	sentinels []*redistest.Server
	views     []*redis.SentinelClient // one for each Sentinel
}

func newDeployment(t *testing.T, lines ...string) *deployment {
	t.Helper()
	d := &deployment{t: t}
	lines = append(slices.Clone(lines), "repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "repl-timeout 5",
		"user replica on >replica ~* &* +@all", "masteruser replica", "masterauth replica", "replica-read-only yes")
	d.nodes = append(d.nodes, redistest.Start(t, lines...))
	master := port(d.nodes[0])
	for range 2 {
		d.nodes = append(d.nodes, redistest.Start(t, append(slices.Clone(lines), "replicaof 127.0.0.1 "+master)...))
	}
	admin := d.nodes[0].Client(t)
	eventually(t, "two replicas are online", func() bool {
		return strings.Count(admin.Info(t.Context(), "replication").Val(), "state=online") == 2
	})
	for range 3 {
		d.sentinels = append(d.sentinels, redistest.StartSentinel(t,
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %s 2", masterName, master),
			fmt.Sprintf("sentinel down-after-milliseconds %s 1000", masterName),
			fmt.Sprintf("sentinel failover-timeout %s 4000", masterName),
			fmt.Sprintf("sentinel parallel-syncs %s 2", masterName),
		))
	}
	for _, s := range d.sentinels {
		c := redis.NewSentinelClient(redistest.Options(s.Addr()))
		t.Cleanup(func() { _ = c.Close() })
		d.views = append(d.views, c)
		eventually(t, "a Sentinel knows the others and the replicas", func() bool {
			m, err := c.Master(t.Context(), masterName).Result()
			return err == nil && m["num-slaves"] == "2" && m["num-other-sentinels"] == "2" && m["flags"] == "master"
		})
	}
	return d
}

func port(s *redistest.Server) string {
	_, p, _ := net.SplitHostPort(s.Addr())
	return p
}

// options are those of a client of the deployment.
func (d *deployment) options() redisclient.Options {
	o := redisclient.Options{MasterName: masterName}
	for _, s := range d.sentinels {
		o.Addresses = append(o.Addresses, s.Addr())
	}
	return o
}

// master returns the node that the Sentinels take for the master, nil where they don't agree.
func (d *deployment) master() *redistest.Server {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	named := map[string]bool{}
	for _, c := range d.views {
		addr, err := c.GetMasterAddrByName(ctx, masterName).Result()
		must(d.t, err)
		named[net.JoinHostPort(addr[0], addr[1])] = true
	}
	i := slices.IndexFunc(d.nodes, func(s *redistest.Server) bool { return named[s.Addr()] })
	if i < 0 || len(named) != 1 {
		return nil
	}
	return d.nodes[i]
}

// failedOver waits until the Sentinels name another master than old, and returns it and how long that took.
func (d *deployment) failedOver(old *redistest.Server, since time.Time) (*redistest.Server, time.Duration) {
	d.t.Helper()
	var master *redistest.Server
	eventually(d.t, "the Sentinels name another master", func() bool {
		master = d.master()
		return master != nil && master != old
	})
	return master, time.Since(since).Round(time.Millisecond)
}

// role returns what a node takes itself for, "" where it doesn't answer.
func role(t *testing.T, s *redistest.Server) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	reply, err := s.Client(t).Do(ctx, "ROLE").Slice()
	if err != nil || len(reply) == 0 {
		return ""
	}
	text, _ := reply[0].(string)
	return text
}

var sentinelLives = map[string]time.Duration{"short": 3 * time.Second, "long": 12 * time.Second}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*testing.T, *deployment, *redistest.Server) (after func()){
		"the master is killed": func(_ *testing.T, _ *deployment, master *redistest.Server) func() {
			master.Stop()
			return func() {}
		},
		"the master hangs, and comes back as a stale one": func(t *testing.T, _ *deployment, master *redistest.Server) func() {
			master.Pause(t)
			return func() {
				back := time.Now()
				master.Continue(t)
				eventually(t, "the old master is a replica", func() bool { return role(t, master) == "slave" })
				t.Logf("the old master is a replica %v after it came back", time.Since(back).Round(time.Millisecond))
			}
		},
		"asked for": func(t *testing.T, d *deployment, _ *redistest.Server) func() {
			must(t, d.views[0].Failover(t.Context(), masterName).Err())
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDeployment(t)
			f := newFleet(t, 5, d.options(), sentinelLives)
			old := d.master()
			f.newer("short", time.Now()) // a refresh has just been

			failed := time.Now()
			after := fail(t, d, old)
			_, took := d.failedOver(old, failed)
			for env := range sentinelLives {
				t.Logf("%s: everybody has a token fetched since after %v", env, f.newer(env, failed))
			}
			after()
			settled := time.Now()
			for env := range sentinelLives {
				f.newer(env, settled)
				f.agree(env)
			}
			f.check()
			f.logBack()
			t.Logf("new master after %v; calls of the endpoint since the failure: short %d, long %d in %v",
				took, len(f.calls("short", failed)), len(f.calls("long", failed)), time.Since(failed).Round(time.Millisecond))
			for env := range sentinelLives {
				t.Logf("%s (life %v): callers without a token: %s", env, sentinelLives[env], f.interruption(env, failed))
			}
			t.Logf("outcomes: %v", f.outcomes.counts())
		})
	}
}

// cut takes from the replicas what they need to replicate from the master, and returns once they don't.
func (d *deployment) cut(master *redistest.Server) {
	d.t.Helper()
	cut(d.t, master)
}

// cut ends a master's replication: what is written from here on is on no replica.
func cut(t *testing.T, master *redistest.Server) {
	t.Helper()
	admin := master.Client(t)
	must(t, admin.ACLSetUser(t.Context(), "replica", "off").Err())
	must(t, admin.Do(t.Context(), "CLIENT", "KILL", "USER", "replica").Err())
	eventually(t, "the master has no replicas", func() bool {
		return strings.Contains(admin.Info(t.Context(), "replication").Val(), "connected_slaves:0")
	})
}

const env = "prod"

// calm is a life within which no refresh is due while a test lasts.
var calm = map[string]time.Duration{env: 2 * time.Minute}

// A refreshed is what a call of Refresh brought.
type refreshed struct {
	token *manager.Token
	err   error
	at    time.Time
}

// refresh calls Refresh on the i-th manager.
func (f *fleet) refresh(i int) <-chan refreshed {
	done := make(chan refreshed, 1)
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	go func() {
		defer cancel()
		tok, err := f.managers[i].Refresh(ctx, env)
		done <- refreshed{tok, err, time.Now()}
	}()
	return done
}

// called waits until the endpoint has been called so often.
func (f *fleet) called(calls int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	must(f.t, f.endpoint.Await(ctx, calls))
}

// A failover to a replica that lags loses the lock: a second lease is given while the first holder is at it.
func TestSentinelFailoverThatLosesTheLock(t *testing.T) {
	t.Parallel()
	for name, firstFirst := range map[string]bool{"the first holder is done first": true, "the second holder is done first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDeployment(t)
			f := newFleet(t, 4, d.options(), calm)
			old := d.master()
			losesTheLock(t, f, old, firstFirst, func() time.Duration {
				failed := time.Now()
				old.Stop()
				_, took := d.failedOver(old, failed)
				return took
			})
		})
	}
}

// losesTheLock has the first holder's lock lost by failing over, and checks how two calls at once end.
func losesTheLock(t *testing.T, f *fleet, master *redistest.Server, firstFirst bool, failOver func() time.Duration) {
	f.agree(env)
	before := f.loops[0].last().version
	gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
	f.endpoint.Push(mockendpoint.Reply{Gate: gates[0]}, mockendpoint.Reply{Gate: gates[1]})
	cut(t, master)
	first := f.refresh(0)
	f.called(2)
	took := failOver()
	second := f.refresh(1)
	f.called(3)
	if !firstFirst {
		slices.Reverse(gates)
	}
	freed := time.Now()
	for i, gate := range gates {
		close(gate)
		eventually(t, "the call is answered", func() bool { return f.endpoint.InFlight() == 1-i })
		if i == 0 { // its token is stored, and heard of
			eventually(t, "everybody has the token of the one who is done", func() bool {
				return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version == before })
			})
		}
	}
	one, two := <-first, <-second
	must(t, one.err)
	must(t, two.err)
	if two.token.RefreshedBy != f.managers[1].Replica() {
		t.Errorf("the second holder was answered with the token of %s", two.token.RefreshedBy)
	}
	eventually(t, "everybody has the second holder's token", func() bool {
		return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version != two.token.Version })
	})
	settled := time.Since(freed)
	if s, err := f.managers[2].Status(t.Context(), env); err != nil || s.Version == nil || *s.Version != two.token.Version {
		t.Errorf("%+v, %v: want version %d of the second holder stored", s, err, two.token.Version)
	}
	if byFirst := one.token.RefreshedBy == f.managers[0].Replica(); byFirst != firstFirst {
		t.Errorf("the first holder was answered with the token of %s", one.token.RefreshedBy)
	}
	f.check()
	f.onlyGrow()
	if calls, most := f.endpoint.Calls(), f.endpoint.MaxInFlight(); calls != 3 || most != 2 {
		t.Errorf("%d calls, %d at once; want 3, 2", calls, most)
	}
	t.Logf("new master after %v; 2 calls at once for one life; all agree %v after the first answer; outcomes: %v",
		took, settled.Round(time.Millisecond), f.outcomes.counts())
}

// A failover to a replica that lags loses the token that was stored last.
func TestSentinelFailoverThatLosesTheToken(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	f := newFleet(t, 4, d.options(), calm)
	old := d.master()
	losesTheToken(t, f, old, func() time.Duration {
		failed := time.Now()
		old.Stop()
		_, took := d.failedOver(old, failed)
		return took
	})
}

// losesTheToken has a stored token lost by failing over, and checks that all agree on what is left, and on what follows.
func losesTheToken(t *testing.T, f *fleet, master *redistest.Server, failOver func() time.Duration) {
	f.agree(env)
	kept := f.loops[0].last().version
	cut(t, master)
	got := <-f.refresh(0)
	must(t, got.err)
	eventually(t, "everybody has the token that will be lost", func() bool {
		return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version != got.token.Version })
	})
	took := failOver()
	lost := time.Now()
	// Redis has lost its history: the token that it has left, which is as good, is everybody's again.
	eventually(t, "everybody has the token that is left", func() bool {
		return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version != kept })
	})
	settled := time.Since(lost)
	next := <-f.refresh(1)
	must(t, next.err)
	if next.token.Version <= got.token.Version {
		t.Errorf("version %d is issued after the lost %d", next.token.Version, got.token.Version)
	}
	f.agree(env)
	f.check()
	if calls := f.endpoint.Calls(); calls != 3 {
		t.Errorf("%d calls of the endpoint, want 3", calls)
	}
	t.Logf("new master after %v; everybody is back on the older token %v later; outcomes: %v", took, settled.Round(time.Millisecond), f.outcomes.counts())
}

// With min-replicas-to-write a master whose replicas are gone gives no lease, so that a failover loses none.
func TestSentinelMinReplicasToWrite(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "min-replicas-to-write 1", "min-replicas-max-lag 2")
	f := newFleet(t, 4, d.options(), calm)
	f.agree(env)
	old := d.master()
	admin := old.Client(t)
	d.cut(old)
	took := eventually(t, "the master takes no writes", func() bool {
		err := admin.Set(t.Context(), "probe", 1, 0).Err()
		return err != nil && strings.HasPrefix(err.Error(), "NOREPLICAS")
	})
	got := <-f.refresh(0)
	var away *manager.RedisError
	if !errors.As(got.err, &away) || !strings.Contains(got.err.Error(), "NOREPLICAS") || strings.Contains(got.err.Error(), "\n") {
		t.Errorf("a refresh without replicas: %v", got.err)
	}
	if calls := f.endpoint.Calls(); calls != 1 {
		t.Errorf("%d calls of the endpoint, want 1", calls)
	}
	failed := time.Now()
	old.Stop()
	_, failover := d.failedOver(old, failed)
	eventually(t, "a refresh succeeds", func() bool { return (<-f.refresh(1)).err == nil })
	t.Logf("no lease from %v after the replicas were cut off; new master %v after the old one's end, refreshed after %v",
		took, failover, time.Since(failed).Round(time.Millisecond))
	f.agree(env)
	f.check()
	f.onlyGrow()
	if calls := f.endpoint.Calls(); calls != 2 {
		t.Errorf("%d calls of the endpoint, want 2", calls)
	}
}

// Sentinels are asked where the master is with each new connection. Those that there are stay good without them.
func TestSentinelsAreAway(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	f := newFleet(t, 2, d.options(), calm)
	f.agree(env)
	for _, s := range d.sentinels {
		s.Stop()
	}
	eventually(t, "a refresh succeeds", func() bool { return (<-f.refresh(0)).err == nil })
	err := f.newcomer(newClient(t, d.options()))
	var away *manager.RedisError
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "sentinels") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a new replica gets %v", err)
	}
	t.Logf("a new replica gets %v", err)
	for _, s := range d.sentinels {
		s.Start(t)
	}
	must(t, f.newcomer(newClient(t, d.options())))
	f.check()
	f.onlyGrow()
}

// WAIT says whether a write is on a replica. It takes no write back that isn't.
func TestSentinelWait(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	ctx := t.Context()
	master := d.master()
	admin := master.Client(t).Conn() // WAIT is about the writes of its connection
	defer func() { _ = admin.Close() }()
	const writes = 200
	var alone, waited time.Duration
	for i := range writes {
		start := time.Now()
		must(t, admin.Set(ctx, "probe", i, 0).Err())
		alone += time.Since(start)
		n, err := admin.Wait(ctx, 1, 500*time.Millisecond).Result()
		must(t, err)
		if n < 1 {
			t.Errorf("write %d is on %d replicas", i, n)
		}
		waited += time.Since(start)
	}
	d.cut(master)
	must(t, admin.Set(ctx, "probe", "alone", 0).Err())
	if n, err := admin.Wait(ctx, 1, 100*time.Millisecond).Result(); n != 0 || err != nil {
		t.Errorf("a write on a master without replicas is on %d, %v", n, err)
	}
	if got := admin.Get(ctx, "probe").Val(); got != "alone" {
		t.Errorf("the write that nobody has confirmed is %q", got)
	}
	t.Logf("a write takes %v, with WAIT 1 %v, on the mean", alone/writes, waited/writes)
}

// followed waits until every manager's client uses the new master: what is written before is lost with the old one.
func (d *deployment) followed(f *fleet, master *redistest.Server) {
	d.t.Helper()
	for _, rdb := range f.clients {
		eventually(d.t, "the clients use the new master", func() bool {
			got, err := rdb.ConfigGet(d.t.Context(), "port").Result()
			return err == nil && got["port"] == port(master)
		})
	}
}

// A failover to a replica that lags loses an invalidation, too: it has to be repeated.
func TestSentinelFailoverThatLosesAnInvalidation(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	f := newFleet(t, 4, d.options(), calm)
	f.agree(env)
	first := f.loops[0].last().version
	old := d.master()
	d.cut(old)
	above := func(v manager.Version) {
		t.Helper()
		eventually(t, "everybody has a token above the dropped one", func() bool {
			return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version <= v })
		})
	}
	invalidate := func() {
		t.Helper()
		dropped, err := f.managers[0].Invalidate(t.Context(), env, 0)
		must(t, err)
		f.dropped.Store(int64(dropped))
		above(dropped)
	}
	invalidate()
	failed := time.Now()
	old.Stop()
	master, _ := d.failedOver(old, failed)
	d.followed(f, master)
	lost := time.Now()
	eventually(t, "everybody has the token that is left", func() bool {
		return !slices.ContainsFunc(f.loops, func(l *loop) bool { return l.last().version != first })
	})
	t.Logf("everybody has the invalidated token again %v after the failover", time.Since(lost).Round(time.Millisecond))
	invalidate()
	f.check()
	if calls := f.endpoint.Calls(); calls != 3 {
		t.Errorf("%d calls of the endpoint, want 3", calls)
	}
}

// A subscription may be left on a master that is one no more. What is published meanwhile is not heard there.
func TestSentinelInvalidationAfterAFailover(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*testing.T, *deployment, *redistest.Server){
		"killed": func(_ *testing.T, _ *deployment, master *redistest.Server) { master.Stop() },
		"hung":   func(t *testing.T, _ *deployment, master *redistest.Server) { master.Pause(t) },
		"asked for": func(t *testing.T, d *deployment, _ *redistest.Server) {
			must(t, d.views[0].Failover(t.Context(), masterName).Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDeployment(t)
			f := newFleet(t, 4, d.options(), calm)
			f.agree(env)
			old := d.master()
			failed := time.Now()
			fail(t, d, old)
			master, _ := d.failedOver(old, failed)
			d.followed(f, master)
			demoted := role(t, old)
			var dropped manager.Version
			eventually(t, "an invalidation succeeds", func() bool {
				var err error
				dropped, err = f.managers[0].Invalidate(t.Context(), env, 0)
				return err == nil
			})
			f.dropped.Store(int64(dropped))
			at := time.Now()
			for _, l := range f.loops {
				eventually(t, "everybody has a token above the dropped one", func() bool { return l.last().version > dropped })
			}
			t.Logf("everybody has another token %v after the invalidation, when the old master was %q; outcomes: %v",
				time.Since(at).Round(time.Millisecond), demoted, f.outcomes.counts())
			f.check()
			f.logBack()
		})
	}
}
