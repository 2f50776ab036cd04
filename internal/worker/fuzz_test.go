package worker_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/onetoken/onetoken/internal/worker"
)

// A report that can be read can be written, on one line, and is read again as the same.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"at":"2026-07-01T12:00:00.5Z","replica":"r","env":"prod","ok":true,"version":1753000000000000,"refreshed_by":"r","waited_ms":1.5,"retry_at":null}`))
	f.Add([]byte(`{"OK":false,"code":"http_503","retry_at":"9999-12-31T23:59:59-23:59","status":-1,"message":"a\nb\u2028"}`))
	f.Add([]byte(`{"version":1e3,"waited_ms":1e400}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var report, again worker.Report
		if json.Unmarshal(line, &report) != nil {
			t.Skip()
		}
		var out bytes.Buffer
		if err := json.NewEncoder(&out).Encode(report); err != nil {
			t.Fatalf("%s can't be written again: %v", line, err)
		}
		if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 {
			t.Errorf("%d lines: %s", n, out.Bytes())
		}
		if err := json.Unmarshal(out.Bytes(), &again); err != nil {
			t.Fatalf("%s: %v", out.Bytes(), err)
		}
		if !again.At.Equal(report.At) || (again.RetryAt == nil) != (report.RetryAt == nil) ||
			again.RetryAt != nil && !again.RetryAt.Equal(*report.RetryAt) {
			t.Errorf("%+v becomes %+v", report, again)
		}
		again.At, again.RetryAt = report.At, report.RetryAt
		if again != report {
			t.Errorf("%+v becomes %+v", report, again)
		}
	})
}
