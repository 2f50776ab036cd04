package doctor_test

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/onetoken/onetoken/internal/config"
	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store/seal"
)

// A loginPatient is one whose refresh tokens rotate.
type loginPatient struct {
	*patient
	server   *redistest.Server
	endpoint *mockendpoint.Endpoint
	url      string // of that endpoint
	keyring  string // the path of the file; "" where nothing is sealed
}

func newLoginPatient(t *testing.T) *loginPatient {
	t.Helper()
	p := &loginPatient{server: redistest.Start(t)}
	p.patient = newPatient(t, section(p.server))
	p.endpoint = mockendpoint.New(mockendpoint.Options{Grants: []string{mockendpoint.RefreshToken}, Rotate: true})
	server := httptest.NewServer(p.endpoint)
	t.Cleanup(server.Close)
	t.Cleanup(p.endpoint.Close)
	p.url = server.URL
	p.configure("")
	return p
}

// configure writes the file with a configured refresh token, "" for none.
func (p *loginPatient) configure(refreshToken string) {
	p.t.Helper()
	sealing := ""
	if p.keyring != "" {
		sealing = fmt.Sprintf("\nsealing: {keyring_file: %q}", p.keyring)
	}
	seed := ""
	if refreshToken != "" {
		seed = fmt.Sprintf(", refresh_token: %q", refreshToken)
	}
	p.write(section(p.server)+sealing, fmt.Sprintf("  prod: {token_url: %q, grant: refresh_token, client_id: the-client, client_secret: %q, endpoint_timeout: 60s%s}\n",
		p.url+"/token", clientSecret, seed))
}

// do does something with a manager of that file.
func (p *loginPatient) do(f func(m *manager.Manager)) {
	p.t.Helper()
	file, err := config.Sources{Path: p.path, Lookup: func(string) (string, bool) { return "", false }}.Load()
	must(p.t, err)
	rdb, err := file.Client()
	must(p.t, err)
	defer func() { _ = rdb.Close() }()
	m, err := file.Manager(rdb, slog.New(slog.DiscardHandler))
	must(p.t, err)
	defer func() { _ = m.Close() }()
	f(m)
}

func TestALoginThatIsMissingOrRefused(t *testing.T) {
	t.Parallel()
	p := newLoginPatient(t)
	got := p.examine()
	got.has(doctor.LevelFailure, "endpoint.login", "prod", "a person must log in: there is no refresh token", "onetoken login prod", "onetoken grant import prod")
	got.only(1)
	first := p.endpoint.NewFamily()
	p.configure(first)
	p.examine().only(0)
	p.do(func(m *manager.Manager) {
		_, err := m.Token(t.Context(), "prod")
		must(t, err)
	})
	p.examine().only(0)
	// It is told while the token still serves.
	p.endpoint.RevokeFamily(first)
	p.do(func(m *manager.Manager) {
		if _, err := m.Refresh(t.Context(), "prod"); err == nil {
			t.Error("a token from a family that is revoked")
		}
	})
	got = p.examine()
	got.has(doctor.LevelFailure, "endpoint.login", "prod", "a person must log in: the refresh token was refused (invalid_grant)", "serves until", "onetoken login prod")
	got.only(1)
	p.do(func(m *manager.Manager) {
		_, err := m.ImportGrant(t.Context(), "prod", manager.NewSecret(p.endpoint.NewFamily()), 0)
		must(t, err)
	})
	p.examine().only(0)
	p.do(func(m *manager.Manager) {
		_, err := m.Logout(t.Context(), "prod", nil)
		must(t, err)
	})
	got = p.examine()
	got.has(doctor.LevelFailure, "endpoint.login", "prod", "somebody has logged out")
	got.only(1)
}

func TestAGrantThatCannotBeRead(t *testing.T) {
	t.Parallel()
	p := newLoginPatient(t)
	key := "onetoken:{prod}:grant"
	must(t, p.server.Client(t).Set(t.Context(), key, "x", 0).Err())
	got := p.examine()
	got.has(doctor.LevelFailure, "endpoint.login", "prod", "a person must log in", "not a hash")
	got.has(doctor.LevelWarning, "redis.keys", key, "of a type", "onetoken login")
	got.only(2)

	must(t, p.server.Client(t).FlushAll(t.Context()).Err())
	p.keyring = filepath.Join(t.TempDir(), "keyring")
	lock := func() {
		t.Helper()
		must(t, os.WriteFile(p.keyring, seal.NewKey().Line(), 0o600))
	}
	lock()
	p.configure("")
	p.do(func(m *manager.Manager) {
		_, err := m.ImportGrant(t.Context(), "prod", manager.NewSecret(p.endpoint.NewFamily()), 0)
		must(t, err)
	})
	p.examine().only(0)
	lock()
	got = p.examine()
	got.has(doctor.LevelFailure, "endpoint.login", "prod", key, "sealing.keyring_file", "onetoken login prod")
	got.only(1)
}
