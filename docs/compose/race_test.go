//go:build race

package compose_test

const raceEnabled = true // the commands under test are built with the race detector, too
