//go:build race

package sim

const (
	raceEnabled  = true
	defaultSeeds = 16 // a run takes several times as long
)
