//go:build race

package e2e_test

const raceEnabled = true // the commands under test are built with the race detector, too
