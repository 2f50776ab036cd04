// Package redisclient builds the Redis client of onetoken's own programs: one that notices within seconds that Redis is
// away, and that leaves it to its callers what is tried again.
package redisclient

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/onetoken/onetoken/internal/secret"
)

// Options say which Redis is meant. One of URL and Addresses is needed; other zero fields mean "as the URLs have it, or
// none". Where several URLs set the same thing, the first wins.
type Options struct {
	// URL is redis://[user:password@]host:6379/0, the same with rediss:// (TLS), or unix://[user:password@]/path?db=0.
	// It is a Secret for the password that it may hold.
	URL secret.Secret
	// Addresses are those of a Cluster's nodes or, with MasterName, of the Sentinels: "host:port" or a URL each.
	Addresses  []string
	MasterName string // the name that Sentinels know the master by

	Username         string
	Password         secret.Secret
	SentinelUsername string
	SentinelPassword secret.Secret
	DB               int
	TLS              *tls.Config
}

// Deadlines of one call. Callers bound theirs by contexts, which the client obeys.
const timeout = time.Second

// maxPool is the largest pool_size: far more connections than a Redis has for one client.
const maxPool = 10_000

// New returns a client for the Redis that o names: a plain, Sentinel or Cluster client. It does no I/O. The error never
// contains any of o's values: a password may be part of each.
func New(o Options) (redis.UniversalClient, error) {
	u, err := o.universal()
	if err != nil {
		return nil, err
	}
	u.ClientName = cmp.Or(u.ClientName, "onetoken")
	u.ContextTimeoutEnabled = true
	u.DialTimeout = cmp.Or(u.DialTimeout, timeout)
	u.ReadTimeout = cmp.Or(u.ReadTimeout, timeout)
	u.WriteTimeout = cmp.Or(u.WriteTimeout, timeout)
	u.DialerRetries = 1
	u.MaxRetries = -1
	// "auto" looks the server's name up in New and adds a command to every connection's handshake.
	u.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(u), nil
}

// Sentinels returns a client for each Sentinel by itself, by its address; none where o has no master name. It does no I/O.
func Sentinels(o Options) (map[string]*redis.SentinelClient, error) {
	u, err := o.universal()
	if err != nil || o.MasterName == "" {
		return nil, err
	}
	clients := make(map[string]*redis.SentinelClient, len(u.Addrs))
	for _, addr := range u.Addrs {
		clients[addr] = redis.NewSentinelClient(&redis.Options{
			Addr: addr, Username: u.SentinelUsername, Password: u.SentinelPassword, TLSConfig: u.TLSConfig,
			ClientName: cmp.Or(u.ClientName, "onetoken"), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
			DialTimeout:              cmp.Or(u.DialTimeout, timeout),
			ReadTimeout:              cmp.Or(u.ReadTimeout, timeout),
			WriteTimeout:             cmp.Or(u.WriteTimeout, timeout),
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		})
	}
	return clients, nil
}

// Validate returns the error that [New] would.
func (o Options) Validate() error {
	_, err := o.universal()
	return err
}

func (o Options) universal() (*redis.UniversalOptions, error) {
	u := &redis.UniversalOptions{PipelinePoolSize: -1} // pipelines are few, and pool_size is to bound all connections
	var err error
	switch hasURL := !o.URL.IsEmpty(); {
	case hasURL && len(o.Addresses) > 0:
		return nil, errors.New("a URL and a list of addresses: give one of the two")
	case hasURL && o.MasterName != "":
		return nil, errors.New("a master name needs the list of the Sentinels' addresses")
	case hasURL:
		err = readURL(o.URL.Reveal(), u)
	case len(o.Addresses) == 0:
		return nil, errors.New("no URL and no addresses")
	default:
		u.MasterName = o.MasterName
		u.IsClusterMode = o.MasterName == "" // one address, too: a Cluster has endpoints that stand for all its nodes
		err = readAddresses(o.Addresses, u)
	}
	if err != nil {
		return nil, err
	}
	u.DB = cmp.Or(o.DB, u.DB)
	if u.IsClusterMode && u.DB != 0 {
		return nil, errors.New("a Cluster has no database but 0")
	}
	u.Username = cmp.Or(o.Username, u.Username)
	u.Password = cmp.Or(o.Password.Reveal(), u.Password)
	u.SentinelUsername, u.SentinelPassword = o.SentinelUsername, o.SentinelPassword.Reveal()
	u.TLSConfig = cmp.Or(o.TLS, u.TLSConfig)
	return u, nil
}

// urlOptions are what may stand in a URL's query: nothing that switches verification off.
var urlOptions = []string{
	"db", "protocol", "client_name", "dial_timeout", "read_timeout", "write_timeout", "pool_size", "pool_timeout",
}

// errURL doesn't wrap the parser's error, which repeats the URL.
var errURL = errors.New(`no Redis URL (redis://[user:password@]host:6379/0, rediss://…, unix:///path; ` +
	`special characters in a password are percent-encoded)`)

func readURL(raw string, u *redis.UniversalOptions) error {
	parsed, err := url.Parse(raw)
	if err != nil || parsed.Fragment != "" || strings.Contains(parsed.RawQuery, "@") {
		return errURL // a "#" or "?" in a password would make its beginning the host
	}
	for name := range parsed.Query() {
		if !slices.Contains(urlOptions, name) {
			return fmt.Errorf("the Redis URL has an option that is none of %s", strings.Join(urlOptions, ", "))
		}
	}
	o, err := redis.ParseURL(raw)
	if err != nil || o.DB < 0 {
		return errURL
	}
	if o.PoolSize < 0 || o.PoolSize > maxPool { // the client panics at one that it can't have
		return fmt.Errorf("the Redis URL's pool_size isn't from 1 to %d", maxPool)
	}
	u.Addrs = append(u.Addrs, o.Addr)
	u.DB, u.Protocol, u.ClientName = cmp.Or(u.DB, o.DB), cmp.Or(u.Protocol, o.Protocol), cmp.Or(u.ClientName, o.ClientName)
	u.Username, u.Password = cmp.Or(u.Username, o.Username), cmp.Or(u.Password, o.Password)
	u.DialTimeout, u.ReadTimeout = cmp.Or(u.DialTimeout, o.DialTimeout), cmp.Or(u.ReadTimeout, o.ReadTimeout)
	u.WriteTimeout, u.PoolTimeout = cmp.Or(u.WriteTimeout, o.WriteTimeout), cmp.Or(u.PoolTimeout, o.PoolTimeout)
	u.PoolSize = cmp.Or(u.PoolSize, o.PoolSize)
	u.TLSConfig = cmp.Or(u.TLSConfig, o.TLSConfig)
	return nil
}

func readAddresses(addresses []string, u *redis.UniversalOptions) error {
	for _, address := range addresses {
		if strings.Contains(address, "://") {
			if strings.HasPrefix(address, "unix:") {
				return errors.New("a list of addresses has no unix sockets")
			}
			if err := readURL(address, u); err != nil {
				return err
			}
			continue
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return errors.New("an address is not host:port")
		}
		u.Addrs = append(u.Addrs, address)
	}
	if u.TLSConfig != nil {
		u.TLSConfig.ServerName = "" // each node's own name
	}
	return nil
}
