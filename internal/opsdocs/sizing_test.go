package opsdocs_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A counter counts the commands that replicas send, but for those of subscriptions and handshakes, and the bytes of all.
type counter struct{ sent, out, in atomic.Int64 }

var _ redis.Hook = (*counter)(nil)

// DialHook implements [redis.Hook].
func (c *counter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return countedConn{conn, c}, nil
	}
}

type countedConn struct {
	net.Conn
	*counter
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(int64(n))
	return n, err
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.Add(int64(n))
	return n, err
}

// ProcessHook implements [redis.Hook].
func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "hello" && cmd.Name() != "client" { // once for each connection
			c.sent.Add(1)
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.sent.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

// counted runs f in a bubble, in which time costs nothing, with a fleet whose commands are counted. What happens once on a
// Redis, that it is taught the scripts, has happened.
func counted(t *testing.T, replicas int, delay time.Duration, f func(t *testing.T, kit *managertest.Kit, c *counter)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		kit := managertest.NewFleet(t, replicas, managertest.Options{
			InMemory:    true,
			Logger:      slog.New(slog.DiscardHandler),
			Endpoint:    mockendpoint.Options{Life: time.Hour, Default: mockendpoint.Reply{Delay: delay}},
			Environment: manager.Environment{Policy: manager.Policy{EndpointTimeout: time.Hour}},
			Config:      func(_ int, config *manager.Config) { config.Redis.(*redis.Client).AddHook(c) },
		})
		teach := kit.AddManager(t)
		_, err := teach.Refresh(t.Context(), managertest.Environment)
		must(t, err)
		_, err = teach.Invalidate(t.Context(), managertest.Environment, 0)
		must(t, err)
		must(t, teach.Close())
		kit.Managers = kit.Managers[:replicas]
		synctest.Wait()
		f(t, kit, c)
	})
}

