package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A machine whose clock isn't Redis's.
func TestClock(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	for _, c := range []struct {
		off  time.Duration
		want Level
	}{{0, LevelOK}, {time.Hour, LevelWarning}, {-time.Hour, LevelWarning}} {
		e := &examination{now: func() time.Time { return time.Now().Add(c.off) }}
		var r report
		e.clock(t.Context(), &r, &node{name: "it", rdb: rdb})
		if len(r.findings) != 1 || r.findings[0].Level != c.want {
			t.Errorf("off by %v: %+v", c.off, r.findings)
		}
		if f := r.findings[0]; c.off != 0 && (!strings.Contains(f.Message, "Tokens are kept right all the same") || f.Mend == "") {
			t.Errorf("off by %v: %+v", c.off, f)
		}
	}
}

// Whether the fleet backs off is told by Redis's clock, whatever this machine's says.
func TestNothingIsAskedWhileTheFleetBacksOff(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{0, 100 * time.Hour, -100 * time.Hour} {
		var environment manager.Environment
		environment.BackoffRefused = manager.Backoff{Min: time.Hour, Max: time.Hour}
		kit := managertest.New(t, managertest.Options{Environment: environment})
		kit.Endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client"})
		e := &examination{envs: []string{managertest.Environment}, manager: kit.Manager, now: func() time.Time { return time.Now().Add(off) }}
		for _, want := range []string{"invalid_client", "not asked"} {
			var r report
			e.tokens(t.Context(), &r)
			if len(r.findings) != 1 || r.findings[0].Level != LevelFailure || !strings.Contains(r.findings[0].Message, want) {
				t.Errorf("off by %v: %+v, want %s", off, r.findings, want)
			}
		}
		if n := kit.Endpoint.Calls(); n != 1 {
			t.Errorf("off by %v: %d calls", off, n)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"6.2.0": true, "6.2": true, "7.0.15": true, "8": true, "10.1.2": true, "6.0.16": false, "6": false, "5.0.7": false, "": false, "x.y": false,
	} {
		if got := atLeast(version, 6, 2); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
