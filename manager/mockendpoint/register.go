package mockendpoint

import "slices"

// kept is how many requests, tokens and the like are remembered at least, so that a server that runs for weeks doesn't
// grow.
const kept = 10_000

// latest drops the oldest of list, in large steps, so that kept remain.
func latest[T any](list []T) []T {
	if len(list) < 2*kept {
		return list
	}
	return slices.Clone(list[len(list)-kept:])
}

// A register finds the latest entries by their text.
type register[T any] struct {
	byText map[string]T
	order  []string // oldest first
}

// add enters what isn't there yet.
func (r *register[T]) add(text string, entry T) {
	if r.byText == nil {
		r.byText = map[string]T{}
	}
	r.byText[text] = entry
	all := append(r.order, text)
	r.order = latest(all)
	for _, old := range all[:len(all)-len(r.order)] {
		delete(r.byText, old)
	}
}

// find returns the zero T where there is no such entry.
func (r *register[T]) find(text string) T { return r.byText[text] }

// has reports whether there is such an entry.
func (r *register[T]) has(text string) bool {
	_, ok := r.byText[text]
	return ok
}
