package jitter_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/jitter"
)

// draw returns durations that are drawn one second after the other, from the same instant on each time.
func draw(t *testing.T) (d []time.Duration) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		for range 20 {
			d = append(d, jitter.N(time.Hour))
			<-time.After(time.Second)
		}
	})
	return d
}

func TestSeededItRepeats(t *testing.T) {
	free, freeAgain := draw(t), draw(t)
	undo := jitter.Seed(7)
	first, second := draw(t), draw(t)
	jitter.Seed(8)
	other := draw(t)
	undo()
	if !slices.Equal(first, second) {
		t.Error("the same seed gives other durations")
	}
	if slices.Equal(first, other) || slices.Equal(free, freeAgain) || slices.Equal(first, free) || slices.Equal(first, draw(t)) {
		t.Error("another seed, or none, gives the same durations")
	}
	if slices.Sort(first); len(slices.Compact(first)) < 20 {
		t.Errorf("durations repeat: %v", first)
	}
	for _, d := range slices.Concat(free, first, other) {
		if d < 0 || d >= time.Hour {
			t.Errorf("%v is not in [0, 1h)", d)
		}
	}
}
