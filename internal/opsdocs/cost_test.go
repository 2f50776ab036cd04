package opsdocs_test

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/lock"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// A cost is what something takes of Redis.
type cost struct {
	Requests, Commands float64 // commands as Redis counts them, with those inside scripts
	Sent, Received     float64 // bytes, by clients
}

func (c cost) plus(d cost) cost {
	return cost{c.Requests + d.Requests, c.Commands + d.Commands, c.Sent + d.Sent, c.Received + d.Received}
}

func (c cost) times(n float64) cost {
	return cost{c.Requests * n, c.Commands * n, c.Sent * n, c.Received * n}
}

// within reports whether no number of c is more than a share below or above that of want.
func (c cost) within(want cost, below, above float64) bool {
	ok := func(got, want float64) bool { return got >= want*(1-below) && got <= want*(1+above) }
	return ok(c.Requests, want.Requests) && ok(c.Commands, want.Commands) && ok(c.Sent, want.Sent) && ok(c.Received, want.Received)
}

func (c cost) String() string {
	return fmt.Sprintf("%.0f | %.0f | %.0f | %.0f", c.Requests, c.Commands, c.Sent, c.Received)
}

// The steps, as the rows of docs/sizing.md begin.
const (
	connecting  = "a connection"
	subscribing = "a subscription"
	proving     = "a PING"
	readingAnew = "the first read"
	reading     = "a read"
	acquiring   = "the lease is taken"
	busy        = "the lease is busy"
	renewing    = "the lease is renewed"
	issuing     = "a version is issued"
	storing     = "the token is stored"
	releasing   = "the lease is given back"
	hearing     = "an event"
	recording   = "a failure is recorded"
	dropping    = "a token is invalidated"
)

var steps = []string{
	connecting, subscribing, proving, readingAnew, reading, acquiring, busy, renewing, issuing, storing, releasing, hearing, recording,
	dropping,
}

// costs are those of the steps. Their methods are the formulas of docs/sizing.md.
type costs map[string]cost

func (c costs) sum(steps ...string) (total cost) {
	for _, s := range steps {
		total = total.plus(c[s])
	}
	return total
}

// refresh is one of a token that r replicas use.
func (c costs) refresh(r float64) cost {
	return c.sum(reading, acquiring, issuing, storing, releasing).plus(c[reading].times(r - 1)).plus(c[hearing].times(r))
}

// start is that of a replica which uses e tokens that are there, with n connections, one of them for events: at most, since only
// the reads that are sent before the first answer bring the script.
func (c costs) start(e, n float64) cost {
	return c[connecting].times(n).plus(c[subscribing]).plus(c[readingAnew].times(e))
}

// atRest is what a replica that uses e tokens takes in a second between refreshes.
func (c costs) atRest(e float64) cost {
	return c[proving].times(1. / 10).plus(c[reading].times(min(e/30, 5)))
}

// aSecond is what r replicas take that use e tokens each, of such a life.
func (c costs) aSecond(r, e float64, life time.Duration) cost {
	return c.refresh(r).times(refreshesASecond(e, life)).plus(c.atRest(e).times(r))
}

// refreshesASecond is how many of e tokens there are in a second, at most: at 75 % of the life.
func refreshesASecond(e float64, life time.Duration) float64 { return e / (0.75 * life.Seconds()) }

// documentedCosts reads the page's table of steps.
func documentedCosts(t *testing.T) costs {
	t.Helper()
	c := costs{}
	for _, s := range steps {
		n := numbers(t, s, 4)
		c[s] = cost{n[0], n[1], n[2], n[3]}
	}
	return c
}

// numbers returns the last cells of a row of docs/sizing.md that begins so and has as many after its first.
func numbers(t *testing.T, row string, n int) (found []float64) {
	t.Helper()
	pattern := `(?m)^\| ` + regexp.QuoteMeta(row) + `(?:\W[^|]*)?` + strings.Repeat(` \| ([\d.]+)`, n) + ` \|$`
	cells := regexp.MustCompile(pattern).FindStringSubmatch(readDoc(t, "sizing.md"))
	if cells == nil {
		t.Fatalf("docs/sizing.md has no row %q with %d numbers", row, n)
	}
	for _, cell := range cells[1:] {
		number, err := strconv.ParseFloat(cell, 64)
		must(t, err)
		found = append(found, number)
	}
	return found
}

// A ledger shows what the clients with its counter take of a Redis.
type ledger struct {
	t      *testing.T
	server *redistest.Server
	info   *redis.Client // its own
	own    counter       // of that
	counter
}

