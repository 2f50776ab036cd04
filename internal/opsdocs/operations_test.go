package opsdocs_test

import (
	"testing"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	page{name: "operations.md", commands: 2, states: map[string]state{
		"which-environments-are-there": twoEnvironments,
	}}.run(t)
}

func twoEnvironments(s *sandbox) {
	s.token(s.worker("worker-3", "onetoken.yaml"))
}
