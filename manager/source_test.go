package manager_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

func TestASourceThatMisbehavesIsOneErrorAndReleasesTheLease(t *testing.T) {
	for name, fetch := range map[string]manager.SourceFunc{
		"nothing at all": func(context.Context) (*manager.Reply, error) { return nil, nil },
		"a typed nil": func(context.Context) (*manager.Reply, error) {
			var failed *endpoint.Error
			return nil, failed
		},
		"an error without a code": func(context.Context) (*manager.Reply, error) {
			return nil, &endpoint.Error{Status: 503, Message: "two\nlines"}
		},
		"Goexit": func(context.Context) (*manager.Reply, error) {
			runtime.Goexit()
			return nil, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := make(chan struct{}, 100)
			f := newFleet(t, redistest.Mini(t), 3, func(_ int, _ *manager.Config, e *manager.Environment) {
				e.Backoff.Min = time.Minute
				e.Source, e.SourceID = manager.SourceFunc(func(ctx context.Context) (*manager.Reply, error) {
					calls <- struct{}{}
					return fetch(ctx)
				}), "test"
			})
			for i, o := range f.all(token) {
				failed := endpointError(t, o.err)
				if failed.Code != "bad_reply" || failed.RetryAfter < 50*time.Second || strings.Contains(o.err.Error(), "\n") {
					t.Errorf("manager %d: %+v", i, failed)
				}
			}
			if n := len(calls); n != 1 {
				t.Errorf("%d calls of the source", n)
			}
			eventually(t, 2*time.Second, "the lease is released", func() bool {
				return f.rdb.Exists(t.Context(), key("lock")).Val() == 0
			})
		})
	}
}

func TestASourceThatIgnoresItsDeadlineDoesNotKeepTheLease(t *testing.T) {
	t.Parallel()
	asked, end := make(chan struct{}, 100), make(chan struct{})
	f := newFleet(t, redistest.Mini(t), 2, func(i int, _ *manager.Config, e *manager.Environment) {
		e.Lease, e.EndpointTimeout, e.Backoff.Min = time.Second, 500*time.Millisecond, 100*time.Millisecond
		e.SourceID = "test"
		e.Source = manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			if i == 0 {
				asked <- struct{}{}
				<-end
			}
			return &manager.Reply{AccessToken: manager.NewSecret("the other's"), ExpiresIn: time.Hour}, nil
		})
	})
	t.Cleanup(func() { close(end) })
	stuck := f.start(f.managers[0], token)
	<-asked
	// The endpoint timeout and a second more; then the backoff.
	eventually(t, 2500*time.Millisecond, "the other replica has a token", func() bool {
		_, err := f.tries(f.managers[1])
		return err == nil
	})
	if o := <-stuck; endpointError(t, o.err).Code != "timeout" {
		t.Errorf("the caller of the stuck one got %v", o.err)
	}
}
