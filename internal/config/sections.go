package config

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/onetoken/onetoken/internal/redisclient"
	"github.com/onetoken/onetoken/internal/secret"
)

// fileTable is the whole file.
func fileTable(f *File) table {
	return table{
		groups: []group{{settings: []setting{
			set("redis", &f.Redis, redisKind(), "where tokens are kept; `--redis-url` and `$ONETOKEN_REDIS_URL` replace the whole section").show(),
			set("namespace", &f.Namespace, nameKind(), "what all keys begin with: `A-Z a-z 0-9 . _ -`").byDefault("onetoken"),
			set("replica", &f.Replica, textKind(), "the name of this process, and of no other, in Redis and in logs").impliedly("host:pid").like("worker-7"),
			set("sealing", &f.Sealing, section(sealingTable), "keys that seal what is secret in Redis").impliedly("nothing is sealed"),
			set("environments", &f.Environments, environmentsKind(), "OAuth2 clients, each at one token endpoint, by names of your own: `A-Z a-z 0-9 . _ -`").show(),
			set("agent", &f.Agent, section(agentTable), "what `onetoken serve` does; nothing else reads it"),
		}}},
		rules: []rule{needOne("environments")},
	}
}

func sealingTable(s *Sealing) table {
	return table{
		groups: []group{{settings: []setting{
			set("keyring_file", &s.KeyringFile, keyringKind(), "the keyring that `onetoken keygen` makes").like("/run/secrets/onetoken.keys"),
			set("accept_unsealed", &s.AcceptUnsealed, boolKind(), "read what isn't sealed, too: while a fleet goes over to sealing").byDefault("false"),
		}}},
		rules: []rule{needOne("keyring_file")},
	}
}

// redisTable is what the file says of Redis.
func redisTable(o *redisclient.Options) table {
	url := setting{
		name: "url", doc: "`redis://`, `rediss://` (TLS) or `unix://`; or a list of `host:port`",
		value: description{name: "URL", schema: func() schema { return listSchema(ref("text")) }, secret: true},
		read:  func(v value) { v.redisURL(o) },
	}
	return table{
		groups: []group{{settings: []setting{
			url.like("redis://127.0.0.1:6379/0").show(),
			set("addresses", &o.Addresses, listKind(textKind()), "`host:port` of a Cluster's nodes or, with `master_name`, of the Sentinels").
				like("[10.0.0.1:6379, 10.0.0.2:6379]"),
			set("master_name", &o.MasterName, textKind(), "the master's name, as the Sentinels know it").like("mymaster"),
			set("username", &o.Username, textKind(), "the name of an ACL user").like("onetoken"),
			set("password", &o.Password, secretKind(), "that user's password").like("${REDIS_PASSWORD}"),
			set("password_file", &o.Password, secretFromFileKind(), "a file with the password; a line break at its end doesn't count").like("/run/secrets/redis_password"),
			set("sentinel_username", &o.SentinelUsername, textKind(), "the name of the Sentinels' own user").like("onetoken"),
			set("sentinel_password", &o.SentinelPassword, secretKind(), "that user's password").like("${SENTINEL_PASSWORD}"),
			set("db", &o.DB, naturalKind(), "database number, not for a Cluster").byDefault("0"),
			set("tls", &o.TLS, tlsKind(), "TLS: `true`, or what to verify the server by and to prove ourselves with").
				impliedly("with `rediss://` only"),
		}}},
		rules: []rule{
			needOne("url", "addresses"),
			atMostOne("url", "addresses"),
			atMostOne("password", "password_file"),
		},
	}
}

func secretFromFileKind() kind[secret.Secret] {
	return simple("file", "text", value.secretFromFile)
}

// redisKind is the section, whose settings must go together as the client wants them.
func redisKind() kind[redisclient.Options] {
	k := section(redisTable)
	settings := k.read
	k.read = func(v value) redisclient.Options {
		o := settings(v)
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
	return k
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

// A tlsFiles is what a TLS configuration is made of.
type tlsFiles struct {
	authorities *x509.CertPool
	cert, key   []byte
	serverName  string
}

func tlsTable(t *tlsFiles) table {
	return table{
		groups: []group{{settings: []setting{
			set("ca_file", &t.authorities, simple("file", "text", value.certPool), "PEM: those who may vouch for the server").
				impliedly("the system's").like("redis-ca.pem"),
			set("cert_file", &t.cert, simple("file", "text", value.content), "PEM: a client certificate").like("redis-client.pem"),
			set("key_file", &t.key, simple("file", "text", value.secretContent), "PEM: the certificate's key").like("/run/secrets/redis-client.key"),
			set("server_name", &t.serverName, textKind(), "the name in the server's certificate").impliedly("the host that is connected to").like("redis.example.com"),
		}}},
		rules: []rule{needWith("key_file", "cert_file"), needWith("cert_file", "key_file")},
	}
}

// tlsKind is how to verify the server, and what to prove ourselves with; true means "with TLS", and no more.
func tlsKind() kind[*tls.Config] {
	k := section(tlsTable)
	inner := k.schema
	d := k.description
	d.name, d.lone = "`true`, or settings", true
	d.schema = func() schema { return schema{AnyOf: []schema{ref("boolean"), inner()}} }
	return kind[*tls.Config]{d, func(v value) *tls.Config {
		c := &tls.Config{MinVersion: tls.VersionTLS12}
		if v.is(yaml.ScalarNode) {
			if !v.boolean() {
				return nil
			}
			return c
		}
		files := k.read(v)
		c.RootCAs, c.ServerName = files.authorities, files.serverName
		if files.cert == nil || files.key == nil {
			return c
		}
		pair, err := tls.X509KeyPair(files.cert, files.key)
		if err != nil {
			v.fail("cert_file and key_file are no pair of PEM files")
		}
		c.Certificates = []tls.Certificate{pair}
		return c
	}}
}
