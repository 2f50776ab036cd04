package opsdocs_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"regexp"
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

// A counter counts the commands that replicas send, but for those of subscriptions and handshakes.
type counter struct{ sent atomic.Int64 }

var _ redis.Hook = (*counter)(nil)

// DialHook implements [redis.Hook].
func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }

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
	Refresh: 6, Hears: 1, Cold: 10, Waits: 32, Pings: 6, Uses: 2, Status: 1100, Named: 2, Rest: 3, Keys: 2500, Small: 600, Failure: 500,
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
		e.Lease = 10 * time.Minute // so that none is renewed, however slow the machine
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

var measure = flag.Bool("measure", false, "TestSizing also measures what depends on the machine")

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
	if *measure {
		timed(newSandbox(t))
	}
}

// timed reports how long Redis takes for a read, and for a refresh with all that belongs to it.
func timed(s *sandbox) {
	m := s.worker("worker-1", "onetoken.yaml")
	s.token(m)
	must(s.t, s.rdb.ConfigResetStat(s.ctx()).Err())
	for range 2000 {
		_, err := m.Status(s.ctx(), "prod")
		must(s.t, err)
	}
	s.t.Logf("2,000 reads: %s", s.took())
	must(s.t, s.rdb.ConfigResetStat(s.ctx()).Err())
	for range 200 {
		_, err := m.Refresh(s.ctx(), "prod")
		must(s.t, err)
	}
	s.t.Logf("200 refreshes: %s", s.took())
}

func (s *sandbox) took() string {
	info, err := s.rdb.Info(s.ctx(), "commandstats").Result()
	must(s.t, err)
	return strings.Join(regexp.MustCompile(`cmdstat_(evalsha|set):.*`).FindAllString(info, -1), " ")
}

// A replica that starts with many environments has no more connections than its pool may have, and one for events.
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
	eventually(t, "no more connections than that", func() bool { return s.connected() <= pool+1 })
}

// The table is computed by the page's own formula from what is measured.
func TestSizingTable(t *testing.T) {
	t.Parallel()
	text := readDoc(t, "sizing.md")
	rows := 0
	for _, replicas := range []int{10, 100, 500} {
		for _, environments := range []int{1, 10, 1000} {
			if row := sizingRow(replicas, environments); !strings.Contains(text, row+"\n") {
				t.Errorf("docs/sizing.md lacks the row\n%s", row)
			}
			rows++
		}
	}
	if n := strings.Count(text, "\n| 10 | ") + strings.Count(text, "\n| 100 | ") + strings.Count(text, "\n| 500 | "); n != rows {
		t.Errorf("docs/sizing.md has %d rows, want %d", n, rows)
	}
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

// sizingRow is a row of the table: tokens live for an hour, and each replica uses each environment.
func sizingRow(replicas, environments int) string {
	r, e, refreshEvery := float64(replicas), float64(environments), 0.8*3600
	perSecond := r*(float64(documented.Pings)/60+min(e*float64(documented.Uses)/60, 5)) +
		e*(float64(documented.Refresh)+(r-1)*float64(documented.Hears))/refreshEvery
	return fmt.Sprintf("| %d | %d | %d | %.0f | %.0f | %.0f |", replicas, environments, replicas*(4+1),
		math.Ceil(perSecond), math.Ceil(e*3600/refreshEvery), math.Ceil(e*float64(documented.Keys+documented.Failure)/1024))
}
