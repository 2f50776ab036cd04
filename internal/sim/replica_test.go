package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/manager"
)

// A replica is one worker: a process that crashes and comes back, with its way to Redis and to the endpoint.
type replica struct {
	w      *world
	number int
	name   string
	settings
	changes []change // of the settings, in this process
	removed bool     // its environments are, until they are added again
	rng     *rand.Rand
	asked   map[string]int // ops so far, by what they are

	toRedis, toSite link
	deaf            bool          // events don't arrive
	pausedUntil     time.Duration // the process is stopped
	wallAhead       atomic.Int64
	jumpedAt        time.Duration // when its wall clock was last set; 0: never
	troubleAt       time.Duration // when its way to Redis last failed or was slow; -1: never
	silent          bool          // it makes no calls of its own any more

	alive *process
	known map[string]*known

	mu       sync.Mutex // guards what follows
	finished []*call
	calls    int
}

// A link is the state of a way to somewhere.
type link struct {
	refused  bool // connections fail at once
	swallows bool // what is sent never arrives
	mute     bool // what is answered never arrives
	slow     time.Duration
}

// A process is one incarnation of a replica.
type process struct {
	r       *replica
	manager *manager.Manager
	client  *redis.Client
	died    chan struct{}
	conns   []*conn // of its subscriptions; guarded by the world's mu
}

func newReplica(w *world, i int) *replica {
	r := &replica{
		w: w, number: i + 1, name: fmt.Sprintf("r%d", i+1),
		asked: map[string]int{}, troubleAt: -1, settings: settings{config: "new", secret: "new"}, rng: w.draw(fmt.Sprint("replica ", i)),
	}
	if w.setup.oldConfigs > i {
		r.config = "old"
	}
	if w.setup.oldSecrets > i {
		r.secret = "old"
	}
	return r
}

// boot starts the process.
func (r *replica) boot() {
	if r.alive != nil || r.w.stop {
		return
	}
	p := &process{r: r, died: make(chan struct{})}
	p.client = redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Protocol: 2, DisableIdentity: true,
		ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer:                   p.dial,
	})
	p.client.AddHook(p)
	c := manager.Config{
		Redis: p.client, Replica: r.name, Environments: map[string]manager.Environment{},
		WallClock: func() time.Time { return time.Now().Add(time.Duration(r.wallAhead.Load())) },
		Logger:    slog.New(slog.DiscardHandler),
	}
	if r.w.setup.log {
		c.Logger = slog.New(slog.NewTextHandler(r.w.trace.writer(r.w, r.name), &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == "time" || a.Key == "replica" {
					return slog.Attr{}
				}
				return a
			},
		}))
	}
	r.changes, r.removed = nil, false
	for _, env := range r.w.setup.envs {
		c.Environments[env] = p.environment(env)
	}
	m, err := manager.New(c)
	if err != nil {
		panic(err) // a setup that can't be
	}
	p.manager, r.alive = m, p
	r.w.say("%s starts", r.name)
	r.w.check.booted(r)
	r.act()
}

// environment is one as the replica's settings have it now.
func (p *process) environment(env string) manager.Environment {
	r, now := p.r, p.r.settings
	e := manager.Environment{
		ClientID: "client", ClientSecret: manager.NewSecret(now.secret), SourceID: now.config, Policy: r.w.setup.policy,
		Source: manager.SourceFunc(func(ctx context.Context) (*manager.Reply, error) { return p.ask(ctx, env, "", now) }),
	}
	if now.refreshAt != 0 {
		e.RefreshAt = now.refreshAt
	}
	if now.config == "other" { // of the same client, to whom the refresh token was given
		e.SourceID, e.Params = "new", url.Values{"kind": {"other"}}
	}
	if r.w.setup.rotating.uses(env) {
		e.Grant, e.Source = manager.RefreshToken, refresher{p, env, now}
		if seed := r.seed(); seed != "" {
			e.RefreshToken = manager.NewSecret(seed)
		}
	}
	return e
}

