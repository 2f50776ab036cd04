package report

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A canvas is an SVG that is being drawn, on white: it is read on dark pages, too.
type canvas struct {
	strings.Builder
}

const (
	ink   = "#24292f"
	faint = "#d8dee4"
)

func newCanvas(width, height float64, title string) *canvas {
	c := new(canvas)
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" `+
		`font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="%s">`+"\n", width, height, width, height, ink)
	fmt.Fprintf(c, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n", html.EscapeString(title))
	return c
}

func (c *canvas) done() string { return c.String() + "</svg>\n" }

// text writes s at x, y; anchor is start, middle or end.
func (c *canvas) text(x, y float64, anchor, s, more string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, more, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
}

// A scale maps values to where they are drawn.
type scale struct {
	low, high float64 // values
	from, to  float64 // where low and high are drawn
	log       bool
}

func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log(max(v, low)), math.Log(low), math.Log(high)
	}
	return s.from + (v-low)/(high-low)*(s.to-s.from)
}

// logScale has room for all values from low to high. Its ticks, with which it begins and ends, are 1, 2 and 5 times the powers
// of ten.
func logScale(low, high, from, to float64) (scale, []float64) {
	var ticks []float64
	for power := range 12 {
		for _, n := range []float64{1, 2, 5} {
			ticks = append(ticks, n*math.Pow10(power-3))
		}
	}
	last, _ := slices.BinarySearch(ticks, high)
	ticks = ticks[:last+1]
	for len(ticks) > 2 && ticks[1] <= low {
		ticks = ticks[1:]
	}
	return scale{low: ticks[0], high: ticks[len(ticks)-1], from: from, to: to, log: true}, ticks
}

// A series is a line of a chart.
type series struct {
	name   string
	colour string
	x, y   []float64
	bold   bool
}

// chart draws lines over two logarithmic scales, with their names at the right, in the order in which the lines end.
func chart(title, subtitle, xName, yName string, lines []series) string {
	const width, height, left, right, top, bottom = 900, 480, 88, 650, 72, 416
	c := newCanvas(width, height, title)
	c.text(24, 30, "start", title, ` font-size="17" font-weight="600"`)
	c.text(24, 50, "start", subtitle, ` fill="#57606a"`)
	lowX, highX, lowY, highY := bounds(lines)
	x := scale{low: lowX / 1.12, high: highX * 1.06, from: left, to: right, log: true}
	y, ticks := logScale(lowY, highY, bottom, top)
	for _, t := range ticks {
		c.line(left, y.at(t), right, y.at(t), faint)
		c.text(left-8, y.at(t)+4.5, "end", number(t), "")
	}
	for _, t := range lines[0].x {
		c.line(x.at(t), bottom, x.at(t), bottom+5, ink)
		c.text(x.at(t), bottom+21, "middle", number(t), "")
	}
	c.line(left, bottom, right, bottom, ink)
	c.text((left+right)/2, height-18, "middle", xName, "")
	c.text(0, 0, "middle", yName, fmt.Sprintf(` transform="translate(28 %d) rotate(-90)"`, (top+bottom)/2))
	names := labels(lines, y)
	for i, l := range lines {
		c.series(l, x, y)
		end := y.at(l.y[len(l.y)-1])
		last := x.at(l.x[len(l.x)-1])
		fmt.Fprintf(c, `<path d="M%.1f %.1fL%d %.1f" fill="none" stroke="%s" stroke-opacity="0.5" stroke-dasharray="2 3"/>`+"\n",
			last+6, end, right+12, names[i], l.colour)
		weight := ""
		if l.bold {
			weight = ` font-weight="700"`
		}
		c.text(right+18, names[i]+4.5, "start", l.name, ` fill="`+l.colour+`"`+weight)
	}
	return c.done()
}

func bounds(lines []series) (lowX, highX, lowY, highY float64) {
	lowX, lowY = math.Inf(1), math.Inf(1)
	for _, l := range lines {
		for i := range l.x {
			lowX, highX = min(lowX, l.x[i]), max(highX, l.x[i])
			lowY, highY = min(lowY, l.y[i]), max(highY, l.y[i])
		}
	}
	return lowX, highX, lowY, highY
}

