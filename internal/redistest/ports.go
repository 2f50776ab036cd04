package redistest

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// ports are where a server's port is looked for. They are below the range that systems take the ports of outgoing
// connections from (32768 to 60999 on Linux), so that one is likely to stay free over a restart. A port of that range may be
// refused for a minute after such a connection has ended, and after a busy test that is true of thousands.
type ports struct{ from, to, further int }

var (
	plainPorts   = ports{from: 20000, to: 32000}
	clusterPorts = ports{from: 10000, to: 22000, further: 10000} // a node of a Cluster listens at its port + 10000, too
)

func portsOf(config []string) ports {
	if slices.ContainsFunc(config, func(line string) bool { return strings.HasPrefix(line, "cluster-enabled yes") }) {
		return clusterPorts
	}
	return plainPorts
}

var given sync.Map // the ports that free has tried or returned

// free returns a port of 127.0.0.1 that nobody listens on. It is returned once, so that nobody else in this process answers
// for a server that is stopped.
func (p ports) free() (int, error) {
	last := errors.New("there is no free port")
	for range 100 {
		port := p.from + rand.IntN(p.to-p.from)
		if last = take(port); last == nil && p.further > 0 {
			last = take(port + p.further)
		}
		if last == nil {
			return port, nil
		}
	}
	return 0, last
}

// take returns an error unless the port has not been given yet and can be listened at.
func take(port int) error {
	if _, before := given.LoadOrStore(port, true); before {
		return errors.New("the port was given already")
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // it doesn't block
	if err != nil {
		return err
	}
	return l.Close()
}
