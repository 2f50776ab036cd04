package manager_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// sent is a hook that counts what is sent to a Redis that is so far away that all have asked before the first is answered.
type sent struct{ claims, acquires, releases, reads, others, refused int }

const far = 10 * time.Millisecond

func (*sent) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*sent) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (s *sent) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		args := cmd.Args()
		switch {
		case isClaim(cmd):
			s.claims++
		case isAcquire(cmd):
			s.acquires++
		case isRead(cmd):
			s.reads++
		case strings.HasPrefix(cmd.Name(), "eval") && strings.HasSuffix(args[3].(string), ":lock"):
			s.releases++
		case cmd.Name() != "hello" && cmd.Name() != "client": // once for each connection
			s.others++
		}
		<-time.After(far)
		err := next(ctx, cmd)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			s.refused++
		}
		return err
	}
}

// A replica learns by its first command that the lease is taken, or takes it. None is refused though Redis knows no script yet.
func TestWhatAColdFleetSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const replicas = 20
		var each [replicas]sent
		kit := managertest.NewFleet(t, replicas, managertest.Options{
			InMemory: true,
			Endpoint: mockendpoint.Options{Life: time.Hour, Default: mockendpoint.Reply{Delay: 200 * time.Millisecond}},
			Config:   func(i int, c *manager.Config) { c.Redis.AddHook(&each[i]) },
		})
		<-time.After(time.Second) // they hear events
		var asking sync.WaitGroup
		for _, m := range kit.Managers {
			asking.Go(func() {
				if _, err := m.Token(t.Context(), managertest.Environment); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		<-time.After(time.Second)
		synctest.Wait()
		won := 0
		for i, got := range each {
			want := sent{claims: 1, reads: got.reads}
			if got.others != 0 {
				won++
				want.releases, want.others = 2, 1 // one of those renews it; the token
			}
			// When it hears of the token it reads: and may read once more, since here no time passes between hearing of it and
			// reading it.
			if got != want || got.reads > 2 {
				t.Errorf("replica %d has sent %+v, want %+v and at most 2 reads", i, got, want)
			}
		}
		if won != 1 || kit.Endpoint.Calls() != 1 {
			t.Errorf("%d have won, %d calls, want one", won, kit.Endpoint.Calls())
		}
	})
}
