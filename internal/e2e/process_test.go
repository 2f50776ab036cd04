package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager"
)

// A process is a child of the test. At the test's end it is killed by its pid, if it still runs, and what it wrote is
// searched for secrets.
type process struct {
	t              *testing.T
	name           string // of the replica
	cmd            *exec.Cmd
	cmdline        []byte // as everybody on the machine can see it
	stdout, stderr output
	begun          time.Time

	gone chan struct{} // closed once the process is gone and end is set
	end  time.Time
}

// A result is what a process left.
type result struct {
	t              *testing.T
	name           string
	stdout, stderr string
	code           int // -1: ended by a signal
	took           time.Duration
	end            time.Time
}

// start starts cmd. What it writes to stdout goes to each of also, too.
func (s *site) start(name string, cmd *exec.Cmd, also ...io.Writer) *process {
	s.t.Helper()
	p := &process{t: s.t, name: name, cmd: cmd, begun: time.Now(), gone: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(append(also, &p.stdout)...), &p.stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	p.cmdline, _ = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid)) // where there is a /proc
	go func() {
		defer close(p.gone)
		_ = cmd.Wait() // its error is in the ProcessState
		p.end = time.Now()
	}()
	s.t.Cleanup(func() {
		p.kill()
		s.search(p)
	})
	return p
}

// kill ends the process, stopped or not, and waits for its end.
func (p *process) kill() {
	for _, sig := range []os.Signal{syscall.SIGCONT, syscall.SIGKILL} {
		_ = p.cmd.Process.Signal(sig) // an error: it is gone
	}
	<-p.gone
}

// signal sends a signal to the process, which must be there.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%v to %s: %v", sig, p.name, err)
	}
}

// runs reports whether the process is still there.
func (p *process) runs() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// wait waits for the process's end, which something that was done before must bring about.
func (p *process) wait() result {
	p.t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	select {
	case <-p.gone:
	case <-deadline.C:
		p.t.Fatalf("%s: %v doesn't end; stderr: %s", p.name, p.cmd.Args[1:], p.stderr.String())
	}
	return result{p.t, p.name, p.stdout.String(), p.stderr.String(), p.cmd.ProcessState.ExitCode(), p.end.Sub(p.begun), p.end}
}

// succeeds fails the test unless the process ended well and in silence; it returns stdout.
func (r result) succeeds() string {
	r.t.Helper()
	if r.code != 0 || r.stderr != "" {
		r.t.Fatalf("%s: exit code %d, stderr: %s", r.name, r.code, r.stderr)
	}
	return r.stdout
}

// fails checks the exit code, that stdout is empty and that stderr is one line; it returns that line.
func (r result) fails(code int) string {
	r.t.Helper()
	if r.code != code {
		r.t.Errorf("%s: exit code %d, want %d; stderr: %s", r.name, r.code, code, r.stderr)
	}
	if r.stdout != "" {
		r.t.Errorf("%s: stdout: %q", r.name, r.stdout)
	}
	line, ended := strings.CutSuffix(r.stderr, "\n")
	if !ended || line == "" || strings.ContainsAny(line, "\n\r") {
		r.t.Errorf("%s: stderr isn't one line: %q", r.name, r.stderr)
	}
	return line
}

// decode reads the JSON that a command printed.
func decode[T any](r result) T {
	r.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.succeeds()), &v); err != nil {
		r.t.Fatalf("%s: %v: %s", r.name, err, r.stdout)
	}
	return v
}

// An output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// A replica is a process of cmd/worker, with the reports that it writes.
type replica struct {
	*process
	log *reports
}

type reports struct {
	mu   sync.Mutex
	part []byte // of a line that isn't complete yet
	list []worker.Report
	err  error // the first line that was no report
}

func (l *reports) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		line, rest, complete := bytes.Cut(l.part, []byte("\n"))
		if !complete {
			return len(p), nil
		}
		var r worker.Report
		if err := json.Unmarshal(line, &r); err != nil {
			l.err = errors.Join(l.err, fmt.Errorf("%w: %s", err, line))
		} else {
			l.list = append(l.list, r)
		}
		l.part = rest
	}
}

// reports returns all that the replica has reported, in order.
func (r *replica) reports() []worker.Report {
	r.t.Helper()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if r.log.err != nil {
		r.t.Fatalf("%s: no report: %v", r.name, r.log.err)
	}
	return slices.Clone(r.log.list)
}

// last returns the latest report, the zero Report before the first.
func (r *replica) last() worker.Report {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if len(r.log.list) == 0 {
		return worker.Report{}
	}
	return r.log.list[len(r.log.list)-1]
}

// A fleet is a number of replicas.
type fleet []*replica

// all waits until the last report of every replica is as wanted, and returns how long that took.
func (f fleet) all(limit time.Duration, what string, wanted func(worker.Report) bool) time.Duration {
	f[0].t.Helper()
	return eventually(f[0].t, limit, what, func() bool {
		return !slices.ContainsFunc(f, func(r *replica) bool {
			if !r.runs() {
				r.t.Fatalf("%s has ended; stderr: %s", r.name, r.stderr.String())
			}
			return !wanted(r.last())
		})
	})
}

// version waits until every replica has a token, and returns its version, which must be the same everywhere.
func (f fleet) version() manager.Version {
	f[0].t.Helper()
	f.all(patience, "every replica has a token", ok)
	v := f[0].last().Version
	for _, r := range f {
		if got := r.last().Version; got != v {
			r.t.Fatalf("%s has version %d, %s has %d", r.name, got, f[0].name, v)
		}
	}
	return v
}

// neverFailed fails the test if a replica was ever told that there is no token, or has not reported at all.
func (f fleet) neverFailed() {
	f[0].t.Helper()
	for _, r := range f {
		list := r.reports()
		if len(list) == 0 {
			r.t.Errorf("%s has not reported", r.name)
		}
		if i := slices.IndexFunc(list, func(r worker.Report) bool { return !r.OK }); i >= 0 {
			r.t.Errorf("%s had no token: %+v", r.name, list[i])
		}
	}
}

// without returns the fleet but one of its replicas.
func (f fleet) without(one *replica) fleet {
	return slices.DeleteFunc(slices.Clone(f), func(r *replica) bool { return r == one })
}

// named returns the replica with a name.
func (f fleet) named(name string) *replica {
	f[0].t.Helper()
	i := slices.IndexFunc(f, func(r *replica) bool { return r.name == name })
	if i < 0 {
		f[0].t.Fatalf("no replica is called %q", name)
	}
	return f[i]
}

func ok(r worker.Report) bool { return r.OK }

func refused(r worker.Report) bool { return r.Code == "invalid_client" }

func has(v manager.Version) func(worker.Report) bool {
	return func(r worker.Report) bool { return r.OK && r.Version == v }
}

func above(v manager.Version) func(worker.Report) bool {
	return func(r worker.Report) bool { return r.OK && r.Version > v }
}
