package redistest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server is a redis-server process. Its methods are for one goroutine at a time.
type Server struct {
	addr     string
	port     int
	config   []string
	sentinel bool

	cmd  *exec.Cmd // nil while stopped
	life io.Closer // the server ends when it is closed, by us or by the end of this process
	pid  int       // of redis-server itself
}

// Addr returns the server's address. It stays the same over a restart.
func (s *Server) Addr() string { return s.addr }

// URL returns the server's address as a redis:// URL.
func (s *Server) URL() string { return "redis://" + s.addr + "/0" }

// PID returns the server's process id; another one after a restart.
func (s *Server) PID() int { return s.pid }

// Stop kills the server, with all it held. It is nothing to a stopped one.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	// The watchdog kills and reaps the server. Where it doesn't, its whole process group goes.
	group := s.cmd.Process.Pid
	late := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
	_ = s.life.Close()
	_ = s.cmd.Wait()
	late.Stop()
	s.cmd = nil
}

// Start starts a stopped server again, empty, at its address.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if s.cmd != nil {
		return
	}
	if err := s.run(); err != nil {
		t.Fatalf("redistest: %v", err)
	}
}

// Pause stops the process from running (SIGSTOP): connections stay open, and nothing answers.
func (s *Server) Pause(t testing.TB) { s.signal(t, syscall.SIGSTOP) }

// Continue lets a paused server run again.
func (s *Server) Continue(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(s.pid, sig); err != nil {
		t.Fatalf("redistest: %v to redis-server: %v", sig, err)
	}
}

func installed() error {
	_, err := exec.LookPath("redis-server")
	return err
}

func start(config []string, sentinel bool) (*Server, error) {
	var last error
	for range 10 { // another process may take the port before the server does
		port, err := portsOf(config).free()
		if err != nil {
			return nil, err
		}
		s := &Server{config: config, sentinel: sentinel, port: port, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
		if last = s.run(); last == nil {
			return s, nil
		}
	}
	return nil, last
}

// watchdog runs the server until standard input ends, which happens when the test binary does, however that ends. Its
// arguments are the configuration file, the server's directory and, for a Sentinel, --sentinel. It ignores SIGHUP, which
// the kernel sends to a process group that loses its parent while one of it is stopped.
const watchdog = `trap '' HUP
redis-server "$0" $2 >/dev/null 2>"$1/stderr" & pid=$!
echo $pid
cat >/dev/null
kill -9 $pid
wait $pid
rm -rf "$1"`

func (s *Server) run() error {
	dir, err := os.MkdirTemp("", "onetoken-redis-")
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "redis.conf")
	lines := []string{
		"bind 127.0.0.1", "port " + strconv.Itoa(s.port), "dir " + dir, "logfile " + filepath.Join(dir, "log"), "daemonize no",
	}
	mode, sign := "", "Ready to accept connections"
	if s.sentinel {
		mode, sign = "--sentinel", "Sentinel ID is"
	} else {
		lines = append(lines, `save ""`, "appendonly no")
	}
	for _, line := range s.config {
		lines = append(lines, strings.ReplaceAll(line, "{port}", strconv.Itoa(s.port)))
	}
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	if err := s.launch(conf, dir, mode); err != nil {
		return err
	}
	if err := ready(dir, sign); err != nil {
		s.Stop()
		return err
	}
	return nil
}

func (s *Server) launch(conf, dir, mode string) error {
	cmd := exec.Command("sh", "-c", watchdog, conf, dir, mode) //nolint:noctx // it ends with life
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}      // an interrupt of the tests isn't its business
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.life = cmd, life
	if _, err = fmt.Fscanln(out, &s.pid); err != nil {
		s.Stop()
	}
	return err
}

// ready waits until the server's own log says, by the sign, that it serves: a connection might be answered by another
// server, or refused for want of a password.
func ready(dir, sign string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	read := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return string(b)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		log := read("log")
		if strings.Contains(log, sign) {
			return nil
		}
		if strings.Contains(log, "aborting") || strings.Contains(read("stderr"), "FATAL") {
			break
		}
	}
	return fmt.Errorf("redis-server doesn't start:\n%s%s", read("log"), read("stderr"))
}
