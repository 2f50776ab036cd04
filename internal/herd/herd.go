// Package herd runs many replicas in one process against one Redis and a scripted token endpoint, and measures what they
// wait for and send. Each replica is a manager with a Redis client of its own, as a process would have: own connections,
// own subscription. What is measured is therefore all replicas' work on one machine's cores; in a fleet each has its own.
package herd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// The largest herd, so that nobody harms a Redis that others use.
const (
	MaxReplicas  = 2000
	MaxLatency   = time.Minute
	MinLife      = 2 * time.Second
	MaxLife      = 10 * time.Minute
	MaxCallers   = 10_000 // of all replicas together
	MaxRotations = 100
)

// ConnectionsEach is how many connections to Redis a replica may have at a time: one for events, and those of its pool for a read, a
// renewal of the lease and a release at once.
const ConnectionsEach = 4

const env = "bench"

// Options configure a herd. Zero fields mean the defaults.
type Options struct {
	// NewRedis returns a new client of the Redis that all share; it is closed at the end. A plain, Sentinel or Cluster client.
	NewRedis func() (redis.UniversalClient, error)
	// Namespace of the keys; default a random one, "onetoken-bench-…". Nothing may be in it. Its keys are deleted at the end,
	// also after a failure or the context's end; those of a process that is killed end by themselves.
	Namespace string

	Replicas  int           // default 50
	Latency   time.Duration // of the endpoint, to the answer; default 0
	Life      time.Duration // of a token; default 10 min
	Policy    manager.Policy
	Deploy    bool // [Cold]: the replicas start with the herd, connections and all
	Callers   int  // [Rotation]: of each replica; default 4
	Rotations int  // [Rotation]: default 3

	// Progress is told how far it is, by several goroutines, one at a time.
	Progress func(Progress)
}

// Progress is how much of a step is done.
type Progress struct {
	Step     string // "connect", "tokens", "rotations"
	Done, Of int
}

// A CapacityError says that a herd of this size would take what others need.
type CapacityError struct {
	What      string // "connections of Redis" or "open files of this process"
	Needs, Of int    // how many it takes, and how many there are to be had
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("herd: it takes up to %d %s, and there is room for %d: fewer replicas", e.Needs, e.What, e.Of)
}

func (o Options) complete() (Options, error) {
	o.Namespace = cmp.Or(o.Namespace, "onetoken-bench-"+strings.ToLower(rand.Text()[:12]))
	o.Replicas = cmp.Or(o.Replicas, 50)
	o.Life = cmp.Or(o.Life, MaxLife)
	o.Callers = cmp.Or(o.Callers, 4)
	o.Rotations = cmp.Or(o.Rotations, 3)
	o.Policy.EndpointTimeout = cmp.Or(o.Policy.EndpointTimeout, max(10*time.Second, 2*o.Latency))
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	switch {
	case o.NewRedis == nil:
		return o, errors.New("herd: no Redis")
	case o.Replicas < 1 || o.Replicas > MaxReplicas:
		return o, fmt.Errorf("herd: %d replicas are not between 1 and %d", o.Replicas, MaxReplicas)
	case o.Latency < 0 || o.Latency > MaxLatency:
		return o, fmt.Errorf("herd: a latency of %v is not between 0 and %v", o.Latency, MaxLatency)
	case o.Life < MinLife || o.Life > MaxLife:
		return o, fmt.Errorf("herd: a life of %v is not between %v and %v", o.Life, MinLife, MaxLife)
	case o.Callers < 1 || o.Callers*o.Replicas > MaxCallers:
		return o, fmt.Errorf("herd: %d callers of each of %d replicas are not between 1 and %d in all", o.Callers, o.Replicas, MaxCallers)
	case o.Rotations < 1 || o.Rotations > MaxRotations:
		return o, fmt.Errorf("herd: %d rotations are not between 1 and %d", o.Rotations, MaxRotations)
	}
	return o, nil
}

// A herd is the replicas and what they share.
type herd struct {
	Options
	counter  Counter
	waits    *waits
	endpoint *mockendpoint.Endpoint
	server   *http.Server
	url      string

	rdb   redis.UniversalClient // the herd's own
	store *store.Store

	mu       sync.Mutex // guards what follows, and calls of Progress
	replicas []*replica
	progress Progress
}

// A replica is what a process would have.
type replica struct {
	rdb        redis.UniversalClient
	manager    *manager.Manager
	env        *manager.Env
	subscribed chan struct{} // closed when events arrive
}

