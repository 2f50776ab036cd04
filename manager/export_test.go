package manager

// Waiting is how many callers wait for the flight of an environment.
func Waiting(m *Manager, name string) int {
	e := m.envs.find(name)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight == nil {
		return 0
	}
	return e.flight.waiters
}
