package top_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/tmuxtest"
	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/manager"
)

// panicEnv makes the test binary show a view that panics where the variable says.
const panicEnv = "ONETOKEN_TEST_PANIC"

// helper runs what a test has started this binary for, and reports whether it was.
func helper() bool {
	where := os.Getenv(panicEnv)
	if where == "" {
		return false
	}
	s := newSource(3)
	o := s.options()
	switch where {
	case "names":
		o.Names = func(context.Context) ([]string, error) { panic("ouch") }
	case "rows":
		o.Rows = func(context.Context, []string) ([]manager.Status, error) { panic("ouch") }
	case "view":
		o.Rows = func(context.Context, []string) ([]manager.Status, error) { return nil, ouch{} }
	}
	err := top.Terminal{Out: os.Stdout, Environ: os.Environ()}.Show(context.Background(), top.NewReader(o))
	fmt.Println("ended without a panic:", err)
	os.Exit(1)
	return true
}

// ouch panics where it is shown.
type ouch struct{}

func (ouch) Error() string { panic("ouch") }

// After a panic, wherever it was, the terminal is as it was before, and says what happened.
func TestPanicRestoresTheTerminal(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for where, code := range map[string]int{"names": 2, "rows": 2, "view": 1} { // the last one is caught by bubbletea
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			term := tmuxtest.Start(t, 100, 40, []string{panicEnv + "=" + where}, self)
			term.Restored(code)
			if said := term.History(); !strings.Contains(said, "ouch") || !strings.Contains(said, "goroutine ") {
				t.Errorf("got\n%s", said)
			}
		})
	}
}
