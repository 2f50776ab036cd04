package topology_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

const (
	clientID     = "the-client"
	clientSecret = "hunter2-of-the-client"
	margin       = 200 * time.Millisecond // of every environment of a fleet
	lease        = 2 * time.Second        // the same
)

// A fleet is a number of managers, each with a Redis client of its own, and a loop for each of their environments that
// asks for the token all the time.
type fleet struct {
	t         *testing.T
	endpoint  *mockendpoint.Endpoint
	url       string
	lives     map[string]time.Duration // by environment
	clients   []redis.UniversalClient  // one for each manager
	managers  []*manager.Manager
	loops     []*loop
	stop      context.CancelFunc
	running   sync.WaitGroup
	outcomes  outcomes
	newcomers int
	dropped   atomic.Int64 // the highest version that the test has invalidated
}

// newFleet starts n managers on Redis, with an environment for each of lives, whose tokens live so long. Every call of
// the endpoint takes 50 ms. It returns once everybody has a token of each.
func newFleet(t *testing.T, n int, of redisclient.Options, lives map[string]time.Duration) *fleet {
	t.Helper()
	f := startFleet(t, n, of, lives)
	f.load()
	for _, l := range f.loops {
		eventually(t, "everybody has a token", func() bool { return l.last().version != 0 })
	}
	return f
}

// startFleet is newFleet without the load.
func startFleet(t *testing.T, n int, of redisclient.Options, lives map[string]time.Duration) *fleet {
	t.Helper()
	f := &fleet{
		t: t, lives: lives,
		endpoint: mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret}),
	}
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 50 * time.Millisecond})
	f.url = serve(t, f.endpoint)
	f.setLife()
	for i := range n {
		f.add(newClient(t, of), fmt.Sprintf("replica-%d", i+1))
	}
	return f
}

// serve serves an endpoint until the test's end, and returns the server's URL.
func serve(t *testing.T, e *mockendpoint.Endpoint) string {
	t.Helper()
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	t.Cleanup(e.Close)
	return server.URL
}

// newClient returns a client as onetoken's own programs have it, closed at the test's end.
func newClient(t *testing.T, of redisclient.Options) redis.UniversalClient {
	t.Helper()
	rdb, err := redisclient.New(of)
	must(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// setLife has the endpoint give tokens of the one life there is; environments of several lives are bounded by max_life.
func (f *fleet) setLife() {
	longest := slices.Max(slices.Collect(maps.Values(f.lives)))
	f.endpoint.SetDefault(mockendpoint.Reply{Delay: 50 * time.Millisecond, ExpiresIn: longest.Seconds()})
}

func (f *fleet) add(rdb redis.UniversalClient, name string) *manager.Manager {
	f.t.Helper()
	environments := map[string]manager.Environment{}
	for env, life := range f.lives {
		environments[env] = manager.Environment{
			TokenURL: f.url + "/" + env, ClientID: clientID, ClientSecret: manager.NewSecret(clientSecret),
			Policy: manager.Policy{ExpiryMargin: margin, RefreshAt: 0.5, Lease: lease, MaxLife: life, EndpointTimeout: patience},
		}
	}
	m, err := manager.New(manager.Config{
		Redis: rdb, Replica: name, Environments: environments, Logger: slog.New(&f.outcomes),
	})
	must(f.t, err)
	f.t.Cleanup(func() { _ = m.Close() })
	f.clients, f.managers = append(f.clients, rdb), append(f.managers, m)
	return m
}

// load has every manager asked for every environment's token until the test's end or until f.stop.
func (f *fleet) load() {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = func() { cancel(); f.running.Wait() }
	f.t.Cleanup(f.stop)
	for _, m := range f.managers {
		for _, env := range m.Environments() {
			l := &loop{fleet: f, m: m, env: env}
			f.loops = append(f.loops, l)
			f.running.Go(func() { l.run(ctx) })
		}
	}
}

// of returns the loops of an environment.
func (f *fleet) of(env string) []*loop {
	var list []*loop
	for _, l := range f.loops {
		if l.env == env {
			list = append(list, l)
		}
	}
	return list
}

// A sighting is a token as one loop got it, over and over.
type sighting struct {
	version     store.Version
	text        string
	by          string
	first, last time.Time // when it was asked for, first and last
	token       *manager.Token
	ends        time.Time // by the replica's own reckoning, which may say less than the token does
}

// A gap is a time in which a loop got errors instead of tokens.
type gap struct {
	from, to time.Time // to is zero while it lasts
	err      error     // the last one
}

func (g gap) length() time.Duration {
	switch {
	case g.from.IsZero():
		return 0
	case g.to.IsZero():
		return time.Since(g.from)
	}
	return g.to.Sub(g.from)
}

// A loop asks one manager for one environment's token.
type loop struct {
	fleet *fleet
	m     *manager.Manager
	env   string

	mu    sync.Mutex // guards what follows
	seen  []sighting
	gaps  []gap
	wrong []string // what must not be
}

func (l *loop) run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		asked := time.Now()
		tok, err := l.m.Token(call, l.env)
		cancel()
		if ctx.Err() == nil {
			l.note(asked, tok, err)
		}
	}
}

