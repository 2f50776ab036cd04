package e2e_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// halves are an endpoint and an API that know two scopes: whose token is it?
type halves struct {
	endpoints map[string]*mockendpoint.Endpoint // by scope
	served    map[string]*atomic.Int64
	foreign   atomic.Int64 // requests of the API with a token of the other scope, or without one
}

func (h *halves) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if scope, api := strings.CutPrefix(r.URL.Path, "/api/"); api {
		if _, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); !h.endpoints[scope].Accepts(token) {
			h.foreign.Add(1)
		}
		h.served[scope].Add(1)
		return
	}
	h.endpoints[r.PostFormValue("scope")].ServeHTTP(w, r)
}

func (h *halves) calls() int {
	n := 0
	for _, e := range h.endpoints {
		n += e.Calls()
	}
	return n
}

func TestARollingDeployMakesFewCallsAndMixesNoTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	h := &halves{endpoints: map[string]*mockendpoint.Endpoint{"old": s.endpoint}, served: map[string]*atomic.Int64{"old": {}, "new": {}}}
	h.endpoints["new"] = mockendpoint.New(mockendpoint.Options{ClientID: clientID, ClientSecret: clientSecret})
	t.Cleanup(h.endpoints["new"].Close)
	s.url = s.serve(h)
	before := s.using(s.configure(map[string]settings{env: {"scopes": "[old]"}}))
	after := s.using(s.configure(map[string]settings{env: {"scopes": "[new]"}}))

	older := before.workers(3, "old", "--url", s.url+"/api/old")
	v := older.version()
	newer := after.workers(3, "new", "--url", s.url+"/api/new")
	newer.version()
	late := before.worker("old-late", "--url", s.url+"/api/old")
	fleet{late}.version()
	all := append(append(older, newer...), late)
	holds(t, 4*time.Second, "the calls are few", func() bool { return h.calls() <= 5 })
	t.Logf("%d calls for 7 replicas of two configurations", h.calls())
	if state := before.status()[env].State + " " + after.status()[env].State; state != "conflict fresh" && state != "fresh conflict" {
		t.Errorf("status says %s", state)
	}
	// Those who had a token have kept it: a foreign one takes none away.
	for _, r := range older {
		for _, report := range r.reports() {
			if !report.OK || report.Version < v {
				t.Errorf("%s: %+v", r.name, report)
			}
		}
	}

	// Dropped, it is replaced for either half.
	calls := h.calls()
	dropped := before.invalidate()
	all.all(patience, "everybody has another token than the dropped one", above(dropped.Version))
	holds(t, time.Second, "the calls are few", func() bool { return h.calls()-calls <= 5 })
	t.Logf("%d calls once that was dropped", h.calls()-calls)
	all.neverFailed()

	// The deploy goes on: the old ones end, and the token is renewed.
	for _, r := range append(older, late) {
		r.signal(syscall.SIGTERM)
		r.wait().ends(0)
	}
	calls = h.calls()
	refreshed := after.refresh()
	newer.all(3*time.Second, "the new ones have the refreshed token", has(refreshed.Version))
	newer.neverFailed()
	if got := h.calls() - calls; got != 1 {
		t.Errorf("%d calls for one refresh", got)
	}
	if n := h.foreign.Load(); n != 0 {
		t.Errorf("%d requests of the API with a foreign token", n)
	}
	for scope, n := range h.served {
		if n.Load() == 0 {
			t.Errorf("the API was never asked by scope %s", scope)
		}
	}
}

// ends checks the exit code alone.
func (r result) ends(code int) {
	r.t.Helper()
	if r.code != code {
		r.t.Errorf("%s: exit code %d, want %d; stderr: %s", r.name, r.code, code, r.stderr)
	}
}

func TestAWrongSecretStopsNoneButItsOwn(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.secrets = append(s.secrets, "mistyped-6e0f")
	configured := func(name, secret string) launcher {
		path := s.write(name, secret+"\n")
		return s.using(s.configure(map[string]settings{env: {"client_secret": "", "client_secret_file": path}}))
	}
	wrong, right := configured("wrong", "mistyped-6e0f"), configured("right", clientSecret)

	// Alone, they make one call.
	bad := wrong.workers(2, "bad")
	bad.all(patience, "the wrong ones say so", refused)
	s.calls(1)
	retryAt := bad[0].last().RetryAt
	if retryAt == nil || time.Until(*retryAt) < 5*time.Second {
		t.Fatalf("the next try is at %v", retryAt)
	}
	// Mended, one needn't wait for that.
	s.write("wrong", clientSecret)
	bad[0].signal(syscall.SIGTERM)
	bad[0].wait().ends(0)
	mended := wrong.worker("mended")
	fleet{mended}.version()
	fleet{mended}.neverFailed()
	if at := mended.reports()[0].At; !at.Before(*retryAt) {
		t.Errorf("it had a token %v after the next try of the refused", at.Sub(*retryAt))
	}
	s.calls(2)

	// The one that is still wrong has the others' token, and doesn't keep them from the next ones.
	good := append(right.workers(2, "good"), mended)
	good.version()
	all := append(good, bad[1])
	all.version()
	s.calls(2)
	for range 3 { // whoever comes first
		calls := s.endpoint.Calls()
		dropped := right.invalidate()
		all.all(patience, "everybody has another token than the dropped one", above(dropped.Version))
		if got := s.endpoint.Calls() - calls; got > 2 {
			t.Errorf("%d calls for one token, want 1, or 2 where the wrong one came first", got)
		}
	}
	good.neverFailed()
}
