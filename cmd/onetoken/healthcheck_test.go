package main_test

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(http.StatusOK)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, "/readyz", http.StatusFound)
			return
		}
		w.WriteHeader(int(status.Load()))
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	// A short path: that of a socket has a limit.
	dir, err := os.MkdirTemp("", "onetoken-") //nolint:usetesting // its path would be too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, ca := filepath.Join(dir, "s"), filepath.Join(dir, "ca.pem")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	local := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	local.Start()
	t.Cleanup(local.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}

	ask := func(args []string) result {
		return run(t, nil, append([]string{"healthcheck", "--timeout", "30s"}, args...)...)
	}
	good := [][]string{{plain.URL + "/readyz"}, {secure.URL + "/readyz", "--ca", ca}, {"unix:" + socket}}
	for _, args := range good {
		if out := ask(args).succeeds(t); out != "" {
			t.Errorf("%v prints %q", args, out)
		}
	}
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{1, "302", []string{plain.URL + "/elsewhere"}},
		{1, "certificate", []string{secure.URL}},
		{1, "not ready", []string{"unix:" + socket + "-gone"}},
		{2, "the URL", []string{"ftp://localhost"}},
		{2, "the URL", []string{"http://user:hunter2@localhost"}},
		{2, "--ca", []string{secure.URL, "--ca", ca + "-gone"}},
		{2, "no certificate", []string{secure.URL, "--ca", binaries.onetoken}},
		{2, "--timeout", []string{plain.URL, "--timeout", "0s"}},
	} {
		line := ask(c.args).fails(t, c.code)
		if !strings.Contains(line, c.want) || strings.Contains(line, "hunter2") {
			t.Errorf("%v: %s", c.args, line)
		}
	}
	status.Store(http.StatusServiceUnavailable)
	for _, args := range good {
		if line := ask(args).fails(t, 1); !strings.Contains(line, "503") {
			t.Errorf("%v: %s", args, line)
		}
	}
}

// A server that takes a connection and says nothing.
func TestHealthcheckDoesNotHang(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	line := run(t, nil, "healthcheck", "http://"+l.Addr().String(), "--timeout", "200ms").fails(t, 1)
	if !strings.Contains(line, "timed out after 200ms") {
		t.Error(line)
	}
}