func newLedger(t *testing.T) *ledger {
	m := &ledger{t: t, server: redistest.Start(t)}
	m.info = m.server.Client(t)
	m.info.AddHook(&m.own)
	return m
}

// client returns one like those of the command.
func (m *ledger) client(testing.TB) redis.UniversalClient {
	o := redistest.Options(m.server.Addr())
	o.ClientName, o.PoolSize = "onetoken", pool
	rdb := redis.NewClient(o)
	rdb.AddHook(&m.counter)
	return rdb
}

const (
	pool   = 4 // as the tables have it
	beside = 4 // connections that aren't of the pool: one for events and, at most, those that batches are read by
)

// stat is the sum of what matches in INFO.
func (m *ledger) stat(section, pattern string) (sum float64) {
	m.t.Helper()
	text, err := m.info.Info(m.t.Context(), section).Result()
	must(m.t, err)
	for _, found := range regexp.MustCompile(`(?m)^`+pattern).FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseFloat(found[1], 64)
		must(m.t, err)
		sum += n
	}
	return sum
}

// now is what was taken so far, once all that the clients have sent has arrived.
func (m *ledger) now() cost {
	m.t.Helper()
	eventually(m.t, "Redis and its clients count alike", func() bool {
		sent := m.stat("stats", `total_net_input_bytes:(\d+)`) - float64(m.own.out.Load())
		return sent == float64(m.out.Load())
	})
	return cost{
		Requests: float64(m.sent.Load()),
		Commands: m.stat("commandstats", `cmdstat_\w+.*:calls=(\d+)`) - m.stat("commandstats", `cmdstat_(?:info|exists|pubsub).*:calls=(\d+)`),
		Sent:     float64(m.out.Load()), Received: float64(m.in.Load()),
	}
}

// of is what f takes.
func (m *ledger) of(f func()) cost {
	m.t.Helper()
	before := m.now()
	f()
	return m.now().plus(before.times(-1))
}

// A walk takes steps one by one.
type walk struct {
	*ledger
	costs
	env    string
	rdb    redis.UniversalClient
	store  *store.Store
	locker *lock.Locker
	lease  *lock.Lease
	seen   *store.Record
	issue  store.Issue
}

const replica = "host-name.example.com:12345"

func (w *walk) step(name string, f func() error) {
	w.t.Helper()
	w.costs[name] = w.of(func() { must(w.t, f()) })
}

func (w *walk) read() (err error) {
	w.seen, err = w.store.Read(w.t.Context(), w.env)
	return err
}

func (w *walk) readAnew() error {
	other, err := store.New(w.rdb, store.Options{})
	must(w.t, err)
	_, err = other.Read(w.t.Context(), w.env)
	return err
}

func (w *walk) acquire() (err error) {
	w.lease, err = w.locker.Try(w.t.Context(), w.store.Keys(w.env).Lock, 10*time.Minute)
	return err
}

func (w *walk) beBusy() error {
	_, err := w.locker.Try(w.t.Context(), w.store.Keys(w.env).Lock, 10*time.Minute)
	if _, ok := errors.AsType[*lock.BusyError](err); !ok {
		return fmt.Errorf("the lease is busy: %w", err)
	}
	return nil
}

func (w *walk) issueOne() (err error) {
	w.issue, err = w.store.Issue(w.t.Context(), w.env, w.lease.Value(), w.seen)
	return err
}

func (w *walk) put() error {
	_, err := w.store.Put(w.t.Context(), w.env, w.issue, time.Hour, store.NewToken(store.Token{
		AccessToken: store.NewSecret(strings.Repeat("x", 1000)), TokenType: "Bearer", RefreshedBy: replica,
		Took: 200 * time.Millisecond, Config: strings.Repeat("0", 16),
	}))
	return err
}

func (w *walk) fail() error {
	_, _, err := w.store.Fail(w.t.Context(), w.env, store.Failure{
		Code: "invalid_client", Status: 401, Message: "client authentication failed", Attempt: 1, Version: w.issue.Version + 1,
		Config: strings.Repeat("0", 16), Credential: "0000", ReportedBy: replica,
	}, time.Minute, time.Minute)
	return err
}

func (w *walk) invalidate() error {
	_, err := w.store.Invalidate(w.t.Context(), w.env, w.issue.Version-1)
	return err
}

// refresh takes the steps of one, and some that are not.
func (w *walk) refresh() {
	must(w.t, w.read())
	w.step(acquiring, w.acquire)
	w.step(busy, w.beBusy)
	w.step(renewing, func() error { return w.lease.Renew(w.t.Context()) })
	w.step(issuing, w.issueOne)
	w.step(storing, w.put)
	w.step(releasing, func() error { return w.lease.Release(w.t.Context()) })
	w.step(reading, w.read)
	w.step(readingAnew, w.readAnew)
	w.step(recording, w.fail)
	w.step(dropping, w.invalidate)
}

