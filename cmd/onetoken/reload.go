package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

// A reloader has a running agent take over what is new in its configuration file. It is for one goroutine.
type reloader struct {
	path    string
	load    func() (*config.File, error) // the file as this command wants it
	running *config.File                 // as the agent was started, with the environments that there are now
	manager *manager.Manager
	view    *overview.Overview
	agent   *agent.Agent
	log     *slog.Logger
	end     func()  // of the agent
	content content // of the file, when it was last read
	wrong   string  // with it then
}

func newReloader(o *opened, served *agent.Agent, view *overview.Overview, log *slog.Logger, end func()) *reloader {
	running := *o.file
	running.Environments = maps.Clone(running.Environments)
	return &reloader{running: &running, manager: o.manager, view: view, agent: served, log: log, end: end}
}

// run reads the file again with each signal and, where that is wanted, after each change, until ctx is done. It ends the agent
// where its terminal is closed.
func (r *reloader) run(ctx context.Context, signals hangups, watch bool) {
	var look <-chan time.Time
	if watch {
		ticker := time.NewTicker(lookForChange)
		defer ticker.Stop()
		look = ticker.C
	}
	last := r.content
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals.c:
			if signals.leave() {
				r.end()
				return
			}
			r.wrong = "" // whoever asks is told
			r.reload()   //nolint:contextcheck // it waits for nobody
		case <-look:
			// Half of a file may well be a configuration: two looks must have found the same.
			now, there := contentOf(r.path)
			// What was wrong may have been another file, which isn't there yet.
			if there && now == last && (now != r.content || r.wrong != "") {
				r.reload() //nolint:contextcheck // as above
			}
			last = now
		}
	}
}

const lookForChange = 2 * time.Second

// A content is a file's, to be compared.
type content [sha256.Size]byte

func contentOf(path string) (c content, there bool) {
	data, err := os.ReadFile(path)
	return sha256.Sum256(data), err == nil
}

// reload takes over what the file says of environments and clients, all of it or, where anything is wrong with the file, nothing.
func (r *reloader) reload() {
	r.content, _ = contentOf(r.path)
	file, setup, err := r.read()
	if err != nil {
		if err.Error() != r.wrong {
			r.log.Error("the configuration can't be used: what it said before still counts", "outcome", "config_failed",
				"file", printable.Line(r.path, 200), "error", err)
		}
		r.wrong = err.Error()
		return
	}
	r.wrong = ""
	if settings := r.running.Restart(file); len(settings) > 0 {
		r.log.Warn("the configuration has settings that count after a restart only", "outcome", "restart_needed",
			"settings", strings.Join(settings, ", "))
	}
	changes := r.setAll(file.Environments)
	r.view.Reconfigured()
	r.agent.Use(setup)
	for _, c := range changes { // who reads of one may ask for it
		r.log.Info("an environment was "+c.what, "outcome", "env_"+c.what, "env", c.env)
	}
	r.log.Info("the configuration was read again", "outcome", "config_reloaded", "environments", len(r.running.Environments))
}

// read reads and checks the file, and prepares the agent for it.
func (r *reloader) read() (*config.File, *agent.Setup, error) {
	file, err := r.load()
	if err != nil {
		return nil, nil, err
	}
	if problems := file.Problems(); len(problems) > 0 {
		return nil, nil, problems[0]
	}
	setup, err := r.agent.Prepare(file.Environments, clients(file.Agent))
	return file, setup, err
}

// A change is what became of an environment: "added", "changed" or "removed".
type change struct{ what, env string }

// setAll has the manager use the environments, and no others. Those whose settings are as before are left alone.
func (r *reloader) setAll(environments map[string]manager.Environment) (changes []change) {
	now := r.running.Environments
	for _, name := range slices.Sorted(maps.Keys(environments)) {
		was, there := now[name]
		if there && reflect.DeepEqual(was, environments[name]) {
			continue
		}
		if err := r.manager.SetEnvironment(name, environments[name]); err != nil {
			if !errors.Is(err, manager.ErrClosed) { // a file that it names has changed since it was checked
				r.log.Error("an environment can't be set", "outcome", "config_failed", "env", name, "error", err)
			}
			continue
		}
		now[name] = environments[name]
		what := "added"
		if there {
			what = "changed"
		}
		changes = append(changes, change{what, name})
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, stays := environments[name]; stays {
			continue
		}
		_ = r.manager.RemoveEnvironment(name) // its one error: there is none
		delete(now, name)
		changes = append(changes, change{"removed", name})
	}
	return changes
}

// hangups are SIGHUPs, which from here on don't end the process.
type hangups struct {
	c        chan os.Signal
	terminal bool // one may also mean that the terminal is closed
}

func hearHangups() hangups {
	h := hangups{c: make(chan os.Signal, 1), terminal: !signal.Ignored(syscall.SIGHUP) && hasTerminal()} // nohup: it is to live on
	signal.Notify(h.c, syscall.SIGHUP)
	return h
}

func (h hangups) stop() { signal.Stop(h.c) }

// leave reports whether the last one came from a terminal that is gone.
func (h hangups) leave() bool { return h.terminal && !hasTerminal() }

// hasTerminal reports whether the process belongs to a terminal.
func hasTerminal() bool {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err == nil {
		_ = tty.Close()
	}
	return err == nil
}
