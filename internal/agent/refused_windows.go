package agent

import (
	"errors"
	"syscall"
)

// wsaeconnrefused is Winsock's ECONNREFUSED.
const wsaeconnrefused = syscall.Errno(10061)

func isRefused(err error) bool { return errors.Is(err, wsaeconnrefused) }
