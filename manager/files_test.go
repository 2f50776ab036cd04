package manager_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A secret that is replaced in its file is used at once, whatever the endpoint said of the old one, and without a restart.
func TestASecretIsReplacedInItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}
		write("an-old-secret\n")
		logged := &logbook{}
		kit := managertest.NewFleet(t, 2, managertest.Options{
			InMemory:    true,
			Environment: manager.Environment{ClientID: "id", ClientSecretFile: path},
			Endpoint:    mockendpoint.Options{ClientSecret: "the-new-secret"},
			Logger:      slog.New(slog.NewTextHandler(logged, nil)),
		})
		_, err := kit.Manager.Token(t.Context(), managertest.Environment)
		if failed, ok := errors.AsType[*manager.EndpointError](err); !ok || failed.Code != "invalid_client" {
			t.Fatalf("%v; want invalid_client", err)
		}
		<-time.After(2 * time.Second) // what was learnt is kept for a second; the backoff is far longer
		if _, err := kit.Managers[1].Token(t.Context(), managertest.Environment); err == nil {
			t.Fatal("a token by the old secret")
		}
		if n := len(kit.Endpoint.Requests()); n != 1 {
			t.Fatalf("%d requests; want 1: the refusal binds who has the same secret", n)
		}
		write("the-new-secret\n")
		<-time.After(2 * time.Second)
		if _, err := kit.Managers[1].Token(t.Context(), managertest.Environment); err != nil {
			t.Fatalf("with the new secret: %v", err)
		}

		// A file that is broken is logged, and no trouble.
		write("\n")
		if _, err := kit.Managers[1].Refresh(t.Context(), managertest.Environment); err != nil {
			t.Errorf("with a broken file: %v", err)
		}
		text := logged.String()
		if !strings.Contains(text, "a file's new version is not used") || !strings.Contains(text, "client_secret_file: ") || !strings.Contains(text, "env=test") {
			t.Errorf("logged is %s", text)
		}
		if strings.Contains(text, "-secret") {
			t.Errorf("a secret is logged: %s", text)
		}
	})
}
