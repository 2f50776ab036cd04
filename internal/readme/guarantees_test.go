package readme_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/guarantees.md names as proof must exist: tests by their names, and the simulation's rules.
func TestTheGuaranteesNameWhatShowsThem(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, rules := sources(t)
	named := regexp.MustCompile("`(…?)(Test)?([A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	found := 0
	for _, n := range named {
		switch {
		case n[1] != "": // "…LosesTheToken": the end of a name
			if found++; !strings.Contains(tests, n[3]+"(") {
				t.Errorf("no test's name ends with %s", n[3])
			}
		case n[2] != "":
			if found++; !strings.Contains(tests, "func Test"+n[3]+"(") {
				t.Errorf("there is no test Test%s", n[3])
			}
		}
	}
	for _, row := range regexp.MustCompile(`(?m)^\|.*simulation.*$`).FindAllString(string(text), -1) {
		_, shown, _ := strings.Cut(row, "simulation, ")
		for _, rule := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(shown, -1) {
			if found++; !strings.Contains(rules, rule[1]) {
				t.Errorf("the simulation has no rule, and no fault, %q", rule[1])
			}
		}
	}
	if found < 40 {
		t.Errorf("%d proofs were found in the text: is it still written as this test reads it?", found)
	}
}

// sources returns all tests of the module, and the simulation.
func sources(t *testing.T) (tests, sim string) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil // other packages' tests make files, and remove them
		case err == nil && d.IsDir() && d.Name() == "node_modules":
			return filepath.SkipDir
		case err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return err
		}
		text, err := os.ReadFile(path)
		tests += string(text)
		if strings.Contains(filepath.ToSlash(path), "internal/sim/") {
			sim += string(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests, sim
}
