package mockendpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// A program that meets an endpoint which is overloaded once.
func Example() {
	endpoint := mockendpoint.New(mockendpoint.Options{ClientID: "worker", ClientSecret: "s3cret", Life: time.Minute})
	server := httptest.NewServer(endpoint)
	defer server.Close()
	defer endpoint.Close() // first: the server's Close waits for calls that hang

	endpoint.Push(mockendpoint.Reply{Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Second})

	config := clientcredentials.Config{ // the program under test
		ClientID: "worker", ClientSecret: "s3cret", TokenURL: server.URL, AuthStyle: oauth2.AuthStyleInHeader,
	}
	for range 2 {
		token, err := config.Token(context.Background())
		fmt.Println(token != nil, err != nil)
	}

	fmt.Println(endpoint.Calls(), "calls, at most", endpoint.MaxInFlight(), "at once")
	for _, r := range endpoint.Requests() {
		fmt.Println(r.Method, r.AuthMethod, r.ClientID, r.Form.Get("grant_type"), r.Outcome)
	}
	// Output:
	// false true
	// true false
	// 2 calls, at most 1 at once
	// POST basic worker client_credentials 429
	// POST basic worker client_credentials 200
}

// An answer that is lost has spent the refresh token: who tries again with it ends the login.
func ExampleEndpoint_NewFamily() {
	endpoint := mockendpoint.New(mockendpoint.Options{Grants: []string{mockendpoint.RefreshToken}, Rotate: true})
	server := httptest.NewServer(endpoint)
	defer server.Close()
	defer endpoint.Close()

	endpoint.Push(mockendpoint.Reply{}, mockendpoint.Reply{Commit: true, Drop: true})

	config := oauth2.Config{Endpoint: oauth2.Endpoint{TokenURL: server.URL, AuthStyle: oauth2.AuthStyleInParams}}
	refreshToken := endpoint.NewFamily()
	for range 3 {
		token, err := config.TokenSource(context.Background(), &oauth2.Token{RefreshToken: refreshToken}).Token()
		if err == nil {
			refreshToken = token.RefreshToken
		}
		var refusal *oauth2.RetrieveError
		fmt.Println(err == nil, errors.As(err, &refusal) && refusal.ErrorCode == "invalid_grant")
	}

	family := endpoint.Families()[0]
	fmt.Println(family.Uses, "uses,", family.Reuses, "reuse, revoked:", family.Revoked)
	// Output:
	// true false
	// false false
	// false true
	// 2 uses, 1 reuse, revoked: true
}

// An API that takes the endpoint's access tokens, until they are revoked.
func ExampleEndpoint_Protect() {
	endpoint := mockendpoint.New(mockendpoint.Options{Default: mockendpoint.Reply{AccessToken: "t1"}})
	server := httptest.NewServer(endpoint)
	defer server.Close()
	api := httptest.NewServer(endpoint.Protect(http.NotFoundHandler()))
	defer api.Close()

	ctx := context.Background()
	config := clientcredentials.Config{TokenURL: server.URL, AuthStyle: oauth2.AuthStyleInHeader}
	client := config.Client(ctx) // asks for one token, and keeps it
	call := func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		fmt.Printf("%d %q\n", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
	}
	call()
	endpoint.Revoke("t1")
	call()
	// Output:
	// 404 ""
	// 401 "Bearer realm=\"mockendpoint\", error=\"invalid_token\""
}
