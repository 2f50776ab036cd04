//go:build unix

package herd

import "syscall"

// checkFiles sees that the process may open as many files as the replicas' connections need, and some more.
func checkFiles(replicas int) error {
	const others = 100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil //nolint:nilerr // a system that doesn't tell is believed to have room
	}
	if needs := replicas*ConnectionsEach + others; uint64(limit.Cur) < uint64(needs) { //nolint:unconvert // its type isn't the same everywhere
		return &CapacityError{What: "open files of this process (ulimit -n)", Needs: needs, Of: int(limit.Cur)}
	}
	return nil
}
