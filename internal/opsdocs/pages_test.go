package opsdocs_test

import "testing"

// A state brings a sandbox into the state that a section describes.
type state func(s *sandbox)

// A page is one in docs/ whose commands are run.
type page struct {
	name     string
	commands int // how many it shows: fewer would mean that they aren't found any more
	redis    map[string][]string
	states   map[string]state // by section
}

func (p page) run(t *testing.T) {
	found := 0
	states := map[string]bool{}
	for _, section := range readPage(t, p.name) {
		if len(section.commands) == 0 {
			continue
		}
		found += len(section.commands)
		prepare := p.states[section.anchor]
		if prepare == nil {
			t.Errorf("docs/%s#%s: the test doesn't know its state", p.name, section.anchor)
			continue
		}
		states[section.anchor] = true
		t.Run(section.anchor, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t, p.redis[section.anchor]...)
			prepare(s)
			for _, c := range section.commands {
				compare(t, p.name, c, s.run(c))
				if s.between != nil {
					s.between(c.text)
				}
			}
			if s.after != nil {
				s.after()
			}
		})
	}
	for name := range p.states {
		if !states[name] {
			t.Errorf("docs/%s#%s: no such section with commands", p.name, name)
		}
	}
	if found != p.commands {
		t.Errorf("docs/%s shows %d commands, want %d", p.name, found, p.commands)
	}
}
