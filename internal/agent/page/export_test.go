package page

import "time"

// Pace is what a test may change of the pace: zero fields mean the default.
type Pace struct {
	All, Names, Beat, Stuck time.Duration
	Streams, Queue          int
}

// NewAt is New at another pace.
func NewAt(o Options, change Pace) *Page {
	p := defaultPace
	for _, d := range []struct {
		to   *time.Duration
		from time.Duration
	}{{&p.all, change.All}, {&p.names, change.Names}, {&p.beat, change.Beat}, {&p.stuck, change.Stuck}} {
		if d.from != 0 {
			*d.to = d.from
		}
	}
	if change.Streams != 0 {
		p.streams = change.Streams
	}
	if change.Queue != 0 {
		p.queue = change.Queue
	}
	return newPage(o, p)
}
