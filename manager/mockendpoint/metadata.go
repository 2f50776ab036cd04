package mockendpoint

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// issuer is who the endpoint says that it is to a request.
func (e *Endpoint) issuer(r *http.Request) string { return cmp.Or(e.options.Issuer, origin(r)) }

// basePath is the path of an issuer, without a slash at its end. It panics on an issuer that is no URL.
func basePath(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		panic("mockendpoint: the Issuer is no URL")
	}
	return strings.TrimRight(u.Path, "/")
}

// methodNames are those of the registry of token endpoint authentication methods (RFC 7591 §2, RFC 8705 §2.1.1).
var methodNames = map[string]string{
	Basic: "client_secret_basic", Post: "client_secret_post", PrivateKeyJWT: PrivateKeyJWT, TLSClientAuth: TLSClientAuth, NoAuth: NoAuth,
}

// metadata is RFC 8414 §2. All URLs are at the origin that was called, whoever the issuer is.
func (e *Endpoint) metadata(_ *call, r *http.Request) Reply {
	if r.Method != http.MethodGet {
		return notAllowed(http.MethodGet)
	}
	e.mu.Lock()
	methods := e.methodsLocked()
	e.mu.Unlock()
	o, base := e.options, origin(r)+e.base
	members := map[string]any{
		"issuer":                                           e.issuer(r),
		"token_endpoint":                                   base + tokenPath,
		"revocation_endpoint":                              base + RevokePath,
		"grant_types_supported":                            o.Grants,
		"response_types_supported":                         []string{},
		"code_challenge_methods_supported":                 []string{"S256"},
		"authorization_response_iss_parameter_supported":   true,
		"token_endpoint_auth_methods_supported":            methods,
		"token_endpoint_auth_signing_alg_values_supported": algorithms,
	}
	if slices.Contains(o.Grants, AuthorizationCode) {
		members["authorization_endpoint"] = base + AuthorizePath
		members["response_types_supported"] = []string{"code"}
	}
	if slices.Contains(o.Grants, DeviceCode) {
		members["device_authorization_endpoint"] = base + DeviceAuthorizationPath
	}
	maps.Copy(members, o.Metadata)
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	return Reply{object: members}
}

// methodsLocked are the registered names of the ways in which a client may authenticate.
func (e *Endpoint) methodsLocked() []string {
	o := e.options
	methods := o.AuthMethods
	if len(methods) == 0 {
		methods = []string{Basic, Post}
		if e.openLocked() {
			methods = append(methods, NoAuth)
		}
		if len(e.clientKeys) > 0 {
			methods = append(methods, PrivateKeyJWT)
		}
		if len(o.ClientCerts) > 0 {
			methods = append(methods, TLSClientAuth)
		}
	}
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = methodNames[m]
	}
	return names
}

func notAllowed(method string) Reply {
	return Reply{Status: http.StatusMethodNotAllowed, Header: http.Header{"Allow": {method}}}
}
