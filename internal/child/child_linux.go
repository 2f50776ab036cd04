package child

import "syscall"

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: !hasTerminal(), Pdeathsig: syscall.SIGKILL}
}
