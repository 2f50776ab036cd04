package endpoint

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/onetoken/onetoken/internal/digest"
	"github.com/onetoken/onetoken/internal/freshfile"
)

// files are what a Client has of files, nil where none is configured.
type files struct {
	secretFile     *freshfile.Value[string]
	clientAsserted *freshfile.Value[string]
	asserted       *freshfile.Value[string]
	subject, actor *freshfile.Value[string]
	seedFile       *freshfile.Value[string]
	key            *freshfile.Value[*key]
	cert           *freshfile.Value[*certificate]
	roots          *freshfile.Value[*roots]

	mu       sync.Mutex     // guards reported
	reported map[any]string // what was last reported, by the value
}

// A certificate is the client's, with its key.
type certificate struct {
	pair tls.Certificate
	sum  string // of both files
}

// roots are those who may vouch for the endpoint.
type roots struct{ pool *x509.CertPool }

// open reads the files that c names.
func open(c Config) (*files, error) {
	f := &files{}
	for _, text := range []struct {
		to            **freshfile.Value[string]
		parse         func(...[]byte) (string, error)
		setting, path string
	}{
		{&f.secretFile, freshfile.Line, "client_secret_file", c.ClientSecretFile},
		{&f.clientAsserted, freshfile.Line, "client_assertion_file", c.ClientAssertionFile},
		{&f.asserted, freshfile.Line, "assertion.file", c.Assertion.File},
		{&f.subject, freshfile.Line, "subject_token_file", c.SubjectTokenFile},
		{&f.actor, freshfile.Line, "actor_token_file", c.ActorTokenFile},
		{&f.seedFile, refreshTokenLine, "refresh_token_file", c.RefreshTokenFile},
	} {
		if text.path != "" {
			var err error
			if *text.to, err = freshfile.Open(text.parse, freshfile.File{Setting: text.setting, Path: text.path}); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if c.PrivateKeyFile != "" {
		f.key, err = freshfile.Open(keyReader(c), freshfile.File{Setting: "private_key_file", Path: c.PrivateKeyFile})
	}
	if err == nil && c.ClientCertFile != "" {
		f.cert, err = freshfile.Open(parseCertificate,
			freshfile.File{Setting: "client_cert_file", Path: c.ClientCertFile}, freshfile.File{Setting: "client_key_file", Path: c.ClientKeyFile})
	}
	if err == nil && c.CAFile != "" {
		f.roots, err = freshfile.Open(parseRoots, freshfile.File{Setting: "ca_file", Path: c.CAFile})
	}
	return f, err
}

func refreshTokenLine(contents ...[]byte) (string, error) {
	text, err := freshfile.Line(contents...)
	if err == nil {
		err = checkRefreshToken(text)
	}
	return text, err
}

// keyReader returns a parse of the private key. A service account's must stay the same: the fingerprint has it, which tells
// one kind of token from another.
func keyReader(c Config) func(...[]byte) (*key, error) {
	var first *key
	return func(contents ...[]byte) (*key, error) {
		k, err := parseKey(contents[0], c.SigningAlgorithm, c.KeyID)
		if err != nil {
			return nil, err
		}
		k.sum = sum(contents...)
		if first == nil {
			first = k
		}
		if c.signsGrant() && c.Assertion.Issuer == "" && k.account != first.account {
			return nil, errors.New("the key of another service account: its tokens are others, which takes a restart")
		}
		return k, nil
	}
}

func parseCertificate(contents ...[]byte) (*certificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, errors.New("are no certificate in PEM and the key that belongs to it")
	}
	if err := checkValidity(pair.Leaf); err != nil {
		return nil, err
	}
	return &certificate{pair, sum(contents...)}, nil
}

func checkValidity(c *x509.Certificate) error {
	switch now := time.Now(); {
	case now.After(c.NotAfter):
		return fmt.Errorf("the certificate has expired on %s", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("the certificate isn't valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func parseRoots(contents ...[]byte) (*roots, error) {
	certs, err := parseCertificates(contents[0])
	if err != nil {
		return nil, err
	}
	r := &roots{x509.NewCertPool()}
	for _, c := range certs {
		if err = checkValidity(c); err == nil {
			r.pool.AddCert(c)
		}
	}
	if r.pool.Equal(x509.NewCertPool()) {
		return nil, err // all of them
	}
	return r, nil
}

func sum(contents ...[]byte) string {
	h := sha256.New()
	for _, c := range contents {
		one := sha256.Sum256(c)
		_, _ = h.Write(one[:])
	}
	return string(h.Sum(nil))
}

// current returns what is made of files as they are now, or as they last were good, which is reported.
func current[T any](c *Client, v *freshfile.Value[T]) T {
	value, err := v.Get()
	var text string
	if err != nil {
		text = err.Error()
	}
	c.mu.Lock()
	was := c.reported[v]
	if text != was {
		if c.reported == nil {
			c.reported = map[any]string{}
		}
		c.reported[v] = text
	}
	c.mu.Unlock()
	if text != "" && text != was && c.config.Report != nil {
		c.config.Report(fmt.Errorf("%w; the last good version is still used", err))
	}
	return value
}

// Credential is 16 bits of a digest of the secrets, those in files as they are now: enough to tell an old secret from a new
// one, too short to test guesses against. It looks at the files, and reads those that have changed.
func (c *Client) Credential() string {
	parts := []string{"credential", c.clientSecret()}
	for _, name := range slices.Sorted(maps.Keys(c.config.SecretParams)) {
		parts = append(parts, name, c.config.SecretParams[name].Reveal())
	}
	add := func(name, value string) { parts = append(parts, "", name, value) } // no parameter has an empty name
	for _, name := range slices.Sorted(maps.Keys(c.config.SecretHeaders)) {
		add("header "+name, c.config.SecretHeaders[name].Reveal())
	}
	for _, text := range []struct {
		name string
		file *freshfile.Value[string]
	}{{"client assertion", c.clientAsserted}, {"assertion", c.asserted}, {"subject", c.subject}, {"actor", c.actor}} {
		if text.file != nil {
			add(text.name, current(c, text.file))
		}
	}
	if seed := c.Seed(); !seed.IsEmpty() {
		add("refresh token", seed.Reveal())
	}
	if c.key != nil {
		add("key", current(c, c.key).sum)
	}
	if c.cert != nil {
		add("certificate", current(c, c.cert).sum)
	}
	return digest.Of(parts)[:4]
}

// ServiceAccount returns the client_email of the service account whose key signs the JWT bearer grant; "" where none does.
func (c *Client) ServiceAccount() string {
	if c.key == nil || !c.config.signsGrant() {
		return ""
	}
	return current(c, c.key).account
}
