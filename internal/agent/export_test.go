package agent

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// PlainServer returns a server with the agent's limits, and none of its rules.
func PlainServer(h http.Handler) *http.Server {
	a := &Agent{options: Options{MaxWait: 30 * time.Second}, log: slog.New(slog.DiscardHandler), handler: h}
	return a.server(context.Background())
}
