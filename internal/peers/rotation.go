package peers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/herd"
)

// A Rotation is callers that ask for the token at a steady pace while it is replaced again and again. Who waits for an
// answer asks no further meanwhile.
type Rotation struct {
	Replicas int
	Callers  int // of all replicas
	Every    time.Duration
	Latency  time.Duration // of the endpoint
	Life     time.Duration // of a token
	For      time.Duration
}

// A RotationResult is what the callers saw.
type RotationResult struct {
	Way string
	Rotation
	Calls         int // by the callers
	Blocked       int // of them: took more than a tenth of the endpoint's latency
	Failed        int
	Waited        float64         // the part of the callers' time that was spent in blocked calls
	EndpointCalls int             // after the first token
	Longest       []time.Duration // call that began in each [Slot]
}

// Slot is a column of a rotation's timeline.
const Slot = 20 * time.Millisecond

// A Way is how tokens are kept valid under callers.
type Way struct {
	Name string
	join func(ctx context.Context, r Rotation, redisAddr, tokenURL string) (calls []call, end func(), err error)
}

// Ways are those that are compared, ours last.
var Ways = []Way{
	{"x/oauth2, each replica for itself", joinReuse},
	{"an ideal refresh at 80 % of life", joinIdeal},
	{Ours, joinManagers},
}

type call func(ctx context.Context) error // asks a replica for the token

// joinReuse has a token valid until 100 ms before its end: by default x/oauth2 would take its last 10 s for its end.
func joinReuse(ctx context.Context, r Rotation, _, tokenURL string) ([]call, func(), error) {
	calls := make([]call, r.Replicas)
	for i := range calls {
		source := Replica{TokenURL: tokenURL}.credentials().TokenSource(ctx)
		source = oauth2.ReuseTokenSourceWithExpiry(nil, source, 100*time.Millisecond)
		calls[i] = func(context.Context) error {
			_, err := source.Token()
			return err
		}
	}
	return calls, func() {}, nil
}

// An idealToken is seen by all replicas at once.
type idealToken struct {
	expires  time.Time
	replaced chan struct{}
}

// joinIdeal has one refresh for all replicas, which learn its token at no cost, and counts a life from its answer.
func joinIdeal(ctx context.Context, r Rotation, _, tokenURL string) ([]call, func(), error) {
	var current atomic.Pointer[idealToken]
	current.Store(&idealToken{replaced: make(chan struct{})})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			tok, err := Replica{TokenURL: tokenURL}.fetch(ctx)
			if err != nil {
				continue
			}
			old := current.Swap(&idealToken{tok.Expiry, make(chan struct{})})
			close(old.replaced)
			select {
			case <-time.After(r.Life * 8 / 10):
			case <-ctx.Done():
			}
		}
	}()
	ask := func(ctx context.Context) error {
		for {
			tok := current.Load()
			if time.Now().Before(tok.expires) {
				return nil
			}
			select {
			case <-tok.replaced:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return slices.Repeat([]call{ask}, r.Replicas), func() { cancel(); <-done }, nil
}

func joinManagers(ctx context.Context, r Rotation, redisAddr, tokenURL string) ([]call, func(), error) {
	members, err := Strategy{Ours, joinOnetoken}.gather(ctx, r.Replicas, Replica{Redis: redisAddr, TokenURL: tokenURL, counter: new(herd.Counter)})
	if err != nil {
		return nil, nil, err
	}
	var calls []call
	for _, m := range members {
		calls = append(calls, func(ctx context.Context) error {
			_, err := m.Token(ctx)
			return err
		})
	}
	return calls, func() {
		for _, m := range members {
			_ = m.Close()
		}
	}, nil
}

// Run runs the rotation on an emptied Redis. It begins when every replica has its first token.
func (r Rotation) Run(ctx context.Context, w Way, redisAddr string) (RotationResult, error) {
	if err := empty(ctx, redisAddr); err != nil {
		return RotationResult{}, err
	}
	endpoint := StartEndpoint(r.Latency, r.Life)
	defer endpoint.Close()
	calls, end, err := w.join(ctx, r, redisAddr, endpoint.URL)
	if err != nil {
		return RotationResult{}, err
	}
	defer end()
	if err := first(ctx, calls); err != nil {
		return RotationResult{}, err
	}
	before := endpoint.Calls()
	result := r.watch(ctx, calls)
	result.Way, result.Rotation, result.EndpointCalls = w.Name, r, endpoint.Calls()-before
	return result, nil
}

// first has every replica get a token, all at once.
func first(ctx context.Context, calls []call) error {
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() { errs[i] = c(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// watch runs the callers and merges what each saw.
func (r Rotation) watch(ctx context.Context, calls []call) RotationResult {
	seen := make([]RotationResult, r.Callers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range seen {
		wg.Go(func() { seen[i] = r.caller(ctx, calls[i%len(calls)], began, i) })
	}
	wg.Wait()
	all := RotationResult{Longest: make([]time.Duration, r.For/Slot)}
	for _, s := range seen {
		all.Calls += s.Calls
		all.Blocked += s.Blocked
		all.Failed += s.Failed
		all.Waited += s.Waited / float64(r.Callers)
		for i, d := range s.Longest {
			all.Longest[i] = max(all.Longest[i], d)
		}
	}
	return all
}

// caller asks every so often, out of step with the others.
func (r Rotation) caller(ctx context.Context, ask call, began time.Time, i int) RotationResult {
	s := RotationResult{Longest: make([]time.Duration, r.For/Slot)}
	var blocked time.Duration
	<-time.After(r.Every * time.Duration(i) / time.Duration(r.Callers))
	tick := time.NewTicker(r.Every)
	defer tick.Stop()
	for ; ; <-tick.C {
		sent := time.Since(began)
		if sent >= r.For {
			s.Waited = float64(blocked) / float64(r.For)
			return s
		}
		err := ask(ctx)
		took := time.Since(began) - sent
		s.Calls++
		if err != nil {
			s.Failed++
		}
		if took > r.Latency/10 {
			s.Blocked++
			blocked += took
		}
		s.Longest[sent/Slot] = max(s.Longest[sent/Slot], took)
	}
}
