package redisclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
)

func newClient(t *testing.T, o redisclient.Options) redis.UniversalClient {
	t.Helper()
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	client, err := redisclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// plain returns the options of a client that must be one for a single node.
func plain(t *testing.T, o redisclient.Options) *redis.Options {
	t.Helper()
	client, ok := newClient(t, o).(*redis.Client)
	if !ok {
		t.Fatalf("not a plain client")
	}
	return client.Options()
}

func TestAdvisedSettings(t *testing.T) {
	o := plain(t, redisclient.Options{URL: secret.New("redis://127.0.0.1:6379")})
	if !o.ContextTimeoutEnabled || o.DialTimeout != time.Second || o.ReadTimeout != time.Second || o.WriteTimeout != time.Second {
		t.Errorf("timeouts: %v %v %v %v", o.ContextTimeoutEnabled, o.DialTimeout, o.ReadTimeout, o.WriteTimeout)
	}
	if o.MaxRetries > 0 || o.DialerRetries != 1 || o.ClientName != "onetoken" {
		t.Errorf("MaxRetries %d, DialerRetries %d, ClientName %q", o.MaxRetries, o.DialerRetries, o.ClientName)
	}
	if got := o.MaintNotificationsConfig.Mode; got != maintnotifications.ModeDisabled {
		t.Errorf("maintenance notifications: %v", got)
	}
}

func TestURL(t *testing.T) {
	for _, c := range []struct {
		url, network, addr, user, password string
		db                                 int
		tls                                bool
	}{
		{"redis://localhost", "tcp", "localhost:6379", "", "", 0, false},
		{"redis://u:p%40ss@10.0.0.1:7000/3", "tcp", "10.0.0.1:7000", "u", "p@ss", 3, false},
		{"redis://[::1]:6380?db=2", "tcp", "[::1]:6380", "", "", 2, false},
		{"rediss://:pw@redis.example.com/1", "tcp", "redis.example.com:6379", "", "pw", 1, true},
		{"unix:///run/redis.sock?db=4", "unix", "/run/redis.sock", "", "", 4, false},
		{"unix://u:pw@/run/redis.sock", "unix", "/run/redis.sock", "u", "pw", 0, false},
	} {
		o := plain(t, redisclient.Options{URL: secret.New(c.url)})
		if o.Network != c.network || o.Addr != c.addr || o.Username != c.user || o.Password != c.password || o.DB != c.db ||
			(o.TLSConfig != nil) != c.tls {
			t.Errorf("%s: got %s %s %q %q %d, TLS %v", c.url, o.Network, o.Addr, o.Username, o.Password, o.DB, o.TLSConfig != nil)
		}
	}
}

func TestFieldsWinOverTheURL(t *testing.T) {
	o := plain(t, redisclient.Options{
		URL: secret.New("redis://a:b@h:1/2?read_timeout=3s"), Username: "user", Password: secret.New("pw"), DB: 5,
		TLS: &tls.Config{ServerName: "other", MinVersion: tls.VersionTLS12},
	})
	if o.Username != "user" || o.Password != "pw" || o.DB != 5 || o.TLSConfig.ServerName != "other" || o.ReadTimeout != 3*time.Second {
		t.Errorf("got %q %q %d %q %v", o.Username, o.Password, o.DB, o.TLSConfig.ServerName, o.ReadTimeout)
	}
}

func TestCluster(t *testing.T) {
	for _, addresses := range [][]string{
		{"a:1"},
		{"a:1", "b:2"},
		{"rediss://u:pw@a:1", "b:2"},
	} {
		cluster, ok := newClient(t, redisclient.Options{Addresses: addresses}).(*redis.ClusterClient)
		if !ok {
			t.Fatalf("%v: no Cluster client", addresses)
		}
		o := cluster.Options()
		if !slices.Contains(o.Addrs, "a:1") || len(o.Addrs) != len(addresses) || !o.ContextTimeoutEnabled {
			t.Errorf("%v: got %v", addresses, o.Addrs)
		}
		if withTLS := strings.HasPrefix(addresses[0], "rediss"); withTLS && (o.TLSConfig == nil || o.TLSConfig.ServerName != "" || o.Password != "pw") {
			t.Errorf("%v: TLS and credentials of a URL got lost", addresses)
		}
	}
}

func TestSentinel(t *testing.T) {
	client := newClient(t, redisclient.Options{Addresses: []string{"127.0.0.1:1"}, MasterName: "main", DB: 2})
	o := client.(*redis.Client).Options()
	if o.Addr != "FailoverClient" || o.DB != 2 {
		t.Errorf("got %s, database %d", o.Addr, o.DB)
	}
}

func TestErrorsNameNoValue(t *testing.T) {
	const password = "hunter2"
	for _, o := range []redisclient.Options{
		{},
		{MasterName: password},
		{URL: secret.New("hunter2")},
		{URL: secret.New("http://u:hunter2@h:1")},
		{URL: secret.New("redis://u:hunter2@h:port")},
		{URL: secret.New("redis://:a/hunter2@h:6379/0")},
		{URL: secret.New("redis://:hunter2?x@h:6379/0")},
		{URL: secret.New("redis://u:%zzhunter2@h")},
		{URL: secret.New("redis://:4711#hunter2@h:6379/0")},
		{URL: secret.New("redis://h/hunter2")},
		{URL: secret.New("redis://h/-1")},
		{URL: secret.New("redis://h/0/hunter2")},
		{URL: secret.New("redis://h?hunter2=1")},
		{URL: secret.New("redis://h?read_timeout=hunter2")},
		{URL: secret.New("rediss://h?skip_verify=true")},
		{URL: secret.New("unix://")},
		{URL: secret.New("redis://hunter2@h"), Addresses: []string{"a:1"}},
		{URL: secret.New("redis://hunter2@h"), MasterName: "m"},
		{Addresses: []string{"hunter2"}},
		{Addresses: []string{":6379"}},
		{Addresses: []string{"unix:///hunter2"}},
		{Addresses: []string{"redis://hunter2@h:x"}},
		{Addresses: []string{"a:1"}, DB: 3},
		{Addresses: []string{"redis://a:1/3"}},
	} {
		client, err := redisclient.New(o)
		if err == nil {
			t.Errorf("%v: no error, a %T", o.Addresses, client)
			continue
		}
		if strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "\n") {
			t.Errorf("the error shows a value: %v", err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("u", "pw")
	client := newClient(t, redisclient.Options{URL: secret.New("redis://u:pw@" + server.Addr())})
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	wrong := newClient(t, redisclient.Options{URL: secret.New("redis://u:hunter2@" + server.Addr())})
	if err := wrong.Ping(t.Context()).Err(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("with a wrong password: %v", err)
	}
}

// A server that takes connections and never answers is noticed after about a second, or when the context ends.
func TestStalledServerIsNoticed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client := newClient(t, redisclient.Options{URL: secret.New("unix://" + socket)})

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := client.Ping(ctx).Err(); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("with a context: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("with a context of 100 ms: %v", took)
	}
	start = time.Now()
	if err := client.Ping(t.Context()).Err(); !isTimeout(err) {
		t.Errorf("without a deadline: %v", err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("without a deadline: %v", took)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
