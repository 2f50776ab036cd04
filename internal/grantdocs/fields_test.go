package grantdocs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/store"
)

// docs/refresh-tokens.md names the fields that a grant has in Redis.
func TestTheGrantsFields(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	s, err := store.New(rdb, store.Options{})
	must(t, err)
	_, err = s.AdoptGrant(t.Context(), "prod", store.NewGrant{RefreshToken: store.NewSecret("rt-1"), Client: "c", Label: "l"})
	must(t, err)
	want, err := rdb.HKeys(t.Context(), s.Keys("prod").Grant).Result()
	must(t, err)

	_, section, _ := strings.Cut(text(t, "refresh-tokens.md"), "\n## What is in Redis\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\|([^|]*)\|`).FindAllStringSubmatch(section, -1) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[1], -1) {
			got = append(got, m[1])
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/refresh-tokens.md has the fields %q, a grant %q", got, want)
	}
}
