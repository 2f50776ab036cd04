package faults_test

import (
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/faultproxy"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// Who looks is stopped for less than a lease, once its look has taken that: its reply is too late, and it looks again.
func TestALookerStoppedForLessThanItsLease(t *testing.T) {
	t.Parallel()
	testFault(t, fault{
		name: "looker stopped for less than its lease",
		strike: func(s *site, h hit) {
			s.endpoint.SetDefault(mockendpoint.Reply{Delay: slowly, ExpiresIn: 30})
			s.stop(s.named(h.replica), lease-500*time.Millisecond)
			h.goOn(faultproxy.Pass)
		},
		calls: func(place) int { return 1 },
		errs:  wokenUp,
	}, firstPlaces[1], true)
}

// All the faults strike a first look.
func TestAFaultAtTheFirstLook(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		for _, p := range firstPlaces[:2] {
			if f.cold || f.skip != nil && f.skip(p) {
				continue
			}
			t.Run(f.name+" "+p.name, func(t *testing.T) {
				t.Parallel()
				testFault(t, f, p, true)
			})
		}
	}
}
