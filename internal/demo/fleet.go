package demo

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
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
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/store"
)

// patience is the longest that anything is waited for; what is shown takes a fraction of it.
const patience = 20 * time.Second

// A fleet is the replica processes, and what they report.
type fleet struct {
	out     *lines
	command []string // of a replica, but its name
	config  string
	secret  string

	mu       sync.Mutex // guards what follows, and the replicas' fields
	replicas []*replica
	reports  []worker.Report
	output   bytes.Buffer    // all that the replicas wrote
	changed  chan struct{}   // closed, and replaced, with each report and each end of a process
	ordinals []store.Version // of the tokens, in the order of their appearance
}

// A replica is one process.
type replica struct {
	name    string
	process *exec.Cmd
	ended   chan struct{} // closed once the process is gone and err is set
	err     error         // of the process
	leaving bool          // it was told to end, or killed
	last    worker.Report // the zero Report before the first
}

func newFleet(out *lines, command []string, config, secret string) *fleet {
	return &fleet{out: out, command: command, config: config, secret: secret, changed: make(chan struct{})}
}

// start starts n replicas. They outlive ctx: stop and kill end them.
func (f *fleet) start(ctx context.Context, n int) error {
	for i := range n {
		if err := f.add(ctx, fmt.Sprintf("worker-%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) add(ctx context.Context, name string) error {
	args := append(slices.Clone(f.command[1:]),
		"--config", f.config, "--env", env, "--replica", name, "--interval", "50ms", "--output", "json")
	r := &replica{name: name, process: exec.CommandContext(context.WithoutCancel(ctx), f.command[0], args...), ended: make(chan struct{})}
	r.process.Env = append(environment(), "ONETOKEN_DEMO_CLIENT_SECRET="+f.secret)
	stdout, err := r.process.StdoutPipe()
	if err != nil {
		return err
	}
	stderr := &bytes.Buffer{}
	r.process.Stderr = stderr
	if err := r.process.Start(); err != nil {
		return fmt.Errorf("a replica can't be started: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = append(f.replicas, r)
	go f.follow(r, stdout, stderr) // until the process ends
	return nil
}

// environment is this process's without what would configure a replica otherwise.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "ONETOKEN_") })
}

// follow takes in a replica's reports until it ends.
func (f *fleet) follow(r *replica, stdout io.Reader, stderr *bytes.Buffer) {
	defer close(r.ended)
	scanner := bufio.NewScanner(stdout)
	for scanner.Scan() {
		var report worker.Report
		err := json.Unmarshal(scanner.Bytes(), &report)
		f.mu.Lock()
		f.output.Write(append(scanner.Bytes(), '\n'))
		if err == nil {
			f.tellLocked(r, report)
			r.last = report
			f.reports = append(f.reports, report)
		}
		f.wakeLocked()
		f.mu.Unlock()
	}
	err := r.process.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.output.Write(stderr.Bytes())
	r.err = err
	if !r.leaving {
		how := cmp.Or(strings.TrimSpace(stderr.String()), r.process.ProcessState.String())
		r.err = fmt.Errorf("%s has ended by itself: %s", r.name, how)
	}
	f.wakeLocked()
}

func (f *fleet) wakeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// tellLocked says what is new about a replica.
func (f *fleet) tellLocked(r *replica, now worker.Report) {
	switch {
	case now.OK && (!r.last.OK || r.last.Version != now.Version):
		line := fmt.Sprintf("%s has token %d, refreshed by %s", r.name, f.ordinalLocked(now.Version), now.RefreshedBy)
		if now.WaitedMS >= 1 {
			line += fmt.Sprintf(" (it waited %.0f ms)", now.WaitedMS)
		}
		f.out.say("%s", line)
	case !now.OK && r.last.Code != now.Code:
		line := fmt.Sprintf("%s is told %s", r.name, now.Code)
		if now.RetryAt != nil {
			line += fmt.Sprintf(", and the next try in %.1f s", now.RetryAt.Sub(now.At).Seconds())
		}
		f.out.say("%s", line)
	}
}

// ordinalLocked numbers the tokens from 1: versions have 16 digits.
func (f *fleet) ordinalLocked(v store.Version) int {
	i := slices.Index(f.ordinals, v)
	if i < 0 {
		i = len(f.ordinals)
		f.ordinals = append(f.ordinals, v)
	}
	return i + 1
}

// await blocks until every living replica's last report is as wanted. A replica that ends by itself is an error.
func (f *fleet) await(ctx context.Context, wanted func(worker.Report) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not all replicas got there within %v", patience))
	defer cancel()
	for {
		f.mu.Lock()
		changed, met := f.changed, true
		var died error
		for _, r := range f.replicas {
			if !r.leaving {
				died = cmp.Or(died, r.err)
				met = met && !r.last.At.IsZero() && wanted(r.last)
			}
		}
		f.mu.Unlock()
		switch {
		case ctx.Err() != nil: // an interrupt reaches the replicas, too
			return context.Cause(ctx)
		case died != nil:
			return died
		case met:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// since returns the reports of a time, in the order in which they came.
func (f *fleet) since(t time.Time) []worker.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.reports), func(r worker.Report) bool { return r.At.Before(t) })
}

func (f *fleet) living() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.replicas {
		if !r.leaving {
			n++
		}
	}
	return n
}

// killNamed sends SIGKILL to a replica and waits for its end.
func (f *fleet) killNamed(name string) error {
	f.mu.Lock()
	i := slices.IndexFunc(f.replicas, func(r *replica) bool { return r.name == name && !r.leaving })
	if i < 0 {
		f.mu.Unlock()
		return fmt.Errorf("no replica is called %q", name)
	}
	r := f.replicas[i]
	r.leaving = true
	f.mu.Unlock()
	if err := r.process.Process.Kill(); err != nil {
		return err
	}
	<-r.ended
	return nil
}

// stop sends SIGTERM to all and returns the errors of those that didn't end well.
func (f *fleet) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not all replicas ended within %v", patience))
	defer cancel()
	f.mu.Lock()
	var leaving []*replica
	for _, r := range f.replicas {
		if !r.leaving {
			r.leaving = true
			leaving = append(leaving, r)
		}
	}
	f.mu.Unlock()
	var failed error
	for _, r := range leaving {
		failed = errors.Join(failed, r.process.Process.Signal(syscall.SIGTERM))
	}
	for _, r := range leaving {
		select {
		case <-r.ended:
			failed = errors.Join(failed, r.err)
		case <-ctx.Done():
			return errors.Join(failed, context.Cause(ctx))
		}
	}
	return failed
}

// kill ends what is left, however the demonstration ended.
func (f *fleet) kill() {
	f.mu.Lock()
	replicas := slices.Clone(f.replicas)
	for _, r := range replicas {
		r.leaving = true
	}
	f.mu.Unlock()
	for _, r := range replicas {
		_ = r.process.Process.Kill() // an error: it has ended
		<-r.ended
	}
}

// everything returns all that the replicas wrote.
func (f *fleet) everything() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.output.String()
}