// kill ends the process in the middle of whatever it does: nothing of it reaches anybody any more.
func (r *replica) kill() {
	p := r.alive
	if p == nil {
		return
	}
	r.alive = nil
	close(p.died)
	for _, c := range p.open() {
		c.cut()
	}
	go func() {
		_ = p.manager.Close() // the goroutines of the dead
		_ = p.client.Close()
	}()
}

// close ends the process in order.
func (r *replica) close() {
	if p := r.alive; p != nil {
		_ = p.manager.Close()
		_ = p.client.Close()
	}
}

// act makes the worker do what workers do, from now on.
func (r *replica) act() {
	p := r.alive
	r.w.in(upTo(r.rng, r.w.setup.gap)+time.Millisecond, func() {
		if r.alive != p || r.silent {
			return
		}
		if r.pausedUntil <= r.w.now() {
			env := r.w.setup.envs[r.rng.IntN(len(r.w.setup.envs))]
			r.start(r.w.setup.mix.pick(r.rng), env, time.Duration(1+r.rng.IntN(int(r.w.setup.patience/time.Millisecond)))*time.Millisecond)
		}
		r.act()
	})
}

// A call is one that the worker has made of its manager.
type call struct {
	id        int
	p         *process
	kind      string // "token", "longer", "refresh", "invalidate", "request"; a person's: "login", "logout", "revoke"
	env       string
	begun     time.Duration
	deadline  time.Duration
	dropped   manager.Version // that the replica knew of when it began
	droppedAt time.Duration   // and since when
	after     *manager.Token  // what the replica had handed out before
	ended     time.Duration
	left      time.Duration   // that a "longer" is for
	version   manager.Version // of an invalidation: which; 0: all
	token     *manager.Token
	err       error
	expect    *expectation
	settled   bool // the scheduler knows that it has ended

	refreshToken string // of a login
}

// byPerson reports whether it is a person's.
func (c *call) byPerson() bool { return c.kind == "login" || c.kind == "logout" || c.kind == "revoke" }

// grace is for how long a call may go on after its deadline: a logout that has begun is finished.
func (c *call) grace() time.Duration {
	if c.byPerson() {
		return 5 * time.Second
	}
	return 0
}

// start makes a call in a goroutine of its own, as a worker's would be.
func (r *replica) start(kind, env string, patience time.Duration) *call {
	p := r.alive
	c := &call{id: r.calls, p: p, kind: kind, env: env, begun: r.w.now(), deadline: r.w.now() + patience}
	r.calls++
	r.w.check.begins(c)
	r.w.at(c.deadline+c.grace()+1, func() { r.w.check.mustHaveEnded(c) })
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		switch kind {
		case "token":
			c.token, c.err = p.manager.Token(ctx, env)
		case "longer":
			c.token, c.err = p.manager.TokenFor(ctx, env, c.left)
		case "refresh":
			c.token, c.err = p.manager.Refresh(ctx, env)
		case "invalidate":
			c.version, c.err = p.manager.Invalidate(ctx, env, c.version)
		case "login":
			_, c.err = p.manager.ImportGrant(ctx, env, manager.NewSecret(c.refreshToken), 0)
		case "logout":
			_, c.err = p.manager.Logout(ctx, env, nil)
		case "revoke":
			_, c.err = p.manager.Logout(ctx, env, func(ctx context.Context, refreshToken manager.Secret) error { return p.revoke(ctx, env, refreshToken) })
		case "request":
			c.err = p.request(ctx, env)
		}
		c.ended = r.w.now()
		r.mu.Lock()
		r.finished = append(r.finished, c)
		r.mu.Unlock()
	}()
	return c
}

