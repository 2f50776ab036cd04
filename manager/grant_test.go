package manager_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// rotating are the options of a kit whose refresh tokens rotate.
func rotating() managertest.Options {
	return managertest.Options{
		Environment: manager.Environment{Grant: manager.RefreshToken},
		Endpoint:    mockendpoint.Options{Rotate: true},
		InMemory:    true,
	}
}

// family returns what became of the kit's one login.
func family(t *testing.T, k *managertest.Kit) mockendpoint.Family {
	t.Helper()
	families := k.Endpoint.Families()
	if len(families) != 1 {
		t.Fatalf("%d families, want 1", len(families))
	}
	return families[0]
}

func TestARefreshTokenIsSpentOnceAndItsSuccessorKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managertest.NewFleet(t, 5, rotating())
		const rounds = 20
		for round := range rounds {
			var all sync.WaitGroup
			for _, m := range k.Managers {
				all.Go(func() {
					if _, err := m.Refresh(t.Context(), managertest.Environment); err != nil {
						t.Errorf("round %d: %v", round, err)
					}
				})
			}
			all.Wait()
			synctest.Wait()
		}
		f := family(t, k)
		if f.Revoked || f.Reuses > 0 {
			t.Errorf("the family was revoked (%v) after %d reuses", f.Revoked, f.Reuses)
		}
		if f.Rotations < rounds {
			t.Errorf("%d rotations, want %d at least", f.Rotations, rounds)
		}
		r, err := k.Store.Read(t.Context(), managertest.Environment)
		if err != nil || r.Grant == nil || r.Grant.Version != r.Token.Version || r.Grant.Taken != 0 {
			t.Errorf("grant %+v beside token version %v, %v; want the same version, and nobody who uses it", r.Grant, r.Token, err)
		}
	})
}

func TestARefusedRefreshTokenNeedsAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := managertest.NewFleet(t, 3, rotating())
		if _, err := k.Manager.Token(t.Context(), managertest.Environment); err != nil {
			t.Fatal(err)
		}
		k.Endpoint.RevokeFamily(k.RefreshTokens[managertest.Environment])
		if _, err := k.Manager.Invalidate(t.Context(), managertest.Environment, 0); err != nil {
			t.Fatal(err)
		}
		calls := k.Endpoint.Calls()
		for range 100 {
			for i, m := range k.Managers {
				_, err := m.Token(t.Context(), managertest.Environment)
				login, ok := errors.AsType[*manager.LoginError](err)
				if !ok || !strings.Contains(login.Reason, "invalid_grant") {
					t.Fatalf("replica %d: got %v, want a LoginError about invalid_grant", i, err)
				}
			}
			<-time.After(time.Minute) // beyond every backoff
		}
		if n := k.Endpoint.Calls() - calls; n != 1 {
			t.Errorf("the endpoint was asked %d times with a refresh token that it has refused, want once", n)
		}
		s, err := k.Manager.Status(t.Context(), managertest.Environment)
		if err != nil || s.State != manager.StateFailing || s.Failure.Code == nil || *s.Failure.Code != "invalid_grant" || s.Usable {
			t.Errorf("status %+v, %v; want failing with invalid_grant", s, err)
		}
		// A person logs in.
		if _, err := k.Managers[1].ImportGrant(t.Context(), managertest.Environment, manager.NewSecret(k.Endpoint.NewFamily()), 0); err != nil {
			t.Fatal(err)
		}
		for i, m := range k.Managers {
			if _, err := m.Token(t.Context(), managertest.Environment); err != nil {
				t.Errorf("replica %d, after a login: %v", i, err)
			}
		}
		if n := k.Endpoint.Calls() - calls; n != 2 {
			t.Errorf("%d calls, want one more for all after the login", n)
		}
	})
}
