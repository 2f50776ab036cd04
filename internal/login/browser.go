package login

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// A Browser logs in by a person with a browser that can reach this machine's loopback.
type Browser struct {
	Client  Client
	Timeout time.Duration // of each request to an endpoint

	// Listen is the address that the browser comes back to; default a free port of 127.0.0.1. RedirectURL is what the
	// endpoint sends it to, where that isn't http://<Listen>/callback: an endpoint that wants it registered to the letter.
	// Without Listen it says where to listen, too.
	Listen, RedirectURL string

	Params url.Values       // further parameters of the authorization request
	Show   func(url string) // tells the person to open it, or has it opened; called once somebody listens
}

// Run returns what the login has brought, with a refresh token. The error is a *[SettingError], an error of the system that
// refuses an address, a *[WaitError] where ctx ended, an *[EndpointError], [ErrNoRefreshToken], or the client's.
func (b Browser) Run(ctx context.Context) (*endpoint.Reply, error) {
	metadata, err := Call(ctx, "metadata", b.Timeout, b.Client.Metadata)
	if err != nil {
		return nil, err
	}
	back, err := listen(ctx, b.Listen, b.RedirectURL)
	if err != nil {
		return nil, err
	}
	defer back.close()
	back.issuer, back.namesIssuer = metadata.Issuer, metadata.NamesIssuer
	back.state = rand.Text()
	verifier := secret.New(oauth2.GenerateVerifier())
	request := endpoint.AuthorizationRequest{
		RedirectURL: back.url, State: back.state, Verifier: verifier, Params: b.Params,
	}
	target, err := Call(ctx, "metadata", b.Timeout, func(ctx context.Context) (string, error) { return b.Client.AuthorizationURL(ctx, request) })
	if err != nil {
		return nil, err
	}
	back.serve()
	b.Show(target)
	code, err := back.wait(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := Call(ctx, "token", b.Timeout, func(ctx context.Context) (*endpoint.Reply, error) {
		return b.Client.Exchange(ctx, code, back.url, verifier)
	})
	if err != nil {
		return nil, err
	}
	return granted(reply)
}

// An answer is what the authorization endpoint has to say, by way of the browser.
type answer struct {
	code secret.Secret
	err  error
}

// read takes the answer out of the query that the browser came back with (RFC 6749 §4.1.2), whose state was the right one.
func (c *callback) read(query url.Values) answer {
	for _, name := range []string{"code", "error", "iss", "state"} {
		if len(query[name]) > 1 {
			return failed(endpoint.CodeBadReply, fmt.Sprintf("its answer has %q more than once", name))
		}
	}
	iss, said := query.Get("iss"), query.Has("iss")
	switch {
	case c.issuer != "" && said && iss != c.issuer, c.namesIssuer && !said: // RFC 9207 §2.4
		return failed(endpoint.CodeBadReply, fmt.Sprintf("its answer is of the issuer %q, want %q: somebody may have mixed two up (RFC 9207)",
			printable.Line(iss, 200), c.issuer))
	case query.Get("error") != "":
		return failed(printable.Line(query.Get("error"), 60), printable.Line(query.Get("error_description"), 200))
	case query.Get("code") == "":
		return failed(endpoint.CodeBadReply, "its answer has neither a code nor an error")
	}
	return answer{code: secret.New(query.Get("code"))}
}

func failed(code, message string) answer {
	return answer{err: &EndpointError{"authorization", &endpoint.Error{Code: code, Message: message}}}
}
