package metrics

import (
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
)

// A large answer arrives whole, and is followed by a collection; a small one isn't.
func TestALargeAnswerIsTidiedUpAfter(t *testing.T) {
	body := strings.Repeat("x", large)
	h := tidied(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	freed := func() int64 {
		t.Helper()
		var before, after debug.GCStats
		debug.ReadGCStats(&before)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		debug.ReadGCStats(&after)
		if w.Body.String() != body {
			t.Error("the answer has changed")
		}
		return after.NumGC - before.NumGC
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // none by itself
	if n := freed(); n == 0 {
		t.Error("a large answer is followed by no collection")
	}
	body = body[:large-1]
	if n := freed(); n != 0 {
		t.Errorf("a small answer is followed by %d", n)
	}
}
