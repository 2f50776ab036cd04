// Command onetoken reads, refreshes and watches over the access tokens that a fleet shares in Redis.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

func main() {
	redis.SetLogger(silence{})
	ignored := signal.Ignored(os.Interrupt) // which NotifyContext ends
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a := &app{stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv, interruptIgnored: ignored}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// silence keeps go-redis from writing to stderr by itself: what it would say comes back as an error, too.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// run executes one command line and returns the exit code. Of an error it writes one line.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root() //nolint:contextcheck // cobra hands it to the commands
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started {
		err = &usageError{err}
	}
	if err != nil && !isA[*commandError](err) {
		_, _ = fmt.Fprintln(a.stderr, oneLine(err))
	}
	a.close()
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "onetoken",
		Short: "One access token per environment, however many replicas",
		Long: `One access token per environment, however many replicas.

Answers go to stdout, everything else to stderr. Exit codes: 0 done; 1 other failure; 2 wrong usage or configuration;
3 Redis unreachable; 4 the token endpoint refused, failed or can't be reached; 5 timed out waiting.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.start(cmd) },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.sources.Path, "config", "", "configuration `file` (default $ONETOKEN_CONFIG, else ./onetoken.yaml)")
	flags.StringVar(&a.sources.RedisURL, "redis-url", "", "Redis `URL`, in place of the file's (default $ONETOKEN_REDIS_URL)")
	flags.StringVar(&a.sources.Namespace, "namespace", "", "`name` before all keys in Redis, in place of the file's")
	flags.StringVar(&a.output, "output", "table", "`format` of answers: table or json")
	flags.StringVar(&a.logLevel, "log-level", "error", "least `level` that is logged: debug, info, warn or error (serve: info)")
	root.AddCommand(a.getCommand(), a.statusCommand(), a.refreshCommand(), a.invalidateCommand(), a.mockCommand(),
		a.demoCommand(), a.demoWorkerCommand(), a.versionCommand(), a.serveCommand(), a.healthcheckCommand(), a.execCommand(), a.doctorCommand(),
		a.configCommand(), a.keygenCommand(), a.rekeyCommand(), a.loginCommand(), a.logoutCommand(), a.grantCommand(), a.benchCommand())
	strictHelp(root)
	return root
}

// strictHelp makes errors of what cobra answers with a help text and exit code 0: a help topic, or a shell to complete for,
// that doesn't exist.
func strictHelp(root *cobra.Command) {
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{fmt.Errorf("unknown help topic %.100q", strings.Join(args, " "))}
			}
			return found.Help()
		},
	})
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return &usageError{fmt.Errorf("completion: unknown shell %.100q; onetoken completion --help names them", args[0])}
				}
				return cmd.Help()
			}
		}
	}
}
