package metrics_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Enough of PromQL to find the names in it. Whether a query is valid is for Prometheus to say.
var (
	selector = regexp.MustCompile(`([a-zA-Z_:][\w:]*)?\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\[[^\]]*\]`)
	name     = regexp.MustCompile(`[a-zA-Z_:][\w:]*\s*\(?`)
	keywords = []string{"and", "or", "unless", "bool", "offset"}
)

// target are the labels that a scrape adds.
var target = []string{"job", "instance"}

// groupedBy returns the labels that an expression keeps.
func groupedBy(expr string) (labels []string) {
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		if m[1] == "by" {
			labels = append(labels, list(m[2])...)
		}
	}
	return labels
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// metricsIn returns the metrics that an expression names.
func metricsIn(expr string) (names []string) {
	rest := grouping.ReplaceAllString(expr, " ")
	rest = selector.ReplaceAllString(rest, "$1 ")
	rest = quoted.ReplaceAllString(rest, " ")
	for _, n := range name.FindAllString(rest, -1) {
		if !strings.HasSuffix(n, "(") && !slices.Contains(keywords, strings.TrimSpace(n)) {
			names = append(names, strings.TrimSpace(n))
		}
	}
	return names
}

// checkQuery checks that each metric and label of an expression is one of series, which has the labels of each.
func checkQuery(t *testing.T, where, expr string, series map[string][]string) {
	t.Helper()
	named := metricsIn(expr)
	if len(named) == 0 {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	known := slices.Clone(target)
	for _, n := range named {
		labels, ok := series[n]
		if !ok {
			t.Errorf("%s: %s isn't exported", where, n)
		}
		known = append(known, labels...)
	}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(append(series[m[1]], target...), label[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], label[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range list(m[2]) {
			if !slices.Contains(known, label) {
				t.Errorf("%s: no metric in it has a label %s", where, label)
			}
		}
	}
}

func TestNamesAreFoundInQueries(t *testing.T) {
	const expr = `max by (job, env) (a_total{env=~"x|y_z", b="c"}) / on (env) group_left (d) rate(e:f[5m]) > 0 or vector(0) and histogram_quantile(0.95, sum by (le) (g_bucket))`
	if got := metricsIn(expr); !slices.Equal(got, []string{"a_total", "e:f", "g_bucket"}) {
		t.Errorf("metrics: %v", got)
	}
	if got := groupedBy(expr); !slices.Equal(got, []string{"job", "env", "le"}) {
		t.Errorf("labels: %v", got)
	}
	for want, expr := range map[string]string{
		"unknown metric": `sum(b)`, "unknown label": `a{x="1"}`, "unknown grouping": `sum by (x) (a)`, "none": `vector(0)`,
	} {
		inner := &testing.T{}
		checkQuery(inner, "", expr, map[string][]string{"a": {"l"}})
		if !inner.Failed() {
			t.Errorf("%s: not found in %s", want, expr)
		}
	}
	checkQuery(t, "all known", `sum by (l, job) (a{l="1", instance="2"})`, map[string][]string{"a": {"l"}})
}
