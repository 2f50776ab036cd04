package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The files within a directory of docs.
const (
	page = "performance.md"
	dir  = "performance" // of the plots and of what they were made of
	data = "results.json"
)

// Write writes what was measured, its plots, and its tables into the page in docs.
func (r Results) Write(docs string) error {
	into := filepath.Join(docs, dir)
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	measured, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(into, data), append(measured, '\n'), 0o644); err != nil {
		return err
	}
	for name, svg := range r.Plots() {
		if err := os.WriteFile(filepath.Join(into, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(filepath.Join(docs, page))
	if err != nil {
		return err
	}
	filled, err := Fill(string(text), r.Sections())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, page), []byte(filled), 0o644)
}

// Read reads what [Results.Write] wrote.
func Read(docs string) (Results, error) {
	var r Results
	measured, err := os.ReadFile(filepath.Join(docs, dir, data))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(measured, &r)
}

// Fill returns text with each section in its place, which is what is between two comments of a line each: from
// "<!-- measured: NAME -->" to "<!-- end -->". A section without a place is an error.
func Fill(text string, sections map[string]string) (string, error) {
	for name, section := range sections {
		begin := "<!-- measured: " + name + " -->\n"
		before, rest, found := strings.Cut(text, begin)
		_, after, ended := strings.Cut(rest, "<!-- end -->\n")
		if !found || !ended {
			return "", fmt.Errorf("report: the page has no place for %q", name)
		}
		text = before + begin + "\n" + section + "\n<!-- end -->\n" + after
	}
	return text, nil
}
