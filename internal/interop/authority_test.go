package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// An authority is an authorization server of other hands, as a process.
type authority struct {
	issuer string
	client *http.Client // trusts it
	asks   [2]string    // id and secret of a client that may introspect

	metadata struct {
		TokenURL         string `json:"token_endpoint"`
		AuthorizationURL string `json:"authorization_endpoint"`
		DeviceURL        string `json:"device_authorization_endpoint"`
		IntrospectionURL string `json:"introspection_endpoint"`
		RevocationURL    string `json:"revocation_endpoint"`
		KeysURL          string `json:"jwks_uri"`
		UserinfoURL      string `json:"userinfo_endpoint"`
		Aliases          struct {
			TokenURL string `json:"token_endpoint"`
		} `json:"mtls_endpoint_aliases"` // where certificates are asked for
	}
	keys struct{ Keys []struct{ Kid, N, E string } }
}

// begin runs a server for the life of t: it reads setup as a line on stdin, prints where it is, and ends with its stdin.
func (a *authority) begin(t *testing.T, cmd *exec.Cmd, setup any) {
	t.Helper()
	line, err := json.Marshal(setup)
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", cmd.Path, err, stderr.Bytes())
		}
	})
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	var ready struct{ Issuer string }
	reader := bufio.NewReader(stdout)
	if err := json.NewDecoder(reader).Decode(&ready); err != nil {
		t.Fatalf("%s didn't say where it is: %v\n%s", cmd.Path, err, stderr.Bytes())
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }() // ends with the process
	a.issuer = ready.Issuer
	t.Cleanup(a.client.CloseIdleConnections)
	if status := a.get(t, a.issuer+"/.well-known/openid-configuration", "", &a.metadata); status != http.StatusOK {
		t.Fatalf("the metadata: status %d", status)
	}
	if status := a.get(t, a.metadata.KeysURL, "", &a.keys); status != http.StatusOK {
		t.Fatalf("the keys: status %d", status)
	}
}

// A said is a server's answer.
type said struct {
	status int
	body   map[string]any
}

func (s said) text(member string) string {
	text, _ := s.body[member].(string)
	return text
}

// post sends a form by hand, with a client's id and secret in a Basic header where there are any.
func (a *authority) post(t *testing.T, client *http.Client, target string, form url.Values, basic ...string) said {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if len(basic) == 2 {
		req.SetBasicAuth(url.QueryEscape(basic[0]), url.QueryEscape(basic[1]))
	}
	s := said{}
	s.status = a.do(t, client, req, &s.body)
	return s
}

func (a *authority) get(t *testing.T, target, token string, answer any) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return a.do(t, a.client, req, answer)
}

// do sends a request, and reads the answer where it is JSON.
func (*authority) do(t *testing.T, client *http.Client, req *http.Request, answer any) (status int) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(body, answer); err != nil {
			t.Fatalf("%s answers %q: %v", req.URL, body, err)
		}
	}
	return resp.StatusCode
}

// introspect returns what the server says of a token (RFC 7662), whose member "active" is true of one that it accepts.
func (a *authority) introspect(t *testing.T, token string) map[string]any {
	t.Helper()
	return a.post(t, a.client, a.metadata.IntrospectionURL, url.Values{"token": {token}}, a.asks[:]...).body
}

// accepts checks that the server accepts an access token, by its own word or by its signature on it, and returns what is
// known of the token.
func (a *authority) accepts(t *testing.T, token string) map[string]any {
	t.Helper()
	if strings.Count(token, ".") == 2 {
		claims := verify(t, token, a.keys.Keys)
		if exp, _ := claims["exp"].(float64); claims["iss"] != a.issuer || exp < float64(time.Now().Unix()) {
			t.Errorf("the token is of %v and ends at %v", claims["iss"], claims["exp"])
		}
		return claims
	}
	claims := a.introspect(t, token)
	if claims["active"] != true {
		t.Errorf("the server doesn't accept the token: %v", claims)
	}
	return claims
}

// knows checks that the server takes an access token for a person's.
func (a *authority) knows(t *testing.T, person, token string) {
	t.Helper()
	var claims map[string]any
	if status := a.get(t, a.metadata.UserinfoURL, token, &claims); status != http.StatusOK || claims["sub"] != person {
		t.Errorf("the server answers %d to the token of %s: %v", status, person, claims)
	}
}

// refuses checks that the server doesn't accept a token that isn't a JWT any more.
func (a *authority) refuses(t *testing.T, what, token string) {
	t.Helper()
	if claims := a.introspect(t, token); claims["active"] != false {
		t.Errorf("the server accepts %s: %v", what, claims)
	}
}

// audience returns who a token is for.
func audience(claims map[string]any) []string {
	switch aud := claims["aud"].(type) {
	case string:
		return []string{aud}
	case []any:
		var all []string
		for _, v := range aud {
			text, _ := v.(string)
			all = append(all, text)
		}
		return all
	}
	return nil
}

// scoped reports whether a token has the scopes, and no others.
func scoped(claims map[string]any, want ...string) bool {
	text, _ := claims["scope"].(string)
	return slices.Equal(slices.Sorted(slices.Values(strings.Fields(text))), slices.Sorted(slices.Values(want)))
}

// detached returns a command that isn't killed with the test's context: the server ends when its stdin does.
func detached(t *testing.T, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(context.WithoutCancel(t.Context()), program, args...)
}
