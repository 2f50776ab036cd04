package manager

import (
	"fmt"
	"sync"
	"testing"
)

func TestARegistryWhileEnvironmentsComeAndGo(t *testing.T) {
	const many = 2000
	var r registry
	if r.find("a") != nil || len(r.all()) != 0 {
		t.Fatal("an empty registry has something")
	}
	stays := &Env{name: "stays"}
	r.add(stays)
	var changing sync.WaitGroup
	for part := range 4 {
		changing.Go(func() {
			for i := part; i < many; i += 4 {
				e := &Env{name: fmt.Sprint("env-", i)}
				if other := r.add(e); other != nil || r.find(e.name) != e {
					t.Errorf("%s: added beside %v, found %v", e.name, other, r.find(e.name))
				}
				if other := r.add(&Env{name: e.name}); other != e {
					t.Errorf("%s was added twice", e.name)
				}
			}
		})
	}
	changing.Go(func() {
		for range 20_000 {
			if r.find("stays") != stays {
				t.Error("what is there isn't found")
				return
			}
		}
	})
	changing.Wait()
	if n := len(r.all()); n != many+1 {
		t.Fatalf("%d environments, want %d", n, many+1)
	}
	var gone []*Env
	r.remove(func(e *Env) bool {
		if len(e.name)%2 == 0 {
			gone = append(gone, e)
			return true
		}
		return false
	})
	if n := len(r.all()); n+len(gone) != many+1 || len(gone) == 0 {
		t.Errorf("%d are left of %d after %d were removed", n, many+1, len(gone))
	}
	for _, e := range gone {
		if r.find(e.name) != nil {
			t.Errorf("%s is still found", e.name)
		}
	}
	for _, e := range r.all() {
		if r.find(e.name) != e {
			t.Errorf("%s isn't found", e.name)
		}
	}
}
