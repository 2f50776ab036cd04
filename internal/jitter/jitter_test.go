package jitter_test

import (
	"slices"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/jitter"
)

func draw() []time.Duration {
	var d []time.Duration
	for range 20 {
		d = append(d, jitter.N(time.Hour))
	}
	return d
}

func TestSeededItRepeats(t *testing.T) {
	free := draw()
	undo := jitter.Seed(7)
	first := draw()
	jitter.Seed(7)
	second := draw()
	jitter.Seed(8)
	other := draw()
	undo()
	if !slices.Equal(first, second) {
		t.Error("the same seed gives other durations")
	}
	if slices.Equal(first, other) || slices.Equal(first, free) || slices.Equal(free, draw()) {
		t.Error("another seed, or none, gives the same durations")
	}
	for _, d := range slices.Concat(free, first) {
		if d < 0 || d >= time.Hour {
			t.Errorf("%v is not in [0, 1h)", d)
		}
	}
}
