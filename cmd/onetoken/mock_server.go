package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// mockGrants are the grants by the names that an environment's setting has, and those of a login.
var mockGrants = map[string]string{
	"client_credentials": mockendpoint.ClientCredentials,
	"refresh_token":      mockendpoint.RefreshToken,
	"jwt_bearer":         mockendpoint.JWTBearer,
	"token_exchange":     mockendpoint.TokenExchange,
	"authorization_code": mockendpoint.AuthorizationCode,
	"device_code":        mockendpoint.DeviceCode,
}

// mockMethods are the ways to authenticate by the names that an environment's setting has. There is no TLS here.
var mockMethods = map[string]string{
	"client_secret_basic": mockendpoint.Basic,
	"client_secret_post":  mockendpoint.Post,
	"private_key_jwt":     mockendpoint.PrivateKeyJWT,
	"none":                mockendpoint.NoAuth,
}

// serverOptions are those of the endpoint that its script doesn't depend on.
func (f mockFlags) serverOptions() (mockendpoint.Options, error) {
	o := mockendpoint.Options{
		ClientID: f.clientID, Life: f.life, Rotate: f.rotate, ReuseInterval: f.reuseInterval, RefreshLife: f.refreshLife,
	}
	if f.approveDevices {
		o.ApproveAtPoll = 1
	}
	var err error
	if o.Grants, err = translate("--grant", f.grants, mockGrants); err != nil {
		return o, err
	}
	if o.AuthMethods, err = translate("--auth-method", f.authMethods, mockMethods); err != nil {
		return o, err
	}
	switch refreshes := slices.Contains(f.grants, "refresh_token"); {
	case !refreshes && (f.rotate || f.reuseInterval != 0 || f.refreshLife != 0 || f.refreshFile != ""):
		return o, errors.New("--rotate, --reuse-interval, --refresh-life and --refresh-token-file need --grant refresh_token")
	case f.reuseInterval < 0 || f.refreshLife < 0:
		return o, errors.New("--reuse-interval, --refresh-life: below 0")
	case slices.Contains(f.authMethods, "private_key_jwt") && f.keyFile == "":
		return o, errors.New("--auth-method private_key_jwt needs --client-key-file")
	case f.keyFile != "":
		key, err := readPublicKey(f.keyFile)
		if err != nil {
			return o, fmt.Errorf("--client-key-file: %w", err)
		}
		o.ClientKeys, o.AssertionKeys = []crypto.PublicKey{key}, []crypto.PublicKey{key}
	}
	return o, nil
}

func translate(flag string, names []string, known map[string]string) ([]string, error) {
	var list []string
	for _, name := range names {
		if known[name] == "" {
			return nil, fmt.Errorf("%s: %q is none of %s", flag, name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		list = append(list, known[name])
	}
	return list, nil
}

// readPublicKey reads a PEM file with a public key or a certificate.
func readPublicKey(path string) (crypto.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", path)
	}
	switch block.Type {
	case "PUBLIC KEY":
		if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			return key, nil
		}
	case "CERTIFICATE":
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert.PublicKey, nil
		}
	}
	return nil, fmt.Errorf("%s has neither a PUBLIC KEY nor a CERTIFICATE that can be read", path)
}

const privateHalf = "FILE  # with the private half of --client-key-file"

// configuration is a file with an environment that asks this endpoint. It names the files and variables that
// secrets come from.
func (f mockFlags) configuration(a mockAnswer) string {
	var b strings.Builder
	b.WriteString("environments:\n  mock:\n")
	set := func(name, value string) { fmt.Fprintf(&b, "    %s: %s\n", name, value) }
	file := func(path string) string {
		if absolute, err := filepath.Abs(path); err == nil {
			path = absolute
		}
		return strconv.Quote(path)
	}
	set("base_url", a.BaseURL)
	id := "any"
	if f.clientID != "" {
		id = f.clientID
	}
	set("client_id", strconv.Quote(id))
	method := "client_secret_basic"
	if len(f.authMethods) > 0 {
		method = f.authMethods[0]
		set("auth_method", method)
	}
	switch {
	case method == "none":
	case method == "private_key_jwt":
		set("private_key_file", privateHalf)
	case f.secretFile != "":
		set("client_secret_file", file(f.secretFile))
	default:
		set("client_secret", "${ONETOKEN_MOCK_CLIENT_SECRET}  # any text, where mock has none")
	}
	f.configureGrant(set, file)
	if a.AuthorizationURL != "" {
		set("authorization_url", a.AuthorizationURL)
	}
	if a.DeviceAuthorizationURL != "" {
		set("device_authorization_url", a.DeviceAuthorizationURL)
	}
	if a.RevocationURL != "" {
		set("revocation_url", a.RevocationURL)
	}
	return b.String()
}

func (f mockFlags) configureGrant(set func(name, value string), file func(string) string) {
	i := slices.IndexFunc(f.grants, func(g string) bool { return g != "authorization_code" && g != "device_code" })
	if i < 0 {
		return
	}
	set("grant", f.grants[i])
	switch f.grants[i] {
	case "refresh_token":
		if f.refreshFile != "" {
			set("refresh_token_file", file(f.refreshFile))
		}
	case "jwt_bearer":
		if f.keyFile == "" {
			set("assertion", "{file: FILE}  # with any text")
		} else if !slices.Contains(f.authMethods, "private_key_jwt") {
			set("private_key_file", privateHalf)
		}
	case "token_exchange":
		set("subject_token_file", "FILE  # with any text")
	}
}