// measuredCosts are those of an environment whose name has four letters, with a token of 1,000 characters.
func measuredCosts(t *testing.T) costs {
	w := &walk{ledger: newLedger(t), costs: costs{}, env: "prod"}
	rdb := w.client(t)
	w.rdb = rdb
	defer func() { _ = rdb.Close() }()
	var err error
	w.store, err = store.New(rdb, store.Options{})
	must(t, err)
	w.locker, err = lock.New(rdb, replica)
	must(t, err)

	ping := func() { must(t, rdb.Ping(t.Context()).Err()) }
	first := w.of(ping)
	w.costs[connecting] = first.plus(w.of(ping).times(-1))
	sub := rdb.Subscribe(t.Context())
	receive := func() {
		_, err := sub.Receive(t.Context())
		must(t, err)
	}
	w.costs[subscribing] = w.of(func() { must(t, sub.Subscribe(t.Context(), w.store.Channel())); receive() })
	uncounted := cost{Requests: 1} // hooks don't see what subscriptions send
	w.costs[subscribing] = w.costs[subscribing].plus(w.costs[connecting].times(-1)).plus(uncounted)
	w.costs[proving] = w.of(func() { must(t, sub.Ping(t.Context())); receive() }).plus(uncounted)

	w.refresh()
	w.costs[hearing] = w.of(func() { receive(); receive(); receive() }).times(1. / 3) // of a token, a failure, an invalidation
	must(t, sub.Close())
	w.refresh() // now that Redis is known to have the scripts
	return w.costs
}

// What a step takes is what docs/sizing.md says, but for the bytes of a number that is shorter now and then.
func TestCostOfSteps(t *testing.T) {
	t.Parallel()
	got, want := measuredCosts(t), documentedCosts(t)
	for _, s := range steps {
		t.Logf("%-25s | %v |", s, got[s])
		if !got[s].within(want[s], 1, 0.05) {
			t.Errorf("docs/sizing.md: %s: %v, measured: %v", s, want[s], got[s])
		}
	}
	if *measure {
		processor(newLedger(t))
	}
}

// processor logs how much of its processor Redis takes, which depends on the machine.
func processor(m *ledger) {
	const workers, turns, listeners = 8, 500, 100
	rdb := m.client(m.t)
	defer func() { _ = rdb.Close() }()
	st, err := store.New(rdb, store.Options{})
	must(m.t, err)
	locker, err := lock.New(rdb, replica)
	must(m.t, err)
	each := func(what string, turn func(w *walk)) float64 {
		before := m.stat("cpu", `used_cpu_(?:sys|user):([\d.]+)`)
		var working sync.WaitGroup
		for i := range workers {
			w := &walk{ledger: m, store: st, locker: locker, env: fmt.Sprintf("e-%02d", i)}
			working.Go(func() {
				for range turns {
					turn(w)
				}
			})
		}
		working.Wait()
		took := (m.stat("cpu", `used_cpu_(?:sys|user):([\d.]+)`) - before) / (workers * turns) * 1e6
		m.t.Logf("%s: %.1f µs of Redis's processor", what, took)
		return took
	}
	refresh := func(w *walk) {
		for _, step := range []func() error{w.acquire, w.read, w.issueOne, w.put, func() error { return w.lease.Release(m.t.Context()) }} {
			if err := step(); err != nil {
				m.t.Error(err)
				return
			}
		}
	}
	alone := each("a refresh, by the one that does it", refresh)
	each("a read", func(w *walk) {
		if err := w.read(); err != nil {
			m.t.Error(err)
		}
	})
	each("a PING", func(*walk) { rdb.Ping(m.t.Context()) })
	m.t.Log(m.stats())
	for range listeners {
		sub := rdb.Subscribe(m.t.Context(), st.Channel())
		_, err := sub.Receive(m.t.Context())
		must(m.t, err)
		defer func() { _ = sub.Close() }()
		go func() {
			for err == nil {
				_, err = sub.Receive(m.t.Context())
			}
		}()
	}
	heard := each(fmt.Sprintf("a refresh that %d hear of", listeners), refresh)
	m.t.Logf("an event, for each that hears it: %.1f µs", (heard-alone)/listeners)
}

// stats are Redis's own times.
func (m *ledger) stats() string {
	text, err := m.info.Info(m.t.Context(), "commandstats").Result()
	must(m.t, err)
	return strings.Join(regexp.MustCompile(`cmdstat_(?:evalsha|set|publish):.*`).FindAllString(text, -1), " ")
}

