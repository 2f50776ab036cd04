package peers

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/auth"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go/auth/bearer"
	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/herd"
	"github.com/onetoken/onetoken/manager"
)

// A Case is a benchmark: what a call costs while the token is good for long.
type Case struct {
	Name string
	Call func() error
}

// Warm returns the cases of a token that is there: what the least costs, others, and ours, which has its token by way of
// the Redis at redisAddr. end ends what they use.
func Warm(ctx context.Context, redisAddr string) (tokens, transports []Case, end func(), err error) {
	m, end, err := warmManager(ctx, redisAddr)
	if err != nil {
		return nil, nil, nil, err
	}
	handle, err := m.Env(environment) //nolint:contextcheck // it is there
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	var (
		expires = time.Now().Add(time.Hour)
		google  = auth.NewCachedTokenProvider(googleSource{&auth.Token{Value: "token", Expiry: expires}}, nil)
		awsKeys = aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret", CanExpire: true, Expires: expires}, nil
		}))
		awsBearer = bearer.NewTokenCache(bearer.TokenProviderFunc(func(context.Context) (bearer.Token, error) {
			return bearer.Token{Value: "token", CanExpire: true, Expires: expires}, nil
		}))
		reuse = oauth2.ReuseTokenSource(&oauth2.Token{AccessToken: "token", Expiry: expires}, nil)
	)
	tokens = append(floors(), []Case{
		{"x/oauth2, ReuseTokenSource", func() error { _, err := reuse.Token(); return err }},
		{"cloud.google.com/go/auth, NewCachedTokenProvider", func() error { _, err := google.Token(ctx); return err }},
		{"aws-sdk-go-v2, aws.CredentialsCache", func() error { _, err := awsKeys.Retrieve(ctx); return err }},
		{"aws-sdk-go-v2, bearer.TokenCache", func() error { _, err := awsBearer.RetrieveBearerToken(ctx); return err }},
		{Ours + ", by name", func() error { _, err := m.Token(ctx, environment); return err }},
		{Ours + ", by handle", func() error { _, err := handle.Token(ctx); return err }},
	}...)
	transports = []Case{
		send("the base transport alone", nowhere{}),
		send("x/oauth2, Transport", &oauth2.Transport{Base: nowhere{}, Source: reuse}),
		send(Ours, m.Transport(environment, nowhere{})),
	}
	return tokens, transports, end, nil
}

var errExpired = errors.New("peers: the token has expired")

// floors are what any cache must do, and what it must to know that a token is valid.
func floors() []Case {
	type snapshot struct {
		until   time.Duration
		expires time.Time
	}
	var current atomic.Pointer[snapshot]
	began := time.Now()
	current.Store(&snapshot{time.Hour, began.Add(time.Hour)})
	valid := func(ok bool) error {
		if !ok {
			return errExpired
		}
		return nil
	}
	return []Case{
		{"an atomic load", func() error { return valid(current.Load() != nil) }},
		{"an atomic load, the monotonic clock", func() error { return valid(time.Since(began) < current.Load().until) }},
		{"an atomic load, time.Now", func() error { return valid(time.Now().Before(current.Load().expires)) }},
	}
}

func warmManager(ctx context.Context, redisAddr string) (*manager.Manager, func(), error) {
	endpoint := StartEndpoint(0, time.Hour)
	defer endpoint.Close()
	o, err := joinOnetoken(ctx, Replica{Redis: redisAddr, TokenURL: endpoint.URL, counter: new(herd.Counter)})
	if err != nil {
		return nil, nil, err
	}
	end := func() { _ = o.Close() }
	if _, err := o.Token(ctx); err != nil {
		end()
		return nil, nil, err
	}
	return o.(*onetoken).Manager, end, nil
}

type googleSource struct{ token *auth.Token }

// Token implements auth.TokenProvider.
func (s googleSource) Token(context.Context) (*auth.Token, error) { return s.token, nil }

// nowhere is a base transport that answers at once.
type nowhere struct{}

// RoundTrip implements http.RoundTripper.
func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func send(name string, rt http.RoundTripper) Case {
	req, _ := http.NewRequest(http.MethodGet, "https://api.example/v2/campaigns?page=1", http.NoBody) //nolint:noctx // it goes nowhere
	req.Header = http.Header{"Accept": {"application/json"}, "User-Agent": {"bench"}}
	return Case{name, func() error {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}}
}

// Serial runs the case in one goroutine.
func (c Case) Serial(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Call(); err != nil {
			b.Fatal(err)
		}
	}
}

// Parallel runs the case in as many goroutines as there are cores.
func (c Case) Parallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Call(); err != nil {
				b.Error(err)
			}
		}
	})
}

// A Cost is what a case costs per call.
type Cost struct {
	Name             string
	Serial, Parallel float64 // ns
	Allocs, Bytes    int64
}

// Measure returns the costs of the cases: the lowest of several rounds, in each of which every case has its turn, so that
// what else the machine does falls on all.
func Measure(cases []Case, rounds int) []Cost {
	costs := make([]Cost, len(cases))
	for range rounds {
		for i, c := range cases {
			serial, parallel := testing.Benchmark(c.Serial), testing.Benchmark(c.Parallel)
			cost := Cost{c.Name, perCall(serial), perCall(parallel), serial.AllocsPerOp(), serial.AllocedBytesPerOp()}
			if costs[i].Name != "" {
				cost.Serial, cost.Parallel = min(cost.Serial, costs[i].Serial), min(cost.Parallel, costs[i].Parallel)
			}
			costs[i] = cost
		}
	}
	return costs
}

func perCall(r testing.BenchmarkResult) float64 { return float64(r.T.Nanoseconds()) / float64(r.N) }
