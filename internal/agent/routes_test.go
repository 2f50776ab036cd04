package agent_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/agent"
)

// A fakePage stands for the page.
type fakePage struct{ closed chan struct{} }

func (p *fakePage) Register(mux *http.ServeMux) {
	for _, path := range []string{"/{$}", "/assets/page.css"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("page")) })
	}
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("event\n"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-p.closed:
		case <-r.Context().Done():
		}
	})
}

func (p *fakePage) Close() { close(p.closed) }

func withPage(o *agent.Options) {
	o.Page = &fakePage{closed: make(chan struct{})}
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) })
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: withPage})
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"GET", "/v1/environments", 200, "", ""},
		{"HEAD", "/v1/environments", 200, "", ""},
		{"GET", prod, 200, "", ""},
		{"GET", prod + "/token", 200, "", ""},
		{"POST", prod + "/refresh", 200, "", ""},
		{"POST", prod + "/invalidate", 204, "", ""},
		{"GET", "/healthz", 200, "", ""},
		{"GET", "/readyz", 200, "", ""},
		{"GET", "/metrics", 200, "", ""},
		{"GET", "/", 200, "", ""},
		{"GET", "/assets/page.css", 200, "", ""},

		{"POST", "/v1/environments", 405, "method_not_allowed", "GET, HEAD"},
		{"DELETE", prod, 405, "method_not_allowed", "GET, HEAD"},
		{"POST", prod + "/token", 405, "method_not_allowed", "GET, HEAD"},
		{"OPTIONS", prod + "/token", 405, "method_not_allowed", "GET, HEAD"},
		{"G", prod + "/token", 405, "method_not_allowed", "GET, HEAD"},
		{"GET", prod + "/refresh", 405, "method_not_allowed", "POST"},
		{"GET", prod + "/invalidate", 405, "method_not_allowed", "POST"},
		{"GET", prod + "/oauth2/token", 405, "method_not_allowed", "POST"},
		{"POST", "/healthz", 405, "method_not_allowed", "GET, HEAD"},
		{"PUT", "/readyz", 405, "method_not_allowed", "GET, HEAD"},
		{"POST", "/metrics", 405, "method_not_allowed", "GET, HEAD"},
		{"POST", "/", 405, "method_not_allowed", "GET, HEAD"},
		{"POST", "/assets/page.css", 405, "method_not_allowed", "GET, HEAD"},
		{"POST", "/v1/events", 405, "method_not_allowed", "GET, HEAD"},

		{"GET", "/assets/other", 404, "not_found", ""},
		{"GET", "/nothing", 404, "not_found", ""},
		{"GET", "/v1/environments/", 404, "not_found", ""},
		{"GET", "/v1//environments", 404, "not_found", ""},
		{"GET", "/v1/./environments", 404, "not_found", ""},
		{"GET", prod + "/../prod", 404, "not_found", ""},
		{"GET", "/v1/environments/nope", 404, "unknown_environment", ""},
		{"GET", "/v1/environments/nope/token", 404, "unknown_environment", ""},
		{"GET", "/v1/environments/%0a%22/token", 404, "unknown_environment", ""},
		{"POST", "/v1/environments/nope/refresh", 404, "unknown_environment", ""},
		{"POST", "/v1/environments/nope/invalidate", 404, "unknown_environment", ""},
		{"POST", "/v1/environments/nope/oauth2/token", 404, "unknown_environment", ""},
	} {
		a := s.do(c.method, c.path, "")
		if a.status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.status, a.body, c.status)
		}
		if a.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, a.header.Get("Allow"), c.allow)
		}
		if c.code != "" {
			a.isProblem(c.status, c.code)
		}
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers %v", c.method, c.path, a.header)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s: %s is sent", c.method, c.path, name)
			}
		}
	}
}

func TestWithoutAPageThereIsNone(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	for _, path := range []string{"/", "/assets/page.css", "/v1/events", "/metrics"} {
		s.get(path).isProblem(404, "not_found")
	}
}

func TestAPanicIsAProblem(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{agent: func(o *agent.Options) {
		o.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("what went wrong") })
	}})
	a := s.get("/metrics")
	a.isProblem(500, "internal")
	if strings.Contains(a.body, "wrong") || strings.Contains(a.body, ".go") {
		t.Errorf("the client gets to see %s", a.body)
	}
	if !strings.Contains(s.logged.String(), "what went wrong") {
		t.Error("it isn't logged")
	}
	if a := s.get("/healthz"); a.status != 200 {
		t.Errorf("after it: %d", a.status)
	}
}
