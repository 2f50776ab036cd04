package metrics_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/programs"
)

const (
	signalsFile   = "../../docs/signals.md"
	dashboardFile = "../../docs/grafana/onetoken.json"
	rulesFile     = "../../docs/alerts/onetoken.yml"
	ruleTestsFile = "../../docs/alerts/onetoken_test.yml"
	exampleFile   = "../../manager/example_signals_test.go"
	runbookFile   = "../../docs/runbook.md"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWhatIsWrittenIsWhatIsExported holds docs, dashboard and rules against a manager that has lived through everything.
func TestWhatIsWrittenIsWhatIsExported(t *testing.T) {
	logged := &records{}
	x := newExported(t, logged)
	x.lives(t.Context())
	all := x.scrape()
	t.Run("docs", func(t *testing.T) { checkDocs(t, all) })
	t.Run("logs", func(t *testing.T) { logged.check(t) })
	t.Run("dashboard", func(t *testing.T) {
		for _, q := range queries(t) {
			checkQuery(t, q.where, q.expr, all.series())
		}
	})
	t.Run("rules", func(t *testing.T) {
		for _, r := range rules(t) {
			checkQuery(t, r.Alert, r.Expr, all.series())
		}
	})
	t.Run("prometheus", func(t *testing.T) { checkWithPrometheus(t, x.url) })
}

// documented is a row of the table of metrics.
var documented = regexp.MustCompile("(?m)^\\| `(onetoken\\.[a-z._]+)` \\| `(onetoken_[a-z_]+)` \\| (counter|gauge|histogram), `([^`]+)` \\|([^|]*)\\| ([^|]+) \\|$")

func checkDocs(t *testing.T, all families) {
	rows := documented.FindAllStringSubmatch(read(t, signalsFile), -1)
	var names []string
	for _, row := range rows {
		otel, prom, kind, unit, attrs := row[1], row[2], row[3], row[4], row[5]
		names = append(names, prom)
		if want := translated(otel, kind, unit); prom != want {
			t.Errorf("%s is %s in Prometheus, not %s", otel, want, prom)
		}
		family := all[prom]
		if family == nil {
			t.Errorf("%s is documented, and not exported", prom)
			continue
		}
		if got := strings.ToLower(family.GetType().String()); got != kind {
			t.Errorf("%s is a %s, not a %s", prom, got, kind)
		}
		want := slices.Sorted(strings.FieldsSeq(strings.NewReplacer("`", "", ".", "_").Replace(attrs)))
		if got := labelsOf(family); !slices.Equal(got, want) {
			t.Errorf("%s has the labels %v, documented are %v", prom, got, want)
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "onetoken_") && name != "onetoken_build_info" && !slices.Contains(names, name) {
			t.Errorf("%s is exported, and not documented", name)
		}
	}
}

func labelsOf(family *dto.MetricFamily) []string {
	name := family.GetName()
	if family.GetType() == dto.MetricType_HISTOGRAM {
		name += "_count"
	}
	return families{family.GetName(): family}.series()[name]
}

// translated is how OpenTelemetry's exporter names a metric.
func translated(name, kind, unit string) string {
	name = strings.ReplaceAll(name, ".", "_")
	if unit == "s" {
		name += "_seconds"
	}
	if kind == "counter" {
		name += "_total"
	}
	return name
}

func TestTheExampleInTheDocsIsTheOneThatIsRun(t *testing.T) {
	_, block, ok := strings.Cut(read(t, signalsFile), "```go\n")
	block, _, closed := strings.Cut(block, "```")
	if !ok || !closed || !strings.Contains(read(t, exampleFile), block) {
		t.Errorf("%s has another example than %s", signalsFile, exampleFile)
	}
}

// records are the keys and outcomes that managers have logged.
type records struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (r *records) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *records) check(t *testing.T) {
	_, text, _ := strings.Cut(read(t, signalsFile), "## Logs")
	seen := 0
	for line := range strings.Lines(r.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		seen++
		for key := range record {
			if !slices.Contains([]string{"time", "level", "msg"}, key) && !strings.Contains(text, "`"+key+"`") {
				t.Errorf("the key %s isn't documented: %s", key, line)
			}
		}
		outcome, _ := record["outcome"].(string)
		if record["replica"] == nil || outcome == "" || !strings.Contains(text, "`"+outcome+"`") {
			t.Errorf("replica is missing, or a documented outcome: %s", line)
		}
	}
	if seen < 10 {
		t.Errorf("%d records were logged: too few to say anything", seen)
	}
}

