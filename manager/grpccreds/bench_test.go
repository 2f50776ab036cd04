package grpccreds_test

import (
	"context"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/metadata"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/grpccreds"
)

// What the credentials add to a call, which takes tens of microseconds.
func BenchmarkRequestMetadata(b *testing.B) {
	rdb := redis.NewClient(redistest.Options(miniredis.RunT(b).Addr()))
	m, err := manager.New(manager.Config{Redis: rdb, Environments: map[string]manager.Environment{
		env: {Origins: []string{"http://" + host}, SourceID: "bench", Source: manager.SourceFunc(func(context.Context) (*manager.Reply, error) {
			return &manager.Reply{AccessToken: manager.NewSecret("token"), ExpiresIn: time.Hour}, nil
		})},
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = m.Close(), rdb.Close() }()
	creds, err := grpccreds.New(m, env, grpccreds.Options{AllowInsecure: true})
	if err != nil {
		b.Fatal(err)
	}
	for name, ctx := range map[string]context.Context{
		"bare":     context.Background(),
		"metadata": metadata.AppendToOutgoingContext(context.Background(), "x-tenant", "a", "x-request-id", "b"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := creds.GetRequestMetadata(ctx, "https://"+host+"/grpc.testing.TestService"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
