package demo

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/worker"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// The whole of it is tested with cmd/onetoken, on real processes; here, what it does when something doesn't hold.

// script returns a replica program that a shell runs.
func script(t *testing.T, text string) []string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no shell on Windows")
	}
	path := filepath.Join(t.TempDir(), "replica")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

func newTestStage(t *testing.T, text string) (*stage, *strings.Builder) {
	t.Helper()
	var out strings.Builder
	s, err := newStage(t.Context(), Options{Out: &out, Worker: script(t, text), Replicas: 3})
	t.Cleanup(s.close)
	if err != nil {
		t.Fatal(err)
	}
	return s, &out
}

// Replicas that make their tokens up are found out: the endpoint wasn't asked.
func TestMadeUpTokensDoNotHold(t *testing.T) {
	s, out := newTestStage(t, `echo '{"at": "2026-01-02T03:04:05Z", "ok": true, "version": 1}'; exec sleep 60`)
	if err := s.coldFleet(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.summary(); !errors.Is(err, ErrDidNotHold) || !strings.Contains(out.String(), "=> DID NOT HOLD: 3 replicas have a token") {
		t.Errorf("got %v:\n%s", err, out)
	}
	if strings.Contains(out.String(), "All of it held") {
		t.Errorf("got\n%s", out)
	}
}

// Replicas that print the client secret are found out, and so are those that don't end well.
func TestLeaksDoNotHold(t *testing.T) {
	s, out := newTestStage(t, `echo "{\"at\": \"2026-01-02T03:04:05Z\", \"ok\": true, \"message\": \"$ONETOKEN_DEMO_CLIENT_SECRET\"}"; exec sleep 60`)
	if err := s.coldFleet(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.finale(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"=> DID NOT HOLD: neither a token nor the client secret", "=> DID NOT HOLD: 3 replicas ended in good order"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out.String(), s.fleet.secret) {
		t.Error("the demonstration itself shows the secret")
	}
}

func TestAnIssuedTokenIsALeak(t *testing.T) {
	endpoint := mockendpoint.New(mockendpoint.Options{})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("grant_type=client_credentials"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	endpoint.ServeHTTP(httptest.NewRecorder(), r)
	s := &stage{endpoint: endpoint, fleet: &fleet{secret: "hunter2"}}
	for text, want := range map[string]bool{"nothing": false, "a hunter2 b": true, "Bearer " + endpoint.Issued()[0]: true} {
		if got := s.leaks(text); got != want {
			t.Errorf("leaks(%q) = %t", text, got)
		}
	}
}

func TestInterruptedWait(t *testing.T) {
	s, _ := newTestStage(t, "exec sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.coldFleet(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSpread(t *testing.T) {
	at := func(ms int, replica string, ok bool) worker.Report {
		return worker.Report{At: time.UnixMilli(int64(ms)), Replica: replica, OK: ok}
	}
	for _, c := range []struct {
		reports []worker.Report
		want    time.Duration
	}{
		{nil, 0},
		{[]worker.Report{at(5, "a", true)}, 0},
		{[]worker.Report{at(5, "a", false), at(9, "a", false)}, 0},
		{[]worker.Report{at(1, "b", true), at(7, "a", false), at(5, "b", false), at(90, "a", false)}, 2 * time.Millisecond},
	} {
		if got := spread(c.reports); got != c.want {
			t.Errorf("%v: got %v, want %v", c.reports, got, c.want)
		}
	}
}