// all has each of the replicas ask for a token at once.
func all(t *testing.T, kit *managertest.Kit) {
	var asking sync.WaitGroup
	for _, m := range kit.Managers {
		asking.Go(func() {
			if _, err := m.Token(t.Context(), managertest.Environment); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	synctest.Wait()
}

// figures are those of docs/sizing.md.
type figures struct {
	Refresh int // commands of a replica that refreshes
	Hears   int // of one that hears of it, and uses the token
	Cold    int // of one that comes while another refreshes
	Waits   int // of one that goes on waiting, in a minute
	Pings   int // of any, in a minute
	Uses    int // of one that uses a token, in a minute
	Status  int // of status for 1,000 environments, which it has to look for
	Named   int // of status for one that is named
	Rest    int // connections of a replica at rest
	Keys    int // bytes in Redis of an environment's keys, with a token of 1,000 characters
	Small   int // the same with a token of 33
	Failure int // bytes of a failure
}

// documented are upper bounds of averages.
var documented = figures{
	Refresh: 6, Hears: 1, Cold: 7, Waits: 32, Pings: 6, Uses: 2, Status: 1100, Named: 2, Rest: 4, Keys: 2500, Small: 600, Failure: 500,
}

const (
	fleet = 20
	long  = 10 // minutes

	refreshes = 20
)

// inUse measures a fleet that starts, has its token refreshed and uses it.
func (f *figures) inUse(t *testing.T, kit *managertest.Kit, c *counter) {
	since := func(before int64) int { return int(c.sent.Load() - before) }
	before := c.sent.Load()
	all(t, kit)
	f.Cold = up(since(before), len(kit.Managers))
	before = c.sent.Load()
	for range refreshes {
		_, err := kit.Manager.Refresh(t.Context(), managertest.Environment)
		must(t, err)
		synctest.Wait()
	}
	if n, others := since(before), len(kit.Managers)-1; others == 0 {
		f.Refresh = up(n, refreshes)
	} else { // the nearest number: now and then one reads twice
		f.Hears = up(n-refreshes*documented.Refresh-refreshes*others/2, refreshes*others)
	}
	before = c.sent.Load()
	<-time.After(long * time.Minute)
	synctest.Wait()
	f.Uses = up(since(before), len(kit.Managers)*long)
}

// up is n/d, rounded up.
func up(n, d int) int { return (n + d - 1) / d }

// idle measures a replica whose token nobody uses.
func (f *figures) idle(t *testing.T, kit *managertest.Kit, c *counter) {
	sent, processed := c.sent.Load(), kit.Miniredis.CommandCount()
	<-time.After(long * time.Minute)
	synctest.Wait()
	f.Pings = (kit.Miniredis.CommandCount() - processed) / long
	if n := c.sent.Load() - sent; n != 0 {
		t.Errorf("a replica whose token nobody uses has sent %d commands", n)
	}
}

// waiting measures a fleet that waits for a slow endpoint.
func (f *figures) waiting(t *testing.T, kit *managertest.Kit, c *counter) {
	before := c.sent.Load()
	all(t, kit)
	f.Waits = up(int(c.sent.Load()-before), len(kit.Managers)*long)
}

// memory measures the keys of an environment, with a token of 1,000 characters.
func (f *figures) memory(s *sandbox) {
	m := s.worker("host-name.example.com:12345", "onetoken.yaml")
	usage := func(kinds ...string) (n int) {
		for _, kind := range kinds {
			bytes, err := s.rdb.MemoryUsage(s.ctx(), "onetoken:{prod}:"+kind, 0).Result()
			must(s.t, err)
			n += int(bytes)
		}
		return n
	}
	s.token(m)
	f.Small = usage("token", "mark")
	s.endpoint.Push(mockendpoint.Reply{AccessToken: strings.Repeat("x", 1000)})
	_, err := s.ask(m.Refresh, "prod")
	must(s.t, err)
	f.Keys = usage("token", "mark")
	s.endpoint.Push(refusal)
	s.fails(m, "invalid_client")
	f.Failure = usage("failure")
}

// connections measures those of a replica at rest.
func (f *figures) connections(s *sandbox) {
	m := s.worker("worker-1", "onetoken.yaml", func(c *manager.Config) {
		e := c.Environments["prod"]
		e.Lease = 10 * time.Minute // so that none is renewed but the first, however slow the machine
		c.Environments["prod"] = e
	})
	s.token(m)
	s.hears(1)
	_, err := s.ask(m.Refresh, "prod")
	must(s.t, err)
	eventually(s.t, "it is at rest", func() bool { // one that was given up is gone a moment later
		f.Rest = s.connected()
		return f.Rest <= documented.Rest
	})
}

// connected is how many connections onetoken has.
func (s *sandbox) connected() int {
	s.t.Helper()
	list, err := s.rdb.ClientList(s.ctx()).Result()
	must(s.t, err)
	return strings.Count(list, " name=onetoken ")
}

// status measures the command.
func (f *figures) status(s *sandbox) {
	m := s.worker("worker-1", "onetoken.yaml")
	s.token(m)
	must(s.t, m.Close()) // so that what is counted is the command's
	for _, name := range []string{"prod", ""} {
		if name == "" {
			s.copies(999)
		}
		s.run(command{text: "onetoken status"}) // the script is known from here on
		out := s.countedRun("onetoken status " + name)
		sent := s.calls("evalsha", "eval", "scan", "subscribe")
		if f.Status = sent; name != "" {
			f.Named = sent
		} else if rows := strings.Count(out, "worker-1"); rows != 1000 {
			s.t.Errorf("%d rows, want 1000", rows)
		}
	}
}

// countedRun runs a command whose calls alone are in [sandbox.calls] then.
func (s *sandbox) countedRun(text string) (out string) {
	s.t.Helper()
	for range 10 {
		must(s.t, s.rdb.ConfigResetStat(s.ctx()).Err())
		if out = s.runOnce(command{text: text}); !slow.MatchString(out) {
			break
		}
	}
	return out
}

// copies makes n environments more like prod.
func (s *sandbox) copies(n int) {
	_, err := s.rdb.Pipelined(s.ctx(), func(p redis.Pipeliner) error {
		for i := range n {
			for _, kind := range []string{"token", "mark"} {
				p.Copy(s.t.Context(), "onetoken:{prod}:"+kind, fmt.Sprintf("onetoken:{copy-%d}:%s", i, kind), 0, false)
			}
		}
		return nil
	})
	must(s.t, err)
}

// calls counts what Redis was asked to do since CONFIG RESETSTAT.
func (s *sandbox) calls(commands ...string) (n int) {
	s.t.Helper()
	info, err := s.rdb.Info(s.ctx(), "commandstats").Result()
	must(s.t, err)
	for _, c := range commands {
		if m := regexp.MustCompile(`cmdstat_` + c + `:calls=(\d+)`).FindStringSubmatch(info); m != nil {
			calls, err := strconv.Atoi(m[1])
			must(s.t, err)
			n += calls
		}
	}
	return n
}

var measure = flag.Bool("measure", false, "the tests of docs/sizing.md also measure what depends on the machine, or takes its time")

func TestSizing(t *testing.T) {
	t.Parallel()
	var f figures
	counted(t, fleet, 200*time.Millisecond, f.inUse)
	cold := f.Cold
	counted(t, 1, 200*time.Millisecond, f.inUse)
	f.Cold = cold
	counted(t, 1, 0, f.idle)
	counted(t, fleet, long*time.Minute, f.waiting)
	f.memory(newSandbox(t))
	f.connections(newSandbox(t))
	f.status(newSandbox(t))
	t.Logf("%+v", f)
	got, most := reflect.ValueOf(f), reflect.ValueOf(documented)
	for i := range got.NumField() {
		if n, limit := got.Field(i).Int(), most.Field(i).Int(); n == 0 || n > limit {
			t.Errorf("%s: %d, documented is at most %d", got.Type().Field(i).Name, n, limit)
		}
	}
}

// A replica that starts with many environments has no more connections than its pool may have, and a few beside it.
func TestAPoolBoundsTheConnections(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	const environments, pool = 30, 2
	file := strings.Replace(s.settings("env-0"), `/0"}`, fmt.Sprintf(`/0?pool_size=%d"}`, pool), 1)
	block := file[strings.Index(file, "  env-0:"):]
	for i := range environments - 1 {
		file += strings.Replace(block, "env-0", fmt.Sprintf("env-%d", i+1), 1)
	}
	s.write("many.yaml", file)
	m := s.worker("worker-1", "many.yaml")
	var asking sync.WaitGroup
	for _, env := range m.Environments() {
		asking.Go(func() {
			for s.t.Context().Err() == nil {
				if _, err := m.Token(s.t.Context(), env); err == nil { // else the machine is too slow
					return
				}
			}
		})
	}
	asking.Wait()
	s.hears(1)
	eventually(t, "no more connections than that", func() bool { return s.connected() <= pool+beside })
}

// The page says what is asserted of it elsewhere.
func TestSizingPage(t *testing.T) {
	t.Parallel()
	text := readDoc(t, "sizing.md")
	for what, n := range map[string]int{
		"a refresh, by the one that does it": documented.Refresh, "a refresh, by each other": documented.Hears,
		"a start while another refreshes": documented.Cold, "waiting for another": documented.Waits,
		"listening": documented.Pings, "using a token": documented.Uses, "`onetoken status prod`": documented.Named,
		"`onetoken status` over 1,000 environments": documented.Status,
		"a replica at rest":                         documented.Rest, "token and mark, the token of 1,000 characters": documented.Keys, "token and mark, the token of 33 characters": documented.Small, "a failure": documented.Failure,
	} {
		if !regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(what) + `[^|]*\| ` + strconv.Itoa(n) + `( |$)`).MatchString(text) {
			t.Errorf("docs/sizing.md doesn't say %d of %q", n, what)
		}
	}
}

// The tables are computed by the page's formulas from its figures.
func TestSizingTables(t *testing.T) {
	t.Parallel()
	c, l := documentedCosts(t), documentedLoad(t)
	anHour := 3600 * refreshesASecond(1, time.Hour)
	var rows []string
	for _, r := range []float64{10, 100, 500} {
		for _, e := range []float64{1, 10, 1000, 10_000} {
			rows = append(rows, sizingRow(c, l, r, e))
		}
	}
	tableHas(t, "| replicas | environments |", rows)
	tableHas(t, "| an hour of |", []string{
		fmt.Sprintf("| a replica | %v |", c.atRest(0).times(3600)),
		fmt.Sprintf("| an environment | %v |", c.refresh(0).times(anHour)),
		fmt.Sprintf("| an environment in a replica | %v |", c.atRest(1).plus(c.atRest(0).times(-1)).times(3600).plus(c.sum(reading, hearing).times(anHour))),
	})
	rows = nil
	for _, minutes := range []float64{60, 10} {
		for _, e := range []float64{10, 100, 1000, 10_000} {
			life := time.Duration(minutes) * time.Minute
			row := fmt.Sprintf("| %.0f min | %.0f |", minutes, e)
			for _, share := range []float64{0.2, 0.5, 0.8} {
				row += fmt.Sprintf(" %.0f |", math.Round(l.mostReplicas(share, e, life)/10)*10)
			}
			rows = append(rows, row)
		}
	}
	tableHas(t, "| life | environments |", rows)
}

// tableHas checks that the table of docs/sizing.md whose heading begins so has the rows, and no others.
func tableHas(t *testing.T, heading string, rows []string) {
	t.Helper()
	_, table, found := strings.Cut(readDoc(t, "sizing.md"), "\n"+heading)
	table, _, _ = strings.Cut(table, "\n\n")
	if lines := strings.Split(table, "\n"); !found || !slices.Equal(lines[2:], rows) {
		t.Errorf("docs/sizing.md: the table %q should be\n%s", heading, strings.Join(rows, "\n"))
	}
}

// sizingRow is a row of the table: tokens live for an hour.
func sizingRow(c costs, l load, r, e float64) string {
	a := c.aSecond(r, e, time.Hour)
	return fmt.Sprintf("| %.0f | %.0f | %.0f | %.0f | %.0f | %.1f %% | %.0f | %.0f | %.1f |", r, e, math.Ceil(a.Requests),
		math.Ceil(a.Sent/1024), math.Ceil(a.Received/1024), 100*l.share(r, e, time.Hour), r*(pool+beside),
		math.Ceil(3600*refreshesASecond(e, time.Hour)), e*float64(documented.Keys+documented.Failure)/(1<<20))
}

// A load is what Redis's processor has to do, in µs, as docs/sizing.md has it.
type load struct{ read, refresh, event, ping float64 }

func documentedLoad(t *testing.T) load {
	us := func(row string) float64 { return numbers(t, row, 1)[0] }
	return load{us("a read"), us("a refresh, by the one that does it"), us("an event, to each replica"), us("a PING")}
}

// share is how much of a core Redis needs for r replicas.
func (l load) share(r, e float64, life time.Duration) float64 {
	refresh := l.refresh + (r-1)*l.read + r*l.event
	return (refreshesASecond(e, life)*refresh + r*(l.ping/10+min(e/30, 5)*l.read)) / 1e6
}

// mostReplicas is how many keep Redis busy for a share of a core, which grows with their number by as much for each.
func (l load) mostReplicas(share, e float64, life time.Duration) float64 {
	none := l.share(0, e, life)
	return (share - none) / (l.share(1, e, life) - none)
}
