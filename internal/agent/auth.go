package agent

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
)

// A digest stands for a secret in comparisons: all are of one length, and none can be printed.
type digest [sha256.Size]byte

func digestOf(s string) digest { return sha256.Sum256([]byte(s)) }

// equal takes as long for any two.
func (d digest) equal(other digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }

// keys are bearer keys.
type keys []digest

// minKey is the shortest key, and the shortest secret that nobody can lock out: what is shorter can be guessed.
const minKey = 16

// parseKeys reads keys, one in each line. The error repeats none.
func parseKeys(contents [][]byte) (keys, error) {
	var found keys
	for i, line := range bytes.Split(contents[0], []byte("\n")) {
		key := string(bytes.TrimSpace(line))
		switch {
		case key == "":
			continue
		case len(key) < minKey:
			return nil, fmt.Errorf("line %d: a key has at least %d characters", i+1, minKey)
		case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, fmt.Errorf("line %d: a key is printable ASCII without spaces", i+1)
		}
		found = append(found, digestOf(key))
	}
	if len(found) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return found, nil
}

// has compares with every key.
func (k keys) has(given string) bool {
	d, found := digestOf(given), false
	for _, key := range k {
		if d.equal(key) {
			found = true
		}
	}
	return found
}

// withoutKey returns the problem of a request without a key, nil where it has one: as a bearer token, or as the password
// of a Basic header, which browsers ask for.
func (a *Agent) withoutKey(w http.ResponseWriter, r *http.Request) *problem {
	given, challenge := presentedKey(r), `Bearer realm="onetoken"`
	if given != "" {
		if a.keys.get().has(given) { // held back or not: whoever guesses at the same address locks nobody out
			return nil
		}
		wait, who := a.failed.wait(address(r), "key")
		if wait > 0 {
			return tooMany(wait)
		}
		a.failed.note(who)
		challenge += `, error="invalid_token"`
	}
	w.Header()["Www-Authenticate"] = []string{challenge, `Basic realm="onetoken", charset="UTF-8"`}
	return &problem{Status: http.StatusUnauthorized, Code: "no_key", Detail: "a key is needed: Authorization: Bearer KEY, or Basic with it as the password"}
}

// presentedKey returns "" where there is no key in the request.
func presentedKey(r *http.Request) string {
	headers := r.Header["Authorization"]
	if len(headers) != 1 {
		return ""
	}
	if scheme, rest, _ := strings.Cut(headers[0], " "); strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(rest)
	}
	_, password, _ := r.BasicAuth()
	return password
}

// A Client may have tokens of some environments from their token endpoints, without knowing the environments' own secrets.
type Client struct {
	ID           string
	SecretFile   string   // read again when it changes
	Environments []string // names
}

type client struct {
	Client
	secret *watched[digest]
}

func newClient(log *slog.Logger, c Client) (*client, error) {
	secret, err := watch(log, parseSecret, c.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("%.60q: secret_file: %w", c.ID, err)
	}
	warnIfReadable(log, c.SecretFile)
	return &client{Client: c, secret: secret}, nil
}

// parseSecret reads a secret without the line break at its end.
func parseSecret(contents [][]byte) (digest, error) {
	s := strings.TrimRight(string(contents[0]), "\r\n")
	if s == "" {
		return digest{}, errors.New("the file is empty")
	}
	return digestOf(s), nil
}

func (c *client) mayUse(env string) bool { return slices.Contains(c.Environments, env) }
