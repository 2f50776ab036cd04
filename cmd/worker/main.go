// Command worker is an example of a program that shares its access token with its replicas. It takes the token at each
// interval, as if it called an API (with --url it does), and says which one it has; never the token itself.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/worker"
)

func main() {
	// SIGTERM ends the loop; Close then waits for a request to the token endpoint that was sent.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sources := config.Sources{Lookup: os.LookupEnv}
	w := worker.Worker{Out: os.Stdout}
	flag.StringVar(&sources.Path, "config", "", "configuration `file` (default $ONETOKEN_CONFIG, else ./onetoken.yaml)")
	flag.StringVar(&w.Env, "env", "prod", "environment")
	flag.StringVar(&w.Replica, "replica", "", "this replica's `name`, in place of the file's")
	flag.StringVar(&w.URL, "url", "", "`URL` to call with the token")
	flag.DurationVar(&w.Interval, "interval", time.Second, "`time` between two rounds")
	output := flag.String("output", "text", "`format` of the reports: text or json")
	flag.Parse()
	if flag.NArg() > 0 || w.Interval <= 0 || *output != "text" && *output != "json" {
		return errors.New("wrong usage; see worker -help")
	}
	w.JSON = *output == "json"

	file, err := sources.Load()
	if err != nil {
		return err
	}
	rdb, err := file.Client()
	if err != nil {
		return err
	}
	defer func() { _ = rdb.Close() }()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	file.Replica = cmp.Or(w.Replica, file.Replica)
	if w.Manager, err = file.Manager(rdb, logger); err != nil {
		return err
	}
	defer func() { _ = w.Manager.Close() }()
	w.Replica = w.Manager.Replica()
	return w.Run(ctx)
}
