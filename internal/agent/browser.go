package agent

import (
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// csrfHeader is what state-changing requests of a browser must have, with the agent's token: a page of another origin can't
// set it without being asked for by CORS, which the agent doesn't answer.
const csrfHeader = "X-Onetoken-Csrf"

// foreign returns why a request is refused that a page of another site may have made a browser send; nil where it is none.
// Programs send neither Origin nor Sec-Fetch-Site.
func (a *Agent) foreign(r *http.Request) *problem {
	refuse := func(code, detail string) *problem {
		return &problem{Status: http.StatusForbidden, Code: code, Detail: detail}
	}
	host := hostOf(r.Host)
	if !a.isOwnHost(host) && !isUnix(r) {
		return refuse("foreign_host", "the Host is neither loopback nor one of the agent's hosts: the setting agent.hosts names others")
	}
	origins, sites := r.Header["Origin"], r.Header["Sec-Fetch-Site"]
	if len(origins) == 0 && len(sites) == 0 {
		return nil
	}
	if len(origins) > 1 || len(origins) == 1 && !a.isOwnOrigin(r, origins[0]) {
		return refuse("foreign_origin", "the Origin is not this agent")
	}
	if len(sites) > 1 || len(sites) == 1 && sites[0] != "same-origin" && sites[0] != "none" {
		return refuse("foreign_site", "a browser sent this for another site")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !a.hasCSRFToken(r) {
		return refuse("no_csrf_token", "a browser must send X-Onetoken-CSRF with this agent's token")
	}
	return nil
}

func (a *Agent) hasCSRFToken(r *http.Request) bool {
	given := r.Header[csrfHeader]
	return len(given) == 1 && subtle.ConstantTimeCompare([]byte(given[0]), []byte(a.options.CSRFToken)) == 1
}

// hostOf takes the port away, and the brackets of an IPv6 address. It is "" where there is no sense in it.
func hostOf(hostport string) string {
	if strings.HasPrefix(hostport, "[") {
		host, rest, ok := strings.Cut(hostport[1:], "]")
		if !ok || rest != "" && rest[0] != ':' || !strings.Contains(host, ":") {
			return ""
		}
		return host
	}
	host, port, ok := strings.Cut(hostport, ":")
	if ok && strings.Contains(port, ":") {
		return ""
	}
	return host
}

// isHostName reports whether a Host can be s, once its port is away: what can't would allow nothing, unnoticed.
func isHostName(s string) bool { return s != "" && !strings.ContainsAny(s, ":/[]@ *") }

func (a *Agent) isOwnHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" && ip.Unmap().IsLoopback() {
		return true
	}
	return host != "" && len(a.hosts) > 0 && a.hosts[strings.ToLower(host)]
}

// isOwnOrigin compares an Origin with where the request was sent to, which isOwnHost has checked. Before a configured host
// there may be a proxy that ends TLS.
func (a *Agent) isOwnOrigin(r *http.Request, origin string) bool {
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok || !strings.EqualFold(host, r.Host) {
		return false
	}
	own := "http"
	if r.TLS != nil {
		own = "https"
	}
	return scheme == own || scheme == "https" && a.hosts[strings.ToLower(hostOf(host))]
}

// isUnix reports whether the request came over a unix socket, which no browser reaches.
func isUnix(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}
