// Package child runs a command in this process's place, as far as a parent can: its signals go to the command, the
// command's end is its own.
package child

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
)

// The exit codes of a command that couldn't be run, as a shell has them.
const (
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// A StartError says that a command couldn't be run.
type StartError struct {
	Name string // as it was given
	Code int    // [CodeNotFound] or [CodeNotExecutable]
	Err  error
}

func (e *StartError) Error() string { return fmt.Sprintf("%q can't be run: %v", e.Name, e.Err) }
func (e *StartError) Unwrap() error { return e.Err }

func startError(name string, err error) *StartError {
	e := &StartError{Name: name, Code: CodeNotExecutable, Err: err}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, exec.ErrDot) || errors.Is(err, fs.ErrNotExist) {
		e.Code = CodeNotFound
	}
	if inner, ok := errors.AsType[*exec.Error](err); ok {
		e.Err = inner.Err // the outer one repeats the name
	}
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		e.Err = inner.Err
	}
	return e
}

// Find returns the program that a command's name stands for, or a *[StartError].
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", startError(name, err)
	}
	return path, nil
}

// A Command is what is run. It has this process's standard input, output and error.
type Command struct {
	Name string // as it was given, for argv[0]
	Path string // of the program: see [Find]
	Args []string
	Env  []string
	// Descriptor is what the command has as file descriptor Number, which is 3 or more; nil for none. Not on Windows.
	Descriptor *os.File
	Number     int
}

// Signals are the signals of this process that are the command's. Make one before anything that must not be interrupted:
// from then on they are kept for the command.
type Signals struct{ arrived chan os.Signal }

// Catch begins to keep signals for a command.
func Catch() *Signals {
	s := &Signals{arrived: make(chan os.Signal, 16)}
	for _, sig := range forwarded() {
		if !signal.Ignored(sig) { // as nohup has it, for the command, too
			signal.Notify(s.arrived, sig)
		}
	}
	return s
}

// Release gives the signals back to what they did before.
func (s *Signals) Release() { signal.Stop(s.arrived) }

// Run runs the command to its end and returns its exit code: 128 plus its number, where a signal ended it. started is
// called once the command runs. The error is a *[StartError].
//
// A command dies with this process on Linux (SIGKILL). Where there is no terminal it has a process group of its own.
// On a terminal it stays in this process's: job control works, and what the terminal sends to all of the group in the
// foreground (a Ctrl-C) isn't sent on.
func (s *Signals) Run(c Command, started func()) (int, error) {
	// The kernel takes the end of the thread that started the command for that of its parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := &exec.Cmd{
		Path: c.Path, Args: append([]string{c.Name}, c.Args...), Env: c.Env,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, SysProcAttr: attributes(),
	}
	if c.Descriptor != nil {
		cmd.ExtraFiles = extraFiles(c.Descriptor, c.Number)
	}
	if err := cmd.Start(); err != nil {
		return 0, startError(c.Name, err)
	}
	started()
	ended := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.forward(cmd.Process, ended)
	}()
	err := cmd.Wait()
	close(ended)
	<-done
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return 0, err
	}
	return exitCode(cmd.ProcessState), nil
}

func (s *Signals) forward(p *os.Process, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case sig := <-s.arrived:
			if !fromTerminal(sig) {
				_ = p.Signal(sig) // it fails where the command has ended just now
			}
		}
	}
}