func (c *canvas) series(l series, x, y scale) {
	width := 1.8
	if l.bold {
		width = 3.2
	}
	points := make([]string, len(l.x))
	for i := range l.x {
		points[i] = fmt.Sprintf("%.1f,%.1f", x.at(l.x[i]), y.at(l.y[i]))
	}
	fmt.Fprintf(c, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%g" stroke-linejoin="round"/>`+"\n",
		strings.Join(points, " "), l.colour, width)
	for i := range l.x {
		fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"/>`+"\n", x.at(l.x[i]), y.at(l.y[i]), width+1.4, l.colour)
	}
}

// labels returns where the lines' names go: as near to where the lines end as they can without touching each other.
func labels(lines []series, y scale) []float64 {
	const apart = 19
	order := make([]int, len(lines))
	at := make([]float64, len(lines))
	for i, l := range lines {
		order[i], at[i] = i, y.at(l.y[len(l.y)-1])
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(at[a], at[b]) })
	for range 100 { // each pair that is too near parts by half of what it lacks
		for i := 1; i < len(order); i++ {
			above, below := order[i-1], order[i]
			if lack := apart - (at[below] - at[above]); lack > 0 {
				at[above] -= lack / 2
				at[below] += lack / 2
			}
		}
	}
	return at
}

// A panel is a timeline of the longest call under way in each slot, in milliseconds.
type panel struct {
	name    string
	longest []float64
	blocked float64 // from here on a call counts as blocked
	colour  string
}

// timeline draws panels above each other, over seconds.
func timeline(title, subtitle string, slot float64, panels []panel) string {
	const width, left, right, top, tall, gap = 900, 88, 876, 96, 96, 42
	height := float64(top + len(panels)*(tall+gap) + 30)
	c := newCanvas(width, height, title)
	c.text(24, 30, "start", title, ` font-size="17" font-weight="600"`)
	c.text(24, 50, "start", subtitle, ` fill="#57606a"`)
	highest := 0.0
	for _, p := range panels {
		highest = max(highest, slices.Max(p.longest))
	}
	step := 50.0
	for highest/step > 4 {
		step *= 2
	}
	seconds := slot * float64(len(panels[0].longest))
	x := scale{high: seconds, from: left, to: right}
	bottom := 0.0
	for i, p := range panels {
		begin := float64(top + i*(tall+gap))
		bottom = begin + tall
		y := scale{high: math.Ceil(highest/step) * step, from: bottom, to: begin}
		for v := 0.0; v <= y.high; v += step {
			c.line(left, y.at(v), right, y.at(v), faint)
			c.text(left-8, y.at(v)+4.5, "end", number(v), "")
		}
		c.text(left, begin-8, "start", p.name, ` font-weight="600" fill="`+p.colour+`"`)
		c.bars(p, slot, x, y)
		c.line(left, bottom, right, bottom, ink)
	}
	for s := 0.0; s <= seconds+0.001; s++ {
		c.line(x.at(s), bottom, x.at(s), bottom+5, ink)
		c.text(x.at(s), bottom+20, "middle", number(s), "")
	}
	c.text((left+right)/2, bottom+40, "middle", "seconds", "")
	c.text(0, 0, "middle", "longest call, ms", fmt.Sprintf(` transform="translate(28 %.0f) rotate(-90)"`, (top+bottom)/2))
	return c.done()
}

func (c *canvas) bars(p panel, slot float64, x, y scale) {
	for i, next := 0, 0; i < len(p.longest); i = next {
		v := p.longest[i]
		for next = i + 1; next < len(p.longest) && p.longest[next] == v; {
			next++
		}
		colour := "#8c959f"
		if v > p.blocked {
			colour = p.colour
		}
		if tall := y.from - y.at(v); tall >= 0.05 {
			from, to := x.at(slot*float64(i)), x.at(slot*float64(next))
			fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" shape-rendering="crispEdges"/>`+"\n",
				from, y.at(v), to-from, tall, colour)
		}
	}
}
