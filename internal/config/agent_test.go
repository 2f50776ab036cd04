package config_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/config"
)

// withAgent is a valid file with lines in its section agent, from the seventh on.
func withAgent(lines ...string) string {
	return "redis: {url: \"redis://localhost\"}\nenvironments:\n" +
		"  prod: {base_url: \"https://a.example\", client_id: x, client_secret: y}\n" +
		"  test: {base_url: \"https://b.example\", client_id: x, client_secret: y}\n\nagent:\n  " + strings.Join(lines, "\n  ") + "\n"
}

func TestTheAgentsSection(t *testing.T) {
	t.Parallel()
	content := withAgent(
		`listen: ["127.0.0.1:8085", "unix:/run/onetoken.sock"]`, `allow_remote: true`, `tls_cert: cert.pem`, `tls_key: /etc/key.pem`,
		`client_ca: ca.pem`, `key_file: keys`, `hosts: [agent.example, "${ID}"]`,
		`clients:`, `- {id: robot, secret_file: robot.secret, environments: [prod, test]}`, `- {id: other, secret_file: /x, environments: test}`)
	f, err := config.Parse(filepath.Join("etc", "onetoken.yaml"), []byte(content), lookup)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join("etc", name) }
	want := config.Agent{
		Listen: []string{"127.0.0.1:8085", "unix:/run/onetoken.sock"}, AllowRemote: true, TLSCert: in("cert.pem"), TLSKey: "/etc/key.pem",
		ClientCA: in("ca.pem"), KeyFile: in("keys"), Hosts: []string{"agent.example", "the-id"},
		Clients: []config.AgentClient{
			{ID: "robot", SecretFile: in("robot.secret"), Environments: []string{"prod", "test"}},
			{ID: "other", SecretFile: "/x", Environments: []string{"test"}},
		},
	}
	if !reflect.DeepEqual(f.Agent, want) {
		t.Errorf("got %+v, want %+v", f.Agent, want)
	}
}

func TestAgentErrors(t *testing.T) {
	t.Parallel()
	const client = "clients: [{id: robot, secret_file: f, environments: [prod]}, "
	for line, want := range map[string]string{
		"liste: x":                    "onetoken.yaml:7: agent.liste: unknown setting; did you mean listen?",
		"listen: []":                  "onetoken.yaml:7: agent.listen: empty",
		"allow_remote: yes please":    `onetoken.yaml:7: agent.allow_remote: "yes please" is neither true nor false`,
		"key_file:":                   "onetoken.yaml:7: agent.key_file: empty",
		"clients: x":                  "onetoken.yaml:7: agent.clients: settings (name: value) are expected here",
		"clients: [{id: a}]":          "onetoken.yaml:7: agent.clients[0].secret_file: missing",
		"clients: [{secret_file: a}]": "onetoken.yaml:7: agent.clients[0].id: missing",
		client + "{id: robot, secret_file: f, environments: [prod]}]":        "onetoken.yaml:7: agent.clients[1].id: agent.clients[0] has the same",
		client + "{id: x, secret_file: f}]":                                  "onetoken.yaml:7: agent.clients[1].environments: missing",
		client + "{id: x, secret_file: f, environments: [nope]}]":            `onetoken.yaml:7: agent.clients[1].environments: "nope" is none of the environments`,
		client + "{id: x, secret_file: f, environments: [\"${SECRET} x\"]}]": "onetoken.yaml:7: agent.clients[1].environments: an entry is no environment: ",
		"clients: {id: x, secret_file: f, environments: nope}":               `onetoken.yaml:7: agent.clients.environments: "nope" is none of the environments`,
	} {
		_, err := parse(withAgent(line))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
		if err != nil && strings.Contains(err.Error(), hidden) {
			t.Errorf("%s: a secret is in %v", line, err)
		}
	}
}
