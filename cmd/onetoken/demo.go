package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/demo"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/store"
)

func (a *app) demoCommand() *cobra.Command {
	var program string
	var replicas int
	var plain bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a fleet at work: replica processes, an embedded Redis, a scripted token endpoint",
		Long: `Show a fleet at work: replica processes, an embedded Redis (miniredis) and a scripted token endpoint. It needs nothing
installed and no configuration, takes about 15 seconds, and fails where what it shows didn't hold. On a terminal that is large
enough the view of status --watch stands beneath the lines.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if replicas < 3 || replicas > 100 {
				return &usageError{fmt.Errorf("--replicas: %d is not between 3 and 100", replicas)}
			}
			command, err := replicaCommand(program)
			if err != nil {
				return err
			}
			options := demo.Options{Out: a.stdout, Worker: command, Replicas: replicas}
			if plain || !a.roomForStrip() {
				return demo.Run(cmd.Context(), options)
			}
			return a.liveDemo(cmd.Context(), options)
		},
	}
	cmd.Flags().StringVar(&program, "worker", "", "`program` that is run as a replica such as cmd/worker (default: this one)")
	cmd.Flags().BoolVar(&plain, "plain", false, "only lines, on a terminal, too")
	cmd.Flags().IntVar(&replicas, "replicas", 8, "`number` of replica processes")
	return cmd
}

// liveDemo is the demonstration with a live view of its environment beneath its lines.
func (a *app) liveDemo(ctx context.Context, o demo.Options) error {
	ctx, stop := a.endSignals(ctx)
	defer stop()
	terminal := top.Terminal{Out: a.stdout, Environ: os.Environ()}
	return terminal.Beneath(ctx, func(ctx context.Context, out io.Writer, read func(top.Options) func()) error {
		o.Out = out
		o.Opened = func(s *store.Store) func() {
			view := overview.New(s, nil)
			return read(top.Options{Names: view.Names, Rows: view.Rows, Watch: s.Watch, Interval: minWatchInterval, Rescan: time.Second})
		}
		return demo.Run(ctx, o)
	})
}

// replicaCommand returns the program to run as a replica, with its first arguments.
func replicaCommand(program string) ([]string, error) {
	if program != "" {
		found, err := exec.LookPath(program)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--worker: %w", err)}
		}
		return []string{found}, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return []string{self, "demo-worker"}, nil
}

// demoWorkerCommand is cmd/worker inside this program, for a demo without that one.
func (a *app) demoWorkerCommand() *cobra.Command {
	w := worker.Worker{JSON: true, Out: a.stdout}
	cmd := &cobra.Command{
		Use:    "demo-worker",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.replica, a.stays = w.Replica, true
			o, err := a.open(false)
			if err != nil {
				return err
			}
			w.Manager = o.manager
			return w.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&w.Env, "env", "", "environment")
	cmd.Flags().StringVar(&w.Replica, "replica", "", "name of the replica")
	cmd.Flags().DurationVar(&w.Interval, "interval", time.Second, "time between two rounds")
	return cmd
}
