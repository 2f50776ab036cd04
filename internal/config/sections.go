package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

func (v value) environments() map[string]manager.Environment {
	environments := map[string]manager.Environment{}
	for name, item := range v.pairs() {
		if store.CheckName(name) != nil {
			item.setting = v.setting
			item.fail("%.60q: %w", name, store.ErrName)
			break
		}
		environments[name] = item.environment()
	}
	return environments
}

func (v value) environment() manager.Environment {
	var e manager.Environment
	v.fields(map[string]func(value){
		"base_url":           into(&e.BaseURL, value.url),
		"token_url":          into(&e.TokenURL, value.url),
		"allow_http":         into(&e.AllowHTTP, value.boolean),
		"client_id":          into(&e.ClientID, value.text),
		"client_secret":      into(&e.ClientSecret, value.secret),
		"client_secret_file": into(&e.ClientSecret, value.secretFile),
		"auth_method":        into(&e.AuthMethod, value.authMethod),
		"scopes":             into(&e.Scopes, listOf(value.text)),
		"params":             into(&e.Params, value.params),
		"secret_params":      into(&e.SecretParams, value.secretParams),
		"origins":            into(&e.Origins, listOf(value.url)),

		"expiry_margin":    into(&e.ExpiryMargin, value.duration),
		"refresh_at":       into(&e.RefreshAt, value.part),
		"lease":            into(&e.Lease, value.duration),
		"endpoint_timeout": into(&e.EndpointTimeout, value.duration),
		"connect_timeout":  into(&e.ConnectTimeout, value.duration),
		"backoff":          into(&e.Backoff, backoffUpTo(time.Minute)),
		"backoff_refused":  into(&e.BackoffRefused, backoffUpTo(2*time.Minute)),
		"retry_after_max":  into(&e.RetryAfterMax, value.duration),
		"default_life":     into(&e.DefaultLife, value.duration),
		"max_life":         into(&e.MaxLife, value.duration),
		"keep_warm":        into(&e.KeepWarm, value.boolean),
		"outage":           into(&e.Outage, value.outage),
	})
	v.need("base_url", "token_url")
	v.need("client_id")
	v.need("client_secret", "client_secret_file")
	v.atMostOne("client_secret", "client_secret_file")
	return e
}

func (v value) authMethod() manager.AuthMethod {
	return oneOf(v, manager.ClientSecretBasic, manager.ClientSecretPost)
}

func (v value) outage() manager.Outage {
	return oneOf(v, manager.OutageFail, manager.OutageRefreshAlone)
}

func oneOf[T ~string](v value, a, b T) T {
	got := T(v.text())
	if got != "" && got != a && got != b {
		v.fail("%s is neither %s nor %s", v.quote(), a, b)
	}
	return got
}

// backoffUpTo returns a reader of {min: 1s, max: 60s}, or of a lone duration, which is the shortest pause. A longest that
// isn't given is the manager's default, or the shortest where that is longer.
func backoffUpTo(defaultMax time.Duration) func(value) manager.Backoff {
	return func(v value) manager.Backoff {
		var b manager.Backoff
		if v.is(yaml.MappingNode) {
			v.fields(map[string]func(value){
				"min": into(&b.Min, value.duration),
				"max": into(&b.Max, value.duration),
			})
		} else {
			b.Min = v.duration()
		}
		if b.Max == 0 {
			b.Max = max(b.Min, defaultMax)
		}
		return b
	}
}

func (v value) params() url.Values {
	params := url.Values{}
	for name, item := range v.pairs() {
		params[name] = listOf(value.text)(item)
	}
	return params
}

func (v value) secretParams() map[string]secret.Secret {
	params := map[string]secret.Secret{}
	for name, item := range v.pairs() {
		params[name] = item.secret()
	}
	return params
}

// secretFile reads a secret from the file that v names, without the line break at its end.
func (v value) secretFile() secret.Secret {
	s := strings.TrimRight(string(v.secretContent()), "\r\n")
	if s == "" {
		v.fail("the file is empty")
	}
	return secret.New(s)
}

// secretContent is content of a file that nobody else should read.
func (v value) secretContent() []byte {
	_ = v.secretPath()
	return v.content()
}

// secretPath is path of a file that nobody else should read.
func (v value) secretPath() string {
	path := v.path()
	if path != "" {
		v.d.secretFiles = append(v.d.secretFiles, path)
	}
	return path
}

// content reads the file that v names: a secret or certificates, so at most 1 MiB.
func (v value) content() []byte {
	path := v.path()
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err == nil {
		defer func() { _ = f.Close() }()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, 1<<20)); err == nil {
			return data
		}
	}
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err // the setting says which file
	}
	v.fail("%s: %w", v.quote(), err)
	return nil
}

func (v value) redis() redisclient.Options {
	var o redisclient.Options
	v.fields(map[string]func(value){
		"url":               func(v value) { v.redisURL(&o) },
		"addresses":         into(&o.Addresses, listOf(value.text)),
		"master_name":       into(&o.MasterName, value.text),
		"username":          into(&o.Username, value.text),
		"password":          into(&o.Password, value.secret),
		"password_file":     into(&o.Password, value.secretFile),
		"sentinel_username": into(&o.SentinelUsername, value.text),
		"sentinel_password": into(&o.SentinelPassword, value.secret),
		"db":                into(&o.DB, value.natural),
		"tls":               into(&o.TLS, value.tls),
	})
	v.need("url", "addresses")
	v.atMostOne("url", "addresses")
	v.atMostOne("password", "password_file")
	if err := o.Validate(); err != nil {
		for _, name := range []string{"url", "addresses"} {
			if line := v.d.lines[join(v.setting, name)]; line > 0 {
				v.setting, v.line = join(v.setting, name), line
			}
		}
		v.fail("%w", err)
	}
	return o
}

// redisURL reads one URL, or a list of addresses.
func (v value) redisURL(o *redisclient.Options) {
	if v.is(yaml.SequenceNode) {
		o.Addresses = listOf(value.text)(v)
		return
	}
	if strings.Contains(v.node.Value, "@") { // else there is nothing secret in it
		o.URL = v.secret()
	} else {
		o.URL = secret.New(v.text())
	}
}

// tls reads how to verify the server, and what to prove ourselves with; true means "with TLS", and no more.
func (v value) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if v.is(yaml.ScalarNode) {
		if !v.boolean() {
			return nil
		}
		return c
	}
	var cert, key []byte
	v.fields(map[string]func(value){
		"ca_file":     into(&c.RootCAs, value.certPool),
		"cert_file":   into(&cert, value.content),
		"key_file":    into(&key, value.secretContent),
		"server_name": into(&c.ServerName, value.text),
	})
	if cert == nil && key == nil {
		return c
	}
	v.need("cert_file")
	v.need("key_file")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		v.fail("cert_file and key_file are no pair of PEM files")
	}
	c.Certificates = []tls.Certificate{pair}
	return c
}

func (v value) certPool() *x509.CertPool {
	pool := x509.NewCertPool()
	if pem := v.content(); pem != nil && !pool.AppendCertsFromPEM(pem) {
		v.fail("%s has no PEM certificates", v.quote())
	}
	return pool
}
