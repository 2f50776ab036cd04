package top_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// plant writes an environment as a fleet would have left it in namespace onetoken. What is "fresh" and "stale" lives for an
// hour in all.
func plant(ctx context.Context, p redis.Pipeliner, env, state string, now time.Time) {
	key := "onetoken:{" + env + "}:"
	const life = time.Hour
	token := func(age time.Duration) {
		issued := now.Add(-age)
		version := fmt.Sprint(issued.UnixMicro())
		p.HSet(ctx, key+"token", "access_token", "secret-"+env, "token_type", "Bearer", "scope", "", "issued_at", stamp(issued),
			"expires_at", stamp(issued.Add(life)), "version", version, "refreshed_by", "worker-"+fmt.Sprint(len(env))+":4711", "took_ms", "120", "config", "c0ffee")
		p.PExpireAt(ctx, key+"token", issued.Add(life))
		p.HSet(ctx, key+"mark", "issued", version, "stored", version, "dropped", 0)
	}
	failure := func(code, status, message string) {
		p.HSet(ctx, key+"failure", "code", code, "status", status, "message", message, "attempt", 3, "failed_at", stamp(now),
			"retry_at", stamp(now.Add(42*time.Second)), "version", fmt.Sprint(now.UnixMicro()), "reported_by", "worker-1", "config", "c0ffee", "credential", "beef")
		p.PExpire(ctx, key+"failure", 10*time.Minute)
	}
	switch state {
	case "fresh":
		token(7 * time.Minute)
	case "stale":
		token(55 * time.Minute)
	case "refreshing":
		token(58 * time.Minute)
		p.Set(ctx, key+"lock", "worker-9:31337|abcdefgh", 5*time.Minute)
	case "failing":
		failure("http_503", "503", "Service Unavailable")
	case "failing-usable":
		token(50 * time.Minute)
		failure("invalid_client", "401", "the client is unknown, or its secret is not the right one\x1b[2J"+string(rune(0x202e)))
	case "missing":
		p.HSet(ctx, key+"mark", "issued", 5, "stored", 5, "dropped", 5)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
