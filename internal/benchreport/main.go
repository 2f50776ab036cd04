// Command benchreport reads what go test -bench prints, passes it through, and adds how it compares with the goals. make bench
// runs it. A goal that is missed is no error: how fast a machine is, is no test. Benchmarks that failed, are missing or can't be
// read are.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A row is a result that there is a goal for.
type row struct {
	what   string
	name   string // of the benchmark, without "Benchmark" and "-<GOMAXPROCS>"
	metric string
	over   string // the benchmark whose metric it is divided by; "" for none
	goal   goal   // the zero one: none
}

// A goal is the most, or the least, that a result should be.
type goal struct {
	sense string // "<=" or ">="; "" for no goal
	limit float64
}

func atMost(limit float64) goal  { return goal{"<=", limit} }
func atLeast(limit float64) goal { return goal{">=", limit} }

var rows = []row{
	{what: "token by handle, of the floor", name: "TokenByHandle/serial", metric: "x-floor", goal: atMost(1.2)},
	{what: "the same on all cores", name: "TokenByHandle/parallel", metric: "x-floor", goal: atMost(1.2)},
	{what: "its allocations", name: "TokenByHandle/serial", metric: "allocs/op", goal: atMost(0)},
	{what: "x/oauth2's time for a token, of ours", name: "TokenByHandle/serial", metric: "oauth2-x", goal: atLeast(2)},
	{what: "the same on all cores", name: "TokenByHandle/parallel", metric: "oauth2-x", goal: atLeast(4.5)},
	{what: "token by name, of the floor", name: "TokenByName/environments=1/serial", metric: "x-floor", goal: atMost(1.6)},
	{what: "the same on all cores", name: "TokenByName/environments=1/parallel", metric: "x-floor", goal: atMost(1.6)},
	{what: "its allocations", name: "TokenByName/environments=1/serial", metric: "allocs/op", goal: atMost(0)},
	{what: "token by name of 10,000, of the floor", name: "TokenByName/environments=10000/serial", metric: "x-floor", goal: atMost(1.6)},
	{what: "the same on all cores", name: "TokenByName/environments=10000/parallel", metric: "x-floor", goal: atMost(1.6)},
	{what: "token by name while some are added", name: "TokenByName/while-added/serial", metric: "x-floor", goal: atMost(1.6)},
	{what: "transport, ns over its base", name: "Transport/serial", metric: "ns-over-base", goal: atMost(350)},
	{what: "its allocations over its base", name: "Transport/serial", metric: "allocs-over-base", goal: atMost(3)},
	{what: "10,000 environments, ms to start", name: "TenThousandEnvironments", metric: "ms/start", goal: atMost(2000)},
	{what: "bytes of each, with a token", name: "TenThousandEnvironments", metric: "B/environment", goal: atMost(4096)},
	{what: "10,000 × 20 replicas, ms to start", name: "Scale/environments=10000/replicas=20", metric: "start-ms", goal: atMost(2000)},
	{what: "bytes of each environment in a replica", name: "Scale/environments=10000/replicas=20", metric: "B/environment", goal: atMost(4096)},
	{what: "their rotation, % of a core of Redis", name: "RotationOfMany/environments=333/replicas=20/life=2m0s", metric: "redis-cpu-%", goal: atMost(20)},
	{what: "cold herd of 500, ms beyond the endpoint", name: "ColdHerd/replicas=500/latency=200ms", metric: "wait-ms", goal: atMost(40)},
	{what: "its calls of the endpoint", name: "ColdHerd/replicas=500/latency=200ms", metric: "calls/op", goal: atMost(1)},
	{what: "its requests, of a replica", name: "ColdHerd/replicas=500/latency=200ms", metric: "requests/replica", goal: atMost(5.04)},
	{what: "its failures", name: "ColdHerd/replicas=500/latency=200ms", metric: "failures/op", goal: atMost(0)},
	{what: "with 5 s, ms beyond the endpoint", name: "PatientHerd/replicas=500/latency=5s", metric: "wait-ms", goal: atMost(40)},
	{what: "its requests, of a replica", name: "PatientHerd/replicas=500/latency=5s", metric: "requests/replica", goal: atMost(5.04 + 2.5)},
	{what: "with 30 s, ms beyond the endpoint", name: "PatientHerd/replicas=500/latency=30s", metric: "wait-ms", goal: atMost(40)},
	{what: "its requests, of a replica", name: "PatientHerd/replicas=500/latency=30s", metric: "requests/replica", goal: atMost(5.04 + 15)},
	{what: "cold herd of 1,000 clients: calls", name: "ThousandClients", metric: "calls/op", goal: atMost(1)},
	{what: "its failures", name: "ThousandClients", metric: "failures/op", goal: atMost(0)},
	{what: "rotation: calls that were blocked", name: "Rotation/replicas=50/latency=600ms/life=2s", metric: "blocked/op", goal: atMost(0)},
	{what: "expired tokens", name: "Rotation/replicas=50/latency=600ms/life=2s", metric: "expired/op", goal: atMost(0)},
	{what: "calls of the endpoint in a life", name: "Rotation/replicas=50/latency=600ms/life=2s", metric: "calls/life", goal: atMost(1)},
	{what: "requests of a replica", name: "Rotation/replicas=50/latency=600ms/life=2s", metric: "requests/replica/rotation", goal: atMost(1.4)},
	{what: "at rest, requests of a replica in a minute", name: "AtRest", metric: "requests/replica/minute", goal: atMost(2)},
	{what: "the agent's token path, of a constant reply", name: "TokenPath", metric: "ns/op", over: "ConstantReply"},
}