// open makes what the replicas share. It is to be closed, also after an error.
func open(ctx context.Context, o Options) (*herd, error) {
	h := &herd{waits: &waits{}}
	var err error
	if h.Options, err = o.complete(); err != nil {
		return h, err
	}
	if err := checkFiles(h.Replicas); err != nil {
		return h, err
	}
	if h.rdb, err = h.NewRedis(); err != nil {
		return h, err
	}
	s, err := store.New(h.rdb, store.Options{Namespace: h.Namespace})
	if err != nil {
		return h, err
	}
	if err := h.checkConnections(ctx); err != nil {
		return h, err
	}
	if err := h.claim(ctx, s); err != nil {
		return h, err
	}
	return h, h.serve(ctx)
}

// checkConnections sees that Redis has room for the herd's and, besides, for as many as a tenth of all. A Redis that doesn't
// tell is believed to have.
func (h *herd) checkConnections(ctx context.Context) error {
	info, err := h.rdb.Info(ctx, "clients").Result()
	if err != nil {
		if _, answered := errors.AsType[redis.Error](err); answered {
			return nil // the user may not ask
		}
		return &store.StatusError{Op: "INFO", Key: h.Namespace, Err: err}
	}
	connected, most := infoNumber(info, "connected_clients"), infoNumber(info, "maxclients")
	room := most - most/10 - connected
	if needs := h.Replicas * ConnectionsEach; most > 0 && needs > room {
		return &CapacityError{What: "connections of Redis", Needs: needs, Of: max(room, 0)}
	}
	return nil
}

// infoNumber is a number in an answer to INFO, 0 where it isn't there.
func infoNumber(info, name string) int {
	_, rest, _ := strings.Cut(info, name+":")
	line, _, _ := strings.Cut(rest, "\r\n")
	n, _ := strconv.Atoi(line)
	return n
}

// claim takes the namespace, in which nothing may be. The one key without a life of its own gets one, in case that nobody
// comes back to delete it. It needs no rights that a replica doesn't.
func (h *herd) claim(ctx context.Context, s *store.Store) error {
	for _, key := range keys(s) {
		switch kind, err := h.rdb.Type(ctx, key).Result(); {
		case err != nil:
			return &store.StatusError{Op: "TYPE", Key: key, Err: err}
		case kind != "none":
			return fmt.Errorf("herd: there is something in the namespace %s", h.Namespace)
		}
	}
	h.store = s // from here on there is something to delete
	mark := s.Keys(env).Mark
	_, err := h.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, mark, "issued", 0)
		p.PExpire(ctx, mark, time.Hour+h.longest())
		return nil
	})
	if err != nil {
		return &store.StatusError{Op: "HSET", Key: mark, Err: err}
	}
	return nil
}

func keys(s *store.Store) []string {
	k := s.Keys(env)
	return []string{k.Token, k.Grant, k.Mark, k.Failure, k.Lock}
}

// longest is longer than anything here may take.
func (h *herd) longest() time.Duration {
	return time.Minute + h.Latency + time.Duration(h.Rotations+2)*(h.Life+h.Latency)
}

func (h *herd) serve(ctx context.Context) error {
	h.endpoint = mockendpoint.New(mockendpoint.Options{
		Life: h.Life, Default: mockendpoint.Reply{Delay: h.Latency},
		Log: func(r mockendpoint.Request) {
			if r.Token > 0 {
				h.waits.issued(h.counter.Requests(), h.endpoint.Calls())
			}
		},
	})
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("herd: %w", err)
	}
	h.url = "http://" + l.Addr().String() + "/oauth2/v1/token"
	h.server = &http.Server{Handler: h.endpoint, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = h.server.Serve(l) }() // until close
	return nil
}

