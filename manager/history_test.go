package manager_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A backup is what an environment's token and mark were.
type backup struct {
	token, mark map[string]string
	end         time.Time // of the token
}

func (f *fleet) backup(rdb *redis.Client) backup {
	ctx := f.t.Context()
	return backup{
		rdb.HGetAll(ctx, key("token")).Val(), rdb.HGetAll(ctx, key("mark")).Val(), time.Now().Add(rdb.PTTL(ctx, key("token")).Val()),
	}
}

// restore is a failover to a replica that lags behind.
func (f *fleet) restore(rdb *redis.Client, b backup) {
	f.t.Helper()
	_, err := rdb.TxPipelined(f.t.Context(), func(p redis.Pipeliner) error {
		p.Del(f.t.Context(), key("token"), key("mark"))
		p.HSet(f.t.Context(), key("token"), b.token)
		p.PExpireAt(f.t.Context(), key("token"), b.end)
		p.HSet(f.t.Context(), key("mark"), b.mark)
		p.Publish(f.t.Context(), "onetoken:events", `{"env":"`+env+`","kind":"stored","version":1}`)
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// A failover may forget that a token was stored, though not that its version was issued. Who has that token goes with the
// others then: where a new token ends the older ones, one of the two is worth nothing.
func TestAStoreThatWasForgottenIsAHistoryThatWasLost(t *testing.T) {
	rdb := redistest.Mini(t)
	f := newFleet(t, rdb, 2)
	first := f.mustToken(f.managers[0])
	was := f.backup(rdb)
	second, err := f.managers[0].Refresh(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	was.mark["issued"] = second.Version.String()
	f.restore(rdb, was)
	eventually(t, 5*time.Second, "what Redis has is everybody's", func() bool {
		return f.mustToken(f.managers[0]).Version == first.Version && f.mustToken(f.managers[1]).Version == first.Version
	})
}

func TestARejectedTokenThatComesBackIsReplacedAgain(t *testing.T) {
	rdb := redistest.Mini(t)
	f := newFleet(t, rdb, 1)
	f.endpoint.SetDefault(mockendpoint.Reply{ExpiresIn: 10})
	api := newAPI(t, f.endpoint.Protect(echo))
	m := f.managers[0]
	first := f.mustToken(m)
	was := f.backup(rdb)
	pause(t, 1100*time.Millisecond) // until it is old enough to be rejected
	f.endpoint.RevokeAll()
	if status, _ := get(t, m.Client(env), api.URL); status != http.StatusOK {
		t.Fatalf("got %d for the rejected token, want the request repeated with another", status)
	}
	f.restore(rdb, was)
	eventually(t, 5*time.Second, "the rejected token is back", func() bool { return f.mustToken(m).Version == first.Version })
	if status, _ := get(t, m.Client(env), api.URL); status != http.StatusOK {
		t.Errorf("got %d for the rejected token that has come back", status)
	}
	f.calls(3)
}

// Whoever took the lease of a holder that can't store its token yet would ask the endpoint once more.
func TestTheLeaseIsKeptWhileATokenCannotBeStored(t *testing.T) {
	faults := &faulty{}
	faults.refuse.Store(3)
	f := newFleet(t, redistest.Mini(t), 2, func(i int, c *manager.Config, e *manager.Environment) {
		if i == 0 {
			withFaults(faults)(i, c, e)
		}
	})
	tok := f.mustToken(f.managers[0])
	if got := f.mustToken(f.managers[1]); got.Version != tok.Version {
		t.Errorf("the other replica has %v, want %v", got, tok)
	}
	f.calls(1)
	eventually(t, 5*time.Second, "the lease is given back", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s, err := f.managers[1].Status(ctx, env)
		return err == nil && s.Lock.Holder == nil
	})
}

// Redis has lost its history and takes no writes. Who wants another token than the one at hand, which is all that there is, is told so: that
// token was above all that Redis knows of, and no answer. And the replica doesn't read again and again.
func TestALostHistoryMakesNoAnswerOfTheTokenThatIsToBeReplaced(t *testing.T) {
	for name, call := range map[string]func(context.Context, *manager.Manager) (*manager.Token, error){
		"a longer life": tokenFor(25 * time.Second),
		"a refresh": func(ctx context.Context, m *manager.Manager) (*manager.Token, error) {
			return m.Refresh(ctx, managertest.Environment)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var readOnly atomic.Bool
				var reads atomic.Int64
				kit := managertest.NewFleet(t, 1, managertest.Options{
					InMemory: true, Endpoint: mockendpoint.Options{Life: 30 * time.Second},
					Config: func(_ int, c *manager.Config) {
						c.Redis.AddHook(tap(func(cmd redis.Cmder) error {
							if <-time.After(time.Millisecond); isRead(cmd) {
								reads.Add(1)
							} else if readOnly.Load() {
								return errors.New("READONLY You can't write against a read only replica")
							}
							return nil
						}))
					},
				})
				first, err := kit.Manager.Token(t.Context(), managertest.Environment)
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(8 * time.Second)
				must(t, kit.Redis.FlushAll(t.Context()).Err())
				readOnly.Store(true)
				reads.Store(0)
				for range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if tok, err := call(ctx, kit.Manager); err == nil {
						t.Errorf("got %v, which was to be replaced", tok)
					}
					cancel()
					<-time.After(100 * time.Millisecond)
				}
				if n := reads.Load(); n > 100 {
					t.Errorf("%d reads for 50 calls", n)
				}
				if tok, err := kit.Manager.Token(t.Context(), managertest.Environment); err != nil || tok.Version != first.Version {
					t.Errorf("Token: %v, %v; want the one at hand", tok, err)
				}
			})
		})
	}
}
