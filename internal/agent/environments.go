package agent

import (
	"context"
	"net/http"
	"time"

	"github.com/onetoken/onetoken/manager"
)

// rowsTimeout bounds a look at Redis for rows, the search for names included.
const rowsTimeout = 15 * time.Second

// list answers GET /v1/environments.
func (a *Agent) list(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), rowsTimeout, errWaited)
	defer cancel()
	names, err := a.options.Overview.Names(ctx)
	var rows []manager.Status
	if err == nil {
		rows, err = a.options.Overview.Rows(ctx, names)
	}
	if err != nil {
		a.problemOf("", err).send(w)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", rows)
}

// one answers GET /v1/environments/{env}, for any that is configured or in Redis.
func (a *Agent) one(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), rowsTimeout, errWaited)
	defer cancel()
	env := r.PathValue("env")
	known, err := a.options.Overview.Known(ctx, env)
	if err == nil && !known {
		names, _ := a.options.Overview.Names(ctx)
		a.unknown(env, names).send(w)
		return
	}
	var rows []manager.Status
	if err == nil {
		rows, err = a.options.Overview.Rows(ctx, []string{env})
	}
	if err != nil {
		a.problemOf(env, err).send(w)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", rows[0])
}

// healthz answers while the process runs.
func (a *Agent) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ok"})
}

// readyz says whether tokens can be expected here, without asking anybody.
func (a *Agent) readyz(w http.ResponseWriter, r *http.Request) {
	if h := a.options.Manager.Health(); h.RedisAway && h.Usable == 0 {
		problem{
			Status: http.StatusServiceUnavailable, Code: "redis", RetryAfter: soon,
			Detail: "Redis is away, and no environment that was asked for has a usable token",
		}.send(w)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", map[string]string{"status": "ready"})
}