func (l *loop) note(asked time.Time, tok *manager.Token, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.seen)
	if err != nil {
		if len(l.gaps) == 0 || !l.gaps[len(l.gaps)-1].to.IsZero() {
			l.gaps = append(l.gaps, gap{from: asked})
		}
		l.gaps[len(l.gaps)-1].err = err
		if n > 0 {
			l.reckon(&l.seen[n-1])
			s := l.seen[n-1]
			if int64(s.version) > l.fleet.dropped.Load() && asked.Before(s.ends.Add(-margin-time.Millisecond)) {
				l.wrong = append(l.wrong, fmt.Sprintf("%v left of version %d, and an error: %v", s.ends.Sub(asked), s.version, err))
			}
		}
		return
	}
	if len(l.gaps) > 0 && l.gaps[len(l.gaps)-1].to.IsZero() {
		l.gaps[len(l.gaps)-1].to = time.Now()
	}
	if n > 0 && l.seen[n-1].version == tok.Version {
		l.seen[n-1].last = asked
		l.reckon(&l.seen[n-1])
		return
	}
	s := sighting{
		version: tok.Version, text: tok.AccessToken.Reveal(), by: tok.RefreshedBy, token: tok, first: asked, last: asked,
		ends: tok.ExpiresAt,
	}
	l.reckon(&s)
	l.seen = append(l.seen, s)
}

// reckon asks the replica when a token ends: a read that was long under way brings that closer.
func (l *loop) reckon(s *sighting) {
	now := time.Now()
	if ends := now.Add(l.m.ExpiresIn(l.env, s.token)); ends.Before(s.ends) {
		s.ends = ends
	}
}

// last returns what was seen last; the zero sighting before the first.
func (l *loop) last() sighting {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.seen) == 0 {
		return sighting{}
	}
	return l.seen[len(l.seen)-1]
}

// A birth is a call of the endpoint that brought a token.
type birth struct {
	env string
	at  time.Time
}

// births returns the calls that brought a token, by its text.
func (f *fleet) births() map[string]birth {
	issued, births := f.endpoint.Issued(), map[string]birth{}
	for _, r := range f.endpoint.Requests() {
		if r.Token > 0 {
			births[issued[r.Token-1]] = birth{strings.TrimPrefix(r.Path, "/"), r.At}
		}
	}
	return births
}

// calls returns when the endpoint was called for an environment, from the instant on.
func (f *fleet) calls(env string, from time.Time) []time.Time {
	var list []time.Time
	for _, r := range f.endpoint.Requests() {
		if strings.TrimPrefix(r.Path, "/") == env && !r.At.Before(from) {
			list = append(list, r.At)
		}
	}
	return list
}

