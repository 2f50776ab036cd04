package topology_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{}) // it reports every dial that fails, as these tests make them
	// go-redis tries once a second to reach a server that is gone, and notices then that the client was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

const (
	// For what must come, but has no bound of its own. A Sentinel that finds its machine too slow does nothing for 30 s.
	patience = 45 * time.Second
	glance   = 10 * time.Millisecond // between two looks
)

// eventually looks until ok, for at most patience, and returns how long that took.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	for !ok() {
		if time.Since(start) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-ticker.C
	}
	return time.Since(start).Round(time.Millisecond)
}

// must fails the test with err.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
