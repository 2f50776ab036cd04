package login_test

import (
	"context"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client is a scripted login.Client that remembers what it was asked.
type client struct {
	metadata endpoint.Metadata
	exchange func(code string) (*endpoint.Reply, error) // nil: a reply with a refresh token
	device   endpoint.Device
	poll     func(n int) (*endpoint.Reply, error) // of the n-th question, from 1

	mu       sync.Mutex
	request  endpoint.AuthorizationRequest
	redirect string // that the code was exchanged with
	verifier secret.Secret
	params   url.Values // that the device began with
	asked    []time.Time
}

var _ login.Client = (*client)(nil)

func (c *client) Metadata(context.Context) (endpoint.Metadata, error) { return c.metadata, nil }

func (c *client) AuthorizationURL(_ context.Context, r endpoint.AuthorizationRequest) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.request = r
	return "https://auth.example/authorize?" + url.Values{"state": {r.State}, "redirect_uri": {r.RedirectURL}}.Encode(), nil
}

func (c *client) Exchange(_ context.Context, code secret.Secret, redirect string, verifier secret.Secret) (*endpoint.Reply, error) {
	c.mu.Lock()
	c.redirect, c.verifier = redirect, verifier
	c.mu.Unlock()
	if c.exchange == nil {
		return reply("of " + code.Reveal()), nil
	}
	return c.exchange(code.Reveal())
}

func (c *client) Device(_ context.Context, params url.Values) (*endpoint.Device, error) {
	c.params = params
	return new(c.device), nil
}

func (c *client) ExchangeDevice(ctx context.Context, code secret.Secret) (*endpoint.Reply, error) {
	if code.Reveal() != c.device.Code.Reveal() {
		return nil, &endpoint.Error{Code: "invalid_grant", Status: 400}
	}
	c.asked = append(c.asked, time.Now())
	r, err := c.poll(len(c.asked))
	if r == nil && err == nil { // it hangs
		<-ctx.Done()
		return nil, &endpoint.Error{Code: endpoint.CodeTimeout, Err: ctx.Err()}
	}
	return r, err
}

func reply(refreshToken string) *endpoint.Reply {
	return &endpoint.Reply{AccessToken: secret.New("at"), TokenType: "Bearer", RefreshToken: secret.New(refreshToken)}
}
