//go:build race

package main_test

const raceEnabled = true // the commands under test are built with the race detector, too
