package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// configuration looks at settings that are valid, and yet look wrong.
func (e *examination) configuration(r *report) {
	e.permissions(r)
	e.clientCertificate(r)
	kinds := map[string][]string{} // environments by which token comes back
	for _, name := range e.envs {
		env := e.file.Environments[name]
		n := len(r.findings)
		e.settings(r, name, env)
		if n == len(r.findings) {
			r.ok(GroupConfiguration+".environment", name, "token endpoint %s", shown(asked(env)))
		}
		if env.Grant != manager.RefreshToken { // one client has many users
			kinds[kind(env)] = append(kinds[kind(env)], name)
		}
	}
	for _, names := range kinds {
		if slices.Sort(names); len(names) > 1 {
			r.warn(GroupConfiguration+".environment", strings.Join(names, ", "),
				"they ask the same endpoint as the same client for the same: twice the calls, for tokens that are alike",
				"let one environment do for both, or give each a client of its own")
		}
	}
}

// kind is the same for environments whose tokens are.
func kind(e manager.Environment) string {
	scopes := slices.Compact(slices.Sorted(slices.Values(e.Scopes)))
	return fmt.Sprintf("%q %q %q %q %q %q %q %q %v %q", asked(e), e.ClientID, scopes, e.Params.Encode(), e.Grant, e.Audience, e.Resource,
		e.Headers, e.Assertion, e.SubjectTokenFile)
}

// asked is the URL that is asked for tokens, or the issuer whose metadata has it.
func asked(e manager.Environment) string { return cmp.Or(e.TokenEndpoint(), e.Issuer) }

// shown is a URL without what may be secret in it.
func shown(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(no URL)"
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

func (e *examination) settings(r *report, name string, env manager.Environment) {
	const check = GroupConfiguration + ".environment"
	if url := asked(env); endpoint.CheckURL(url, false) != nil {
		r.warn(check, name, "allow_http: the client secret goes to "+shown(url)+" in the clear, and the token comes back so",
			"use https, and take allow_http out")
	}
	if env.Outage == manager.OutageRefreshAlone {
		r.ok(check, name, "outage: refresh_alone: while Redis is away each replica may fetch a token for itself; mind the endpoint's limits")
	}
	connect, whole := cmp.Or(env.ConnectTimeout, endpoint.DefaultConnectTimeout), cmp.Or(env.EndpointTimeout, 10*time.Second)
	if connect > whole {
		r.warn(check, name, fmt.Sprintf("connect_timeout %v is longer than endpoint_timeout %v, which ends it before", connect, whole),
			"make endpoint_timeout the longer one")
	}
	if life, longest := cmp.Or(env.DefaultLife, 5*time.Minute), cmp.Or(env.MaxLife, 30*24*time.Hour); life > longest {
		r.warn(check, name, fmt.Sprintf("default_life %v is longer than max_life %v, which cuts it", life, longest), "make max_life the longer one")
	}
	if longest := cmp.Or(env.MaxLife, 30*24*time.Hour); env.ExpiryMargin > longest/2 {
		r.warn(check, name, fmt.Sprintf("expiry_margin %v is more than half of any token's life (max_life %v), and is cut to that", env.ExpiryMargin, longest),
			"shorten expiry_margin")
	}
}

// clientCertificate looks when what proves this machine to Redis ends.
func (e *examination) clientCertificate(r *report) {
	const check = GroupConfiguration + ".certificate"
	if e.file.Redis.TLS == nil || len(e.file.Redis.TLS.Certificates) == 0 || e.file.Redis.TLS.Certificates[0].Leaf == nil {
		return
	}
	const subject = "redis.tls.cert_file"
	leaf := e.file.Redis.TLS.Certificates[0].Leaf
	until := leaf.NotAfter.UTC().Format(time.RFC3339)
	switch left := leaf.NotAfter.Sub(e.now()); {
	case left <= 0:
		r.fail(check, subject, "the client certificate has ended at "+until, "renew it")
	case left < certificateWarning:
		r.warn(check, subject, fmt.Sprintf("the client certificate ends at %s, in %s", until, rough(left)), "renew it")
	default:
		r.ok(check, subject, "the client certificate lasts until %s", until)
	}
}

// permissions looks who can read the secrets.
func (e *examination) permissions(r *report) {
	const check = GroupConfiguration + ".permissions"
	if runtime.GOOS == "windows" || e.file.Path == "" {
		return // its modes say nothing
	}
	n := len(r.findings)
	if mode, open := readable(e.file.Path); open && len(e.file.Literals) > 0 {
		r.warn(check, e.file.Path, fmt.Sprintf("everybody on this machine can read it (mode %04o), and %s stands in it", mode, strings.Join(e.file.Literals, ", ")),
			"chmod 600 "+e.file.Path+", or put the secret into a variable or a file of its own")
	}
	for _, path := range slices.Compact(slices.Sorted(slices.Values(e.file.SecretFiles))) {
		if strings.HasPrefix(path, "/run/secrets/") {
			continue // as containers are given them: nobody else is there
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			r.warn(check, path, "there is no such file, which a setting names", "make it where the agent (onetoken serve) runs, or mend the setting")
		}
		if mode, open := readable(path); open {
			r.warn(check, path, fmt.Sprintf("everybody on this machine can read this secret (mode %04o)", mode), "chmod 600 "+path)
		}
	}
	if n == len(r.findings) {
		r.ok(check, e.file.Path, "no secret that everybody can read, in it or in %s that it names", Count(len(e.file.SecretFiles), "file"))
	}
}

// readable reports whether everybody can read a file.
func readable(path string) (fs.FileMode, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	return info.Mode().Perm(), info.Mode().Perm()&0o004 != 0
}
