package config

import (
	"fmt"

	"github.com/onetoken/onetoken/store"
)

// An Agent is what the file says of onetoken serve. Files are named, not read: the agent reads them again when they change.
type Agent struct {
	Listen      []string // host:port, unix:/path
	AllowRemote bool
	TLSCert     string
	TLSKey      string
	ClientCA    string
	KeyFile     string
	Hosts       []string
	Clients     []AgentClient
}

// An AgentClient may have tokens of some environments without their own secret.
type AgentClient struct {
	ID           string
	SecretFile   string
	Environments []string
}

func (v value) agent() Agent {
	var a Agent
	v.fields(map[string]func(value){
		"listen":       into(&a.Listen, listOf(value.text)),
		"allow_remote": into(&a.AllowRemote, value.boolean),
		"tls_cert":     into(&a.TLSCert, value.path),
		"tls_key":      into(&a.TLSKey, value.secretPath),
		"client_ca":    into(&a.ClientCA, value.path),
		"key_file":     into(&a.KeyFile, value.secretPath),
		"hosts":        into(&a.Hosts, listOf(value.text)),
		"clients":      into(&a.Clients, listOf(value.agentClient)),
	})
	return a
}

func (v value) agentClient() AgentClient {
	var c AgentClient
	v.fields(map[string]func(value){
		"id":           into(&c.ID, value.text),
		"secret_file":  into(&c.SecretFile, value.secretPath),
		"environments": into(&c.Environments, listOf(value.text)),
	})
	v.need("id")
	v.need("secret_file")
	v.need("environments")
	return c
}

// checkClients refuses a client whose id another has, or of an environment that isn't there.
func (d *decoder) checkClients(f *File) {
	first := map[string]int{}
	for i, c := range f.Agent.Clients {
		setting := fmt.Sprintf("agent.clients[%d]", i)
		if d.lines[join(setting, "id")] == 0 { // a lone client, which isn't in a list
			setting = "agent.clients"
		}
		at := func(name string) value {
			return value{d: d, setting: join(setting, name), line: d.lines[join(setting, name)]}
		}
		if j, ok := first[c.ID]; ok {
			at("id").fail("agent.clients[%d] has the same", j)
		}
		first[c.ID] = i
		for _, env := range c.Environments {
			if _, ok := f.Environments[env]; !ok && store.CheckName(env) == nil {
				at("environments").fail("%q is none of the environments", env)
			} else if !ok {
				at("environments").fail("an entry is no environment: %w", store.ErrName)
			}
		}
	}
}
