//go:build unix

package login

import "syscall"

// apart keeps a Ctrl-C on this program's terminal from the browser.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
