package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// stopAfter is a writer that ends the worker after some reports.
type stopAfter struct {
	bytes.Buffer
	left int
	stop context.CancelFunc
}

func (w *stopAfter) Write(p []byte) (int, error) {
	if w.left--; w.left == 0 {
		w.stop()
	}
	return w.Buffer.Write(p)
}

// reports runs a worker for n rounds and returns what it wrote.
func reports(t *testing.T, n int, w worker.Worker) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &stopAfter{left: n, stop: cancel}
	w.Env, w.Replica, w.Interval, w.Out = managertest.Environment, "worker-1", time.Millisecond, out
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestReportIsAContract(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	lines := reports(t, 2, worker.Worker{Manager: kit.Manager, JSON: true})
	if len(lines) != 2 {
		t.Fatalf("got %d lines", len(lines))
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"at", "replica", "env", "ok", "version", "refreshed_by", "waited_ms", "code", "retry_at", "status", "message"} {
		if _, ok := got[key]; !ok {
			t.Errorf("no %s in %s", key, lines[1])
		}
	}
	if got["ok"] != true || got["code"] != "" || got["retry_at"] != nil {
		t.Errorf("got %s", lines[1])
	}
}

func TestTheAPIIsCalledWithTheToken(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	api := httptest.NewServer(kit.Endpoint.Protect(http.NotFoundHandler()))
	defer api.Close()
	lines := reports(t, 1, worker.Worker{Manager: kit.Manager, URL: api.URL})
	if !strings.Contains(lines[0], " worker-1 test: version ") || !strings.HasSuffix(lines[0], "; the API says 404") {
		t.Errorf("got %s", lines[0])
	}
	api.Close()
	lines = reports(t, 1, worker.Worker{Manager: kit.Manager, URL: api.URL, JSON: true})
	var r worker.Report
	if err := json.Unmarshal([]byte(lines[0]), &r); err != nil || r.OK || r.Code != "error" || r.Version == 0 {
		t.Errorf("without the API: %s", lines[0])
	}
}

func TestFailureIsALine(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	kit.Endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "two\nlines"})
	lines := reports(t, 1, worker.Worker{Manager: kit.Manager})
	if len(lines) != 1 || !strings.Contains(lines[0], "the token endpoint refused: invalid_client") {
		t.Errorf("got %q", lines)
	}
}

type brokenPipe struct{}

var errBroken = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestAReportThatCannotBeWrittenEndsTheWorker(t *testing.T) {
	kit := managertest.New(t, managertest.Options{})
	w := worker.Worker{Manager: kit.Manager, Env: managertest.Environment, Interval: time.Hour, Out: brokenPipe{}}
	if err := w.Run(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestRoundTripOfAReport(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := worker.Report{At: at, Replica: "r", Env: "e", Version: 7, RefreshedBy: "x", WaitedMS: 1.5, Code: "c", RetryAt: &at, Status: 200, Message: "m"}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got worker.Report
	if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}