// newer waits until everybody has a token of env that was asked for after the instant, and returns how long after it the
// last one got it.
func (f *fleet) newer(env string, than time.Time) time.Duration {
	f.t.Helper()
	var latest time.Time
	for _, l := range f.of(env) {
		eventually(f.t, "everybody has a newer token of "+env, func() bool {
			s := l.last()
			if s.version == 0 || !f.births()[s.text].at.After(than) {
				return false
			}
			latest = later(latest, s.first)
			return true
		})
	}
	return latest.Sub(than).Round(time.Millisecond)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// agree waits until everybody has the same token of env, and returns how long that took.
func (f *fleet) agree(env string) time.Duration {
	f.t.Helper()
	return eventually(f.t, "everybody has the same token of "+env, func() bool {
		versions := map[store.Version]bool{}
		for _, l := range f.of(env) {
			versions[l.last().version] = true
		}
		return len(versions) == 1 && !versions[0]
	})
}

// check ends the load and fails the test if a promise was broken that holds wherever Redis is: no error while there is a
// token that can be used, none handed out past its end, none of another environment.
func (f *fleet) check() {
	f.t.Helper()
	f.stop()
	births := f.births()
	for _, l := range f.loops {
		for _, what := range l.wrong {
			f.t.Errorf("%s, %s: %s", l.m.Replica(), l.env, what)
		}
		for _, s := range l.seen {
			b, ok := births[s.text]
			if !ok || b.env != l.env {
				f.t.Errorf("%s, %s: version %d is a token of %q", l.m.Replica(), l.env, s.version, b.env)
			}
			// It lives from its birth at the endpoint on, which counted no earlier than from the call's arrival.
			if end := b.at.Add(f.lives[l.env]); s.last.After(end) {
				f.t.Errorf("%s, %s: version %d was handed out %v past its end", l.m.Replica(), l.env, s.version, s.last.Sub(end))
			}
		}
	}
	if f.t.Failed() {
		f.t.Logf("outcomes: %v", f.outcomes.counts())
	}
}

// onlyGrow fails the test where a replica went back to an older version.
func (f *fleet) onlyGrow() {
	f.t.Helper()
	for _, what := range f.goneBack() {
		f.t.Error(what)
	}
}

// logBack is onlyGrow where Redis may have lost its history.
func (f *fleet) logBack() {
	f.t.Helper()
	if list := f.goneBack(); len(list) > 0 {
		f.t.Logf("Redis has lost its history: %q", list)
	}
}

// goneBack returns where a replica went back to an older version.
func (f *fleet) goneBack() []string {
	var list []string
	for _, l := range f.loops {
		l.mu.Lock()
		for i := 1; i < len(l.seen); i++ {
			if l.seen[i].version < l.seen[i-1].version {
				list = append(list, fmt.Sprintf("%s, %s: version %d after %d", l.m.Replica(), l.env, l.seen[i].version, l.seen[i-1].version))
			}
		}
		l.mu.Unlock()
	}
	return list
}

// onceALife fails the test if the endpoint was called twice for one life of env's tokens. The load must be over.
func (f *fleet) onceALife(env string) {
	f.t.Helper()
	seen := map[store.Version]bool{}
	for _, l := range f.of(env) {
		for _, s := range l.seen {
			seen[s.version] = true
		}
	}
	// The last one may have been asked for when the load ended.
	if calls := len(f.calls(env, time.Time{})); calls != len(seen) && calls != len(seen)+1 {
		f.t.Errorf("%s: %d calls of the endpoint for %d versions", env, calls, len(seen))
	}
	versions := slices.Sorted(maps.Keys(seen))
	for i := 1; i < len(versions); i++ {
		// A version is the time of its issue, in microseconds; a refresh point is at 45 % of a life at the earliest, less what
		// a call of Redis took.
		apart := time.Duration(versions[i]-versions[i-1]) * time.Microsecond
		if apart < f.lives[env]/4 {
			f.t.Errorf("%s: versions %d and %d are %v apart, with a life of %v", env, i, i+1, apart, f.lives[env])
		}
	}
}

// longestGap returns the longest time since the instant in which a replica had no token of env to hand out.
func (f *fleet) longestGap(env string, since time.Time) (longest gap) {
	for _, l := range f.of(env) {
		l.mu.Lock()
		for _, g := range l.gaps {
			if g.from.After(since) && g.length() > longest.length() {
				longest = g
			}
		}
		l.mu.Unlock()
	}
	return longest
}

// interruption says how long callers of env had no token since the instant.
func (f *fleet) interruption(env string, since time.Time) string {
	g := f.longestGap(env, since)
	if g.from.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%v (last error: %v)", g.length().Round(time.Millisecond), g.err)
}

// outcomes counts the managers' log records by their outcome.
type outcomes struct {
	mu sync.Mutex // guards by
	by map[string]int
}

func (o *outcomes) Enabled(context.Context, slog.Level) bool { return true }
func (o *outcomes) WithAttrs([]slog.Attr) slog.Handler       { return o }
func (o *outcomes) WithGroup(string) slog.Handler            { return o }

func (o *outcomes) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "outcome" {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.by == nil {
				o.by = map[string]int{}
			}
			o.by[a.Value.String()]++
			return false
		}
		return true
	})
	return nil
}

func (o *outcomes) counts() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.by)
}
