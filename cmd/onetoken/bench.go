package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/internal/herd"
	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/store"
)

// The parts of a benchmark.
const (
	benchHerd     = "herd"
	benchDeploy   = "deploy"
	benchRotation = "rotation"
)

type benchFlags struct {
	replicas, callers, rotations int
	latency, life                time.Duration
	only                         string
	quiet                        bool
}

// A benchAnswer is what bench prints as JSON. What wasn't run is null.
type benchAnswer struct {
	Namespace string         `json:"namespace"` // that was used
	Cores     int            `json:"cores"`     // that all replicas shared
	Herd      *benchCold     `json:"herd"`
	Deploy    *benchCold     `json:"deploy"`
	Rotation  *benchRotating `json:"rotation"`

	failed error // of what was measured: the first that isn't as it must be
}

// benchCold are replicas that ask at once for a token, where there is none.
type benchCold struct {
	Replicas           int           `json:"replicas"`
	LatencyMS          float64       `json:"latency_ms"`     // of the token endpoint
	EndpointCalls      int           `json:"endpoint_calls"` // of all replicas together, as all below but per replica
	Wait               benchWait     `json:"wait_ms"`        // of a replica, beyond the endpoint's latency
	AskedAfterMS       float64       `json:"asked_after_ms"` // of that wait, what had passed when the endpoint was called
	Requests           herd.Requests `json:"requests"`       // to Redis, by command; those of handshakes, too
	RequestsPerReplica float64       `json:"requests_per_replica"`
	Connections        int           `json:"connections"` // to Redis, made meanwhile
	Failures           int           `json:"failures"`
	Error              *string       `json:"error"` // the first failure's
}

type benchWait struct {
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// benchRotating are callers that use a token all the time while it is replaced.
type benchRotating struct {
	Replicas                      int     `json:"replicas"`
	Callers                       int     `json:"callers"` // of all replicas together
	LatencyMS                     float64 `json:"latency_ms"`
	LifeMS                        float64 `json:"life_ms"` // of a token
	Rotations                     int     `json:"rotations"`
	EndpointCalls                 int     `json:"endpoint_calls"`
	Calls                         int     `json:"calls"`               // of Token
	Blocked                       int     `json:"blocked"`             // of them, those that didn't return at once
	BlockedByRotation             []int   `json:"blocked_by_rotation"` // the same for each
	Expired                       int     `json:"expired"`             // of them, those that got a token whose life was over
	LongestCallMS                 float64 `json:"longest_call_ms"`
	RequestsPerReplicaAndRotation float64 `json:"requests_per_replica_and_rotation"`
	Failures                      int     `json:"failures"`
	Error                         *string `json:"error"`
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a herd of replicas and a rotation on your Redis, with a scripted token endpoint",
		Long: fmt.Sprintf(`Measure on your Redis what to expect of a fleet: replicas that ask for a token at once where there is none, connected (herd) or
just started (deploy), and callers that use a token while it is replaced (rotation). The replicas are in this process, each with
connections of its own; the token endpoint is in it, too. Your endpoints aren't asked, and your tokens aren't touched.

It needs a Redis: the file's, or --redis-url; the file's environments aren't used. Keys and events are in a namespace of its own,
"NAMESPACE-bench-…", which is emptied at the end, also after ^C. It makes up to %d connections for a replica, and doesn't begin
where Redis has no room for them. Redis works for it as hard as it can for a fraction of a second: mind who else uses it.

Exit code 1 where a token was handed out whose life was over, and that of its error where a replica got none.`, herd.ConnectionsEach),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return &usageError{err}
			}
			ctx, stop := a.endSignals(cmd.Context())
			defer stop()
			return a.bench(ctx, f)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.replicas, "replicas", 50, fmt.Sprintf("`number` of replicas, at most %d", herd.MaxReplicas))
	flags.DurationVar(&f.latency, "latency", 200*time.Millisecond, "`time` that the token endpoint needs for an answer")
	flags.DurationVar(&f.life, "life", 10*time.Second, "`life` of a token in the rotation")
	flags.IntVar(&f.rotations, "rotations", 3, "`number` of times that the token is replaced")
	flags.IntVar(&f.callers, "callers", 4, "`number` of callers of each replica in the rotation")
	flags.StringVar(&f.only, "only", "", "one `part`: herd, deploy or rotation (default: all)")
	flags.BoolVar(&f.quiet, "quiet", false, "show no progress on a terminal")
	return cmd
}

