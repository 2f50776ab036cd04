package faults_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if raw := os.Getenv(replicaEnv); raw != "" {
		if err := runReplica(raw); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	patience = 30 * time.Second      // for what must come, but has no bound of its own
	glance   = 10 * time.Millisecond // between two looks
)

// eventually looks until ok, for at most limit, and reports whether it came to that.
func eventually(limit time.Duration, ok func() bool) bool {
	ticker := time.NewTicker(glance)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// pass lets time pass that a fault lasts, or in which nothing may happen.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
