package sim

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", defaultSeeds, "how many runs")
	first = flag.Uint64("first", 1, "the seed of the first")
	times = flag.Int("times", 2, "how often a seed is run to see whether it replays")
	small = flag.Bool("shrink", true, "leave out the faults that a broken rule doesn't need")
	trail = flag.Int("trail", 60, "how many lines of a broken run are shown")
	logs  = flag.Bool("logs", false, "the managers' logs in the trace")
)

// TestMain has one goroutine run at a time: which of two that could run goes first is part of a run, too.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1)
	m.Run()
}

func TestEveryRuleHoldsInEverySeed(t *testing.T) { everyRuleHolds(t, *seeds, newSetup) }

// Of many seeds it takes half: that is rotations enough.
func TestEveryRuleHoldsWhereRefreshTokensRotate(t *testing.T) {
	everyRuleHolds(t, max(*seeds/2, min(*seeds, 15)), newRotatingSetup)
}

func everyRuleHolds(t *testing.T, n int, draw func(seed uint64) setup) {
	t.Helper()
	var virtual time.Duration
	var sum stats
	for i := range n {
		seed := *first + uint64(i)
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			s := draw(seed)
			s.log = *logs
			res := run(t, s)
			virtual += res.virtual
			sum.add(res.stats)
			if res.violation != nil {
				if *small {
					s, res = shrink(t, s, res)
				}
				t.Errorf("%s\n%s", s.text(res.virtual), res.trace.last(*trail))
			}
		})
		if !ok {
			break
		}
	}
	t.Logf("%v of virtual time: %+v", virtual, sum)
}

// shrink leaves out the faults that a broken rule doesn't need.
func shrink(t *testing.T, s setup, broken result) (setup, result) {
	t.Helper()
	s.without = map[int]bool{}
	for part := max(len(s.faults)/2, 1); len(s.faults) > 0; part /= 2 {
		for from := 0; from < len(s.faults); from += part {
			try := s
			try.without = maps.Clone(s.without)
			for i := from; i < min(from+part, len(s.faults)); i++ {
				try.without[i] = true
			}
			if len(try.without) == len(s.without) {
				continue
			}
			if res := run(t, try); res.violation != nil && res.violation.rule == broken.violation.rule {
				s, broken = try, res
			}
		}
		if part == 1 {
			break
		}
	}
	return s, broken
}

// TestASeedReplays: whatever a seed shows can be looked at again.
func TestASeedReplays(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has goroutines run in an order of its own")
	}
	differ := 0
	for seed := *first; seed < *first+uint64(*seeds)/3; seed++ {
		var before string
		for n := range *times {
			res := run(t, newSetup(seed))
			again := res.trace.String()
			if n > 0 && again != before {
				differ++
				t.Logf("seed %d: %s", seed, difference(before, again))
			}
			before = again
		}
	}
	runs := *seeds / 3 * (*times - 1)
	t.Logf("%d of %d runs differ from the one before", differ, runs)
	if differ*10 > runs { // some: two events at one instant are one read, or two
		t.Errorf("%d of %d runs differ from the one before: something that matters isn't the seed's", differ, runs)
	}
}

// difference is the first line in which two traces differ.
func difference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("line %d:\n%s\n%s", i, as[i], bs[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(as), len(bs))
}