// request sends a request with the token to a resource server that knows which tokens are good.
func (p *process) request(ctx context.Context, env string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api.test/", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := p.manager.Transport(env, resource{p}).RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// resource is the resource server.
type resource struct{ p *process }

func (s resource) RoundTrip(req *http.Request) (*http.Response, error) {
	text := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}
	if !s.p.r.w.site.accepts(text) {
		resp.StatusCode = http.StatusUnauthorized
		resp.Header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	return resp, nil
}

// collect returns the calls that have ended since it was last asked.
func (r *replica) collect() []*call {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.finished
	r.finished = nil
	slices.SortFunc(list, func(a, b *call) int { return a.id - b.id })
	return list
}

// Errors of the network, as the client has them.
var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	errTimeout = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
)

// DialHook implements [redis.Hook].
func (p *process) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements [redis.Hook]: a pipeline is the greeting of a new connection.
func (p *process) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements [redis.Hook]. Like the client with ContextTimeoutEnabled it obeys a deadline, and doesn't notice
// a cancellation.
func (p *process) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := ctx.Err(); err != nil {
			cmd.SetErr(err)
			return err
		}
		args := make([]string, len(cmd.Args()))
		for i, a := range cmd.Args() {
			args[i] = fmt.Sprint(a)
		}
		switch args[0] {
		case "hello", "client":
			return set(cmd, serverError("ERR unknown command"))
		}
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(time.Second)
		}
		what, about, id := name(args)
		o := p.newOp(what, about, id)
		o.args = args
		return set(cmd, p.wait(o, time.Until(deadline), nil))
	}
}

func (p *process) newOp(what, about, id string) *op {
	return &op{r: p.r, p: p, what: what, about: about, id: id, reply: make(chan any, 1), born: p.r.w.now()}
}

// wait brings o to the gate and waits for its answer, no longer than d.
func (p *process) wait(o *op, d time.Duration, done <-chan struct{}) any {
	defer func() { o.over.Store(true) }()
	select {
	case <-p.died:
		return errReset
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	p.r.w.arrive(o)
	select {
	case v := <-o.reply:
		return v
	case <-timer.C:
	case <-done:
	case <-p.died:
		return errReset
	}
	return errTimeout
}

// set gives a command its reply.
func set(cmd redis.Cmder, v any) error {
	if v == nil {
		v = redis.Nil
	}
	if err, ok := v.(error); ok {
		cmd.SetErr(err)
		return err
	}
	if s, ok := v.(status); ok {
		v = string(s)
	}
	switch c := cmd.(type) {
	case *redis.Cmd:
		c.SetVal(v)
	case *redis.IntCmd:
		n, _ := v.(int64)
		c.SetVal(n)
	default:
		panic(fmt.Sprintf("a command that the simulation doesn't know: %v", cmd.Args()))
	}
	return nil
}

// name says what a command is: its part in the protocol, the environment, and what is its own in it.
func name(args []string) (what, about, id string) {
	key, rest := "", []string(nil)
	switch args[0] {
	case "eval", "evalsha":
		n := int(args[2][0] - '0')
		key, rest = args[3], args[3+n:]
		if args[0] == "eval" {
			id = "eval "
		}
		switch {
		case n == 5 && len(rest) == 0:
			what = "read"
		case n == 5 && len(rest) == 2:
			what = "claim"
		case n == 5:
			what = "issue"
		case n == 4 && strings.HasSuffix(args[3], ":mark"):
			what = "fail"
		case n == 4 && (strings.HasSuffix(args[len(args)-1], "forget") || len(rest) > 4 && rest[4] == "adopt"):
			what = rest[4]
		case n == 4:
			what = "put"
		case n == 3:
			what = "next"
		case n == 2:
			what = "invalidate"
		case strings.HasSuffix(key, ":grant"):
			if what = "keep"; len(rest) == 1 {
				what = "settle"
			}
		case len(rest) == 1:
			what = "release"
		case len(rest) == 2:
			what = "renew"
		default:
			what = "acquire"
		}
		switch what {
		case "put", "fail", "keep", "settle", "adopt", "forget":
			id += rest[0]
		}
	default:
		what, key = args[0], args[1]
	}
	_, rest0, _ := strings.Cut(key, "{")
	about, _, _ = strings.Cut(rest0, "}")
	return what, about, id
}