// check names the flag at fault.
func (f benchFlags) check() error {
	switch {
	case f.replicas < 1 || f.replicas > herd.MaxReplicas:
		return fmt.Errorf("--replicas: %d is not between 1 and %d", f.replicas, herd.MaxReplicas)
	case f.latency < 0 || f.latency > herd.MaxLatency:
		return fmt.Errorf("--latency: %v is not between 0s and %v", f.latency, herd.MaxLatency)
	case f.life < herd.MinLife || f.life > herd.MaxLife:
		return fmt.Errorf("--life: %v is not between %v and %v", f.life, herd.MinLife, herd.MaxLife)
	case f.rotations < 1 || f.rotations > herd.MaxRotations:
		return fmt.Errorf("--rotations: %d is not between 1 and %d", f.rotations, herd.MaxRotations)
	case f.callers < 1 || f.callers*f.replicas > herd.MaxCallers:
		return fmt.Errorf("--callers: %d for each of %d replicas are not between 1 and %d in all", f.callers, f.replicas, herd.MaxCallers)
	case f.only != "" && !slices.Contains([]string{benchHerd, benchDeploy, benchRotation}, f.only):
		return fmt.Errorf("--only: %.40q is none of %s, %s, %s", f.only, benchHerd, benchDeploy, benchRotation)
	case f.runs(benchRotation) && f.latency > f.life-herd.MinLife/2:
		return fmt.Errorf("--latency: %v leaves nothing of a --life of %v", f.latency, f.life)
	}
	return nil
}

func (f benchFlags) runs(part string) bool { return f.only == "" || f.only == part }

func (a *app) bench(ctx context.Context, f benchFlags) error {
	a.sources.NoFileOK = true
	file, err := a.sources.Load()
	if err != nil {
		return &usageError{err}
	}
	if rdb, err := file.Client(); err != nil {
		return &usageError{err}
	} else if err := rdb.Close(); err != nil {
		return err
	}
	namespace := cmp.Or(file.Namespace, store.DefaultNamespace)
	o := herd.Options{
		NewRedis: file.Client, Replicas: f.replicas, Latency: f.latency, Callers: f.callers, Rotations: f.rotations,
		Namespace: namespace[:min(len(namespace), 100)] + "-bench-" + strings.ToLower(rand.Text()[:12]),
	}
	progress := a.benchProgress(f, o.Namespace)
	answer := &benchAnswer{Namespace: o.Namespace, Cores: runtime.GOMAXPROCS(0)}
	err = answer.measure(ctx, f, o, progress)
	progress.end()
	switch {
	case isA[*herd.CapacityError](err):
		return &usageError{fmt.Errorf("--replicas: %w", err)}
	case err != nil:
		return err
	}
	if err := a.answer(answer, answer.text(f)); err != nil {
		return err
	}
	return answer.failed
}

// measure runs the parts that are asked for, one after the other.
func (b *benchAnswer) measure(ctx context.Context, f benchFlags, o herd.Options, progress *benchProgress) (err error) {
	if f.runs(benchHerd) {
		o.Progress = progress.of(benchHerd)
		if b.Herd, err = b.cold(ctx, o); err != nil {
			return err
		}
	}
	if f.runs(benchDeploy) {
		deploy := o
		deploy.Progress, deploy.Deploy = progress.of(benchDeploy), true
		if b.Deploy, err = b.cold(ctx, deploy); err != nil {
			return err
		}
	}
	if f.runs(benchRotation) {
		o.Progress, o.Life = progress.of(benchRotation), f.life
		b.Rotation, err = b.rotation(ctx, o)
	}
	return err
}

func (b *benchAnswer) cold(ctx context.Context, o herd.Options) (*benchCold, error) {
	r, err := herd.Cold(ctx, o)
	if err != nil {
		return nil, err
	}
	if r.FirstError != nil {
		b.failed = cmp.Or(b.failed, fmt.Errorf("bench: %d of %d replicas got no token: %w", r.Failures, r.Replicas, r.FirstError))
	}
	return &benchCold{
		Replicas: r.Replicas, LatencyMS: inMS(o.Latency), EndpointCalls: r.Calls,
		Wait:         benchWait{inMS(r.Wait.Min), inMS(r.Wait.P50), inMS(r.Wait.P99), inMS(r.Wait.Max)},
		AskedAfterMS: inMS(r.Asked), Requests: r.Requests, RequestsPerReplica: hundredths(float64(r.Requests.Total()) / float64(r.Replicas)),
		Connections: r.Connections, Failures: r.Failures, Error: textOf(r.FirstError),
	}, nil
}

func (b *benchAnswer) rotation(ctx context.Context, o herd.Options) (*benchRotating, error) {
	r, err := herd.Rotation(ctx, o)
	if err != nil {
		return nil, err
	}
	rotating := &benchRotating{
		Replicas: r.Replicas, Callers: r.Replicas * o.Callers, LatencyMS: inMS(o.Latency), LifeMS: inMS(o.Life), Rotations: len(r.Lives),
		Calls: r.Calls, Blocked: r.Blocked(1), Expired: r.Expired, LongestCallMS: inMS(r.Longest),
		RequestsPerReplicaAndRotation: hundredths(r.RequestsEach()), Failures: r.Failures, Error: textOf(r.FirstError),
	}
	for _, l := range r.Lives {
		rotating.EndpointCalls += l.Calls
		rotating.BlockedByRotation = append(rotating.BlockedByRotation, l.Blocked)
	}
	if r.FirstError != nil {
		b.failed = cmp.Or(b.failed, fmt.Errorf("bench: %d of %d calls got no token: %w", r.Failures, r.Calls, r.FirstError))
	}
	if r.Expired > 0 {
		b.failed = cmp.Or(b.failed, fmt.Errorf("bench: %d of %d calls got a token whose life was over", r.Expired, r.Calls))
	}
	return rotating, nil
}

