package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/onetoken/onetoken/internal/peers"
)

// Each is dark enough to be read on white.
const ourColour = "#0b5cad"

var colours = []string{"#b3261e", "#c2571a", "#7b4fa3", "#1b7f5c", "#6b6b6b"}

// Plots returns SVGs by the names of their files.
func (r Results) Plots() map[string]string {
	plots := map[string]string{}
	if len(r.Herds) > 0 {
		latency := r.Herds[0].Latency
		plots["herd-wait.svg"] = chart("A cold herd: how long the last one waits for its token",
			"beyond the "+span(latency)+" that the endpoint takes; both scales are logarithmic",
			"replicas that start at the same instant", "longest wait, ms", byReplicas(r.Herds, func(h peers.HerdResult) float64 {
				return float64(h.Max) / float64(time.Millisecond)
			}))
		plots["herd-requests.svg"] = chart("A cold herd: what Redis is asked",
			"requests that clients send, but those that set connections up; both scales are logarithmic",
			"replicas that start at the same instant", "requests", byReplicas(r.Herds, func(h peers.HerdResult) float64 {
				return float64(h.Requests)
			}))
	}
	for _, latency := range latencies(r.Rotations) {
		plots[fmt.Sprintf("rotation-%dms.svg", latency.Milliseconds())] = r.rotationPlot(latency)
	}
	return plots
}

// byReplicas returns a line for each strategy.
func byReplicas(herds []peers.HerdResult, value func(peers.HerdResult) float64) []series {
	var lines []series
	for _, h := range herds {
		i := slices.IndexFunc(lines, func(l series) bool { return l.name == h.Strategy })
		if i < 0 {
			l := series{name: h.Strategy, colour: ourColour, bold: true}
			if h.Strategy != peers.Ours {
				l.colour, l.bold = colours[len(lines)%len(colours)], false
			}
			lines, i = append(lines, l), len(lines)
		}
		lines[i].x = append(lines[i].x, float64(h.Replicas))
		lines[i].y = append(lines[i].y, value(h))
	}
	return lines
}

func latencies(all []peers.RotationResult) []time.Duration {
	var found []time.Duration
	for _, r := range all {
		if !slices.Contains(found, r.Latency) {
			found = append(found, r.Latency)
		}
	}
	return found
}

func (r Results) rotationPlot(latency time.Duration) string {
	var panels []panel
	var of peers.Rotation
	for _, o := range r.Rotations {
		if o.Latency != latency {
			continue
		}
		of = o.Rotation
		p := panel{
			name: fmt.Sprintf("%s: %s of %s calls blocked, %.1f %% of the callers' time",
				o.Way, number(float64(o.Blocked)), number(float64(o.Calls)), 100*o.Waited),
			longest: underWay(o.Longest), blocked: float64(latency.Milliseconds()) / 10, colour: colours[0],
		}
		if o.Way == peers.Ours {
			p.colour = ourColour
		}
		panels = append(panels, p)
	}
	return timeline("Tokens of "+span(of.Life)+" are replaced under callers, by an endpoint that takes "+span(latency),
		fmt.Sprintf("the longest call under way in each %s; %d callers of %d replicas", span(peers.Slot), of.Callers, of.Replicas),
		peers.Slot.Seconds(), panels)
}

// underWay returns, in milliseconds, the longest call that was under way in each slot, of those that began in each.
func underWay(began []time.Duration) []float64 {
	longest := make([]float64, len(began))
	for i, d := range began {
		for j := i; j < len(longest) && j <= i+int(d/peers.Slot); j++ {
			longest[j] = max(longest[j], float64(d)/float64(time.Millisecond))
		}
	}
	return longest
}
