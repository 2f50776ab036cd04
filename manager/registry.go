package manager

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// A registry finds environments by name while others come and go: without a lock, without an allocation, and among ten
// thousand in less time than a map needs, which is most of what a token by name costs.
type registry struct {
	index atomic.Pointer[index]  // nil: there is none
	list  atomic.Pointer[[]*Env] // in the order in which they came; beyond its length the array may have more
	mu    sync.Mutex             // held by those who change it
}

// find returns nil where there is none.
func (r *registry) find(name string) *Env {
	if x := r.index.Load(); x != nil {
		return x.find(name)
	}
	return nil
}

// all returns the environments as they are now. The slice must not be changed.
func (r *registry) all() []*Env {
	if list := r.list.Load(); list != nil {
		return *list
	}
	return nil
}

// add adds e unless there is one of its name, which it returns.
func (r *registry) add(e *Env) (other *Env) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.find(e.name); other != nil {
		return other
	}
	list := append(r.all(), e)
	if x := r.index.Load(); x != nil && x.hasRoom(len(list)) {
		x.add(e)
	} else {
		r.index.Store(newIndex(list))
	}
	r.list.Store(&list)
	return nil
}

// remove takes out those of which gone is true, and reports whether there are any. Nothing is added before it has ended.
func (r *registry) remove(gone func(*Env) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Env
	before := r.all()
	for _, e := range before {
		if !gone(e) {
			list = append(list, e)
		}
	}
	if len(list) == len(before) {
		return false
	}
	r.index.Store(newIndex(list))
	r.list.Store(&list)
	return true
}

// settle returns when those who change the registry now have done so.
func (r *registry) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
}

// An index is a hash table with linear probing. Slots are filled, and never emptied: who looks while one is added finds it,
// or not yet.
type index struct {
	seed  maphash.Seed
	slots []atomic.Pointer[Env] // a power of two, at most half of them filled
}

func newIndex(envs []*Env) *index {
	n := 16
	for n < 3*len(envs) {
		n *= 2
	}
	x := &index{maphash.MakeSeed(), make([]atomic.Pointer[Env], n)}
	for _, e := range envs {
		x.add(e)
	}
	return x
}

func (x *index) hasRoom(n int) bool { return 2*n <= len(x.slots) }

func (x *index) find(name string) *Env {
	mask := uint64(len(x.slots) - 1)
	for i := maphash.String(x.seed, name); ; i++ {
		if e := x.slots[i&mask].Load(); e == nil || e.name == name {
			return e
		}
	}
}

// add fills a slot. Only one may add at a time.
func (x *index) add(e *Env) {
	mask := uint64(len(x.slots) - 1)
	for i := maphash.String(x.seed, e.name); ; i++ {
		if slot := &x.slots[i&mask]; slot.Load() == nil {
			slot.Store(e)
			return
		}
	}
}
