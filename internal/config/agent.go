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

func agentTable(a *Agent) table {
	return table{groups: []group{{settings: []setting{
		set("listen", &a.Listen, listKind(textKind()), "where to listen: `host:port`, or `unix:/path` (mode 0600; a socket that is left over is replaced)").
			byDefault("127.0.0.1:8085"),
		set("allow_remote", &a.AllowRemote, boolKind(), "permit addresses that aren't loopback; they need `tls_cert`, `tls_key` and `key_file`").byDefault("false"),
		set("tls_cert", &a.TLSCert, fileKind(), "PEM: with it every address but `unix:` speaks TLS (1.2 or newer)").like("agent.pem"),
		set("tls_key", &a.TLSKey, secretFileKind(), "PEM: the certificate's key").like("/run/secrets/agent.key"),
		set("client_ca", &a.ClientCA, fileKind(), "PEM: who connects by TLS needs a certificate that one of these has signed").like("clients-ca.pem"),
		set("key_file", &a.KeyFile, secretFileKind(), "bearer keys, one in each line, of at least 16 characters: each request needs one (`Authorization: Bearer KEY`, or Basic with it as the password), but for `/healthz`, `/readyz` and the token endpoints").
			like("/run/secrets/agent-keys"),
		set("hosts", &a.Hosts, listKind(textKind()), "names, without a port, that `Host` may have beside loopback addresses, `localhost` and those of listen").like("[agent.example.com]"),
		set("clients", &a.Clients, listKind(section(clientTable)), "who may use some environments' token endpoints beside the environments' own clients").
			like("[{id: reports, secret_file: /run/secrets/reports, environments: [prod]}]"),
	}}}}
}

func clientTable(c *AgentClient) table {
	return table{
		groups: []group{{settings: []setting{
			set("id", &c.ID, textKind(), "the client's id, which no other has").like("reports"),
			set("secret_file", &c.SecretFile, secretFileKind(), "a file with the client's secret").like("/run/secrets/reports"),
			set("environments", &c.Environments, listKind(textKind()), "whose tokens it may have").like("[prod]"),
		}}},
		rules: []rule{needOne("id"), needOne("secret_file"), needOne("environments")},
	}
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
