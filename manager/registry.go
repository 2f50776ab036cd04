package manager

import (
	"maps"
	"sync"
	"sync/atomic"
)

// A registry finds environments by name while others come and go: without a lock, and without an allocation.
type registry struct {
	found atomic.Pointer[table]
	mu    sync.Mutex // held by those who change it
}

// A table is what a registry holds at one moment. It is immutable.
type table struct {
	base   map[string]*Env
	recent map[string]*Env // since base was made: few, so that to add one is not to copy all
	list   []*Env          // both, in the order in which they came
}

func (r *registry) table() *table {
	if t := r.found.Load(); t != nil {
		return t
	}
	return &table{}
}

// find returns nil where there is none.
func (r *registry) find(name string) *Env {
	t := r.found.Load()
	if t == nil {
		return nil
	}
	if e, ok := t.base[name]; ok {
		return e
	}
	return t.recent[name]
}

// all returns the environments as they are now. The slice must not be changed.
func (r *registry) all() []*Env { return r.table().list }

// add adds e unless there is one of its name, which it returns.
func (r *registry) add(e *Env) (other *Env) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.find(e.name); other != nil {
		return other
	}
	t := r.table()
	next := &table{base: t.base, recent: maps.Clone(t.recent), list: append(t.list, e)} // beyond what others see of the list
	if next.recent == nil {
		next.recent = map[string]*Env{}
	}
	next.recent[e.name] = e
	// Rebuilt each time that the recent ones are as many as the root of all, n additions copy n^1.5 entries altogether.
	if n := len(next.recent); n*n > len(next.list)+rebuilt {
		next.rebuild()
	}
	r.found.Store(next)
	return nil
}

// rebuilt is the square of how many recent ones there are at least before a table is rebuilt.
const rebuilt = 256

// remove takes out those of which gone is true, and returns them.
func (r *registry) remove(gone func(*Env) bool) []*Env {
	r.mu.Lock()
	defer r.mu.Unlock()
	var removed []*Env
	next := &table{}
	for _, e := range r.all() {
		if gone(e) {
			removed = append(removed, e)
		} else {
			next.list = append(next.list, e)
		}
	}
	if len(removed) > 0 {
		next.rebuild()
		r.found.Store(next)
	}
	return removed
}

func (t *table) rebuild() {
	t.base, t.recent = make(map[string]*Env, len(t.list)), nil
	for _, e := range t.list {
		t.base[e.name] = e
	}
}