func main() {
	part := flag.Bool("part", false, "a part of the benchmarks was run: what isn't there isn't missing")
	flag.Parse()
	if err := report(os.Stdin, os.Stdout, rows, *part); err != nil {
		fmt.Fprintln(os.Stderr, "benchreport:", err)
		os.Exit(1)
	}
}

// report copies in to out and adds the rows. The error says what failed, couldn't be read or, unless a part was run, is missing.
func report(in io.Reader, out io.Writer, rows []row, part bool) error {
	got, err := read(in, out)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "\nwhat\tgoal\tresult\tof goal\tmet")
	var missing []string
	for _, r := range rows {
		value, ok := r.value(got)
		if !ok && !part {
			missing = append(missing, r.name+" "+r.metric)
		}
		if ok {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.what, r.goal, short(value), r.goal.part(value), r.goal.met(value))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

// value returns the row's result, the median where the benchmark was run several times.
func (r row) value(got results) (float64, bool) {
	value, ok := got.median(r.name, r.metric)
	if !ok || r.over == "" {
		return value, ok
	}
	over, ok := got.median(r.over, r.metric)
	return value / over, ok
}

func (g goal) String() string {
	if g.sense == "" {
		return "-"
	}
	return g.sense + " " + short(g.limit)
}

// part is the value as a multiple of the limit.
func (g goal) part(value float64) string {
	if g.limit == 0 {
		return "-"
	}
	return strconv.FormatFloat(value/g.limit, 'f', 2, 64)
}

func (g goal) met(value float64) string {
	switch {
	case g.sense == "":
		return "-"
	case g.sense == "<=" && value <= g.limit, g.sense == ">=" && value >= g.limit:
		return "yes"
	}
	return "NO"
}

func short(value float64) string { return strconv.FormatFloat(value, 'g', 4, 64) }

// results are the values of each benchmark's metrics.
type results map[string]map[string][]float64

func (r results) median(name, metric string) (float64, bool) {
	values := slices.Sorted(slices.Values(r[name][metric]))
	if len(values) == 0 {
		return 0, false
	}
	return values[len(values)/2], true
}

var procs = regexp.MustCompile(`-\d+$`)

// read reads all that in has, and copies it to out. The error names the first line that tells of a failure, or that begins as
// a result and isn't one.
func read(in io.Reader, out io.Writer) (results, error) {
	got := results{}
	var bad error
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if _, err := fmt.Fprintln(out, line); err != nil {
			return nil, err
		}
		switch fields := strings.Fields(line); {
		case bad != nil:
		case strings.HasPrefix(line, "FAIL") || strings.HasPrefix(strings.TrimSpace(line), "--- FAIL") || strings.HasPrefix(line, "panic: "):
			bad = errors.New(line)
		case strings.HasPrefix(line, "Benchmark") && len(fields) > 1: // a name alone stands above what the benchmark logs
			bad = got.add(fields)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if bad == nil && len(got) == 0 {
		bad = errors.New("no result of a benchmark")
	}
	return got, bad
}

// add takes in a line "BenchmarkName-8  1000  12.3 ns/op  4 B/op".
func (r results) add(fields []string) error {
	if _, err := strconv.Atoi(fields[1]); err != nil || len(fields) < 4 || len(fields)%2 != 0 {
		return fmt.Errorf("no result: %q", strings.Join(fields, " "))
	}
	name := procs.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
	if r[name] == nil {
		r[name] = map[string][]float64{}
	}
	for i := 2; i < len(fields); i += 2 {
		value, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return fmt.Errorf("no result: %q", strings.Join(fields, " "))
		}
		r[name][fields[i+1]] = append(r[name][fields[i+1]], value)
	}
	return nil
}
