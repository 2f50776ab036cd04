package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/onetoken/onetoken/internal/demo"
	"github.com/onetoken/onetoken/internal/worker"
)

func (a *app) demoCommand() *cobra.Command {
	var program string
	var replicas int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a fleet at work: replica processes, an embedded Redis, a scripted token endpoint",
		Long: `Show a fleet at work: replica processes, an embedded Redis (miniredis) and a scripted token endpoint. It needs nothing
installed and no configuration, takes about 15 seconds, and fails where what it shows didn't hold.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if replicas < 3 || replicas > 100 {
				return &usageError{fmt.Errorf("--replicas: %d is not between 3 and 100", replicas)}
			}
			command, err := replicaCommand(program)
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{Out: a.stdout, Worker: command, Replicas: replicas})
		},
	}
	cmd.Flags().StringVar(&program, "worker", "", "`program` that is run as a replica such as cmd/worker (default: this one)")
	cmd.Flags().IntVar(&replicas, "replicas", 8, "`number` of replica processes")
	return cmd
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
