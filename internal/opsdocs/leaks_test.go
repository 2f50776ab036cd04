package opsdocs_test

import (
	"strings"
	"testing"

	"github.com/onetoken/onetoken/manager"
)

func TestLeaks(t *testing.T) {
	t.Parallel()
	page{
		name: "leaks.md", commands: 18,
		redis: map[string][]string{
			"where-secrets-are-and-where-they-are-not": {"slowlog-log-slower-than 0", "slowlog-max-len 10000"},
			"the-redis-password-has-leaked":            {"user onetoken on >old-password ~onetoken:* &onetoken:events +@all"},
		},
		states: map[string]state{
			"where-secrets-are-and-where-they-are-not": slowlog,
			"a-client-secret-has-leaked":               twoSecrets,
			"an-access-token-has-leaked":               twoTokens,
			"the-redis-password-has-leaked":            twoPasswords,
		},
	}.run(t)
}

// slowlog also sees that no key has the client secret in it.
func slowlog(s *sandbox) {
	fresh(s)
	s.after = func() {
		for _, kind := range []string{"token", "mark"} {
			for field, value := range s.rdb.HGetAll(s.ctx(), "onetoken:{prod}:"+kind).Val() {
				if strings.Contains(value, clientSecret) {
					s.t.Errorf("the client secret is in %s of the %s", field, kind)
				}
			}
		}
	}
}

// twoSecrets: the provider takes both until the first has been tried; a worker has the new one.
func twoSecrets(s *sandbox) {
	s.write("new-secret.yaml", strings.Replace(s.settings("prod", "replica: ops-2"), clientSecret, newSecret, 1))
	s.write("old-secret.yaml", s.settings("prod", "replica: ops-1"))
	s.endpoint.SetSecret("")
	m := s.worker("worker-3", "new-secret.yaml")
	before := s.token(m)
	s.hears(1)
	s.between = func(string) { s.endpoint.SetSecret(newSecret) }
	s.after = func() {
		s.gets(m, func(tok *manager.Token) bool { return tok.Version > before.Version && tok.RefreshedBy == "ops-2" })
	}
}

// twoTokens: two environments, and a worker that uses one of them.
func twoTokens(s *sandbox) {
	first := s.settings("prod", "replica: ops-1")
	block := first[strings.Index(first, "  prod:"):]
	s.write("onetoken.yaml", first+strings.Replace(block, "prod", "test", 1))
	m := s.worker("worker-3", "onetoken.yaml")
	before := s.token(m)
	_, err := s.ask(m.Token, "test")
	must(s.t, err)
	s.hears(1)
	s.after = func() { s.gets(m, func(tok *manager.Token) bool { return tok.Version > before.Version }) }
}

// twoPasswords: the worker with the new one is cut off, and comes back.
func twoPasswords(s *sandbox) {
	for _, password := range []string{"old", "new"} {
		s.write(password+".yaml", strings.Replace(s.settings("prod"), "redis://", "redis://onetoken:"+password+"-password@", 1))
	}
	s.token(s.worker("worker-1", "old.yaml"))
	m := s.worker("worker-2", "new.yaml")
	s.between = func(command string) {
		if strings.Contains(command, "$NEW") {
			s.token(m)
		}
	}
	s.after = func() {
		s.hears(1) // the other is shut out
		tok, err := s.ask(m.Refresh, "prod")
		if err != nil || tok.RefreshedBy != "worker-2" {
			s.t.Errorf("the worker with the new password has %v: %v", tok, err)
		}
	}
}
