package config

import (
	"crypto/tls"
	"reflect"
	"slices"

	"github.com/onetoken/onetoken/internal/redisclient"
)

// Restart returns the settings in which next differs and that a process which runs with f can't take over: all but the
// environments and agent.clients.
func (f *File) Restart(next *File) []string {
	var settings []string
	differs := func(setting string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			settings = append(settings, setting)
		}
	}
	if !sameRedis(f.Redis, next.Redis) {
		settings = append(settings, "redis")
	}
	differs("namespace", f.Namespace, next.Namespace)
	differs("replica", f.Replica, next.Replica)
	differs("sealing", []any{f.Sealing.KeyringFile, f.Sealing.AcceptUnsealed}, []any{next.Sealing.KeyringFile, next.Sealing.AcceptUnsealed})
	a, b := f.Agent, next.Agent
	for i, s := range agentTable(&a).settings() {
		if other := agentTable(&b).settings()[i]; s.name != "clients" {
			differs("agent."+s.name, s.to, other.to)
		}
	}
	return settings
}

// sameRedis compares what the file says of Redis: what is made of certificates has functions in it.
func sameRedis(a, b redisclient.Options) bool {
	ours, theirs := a.TLS, b.TLS
	a.TLS, b.TLS = nil, nil
	return reflect.DeepEqual(a, b) && sameTLS(ours, theirs)
}

func sameTLS(a, b *tls.Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ServerName == b.ServerName && a.RootCAs.Equal(b.RootCAs) && slices.EqualFunc(a.Certificates, b.Certificates, func(a, b tls.Certificate) bool {
		return reflect.DeepEqual(a.Certificate, b.Certificate)
	})
}
