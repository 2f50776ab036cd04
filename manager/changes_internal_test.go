package manager

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/redistest"
)

// Whoever takes environments out holds the registry's lock while it looks at each; a flight that starts, under its environment's,
// needs the manager's. So who adds one must not hold the one while it waits for the other.
func TestAnEnvironmentIsAddedWithoutKeepingFlightsFromStarting(t *testing.T) {
	e := quietEnv(t)
	source := SourceFunc(func(context.Context) (*Reply, error) { return nil, errors.New("no token") })
	adds, started := make(chan error, 1), make(chan struct{})
	e.m.envs.remove(func(*Env) bool {
		go func() { adds <- e.m.SetEnvironment("other", Environment{Source: source}) }()
		<-time.After(50 * time.Millisecond) // in which it comes to wait for the registry
		go func() { e.m.spawn(func() {}); close(started) }()
		select {
		case <-started:
		case <-time.After(2 * time.Second):
			t.Error("no flight can be started while an environment is added and others are taken out")
		}
		return false
	})
	if err := <-adds; err != nil {
		t.Error(err)
	}
}

// An environment that is set, or listened to, while it is let go is there afterwards: as it was set, and with its listener.
func TestWhatIsSetWhileItIsLetGoStays(t *testing.T) {
	source := SourceFunc(func(context.Context) (*Reply, error) {
		return &Reply{AccessToken: NewSecret("a"), ExpiresIn: time.Hour}, nil
	})
	m, err := New(Config{Redis: redistest.Mini(t), Resolve: func(context.Context, string) (Environment, error) {
		return Environment{Source: source}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	for range 300 {
		e, err := m.Env("a")
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { m.letGo(m.now() + time.Hour) })
		both.Go(func() {
			if err := m.SetEnvironment("a", Environment{Source: source}); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		found := m.envs.find("a")
		if found == nil || found.isRetired() {
			t.Fatal("what was set has been let go")
		}
		if found != e && !e.isRetired() {
			t.Fatal("there are two of one name")
		}
		if err := m.RemoveEnvironment("a"); err != nil {
			t.Fatal(err)
		}
	}
}
