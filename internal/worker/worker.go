// Package worker is the loop of the example worker (cmd/worker), which the demonstration runs as its replicas.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
)

// A Worker takes a token at each interval, as a program does that calls an API.
type Worker struct {
	Manager  *manager.Manager
	Env      string
	Replica  string // as the manager has it, for the reports
	Interval time.Duration
	URL      string // called with the token each time; "": none
	JSON     bool   // one JSON object a line, rather than text
	Out      io.Writer
}

// patience bounds one round: the wait for a token and the call.
const patience = 30 * time.Second

// A Report is what one round brought. It has no secret in it.
type Report struct {
	At          time.Time       `json:"at"`
	Replica     string          `json:"replica"`
	Env         string          `json:"env"`
	OK          bool            `json:"ok"`
	Version     manager.Version `json:"version"`
	RefreshedBy string          `json:"refreshed_by"`
	WaitedMS    float64         `json:"waited_ms"` // for the token
	Code        string          `json:"code"`      // why there is no token: the endpoint's code, or redis, timeout, error
	RetryAt     *time.Time      `json:"retry_at"`
	Status      int             `json:"status"` // of the call of the URL; 0 where there was none
	Message     string          `json:"message"`
}

// Run works until ctx is done, which is no error, or a report can't be written. An environment that isn't configured is a
// *[manager.UnknownEnvironmentError].
func (w *Worker) Run(ctx context.Context) error {
	env, err := w.Manager.Env(w.Env) //nolint:contextcheck // nothing is looked up
	if err != nil {
		return err
	}
	client := w.Manager.Client(w.Env)
	ticker := time.NewTicker(w.Interval)
	defer ticker.Stop()
	for {
		report := w.round(ctx, env, client)
		if ctx.Err() != nil {
			return nil
		}
		if err := w.write(report); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (w *Worker) round(ctx context.Context, env *manager.Env, client *http.Client) Report {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	tok, err := env.Token(ctx)
	r := Report{At: time.Now().UTC(), Replica: w.Replica, Env: w.Env, OK: err == nil, WaitedMS: milliseconds(time.Since(start))}
	if err != nil {
		return r.failed(err)
	}
	r.Version, r.RefreshedBy = tok.Version, tok.RefreshedBy
	if w.URL != "" {
		if r.Status, err = call(ctx, client, w.URL); err != nil {
			return r.failed(err)
		}
	}
	return r
}

// failed returns r with what went wrong.
func (r Report) failed(err error) Report {
	r.OK, r.Code, r.Message = false, "error", printable.Line(err.Error(), 500)
	var endpoint *manager.EndpointError
	var redis *manager.RedisError
	var login *manager.LoginError
	switch {
	case errors.As(err, &endpoint):
		r.Code = endpoint.Code
		if !endpoint.RetryAt.IsZero() {
			r.RetryAt = &endpoint.RetryAt
		}
	case errors.As(err, &login):
		r.Code = "login"
	case errors.As(err, &redis):
		r.Code = "redis"
	case errors.Is(err, context.DeadlineExceeded):
		r.Code = "timeout"
	}
	return r
}

// call makes one request; the client adds the token to it.
func call(ctx context.Context, client *http.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, err
}

func (w *Worker) write(r Report) error {
	if w.JSON {
		return json.NewEncoder(w.Out).Encode(r)
	}
	_, err := fmt.Fprintln(w.Out, r)
	return err
}

// String is the report as a line for people.
func (r Report) String() string {
	line := fmt.Sprintf("%s %s %s: ", r.At.Format("15:04:05.000"), r.Replica, r.Env)
	if !r.OK {
		return line + r.Message
	}
	line += fmt.Sprintf("version %d, refreshed by %s", r.Version, printable.Line(r.RefreshedBy, 128))
	if r.WaitedMS >= 1 {
		line += fmt.Sprintf(" (waited %.0f ms)", r.WaitedMS)
	}
	if r.Status != 0 {
		line += fmt.Sprintf("; the API says %d", r.Status)
	}
	return line
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
