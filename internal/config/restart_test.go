package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/config"
)

func TestRestart(t *testing.T) {
	t.Parallel()
	parse := func(redis, more string) *config.File {
		t.Helper()
		text := fmt.Sprintf("redis: %s\nenvironments:\n  prod: {token_url: https://a.example/t, client_id: a, client_secret: b}\n%s", redis, more)
		f, err := config.Parse("onetoken.yaml", []byte(text), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const redis = `{url: "rediss://:one@redis.example/0", tls: {server_name: a}}`
	was := parse(redis, "")
	for _, c := range []struct {
		redis, more string
		want        []string
	}{
		{redis, "", nil},
		{redis, "  test: {token_url: https://a.example/t, client_id: a, client_secret: b}\n", nil},
		{strings.Replace(redis, "one", "two", 1), "", []string{"redis"}},
		{strings.Replace(redis, "server_name: a", "server_name: b", 1), "", []string{"redis"}},
		{`{url: "rediss://:one@redis.example/0"}`, "", []string{"redis"}},
		{redis, "namespace: a\nreplica: b\n", []string{"namespace", "replica"}},
		{redis, "agent: {hosts: [a], listen: [\"127.0.0.1:1\"]}\n", []string{"agent.listen", "agent.hosts"}},
	} {
		next := parse(c.redis, c.more)
		if got := was.Restart(next); !slices.Equal(got, c.want) {
			t.Errorf("%s %q: got %v, want %v", c.redis, c.more, got, c.want)
		}
		if got := next.Restart(parse(c.redis, c.more)); len(got) > 0 {
			t.Errorf("%s %q differs from itself in %v", c.redis, c.more, got)
		}
	}
}
