package report_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/peers"
	"github.com/onetoken/onetoken/internal/peers/report"
)

const docs = "../../../docs"

// What the page shows is what was measured: neither a table nor a plot was touched by hand, or left behind.
func TestThePageShowsWhatWasMeasured(t *testing.T) {
	measured, err := report.Read(docs)
	if err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	page, err := os.ReadFile(filepath.Join(docs, "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(again, "performance.md"), page, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := measured.Write(again); err != nil {
		t.Fatal(err)
	}
	want, got := files(t, docs), files(t, again)
	for name := range maps.Keys(got) {
		if got[name] != want[name] {
			t.Errorf("%s differs from what is made of results.json: make performance", name)
		}
	}
	for name := range want {
		if _, made := got[name]; !made {
			t.Errorf("nothing makes %s", name)
		}
		if strings.HasSuffix(name, ".svg") && !strings.Contains(want["performance.md"], "(performance/"+name+")") {
			t.Errorf("the page doesn't show %s", name)
		}
	}
}

// files returns the page and what is in its directory.
func files(t *testing.T, docs string) map[string]string {
	t.Helper()
	found := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(docs, "performance", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, filepath.Join(docs, "performance.md")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(path)] = string(text)
	}
	return found
}

func TestRatiosAreToOurs(t *testing.T) {
	r := report.Results{
		Tokens: []peers.Cost{{Name: "theirs", Serial: 61, Parallel: 70, Allocs: 1}, {Name: "ours", Serial: 26.5, Parallel: 14}},
		Herds: []peers.HerdResult{
			{Strategy: "few", Herd: peers.Herd{Replicas: 2, Latency: time.Second}},
			{Strategy: "theirs", Herd: peers.Herd{Replicas: 10, Latency: time.Second}, Calls: 1, Max: 90 * time.Millisecond, Requests: 100},
			{Strategy: peers.Ours, Herd: peers.Herd{Replicas: 10, Latency: time.Second}, Calls: 1, Max: 7500 * time.Microsecond, Requests: 50},
		},
	}
	want := map[string][]string{
		"token": {"| theirs ", " 61.0 ", " 70.0 ", " 1 ", " 2.3 ", " 5.0 |"},
		"herd":  {"| theirs ", " 1 ", " 0 ", " 0.0 ms ", " 90 ms ", " 12 ", " 100 ", " 10.0 ", " 2.0 ", " 0 |"},
	}
	for name, cells := range want {
		section := r.Sections()[name]
		row := strings.Split(section, "\n")[2]
		for _, cell := range cells {
			_, rest, found := strings.Cut(row, cell)
			if !found {
				t.Fatalf("%s: no %q in what is left, %q, of\n%s", name, cell, row, section)
			}
			row = rest
		}
	}
	if strings.Contains(r.Sections()["herd"], "few") {
		t.Error("a herd that isn't the largest is in the table")
	}
}

func TestASectionNeedsAPlace(t *testing.T) {
	const text = "before\n<!-- measured: a -->\nold\n<!-- end -->\nafter\n"
	got, err := report.Fill(text, map[string]string{"a": "new\n"})
	if want := "before\n<!-- measured: a -->\n\nnew\n\n<!-- end -->\nafter\n"; got != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if again, err := report.Fill(got, map[string]string{"a": "new\n"}); again != got || err != nil {
		t.Errorf("filled again: %q, %v", again, err)
	}
	if _, err := report.Fill(text, map[string]string{"b": "new"}); err == nil {
		t.Error("a section without a place is no error")
	}
}
