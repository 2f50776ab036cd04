package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNamesDoNotTouch(t *testing.T) {
	y, _ := logScale(1, 1000, 400, 0)
	ends := []float64{20, 21, 22, 500, 490, 23}
	var lines []series
	for _, v := range ends {
		lines = append(lines, series{x: []float64{1}, y: []float64{v}})
	}
	at := labels(lines, y)
	for i, a := range at {
		for j, b := range at {
			if i != j && math.Abs(a-b) < 18.5 {
				t.Errorf("the names of lines %d and %d are %.1f apart", i, j, math.Abs(a-b))
			}
			if ends[i] > ends[j] && a > b {
				t.Errorf("line %d ends above line %d, its name is below", i, j)
			}
		}
	}
}

func TestScales(t *testing.T) {
	s, ticks := logScale(3, 700, 0, 1)
	want := []string{"2", "5", "10", "20", "50", "100", "200", "500", "1,000"}
	var got []string
	for _, v := range ticks {
		got = append(got, number(v))
	}
	if !slices.Equal(got, want) {
		t.Errorf("ticks %v, want %v", got, want)
	}
	for v, want := range map[float64]float64{0.5: 0, 2: 0, math.Sqrt(2000): 0.5, 1000: 1} {
		if got := s.at(v); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v is drawn at %v, want %v", v, got, want)
		}
	}
}

func TestACallIsUnderWayUntilItReturns(t *testing.T) {
	const ms = time.Millisecond
	got := underWay([]time.Duration{ms, 50 * ms, ms, 25 * ms, ms})
	if want := []float64{1, 50, 50, 50, 25}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestPlotsAreXML(t *testing.T) {
	line := series{name: "<a> & b", colour: ourColour, x: []float64{10, 20}, y: []float64{5, 7}}
	for _, svg := range []string{
		chart("a < b", "", "x", "y", []series{line}),
		timeline("a & b", "", 0.5, []panel{{name: "<p>", longest: []float64{0, 30, 2}, blocked: 20, colour: ourColour}}),
	} {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, svg)
			}
		}
	}
}
