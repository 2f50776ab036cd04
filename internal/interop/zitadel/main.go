// Command zitadel is an authorization server with github.com/zitadel/oidc, on the storage of its example: what onetoken gets
// its tokens from in tests. It is a module of its own, so that the library's go.mod stays as it is.
//
// The configuration is one line of JSON on stdin; the server prints {"issuer": URL} once it listens, and ends with its stdin.
// Everyone who logs in is id1, and a device is approved by POST /approve.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The clients: those of the example's storage, and of it the service user "sid1" with the secret "verysecret".
const (
	webClient    = "web"    // authorization code, refresh, device, token exchange; a secret
	nativeClient = "native" // the same without a secret
	keyClient    = "key"    // the same with private_key_jwt
	apiClient    = "api"    // introspects
	clientSecret = "secret"
	person       = "id1"
)

// A setup is what the test decides.
type setup struct {
	// Keys are those of the service user "service" and of the client "key", who have the same id as "iss".
	Keys map[string]jose.JSONWebKey `json:"keys"`
}

func main() {
	log.SetFlags(0)
	slog.SetDefault(slog.New(slog.DiscardHandler))
	stdin := bufio.NewReader(os.Stdin)
	line, err := stdin.ReadBytes('\n')
	if err != nil {
		log.Fatal(err)
	}
	var s setup
	if err := json.Unmarshal(line, &s); err != nil {
		log.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	issuer := fmt.Sprintf("http://%s", listener.Addr())
	handler, err := handler(issuer, s)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		os.Exit(0)
	}()
	fmt.Printf("{\"issuer\":%q}\n", issuer)
	log.Fatal((&http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}).Serve(listener))
}

// handler returns the server of an issuer, with the pages of a person who logs in and agrees at once.
func handler(issuer string, s setup) (http.Handler, error) {
	const callback = "http://127.0.0.1/callback"
	storage.RegisterClients(
		storage.WebClient(webClient, clientSecret, callback),
		storage.NativeClient(nativeClient, callback),
		storage.WebClient(keyClient, "", callback),
		storage.WebClient(apiClient, clientSecret),
	)
	people := users{storage.NewUserStore(issuer)}
	store := &server{Storage: storage.NewStorage(people), keys: s.Keys}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey:               sha256.Sum256([]byte("only for tests")),
		CryptoKeyId:             "server",
		CodeMethodS256:          true,
		AuthMethodPost:          true,
		AuthMethodPrivateKeyJWT: true,
		GrantTypeRefreshToken:   true,
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime: 5 * time.Minute, PollInterval: time.Second, UserFormPath: "/device", UserCode: op.UserCodeBase20,
		},
	}, store, op.StaticIssuer(issuer), op.WithAllowInsecure())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	interceptor := op.NewIssuerInterceptor(provider.IssuerFromRequest)
	mux.HandleFunc("GET /login/username", interceptor.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.FormValue("authRequestID")
		user := people.GetUserByID(person)
		if err := store.CheckUsernamePassword(user.Username, user.Password, id); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, op.AuthCallbackURL(provider)(r.Context(), id), http.StatusFound)
	}))
	mux.HandleFunc("POST /approve", func(w http.ResponseWriter, r *http.Request) {
		if err := store.CompleteDeviceAuthorization(r.Context(), r.FormValue("user_code"), person); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	return mux, nil
}

// users are the example's people and, with the rights to be somebody else's subject, its service users, whom introspection looks
// for by their id.
type users struct{ storage.UserStore }

func (u users) GetUserByID(id string) *storage.User {
	if user := u.UserStore.GetUserByID(id); user != nil {
		return user
	}
	return &storage.User{ID: id, Username: id, IsAdmin: true}
}

// server is the example's storage with what it leaves out.
type server struct {
	*storage.Storage
	keys map[string]jose.JSONWebKey
}

// A client may do what the example's may, and log a device in.
type client struct {
	op.Client
	method oidc.AuthMethod
}

// RedirectURIGlobs makes any port of loopback one to come back to, for a client with a secret, too.
func (client) RedirectURIGlobs() []string { return []string{"http://127.0.0.1:*/callback"} }

func (client) PostLogoutRedirectURIGlobs() []string { return nil }

func (c client) AuthMethod() oidc.AuthMethod { return c.method }

func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeTokenExchange, oidc.GrantTypeDeviceCode}
}

func (s *server) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, oidc.ErrInvalidClient().WithParent(err)
	}
	method := c.AuthMethod()
	if id == keyClient {
		method = oidc.AuthMethodPrivateKeyJWT
	}
	return client{c, method}, nil
}

// GetKeyByIDAndClientID returns the key that the test has made for a client or a service user.
func (s *server) GetKeyByIDAndClientID(_ context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	key, ok := s.keys[clientID]
	if !ok || key.KeyID != keyID {
		return nil, errors.New("no such key")
	}
	return &key, nil
}

// The example only introspects tokens whose audience is the one who asks.
func (s *server) CreateAccessToken(ctx context.Context, request op.TokenRequest) (string, time.Time, error) {
	if r, ok := request.(*oidc.JWTTokenRequest); ok {
		r.Audience = append(r.Audience, apiClient)
	}
	return s.Storage.CreateAccessToken(ctx, request)
}

// The example forgets whose a device's refresh token is.
func (s *server) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	if d, ok := request.(*op.DeviceAuthorizationState); ok {
		request = &storage.AuthRequest{ApplicationID: d.ClientID, UserID: d.Subject, Scopes: d.Scopes}
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, request, current)
}

// VerifyExchangeSubjectToken accepts a JWT that a platform has issued to a workload: of the service user's key, for this server.
func (s *server) VerifyExchangeSubjectToken(_ context.Context, token string, kind oidc.TokenType) (string, string, map[string]any, error) {
	if kind != oidc.JWTTokenType {
		return "", "", nil, errors.New("no such token")
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA})
	if err != nil {
		return "", "", nil, err
	}
	payload, err := jws.Verify(s.keys[storage.ServiceUserID])
	if err != nil {
		return "", "", nil, err
	}
	var claims struct {
		Subject string `json:"sub"`
		Expires int64  `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", "", nil, err
	}
	if claims.Expires <= time.Now().Unix() {
		return "", "", nil, errors.New("the token has expired")
	}
	return token, claims.Subject, nil, nil
}

// VerifyExchangeActorToken accepts what VerifyExchangeSubjectToken does.
func (s *server) VerifyExchangeActorToken(ctx context.Context, token string, kind oidc.TokenType) (string, string, map[string]any, error) {
	return s.VerifyExchangeSubjectToken(ctx, token, kind)
}