// textOf is an error as JSON has it, nil where there is none.
func textOf(err error) *string {
	if err == nil {
		return nil
	}
	return new(printable.Line(err.Error(), 500))
}

func inMS(d time.Duration) float64 { return hundredths(float64(d) / float64(time.Millisecond)) }

func hundredths(x float64) float64 { return math.Round(x*100) / 100 }

// text is the answer for people: of each part what was measured, and what to expect.
func (b *benchAnswer) text(f benchFlags) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s in this process, which share %s; a token endpoint that takes %v.\nThe namespace was %s; nothing is left in it.\n",
		doctor.Count(f.replicas, "replica"), doctor.Count(b.Cores, "core"), f.latency, b.Namespace)
	if b.Herd != nil {
		b.Herd.text(&out, "HERD: all ask at once for a token, where there is none")
	}
	if b.Deploy != nil {
		b.Deploy.text(&out, "DEPLOY: all are started at once, and ask")
	}
	if b.Rotation != nil {
		b.Rotation.text(&out)
	}
	return out.String()
}

func (c *benchCold) text(out *strings.Builder, title string) {
	benchTable(out, title, [][3]string{
		{"endpoint calls", strconv.Itoa(c.EndpointCalls), "1, however many ask"},
		{"it was called after", milliseconds(c.AskedAfterMS), "a round trip to Redis, and a turn of all replicas on these cores"},
		{"wait beyond the endpoint: median", milliseconds(c.Wait.P50), "round trips to Redis, and the work of all replicas on these cores"},
		{"… of 99 in 100", milliseconds(c.Wait.P99), "little more: all hear of the token at once"},
		{"… longest", milliseconds(c.Wait.Max), ""},
		{"requests per replica", strconv.FormatFloat(c.RequestsPerReplica, 'f', -1, 64), "at most 10; a little more for each 2 s that the endpoint takes"},
		{"connections made", strconv.Itoa(c.Connections), ""},
		{"replicas without a token", strconv.Itoa(c.Failures), "0"},
	})
}

func (r *benchRotating) text(out *strings.Builder) {
	title := fmt.Sprintf("ROTATION: %d callers use a token of %v while it is replaced, %s", r.Callers,
		time.Duration(r.LifeMS)*time.Millisecond, doctor.Count(r.Rotations, "time"))
	benchTable(out, title, [][3]string{
		{"endpoint calls", strconv.Itoa(r.EndpointCalls), fmt.Sprintf("%d: one each time", r.Rotations)},
		{"calls for the token", strconv.Itoa(r.Calls), ""},
		{"… that had to wait", strconv.Itoa(r.Blocked), "0, where a token's life is long beside the endpoint's latency"},
		{"… longest", milliseconds(r.LongestCallMS), "what the machine was busy with included"},
		{"… with a token whose life was over", strconv.Itoa(r.Expired), "0"},
		{"… without a token", strconv.Itoa(r.Failures), "0"},
		{"requests per replica each time", strconv.FormatFloat(r.RequestsPerReplicaAndRotation, 'f', -1, 64), "a few; the fewer the more replicas there are"},
	})
}

func milliseconds(ms float64) string { return strconv.FormatFloat(ms, 'f', -1, 64) + "ms" }

func benchTable(out *strings.Builder, title string, rows [][3]string) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "  \tMEASURED\tEXPECT")
	for _, row := range rows {
		_, _ = fmt.Fprintf(w, "  %s\n", strings.Join(row[:], "\t"))
	}
	_ = w.Flush()
	fmt.Fprintf(out, "\n%s\n", title)
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
}

// benchProgress shows on one line how far it is, where stderr is a terminal; seldom enough that it isn't measured, too.
type benchProgress struct {
	out   io.Writer
	shown time.Time
}

func (a *app) benchProgress(f benchFlags, namespace string) *benchProgress {
	file, ok := a.stderr.(*os.File)
	if !ok || f.quiet || !term.IsTerminal(int(file.Fd())) {
		return &benchProgress{out: io.Discard}
	}
	_, _ = fmt.Fprintf(file, "onetoken: bench: up to %d connections to Redis; keys in the namespace %s, which are deleted at the end\n",
		f.replicas*herd.ConnectionsEach, namespace)
	return &benchProgress{out: file}
}

func (p *benchProgress) of(part string) func(herd.Progress) {
	return func(now herd.Progress) {
		if now.Done < now.Of && time.Since(p.shown) < 100*time.Millisecond {
			return
		}
		p.shown = time.Now()
		_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s: %s %d of %d", part, now.Step, now.Done, now.Of)
	}
}

// end leaves nothing of the line.
func (p *benchProgress) end() { _, _ = io.WriteString(p.out, "\r\x1b[K") }