// A fleet on a real Redis takes what the formulas of docs/sizing.md say, of what its table of steps says.
func TestCostOfAFleet(t *testing.T) {
	t.Parallel()
	const replicas, environments, rounds = 10, 20, 5
	const below, above = 0.1, 0.2 // a read may be done twice
	m, want := newLedger(t), documentedCosts(t)
	kit := managertest.NewFleet(t, 1, managertest.Options{
		Redis: m.client, Namespace: "onetoken", EnvironmentNames: names(environments), Logger: slog.New(slog.DiscardHandler),
		Endpoint: mockendpoint.Options{Life: time.Hour, Default: mockendpoint.Reply{AccessToken: strings.Repeat("x", 1000)}},
		Config:   func(i int, c *manager.Config) { c.Replica = fmt.Sprintf("host-name.example.com:%05d", i) },
	})
	f := fleetOf{m, kit}
	f.use()
	start := m.of(func() {
		for range replicas - 1 {
			kit.AddManager(t)
		}
		f.hear()
		f.use()
	})
	connected := m.stat("clients", `connected_clients:(\d+)`) - 1 // the ledger's own
	if connected > replicas*(pool+beside) {
		t.Errorf("%.0f connections, want at most %d", connected, replicas*(pool+beside))
	}
	// The first replica was there before; and it may have had more than one connection, like the others.
	predicted := want.start(environments, connected/replicas).times(replicas - 1)
	t.Logf("the start of %d: %v, by the formula %v; %.0f connections", replicas-1, start, predicted, connected)
	if !start.within(predicted, 0.8, above) {
		t.Error("the formula for a start is off")
	}

	f.rotate(0) // once each replica knows that Redis knows the scripts
	rotation := m.of(func() {
		for round := range rounds {
			f.rotate(round)
		}
	})
	predicted = want.refresh(replicas).times(environments * rounds)
	t.Logf("%d refreshes: %v, by the formula %v", environments*rounds, rotation, predicted)
	if !rotation.within(predicted, below, above) {
		t.Error("the formula for a refresh is off")
	}
	if *measure {
		const long = 90
		rest := m.of(func() { <-time.After(long * time.Second) })
		t.Logf("%d s at rest: %v, by the formula at most %v", long, rest, want.atRest(environments).times(replicas*long))
	}
}

// names are n of environments, of four letters.
func names(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("e-%02d", i))
	}
	return names
}

// fleetOf is a kit's, with a ledger.
type fleetOf struct {
	*ledger
	kit *managertest.Kit
}

func (f fleetOf) environments() []string { return f.kit.Manager.Environments() }

// use has each replica ask for each token.
func (f fleetOf) use() {
	var asking sync.WaitGroup
	for _, m := range f.kit.Managers {
		for _, env := range f.environments() {
			asking.Go(func() {
				if _, err := m.Token(f.t.Context(), env); err != nil {
					f.t.Error(err)
				}
			})
		}
	}
	asking.Wait()
	f.settle()
}

// hear waits until all are subscribed.
func (f fleetOf) hear() {
	eventually(f.t, "the replicas are subscribed", func() bool {
		counts, err := f.info.PubSubNumSub(f.t.Context(), f.kit.Store.Channel()).Result()
		return err == nil && counts[f.kit.Store.Channel()] == int64(len(f.kit.Managers))
	})
}

// rotate has each token refreshed, by the replicas in turn, and waits until all have the new ones.
func (f fleetOf) rotate(round int) {
	var refreshing sync.WaitGroup
	var failed atomic.Bool
	fresh := make([]*manager.Token, len(f.environments()))
	for i, env := range f.environments() {
		refreshing.Go(func() {
			var err error
			if fresh[i], err = f.kit.Managers[(round+i)%len(f.kit.Managers)].Refresh(f.t.Context(), env); err != nil {
				failed.Store(true)
				f.t.Error(err)
			}
		})
	}
	refreshing.Wait()
	if failed.Load() {
		f.t.FailNow()
	}
	for i, env := range f.environments() {
		for _, m := range f.kit.Managers {
			eventually(f.t, "a replica has the new token", func() bool {
				token, err := m.Token(f.t.Context(), env)
				return err == nil && token.Version >= fresh[i].Version
			})
		}
	}
	f.settle()
}

// settle waits until every lease has been given back.
func (f fleetOf) settle() {
	var locks []string
	for _, env := range f.environments() {
		locks = append(locks, f.kit.Store.Keys(env).Lock)
	}
	eventually(f.t, "the leases are given back", func() bool {
		n, err := f.info.Exists(f.t.Context(), locks...).Result()
		return err == nil && n == 0
	})
}