// end ends all of it, and returns err, or ctx's cause, or else what went wrong here.
func (h *herd) end(ctx context.Context, err error) error {
	h.close()
	left := h.clean(context.WithoutCancel(ctx))
	switch {
	case ctx.Err() != nil && left != nil:
		return fmt.Errorf("%w; %w", context.Cause(ctx), left)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return cmp.Or(err, left)
}

// close ends the replicas and the endpoint. A call of it that is under way is cut off.
func (h *herd) close() {
	if h.endpoint != nil {
		h.endpoint.Close()
	}
	var closing sync.WaitGroup
	for _, r := range h.replicas {
		closing.Go(func() { _, _ = r.manager.Close(), r.rdb.Close() })
	}
	closing.Wait()
	if h.server != nil {
		_ = h.server.Close()
	}
}

// clean deletes what is in Redis. A Redis that is too busy to answer is asked again for a while.
func (h *herd) clean(ctx context.Context) error {
	if h.rdb == nil {
		return nil
	}
	defer func() { _ = h.rdb.Close() }()
	if h.store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := h.rdb.Del(ctx, keys(h.store)...).Err()
		if err == nil {
			return nil
		}
		if _, answered := errors.AsType[redis.Error](err); answered || pause(ctx, 100*time.Millisecond) != nil {
			return &store.StatusError{Op: "DEL", Key: h.Namespace, Err: err}
		}
	}
}

// start makes a replica.
func (h *herd) start(number int) (*replica, error) {
	rdb, err := h.NewRedis()
	if err != nil {
		return nil, err
	}
	h.counter.Watch(rdb)
	subscribed := make(chan struct{})
	m, err := manager.New(manager.Config{
		Redis: rdb, Namespace: h.Namespace, Replica: fmt.Sprintf("replica-%04d", number),
		Logger: slog.New(&hearing{once: sync.OnceFunc(func() { close(subscribed) })}), MeterProvider: meters{waits: h.waits},
		Environments: map[string]manager.Environment{env: {
			TokenURL: h.url, ClientID: env, ClientSecret: manager.NewSecret(env), Policy: h.Policy,
		}},
	})
	if err != nil {
		_ = rdb.Close()
		return nil, err
	}
	r := &replica{rdb: rdb, manager: m, subscribed: subscribed}
	h.mu.Lock()
	h.replicas = append(h.replicas, r)
	h.mu.Unlock()
	r.env, err = m.Env(env)
	return r, err
}

// starting is how many replicas are started at once.
const starting = 16

// startAll makes all replicas, and has them connect: each is subscribed, and has read.
func (h *herd) startAll(ctx context.Context) error {
	var work sync.WaitGroup
	places, failed := make(chan struct{}, starting), make(chan error, h.Replicas)
	for i := range h.Replicas {
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			if err := h.startConnected(ctx, i); err != nil {
				failed <- err
				return
			}
			h.step("connect", h.Replicas)
		})
		if len(failed) > 0 {
			break
		}
	}
	work.Wait()
	close(failed)
	return <-failed
}

func (h *herd) startConnected(ctx context.Context, number int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := h.start(number) //nolint:contextcheck // a manager outlives who makes it
	if err != nil {
		return err
	}
	for err := r.read(ctx); err != nil; err = r.read(ctx) {
		if _, answered := errors.AsType[redis.Error](err); answered || pause(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
	select {
	case <-r.subscribed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("herd: a replica got no subscription: %w", context.Cause(ctx))
	}
}

// read has the replica read once, which takes a connection.
func (r *replica) read(ctx context.Context) error {
	_, err := r.manager.Status(ctx, env)
	return err
}

// step notes that one more of a step is done.
func (h *herd) step(name string, of int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.progress.Step != name {
		h.progress = Progress{Step: name, Of: of}
	}
	h.progress.Done++
	h.Progress(h.progress)
}

// settle returns once nothing was sent to Redis for a while: the lease is released, and all have read what they heard of.
func (h *herd) settle(ctx context.Context) {
	const quiet, most = 150 * time.Millisecond, 20
	last := -1
	for range most {
		n := h.counter.Requests().Total()
		if n == last || pause(ctx, quiet) != nil {
			return
		}
		last = n
	}
}

// accepts reports whether the endpoint would take the token now, by its own record.
func (h *herd) accepts(t *manager.Token) bool {
	_, text, _ := strings.Cut(t.AuthHeader(), " ")
	return h.endpoint.Accepts(text)
}

// pause returns after d, or earlier ctx's cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Waits sum up how long the replicas waited.
type Waits struct{ Min, P50, P99, Max time.Duration }

// sumUp returns zeroes where there are none.
func sumUp(waits []time.Duration) Waits {
	if len(waits) == 0 {
		return Waits{}
	}
	slices.Sort(waits)
	at := func(q float64) time.Duration { return waits[int(math.Ceil(q*float64(len(waits))))-1] }
	return Waits{Min: waits[0], P50: at(0.5), P99: at(0.99), Max: waits[len(waits)-1]}
}
