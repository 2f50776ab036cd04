//go:build !race

package opsdocs_test

const raceEnabled = false
