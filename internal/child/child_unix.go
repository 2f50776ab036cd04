//go:build unix

package child

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func forwarded() []os.Signal {
	return []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
	}
}

// fromTerminal reports whether the command has had sig already: INT, QUIT and WINCH go to all of a terminal's foreground
// group. One that somebody has sent to this process alone looks the same there, and is lost: nothing tells them apart.
func fromTerminal(sig os.Signal) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
	default:
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer func() { _ = tty.Close() }()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// hasTerminal reports whether this process has a controlling terminal.
func hasTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err == nil {
		_ = tty.Close()
	}
	return err == nil
}

// extraFiles has a command find f as descriptor number, and those below it as this process was started with them.
func extraFiles(f *os.File, number int) []*os.File {
	list := make([]*os.File, number-3, number-2)
	for i := range list {
		fd := i + 3
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			list[i] = os.NewFile(uintptr(fd), "inherited")
		}
	}
	return append(list, f)
}

func exitCode(s *os.ProcessState) int {
	if status, ok := s.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return s.ExitCode()
}