// A query is one of the dashboard's.
type query struct{ where, expr string }

type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  struct{ UID string }
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct {
		Expr       string
		Datasource struct{ UID string }
	}
}

func dashboard(t *testing.T) (panels []panel) {
	t.Helper()
	var d struct {
		Title      string
		Panels     []panel
		Templating struct{ List []struct{ Name, Type string } }
	}
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	if v := d.Templating.List; len(v) != 2 || v[0].Name != "datasource" || v[0].Type != "datasource" || v[1].Name != "environment" {
		t.Errorf("variables: %+v", v)
	}
	return d.Panels
}

// queries returns the dashboard's, with its variables filled in.
func queries(t *testing.T) (list []query) {
	t.Helper()
	fill := strings.NewReplacer("$environment", env, "$__rate_interval", "1m")
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			list = append(list, query{p.Title, fill.Replace(target.Expr)})
		}
	}
	if len(list) == 0 {
		t.Fatal("no queries")
	}
	return list
}

func TestTheDashboardIsWhole(t *testing.T) {
	ids := map[int]bool{}
	var before []panel
	for _, p := range dashboard(t) {
		if p.Title == "" || ids[p.ID] || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%q: id %d, at %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for _, q := range before {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%q lies over %q", p.Title, q.Title)
			}
		}
		before = append(before, p)
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%q: no description, no query, or a datasource of its own", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || strings.Contains(target.Expr, "onetoken_environment") && strings.Contains(target.Expr, "{}") {
				t.Errorf("%q: %s", p.Title, target.Expr)
			}
		}
	}
}

type rule struct {
	Alert, Expr string
	Labels      map[string]string
	Annotations map[string]string
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(read(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) != 1 || len(file.Groups[0].Rules) == 0 {
		t.Fatalf("groups: %+v", file)
	}
	return file.Groups[0].Rules
}

// anchors are the runbook's sections.
var anchors = []string{"missing", "failing", "refused", "conflict", "refreshing", "stale", "redis-away", "events-missing", "clock"}

func TestEachAlertSaysWhatToDo(t *testing.T) {
	label := regexp.MustCompile(`\$labels\.(\w+)`)
	led := map[string]bool{}
	for _, r := range rules(t) {
		link, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
		if !strings.HasSuffix(link, "/docs/runbook.md") || !slices.Contains(anchors, anchor) {
			t.Errorf("%s leads to %s#%s", r.Alert, link, anchor)
		}
		led[anchor] = true
		if s := r.Labels["severity"]; s != "warning" && s != "critical" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: severity %q, annotations %v", r.Alert, s, r.Annotations)
		}
		for _, text := range r.Annotations {
			for _, m := range label.FindAllStringSubmatch(text, -1) {
				if !slices.Contains(groupedBy(r.Expr), m[1]) {
					t.Errorf("%s speaks of the label %s, which its expression doesn't keep", r.Alert, m[1])
				}
			}
		}
		if !strings.Contains(read(t, ruleTestsFile), `alertname="`+r.Alert+`"`) {
			t.Errorf("%s has no test", r.Alert)
		}
	}
	for _, a := range anchors {
		if !led[a] {
			t.Errorf("no alert leads to #%s", a)
		}
	}
}

func TestTheRunbookHasASectionForEachAlert(t *testing.T) {
	text, err := os.ReadFile(runbookFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range anchors {
		heading := regexp.MustCompile(`(?mi)(^#+ ` + "`?" + strings.ReplaceAll(a, "-", "[- ]") + "`?" + `\s*$|id="` + a + `")`)
		if !heading.Match(text) {
			t.Errorf("%s has no section #%s", runbookFile, a)
		}
	}
}

func TestTheRulesByPromtool(t *testing.T) {
	promtool := programs.Need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", rulesFile}, {"test", "rules", ruleTestsFile}} {
		if out, err := command(t, promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
