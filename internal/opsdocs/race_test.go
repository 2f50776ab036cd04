//go:build race

package opsdocs_test

const raceEnabled = true // the command under test is built with the race detector, too
