package config

import "strings"

// nearest returns the candidate that a misspelt name was meant to be, "" where none is near.
func nearest(name string, candidates []string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	best, bestDistance := "", 3
	for _, c := range candidates {
		// A third of the letters may be wrong: "url" isn't "tls".
		if d := distance(name, c); d < bestDistance && 3*d <= len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance, in bytes; far beyond what matters for long names.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
