package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/secret"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const text = "hunter2-hunter2"
	s := secret.New(text)
	nested := struct {
		Public string
		hidden secret.Secret
		Ptr    *secret.Secret
	}{"x", s, &s}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "s", s, "nested", nested)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "s", s, "nested", nested)
	marshaled, err := json.Marshal(map[string]any{"s": s, "nested": nested})
	if err != nil {
		t.Fatal(err)
	}
	outputs := []string{logged.String(), string(marshaled)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		outputs = append(outputs, fmt.Sprintf(verb, s), fmt.Sprintf(verb, nested), fmt.Sprintf(verb, &nested))
	}
	hexed := fmt.Sprintf("%x", text)
	for _, out := range outputs {
		if strings.Contains(out, text) || strings.Contains(out, hexed) {
			t.Errorf("the secret was printed: %s", out)
		}
	}
}

func TestSecretValue(t *testing.T) {
	var zero secret.Secret
	if !zero.IsEmpty() || zero.Reveal() != "" || !zero.Equal(secret.New("")) {
		t.Error("the zero value is not the empty secret")
	}
	if s := secret.New("a"); s.IsEmpty() || s.Reveal() != "a" || !s.Equal(secret.New("a")) || s.Equal(secret.New("b")) {
		t.Error("a secret doesn't hold its text")
	}
}
