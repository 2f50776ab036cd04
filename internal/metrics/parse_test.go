package metrics_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// families are what a scrape has brought, by name.
type families map[string]*dto.MetricFamily

func parse(t *testing.T, text string) families {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sum is that of a metric's series; of a histogram's that of the counts, asked for by name_count.
func (f families) sum(name string) (sum float64) {
	for _, m := range f[strings.TrimSuffix(name, "_count")].GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// series are the names that a query can ask for, each with the labels that its metric has.
func (f families) series() map[string][]string {
	all := map[string][]string{}
	for name, family := range f {
		labels := map[string]bool{}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		list := slices.Sorted(maps.Keys(labels))
		if family.GetType() != dto.MetricType_HISTOGRAM {
			all[name] = list
			continue
		}
		all[name+"_count"], all[name+"_sum"], all[name+"_bucket"] = list, list, append(list, "le")
	}
	return all
}
