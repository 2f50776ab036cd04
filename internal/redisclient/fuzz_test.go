package redisclient_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
)

// What passes is an address to dial, by a client that verifies whom it talks to; what doesn't pass isn't repeated.
func FuzzURL(f *testing.F) {
	for _, raw := range []string{
		"redis://localhost", "redis://:6379", "redis://user:hunter2@127.0.0.1:6379/3", "rediss://:hunter2@redis.example",
		"unix:///run/redis.sock?db=2", "unix://user:hunter2@/run/redis.sock", "redis://h:1/0?db=4&protocol=2", "rediss://h?skip_verify=true",
		"redis://u:hunt#er2@h", "redis://u:hunt?er2@h", "redis://h:port", "redis://[::1]:6379/", "redis://h/-1", "redis://h/1e3",
		"redis://h?dial_timeout=-1", "redis://h?pool_size=99999999999999999999", "127.0.0.1:6379", "[::1]:6379", ":6379", "h:", "host", "\x00:1",
	} {
		f.Add(raw, "10.0.0.2:6379", "")
		f.Add("10.0.0.1:6379", raw, "mymaster")
	}
	f.Add("iss://", "10.0.0.2:6379", "") // a part of what is said of every URL that is none
	said := redisclient.Options{URL: secret.New("#")}.Validate().Error()
	f.Fuzz(func(t *testing.T, first, second, master string) {
		for _, o := range []redisclient.Options{
			{URL: secret.New(first)},
			{URL: secret.New(first), MasterName: master},
			{Addresses: []string{first}},
			{Addresses: []string{first, second}, MasterName: master},
		} {
			err := o.Validate()
			client, errNew := redisclient.New(o)
			if (err == nil) != (errNew == nil) {
				t.Fatalf("Validate says %v, New %v", err, errNew)
			}
			if err != nil {
				for _, raw := range []string{first, second} {
					if len(raw) > 5 && !strings.Contains(said, raw) && strings.Contains(err.Error(), raw) {
						t.Errorf("%q is repeated: %v", raw, err)
					}
				}
				continue
			}
			var addrs []string
			var insecure bool
			switch c := client.(type) {
			case *redis.Client: // with a master name its address isn't the server's
				if addrs = []string{c.Options().Addr}; o.MasterName != "" {
					addrs = nil
				}
				insecure = c.Options().TLSConfig != nil && c.Options().TLSConfig.InsecureSkipVerify
				if c.Options().DB < 0 {
					t.Errorf("%q: database %d", first, c.Options().DB)
				}
				if c.Options().Network == "unix" {
					addrs = nil
				}
			case *redis.ClusterClient:
				addrs = c.Options().Addrs
				insecure = c.Options().TLSConfig != nil && c.Options().TLSConfig.InsecureSkipVerify
				if len(addrs) == 0 {
					t.Errorf("%q: a Cluster without addresses", first)
				}
			}
			for _, addr := range addrs {
				host, port, err := net.SplitHostPort(addr)
				if err != nil || host == "" || port == "" {
					t.Errorf("%q and %q: the address %q", first, second, addr)
				}
			}
			if insecure {
				t.Errorf("%q: the server's name isn't verified", first)
			}
			_ = client.Close()
		}
	})
}

// Whatever is in a password, it arrives as it is: in the URL, percent-encoded, or beside it.
func FuzzCredentials(f *testing.F) {
	f.Add("default", "hunter2", uint8(0))
	f.Add("", "p@ss:w/ord?#%41+ ", uint8(3))
	f.Add("a:b", "\x00\xff", uint8(15))
	f.Fuzz(func(t *testing.T, user, password string, db uint8) {
		if password == "" {
			t.Skip()
		}
		for _, scheme := range []string{"redis", "rediss"} {
			u := url.URL{Scheme: scheme, User: url.UserPassword(user, password), Host: "h:1", Path: "/" + string(rune('0'+db%10))}
			o := plain(t, redisclient.Options{URL: secret.New(u.String())})
			if o.Username != user || o.Password != password || o.DB != int(db%10) || o.Addr != "h:1" || (o.TLSConfig != nil) != (scheme == "rediss") {
				t.Errorf("%q is user %q, password %q, database %d at %q", u.String(), o.Username, o.Password, o.DB, o.Addr)
			}
			beside := plain(t, redisclient.Options{
				URL: secret.New(scheme + "://other:one@h:1"), Username: user, Password: secret.New(password), DB: int(db),
			})
			if beside.Password != password || user != "" && beside.Username != user || beside.DB != int(db) {
				t.Errorf("user %q, password %q, database %d were read as %q, %q, %d", user, password, db, beside.Username, beside.Password, beside.DB)
			}
			// The one address of a Cluster, which has no databases.
			u.Path = ""
			cluster, ok := newClient(t, redisclient.Options{Addresses: []string{u.String()}}).(*redis.ClusterClient)
			if !ok || cluster.Options().Password != password || cluster.Options().Username != user {
				t.Errorf("%q isn't read alike in a list", u.String())
			}
		}
	})
}
