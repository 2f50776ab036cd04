package child

import (
	"os"
	"syscall"
)

// forwarded is what Windows has: a Ctrl-C, which the console sends to all of its processes.
func forwarded() []os.Signal { return []os.Signal{os.Interrupt} }

func fromTerminal(os.Signal) bool { return true }

func attributes() *syscall.SysProcAttr { return nil }

// extraFiles is never asked for anything here.
func extraFiles(*os.File, int) []*os.File { return nil }

func exitCode(s *os.ProcessState) int { return s.ExitCode() }
