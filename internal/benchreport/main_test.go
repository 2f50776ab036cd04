package main

import (
	"os"
	"strings"
	"testing"
)

func recorded(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/bench.txt")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheReportOfARun(t *testing.T) {
	in := recorded(t)
	var out strings.Builder
	err := report(strings.NewReader(in), &out, []row{
		{what: "floor", name: "TokenByHandle/serial", metric: "x-floor", goal: atMost(1.2)},
		{what: "allocations", name: "TokenByHandle/serial", metric: "allocs/op", goal: atMost(0)},
		{what: "serial", name: "TokenByHandle/serial", metric: "oauth2-x", goal: atLeast(2)},
		{what: "parallel", name: "TokenByHandle/parallel", metric: "oauth2-x", goal: atLeast(4.5)},
		{what: "run three times", name: "Transport/serial", metric: "ns-over-base", goal: atMost(350)},
		{what: "three of three", name: "Transport/serial", metric: "allocs-over-base", goal: atMost(3)},
		{what: "too long", name: "Transport/serial", metric: "ns/op", goal: atMost(400)},
		{what: "by another", name: "TokenPath", metric: "ns/op", over: "ConstantReply"},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	const want = `
what             goal    result  of goal  met
floor            <= 1.2  1.045   0.87     yes
allocations      <= 0    0       -        yes
serial           >= 2    2.327   1.16     yes
parallel         >= 4.5  2.541   0.56     NO
run three times  <= 350  349.1   1.00     yes
three of three   <= 3    3       1.00     yes
too long         <= 400  423     1.06     NO
by another       -       1.5     -        -
`
	if out.String() != in+want {
		t.Errorf("got\n%s\nwant what was read, and\n%s", out.String(), want)
	}
}

func TestWhatIsMissingIsAnErrorUnlessAPartWasRun(t *testing.T) {
	missing := []row{
		{what: "a", name: "TokenByHandle/serial", metric: "x-floor", goal: atMost(1)},
		{what: "b", name: "Herd/replicas=500", metric: "wait-ms", goal: atMost(40)},
		{what: "c", name: "TokenPath", metric: "ns/op", over: "Gone"},
		{what: "d", name: "TokenPath", metric: "gone/op"},
	}
	var out strings.Builder
	err := report(strings.NewReader(recorded(t)), &out, missing, false)
	if want := "missing: Herd/replicas=500 wait-ms, TokenPath ns/op, TokenPath gone/op"; err == nil || err.Error() != want {
		t.Errorf("%v; want %s", err, want)
	}
	if !strings.HasSuffix(out.String(), "\na     <= 1  1.045   1.04     NO\n") {
		t.Errorf("what is there isn't shown: %s", out.String())
	}
	if err := report(strings.NewReader(recorded(t)), &out, missing, true); err != nil {
		t.Errorf("a part: %v", err)
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "no result of a benchmark"},
		{"PASS\nok  \tx\t1s\n", "no result of a benchmark"},
		{"BenchmarkX-2 \t 10 \t fast ns/op\n", `no result: "BenchmarkX-2 10 fast ns/op"`},
		{"BenchmarkX-2 \t 10 \t 5\n", `no result: "BenchmarkX-2 10 5"`},
		{"BenchmarkX-2 \t 10\n", `no result: "BenchmarkX-2 10"`},
		{"BenchmarkX-2 \t many \t 5 ns/op\n", `no result: "BenchmarkX-2 many 5 ns/op"`},
		{"BenchmarkX-2 \t 10 \t 5 ns/op\n--- FAIL: BenchmarkY\nFAIL\n", "--- FAIL: BenchmarkY"},
		{"BenchmarkX-2 \t 10 \t 5 ns/op\n    --- FAIL: BenchmarkY/z\n", "    --- FAIL: BenchmarkY/z"},
		{"FAIL\tx [build failed]\nBenchmarkX-2 \t 10 \t 5 ns/op\n", "FAIL\tx [build failed]"},
		{"panic: no\n", "panic: no"},
		{"BenchmarkX-2 \t 10 \t 5 ns/op\n" + strings.Repeat("x", 2<<20), "bufio.Scanner: token too long"},
	} {
		if err := report(strings.NewReader(c.in), &strings.Builder{}, nil, true); err == nil || err.Error() != c.want {
			t.Errorf("%.60q: %v; want %s", c.in, err, c.want)
		}
	}
}
