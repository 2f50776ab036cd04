package programs_test

import (
	"runtime"
	"testing"

	"github.com/onetoken/onetoken/internal/programs"
)

// A recorder is a test that notes how it was ended, and ends its goroutine as a test does.
type recorder struct {
	testing.TB
	ended string
}

func (*recorder) Helper()                 {}
func (r *recorder) Fatalf(string, ...any) { r.ended = "failed"; runtime.Goexit() }
func (r *recorder) Skipf(string, ...any)  { r.ended = "skipped"; runtime.Goexit() }

// need calls Need with a recorder, and returns what it returned and how it ended the test.
func need(t *testing.T, name string) (path, ended string) {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		path = programs.Need(r, name)
	}()
	<-done
	return path, r.ended
}

func TestAProgramThatIsMissingSkipsOrFailsTheTest(t *testing.T) {
	for _, c := range []struct{ program, require, ended string }{
		{"go", "", ""},
		{"go", "1", ""},
		{"no-such-program", "", "skipped"},
		{"no-such-program", "0", "skipped"},
		{"no-such-program", "1", "failed"},
	} {
		t.Setenv(programs.RequireEnv, c.require)
		path, ended := need(t, c.program)
		if ended != c.ended || (path != "") != (c.ended == "") {
			t.Errorf("%s with %q: path %q, ended %q, want %q", c.program, c.require, path, ended, c.ended)
		}
	}
}
