package compose_test

import (
	"net/http/httptest"
	"testing"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
	"github.com/onetoken/onetoken/store/seal"
)

// Refresh tokens need no right that tokens don't.
func TestTheRightsAreEnoughForRefreshTokens(t *testing.T) {
	lines, _ := users(t, workerUser)
	server := redistest.Start(t, lines...)
	endpoint := mockendpoint.New(mockendpoint.Options{Grants: []string{mockendpoint.RefreshToken}, Rotate: true})
	web := httptest.NewServer(endpoint)
	t.Cleanup(web.Close)
	t.Cleanup(endpoint.Close)
	keys, err := seal.New(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	rdb := client(t, server.Addr(), workerUser)
	m, err := manager.New(manager.Config{Redis: rdb, Codec: keys, Environments: map[string]manager.Environment{env: {
		TokenURL: web.URL + "/token", ClientID: "client", ClientSecret: manager.NewSecret("secret"), Grant: manager.RefreshToken,
		RefreshToken: manager.NewSecret(endpoint.NewFamily()), Policy: manager.Policy{EndpointTimeout: patience},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails := func(what string, r mockendpoint.Reply) {
		t.Helper()
		endpoint.Push(r)
		if _, err := m.Refresh(ctx, env); err == nil {
			t.Errorf("%s: a token", what)
		}
	}
	_, err = m.Token(ctx, env)
	must("the first token", err)
	fails("a failure", mockendpoint.Reply{Status: 503})
	fails("a token that is none, with a refresh token", mockendpoint.Reply{AccessToken: "a\nb"})
	_, err = m.Refresh(ctx, env)
	must("a refresh", err)
	fails("a refusal", mockendpoint.Reply{Error: "invalid_grant"})
	_, err = m.ImportGrant(ctx, env, manager.NewSecret(endpoint.NewFamily()), patience)
	must("an import", err)
	_, err = m.Refresh(ctx, env)
	must("a refresh after it", err)
	s, err := store.New(rdb, store.Options{Timeout: patience, Codec: keys})
	must("a store", err)
	_, err = s.Reseal(ctx, env)
	must("sealing anew", err)
	_, err = m.Logout(ctx, env, nil)
	must("a logout", err)
	_, err = m.Status(ctx, env)
	must("the status", err)

	entries, err := client(t, server.Addr(), "default").ACLLog(ctx, 100).Result()
	must("the log", err)
	for _, e := range entries {
		if e.Username == workerUser && e.Object != "client|setinfo" { // go-redis doesn't mind a no
			t.Errorf("denied: %s %s", e.Reason, e.Object)
		}
	}
}
