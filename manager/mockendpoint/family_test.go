package mockendpoint_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/oauth2"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// rotating are the options of an endpoint whose refresh tokens rotate.
func rotating() mockendpoint.Options {
	return mockendpoint.Options{Grants: []string{mockendpoint.ClientCredentials, mockendpoint.RefreshToken}, Rotate: true}
}

func refreshForm(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

// serve asks an endpoint without a server.
func serve(t *testing.T, e *mockendpoint.Endpoint, form url.Values) answer {
	t.Helper()
	w := httptest.NewRecorder()
	e.ServeHTTP(w, newRequest(t.Context(), t, "/token", form, nil))
	return read(t, w)
}

// refresh uses a refresh token. It returns the next one, "" where there is none, and the access token or the error code.
func refresh(t *testing.T, e *mockendpoint.Endpoint, token string) (next, got string) {
	t.Helper()
	a := serve(t, e, refreshForm(token))
	if code, _ := a.fields["error"].(string); code != "" {
		return "", code
	}
	next, _ = a.fields["refresh_token"].(string)
	return next, a.token()
}

// mustRefresh is refresh for a token that is good.
func mustRefresh(t *testing.T, e *mockendpoint.Endpoint, token string) (next, accessToken string) {
	t.Helper()
	next, got := refresh(t, e, token)
	if !strings.HasPrefix(got, "mock-") {
		t.Fatalf("a good refresh token was answered with %q", got)
	}
	return next, got
}

// family returns the only family.
func family(t *testing.T, e *mockendpoint.Endpoint) mockendpoint.Family {
	t.Helper()
	all := e.Families()
	if len(all) != 1 {
		t.Fatalf("%d families, want 1", len(all))
	}
	return all[0]
}

func TestRefreshTokensRotate(t *testing.T) {
	e := mockendpoint.New(rotating())
	first := e.NewFamily()
	second, _ := mustRefresh(t, e, first)
	third, accessToken := mustRefresh(t, e, second)
	if second == "" || second == first || third == second {
		t.Errorf("got refresh tokens %q, %q, %q, want three different ones", first, second, third)
	}
	if e.AcceptsRefreshToken(first) || e.AcceptsRefreshToken(second) || !e.AcceptsRefreshToken(third) || e.AcceptsRefreshToken("x") {
		t.Error("not exactly the last refresh token is good")
	}
	if got := family(t, e); got != (mockendpoint.Family{Ordinal: 1, Uses: 2, Rotations: 2}) {
		t.Errorf("got %+v, want two uses and rotations", got)
	}
	if r := last(t, e); r.Family != 1 || r.Token != 2 || strings.Contains(r.String(), second) || !strings.HasSuffix(r.String(), ": 200, token 2, family 1") {
		t.Errorf("recorded %v", r)
	}
	if !e.Accepts(accessToken) {
		t.Error("the access token isn't accepted")
	}
}

func TestReuseRevokesTheFamily(t *testing.T) {
	e := mockendpoint.New(rotating())
	first, other := e.NewFamily(), e.NewFamily()
	second, accessToken := mustRefresh(t, e, first)
	_, others := mustRefresh(t, e, other)
	if _, got := refresh(t, e, first); got != "invalid_grant" {
		t.Errorf("a spent refresh token was answered with %q, want invalid_grant", got)
	}
	if _, got := refresh(t, e, second); got != "invalid_grant" || e.AcceptsRefreshToken(second) {
		t.Errorf("the last refresh token of a revoked family was answered with %q, want invalid_grant", got)
	}
	if e.Accepts(accessToken) || !e.Accepts(others) {
		t.Error("not exactly the access tokens of the revoked family are refused")
	}
	all := e.Families()
	f := all[0]
	if len(all) != 2 || f.Uses != 1 || f.Rotations != 1 || f.Reuses != 1 || !f.Revoked || f.RevokedBy == nil || f.RevokedBy.Outcome != "400" {
		t.Errorf("got %+v, want the first one revoked by one reuse", all)
	}
	if all[1].Revoked || all[1].Reuses != 0 {
		t.Errorf("got %+v, want the other family untouched", all[1])
	}
}

func TestReuseInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := rotating()
		o.ReuseInterval = 30 * time.Second
		e := mockendpoint.New(o)
		first := e.NewFamily()
		second, _ := mustRefresh(t, e, first)
		<-time.After(30*time.Second - 1)
		again, _ := mustRefresh(t, e, first)
		if again == second || !e.AcceptsRefreshToken(second) || !e.AcceptsRefreshToken(again) {
			t.Error("a use within the interval doesn't give one more refresh token that is good")
		}
		<-time.After(1)
		if _, got := refresh(t, e, first); got != "invalid_grant" {
			t.Errorf("after the interval: got %q, want invalid_grant: it counts from the first use", got)
		}
		if f := family(t, e); !f.Revoked || f.Reuses != 1 || f.Rotations != 2 {
			t.Errorf("got %+v", f)
		}
	})
}

func TestRefreshTokensThatDoNotRotate(t *testing.T) {
	o := rotating()
	o.Rotate = false
	e := mockendpoint.New(o)
	token := e.NewFamily()
	e.Push(mockendpoint.Reply{}, mockendpoint.Reply{OmitRefreshToken: true})
	for _, want := range []string{token, "", token} {
		if next, _ := mustRefresh(t, e, token); next != want {
			t.Errorf("got refresh token %q, want %q", next, want)
		}
	}
	if f := family(t, e); f.Uses != 3 || f.Rotations != 0 || f.Revoked {
		t.Errorf("got %+v, want three uses", f)
	}
}

func TestAnAnswerWithoutARefreshTokenKeepsTheOld(t *testing.T) {
	e := mockendpoint.New(rotating())
	token := e.NewFamily()
	e.Push(mockendpoint.Reply{OmitRefreshToken: true})
	if next, _ := mustRefresh(t, e, token); next != "" || !e.AcceptsRefreshToken(token) {
		t.Errorf("got refresh token %q, want none and the old one good", next)
	}
	if next, _ := mustRefresh(t, e, token); next == token {
		t.Error("the next answer doesn't rotate")
	}
}

func TestRefreshLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := rotating()
		o.RefreshLife = time.Hour
		e := mockendpoint.New(o)
		first, never := e.NewFamily(), e.NewFamily()
		<-time.After(time.Hour - 1)
		a := serve(t, e, refreshForm(first))
		if a.fields["refresh_expires_in"] != 3600.0 {
			t.Errorf("got refresh_expires_in %v, want 3600", a.fields["refresh_expires_in"])
		}
		<-time.After(time.Hour - 1)
		next, _ := a.fields["refresh_token"].(string)
		mustRefresh(t, e, next)
		if _, got := refresh(t, e, never); got != "invalid_grant" || e.Families()[1].Revoked {
			t.Errorf("an expired refresh token: got %q, %+v; want invalid_grant and no reuse", got, e.Families()[1])
		}
	})
}

// What becomes of the refresh token by how the call ends, by default and with Commit.
func TestWhenARefreshTokenIsSpent(t *testing.T) {
	for name, c := range map[string]struct {
		reply  mockendpoint.Reply
		answer bool
	}{
		"token":   {mockendpoint.Reply{}, true},
		"error":   {mockendpoint.Reply{Status: 503}, true},
		"refusal": {mockendpoint.Reply{Error: "invalid_grant"}, true},
		"garbage": {mockendpoint.Reply{Body: new("<html>")}, true},
		"drop":    {mockendpoint.Reply{Drop: true}, false},
		"hang":    {mockendpoint.Reply{Hang: true}, false},
		"delay":   {mockendpoint.Reply{Delay: time.Minute}, false}, // longer than the client waits
		"cut off": {mockendpoint.Reply{Body: new(`{"access_token":"a","refr`), Header: http.Header{"Content-Length": {"400"}}}, true},
	} {
		for _, commit := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				e := mockendpoint.New(rotating())
				token := e.NewFamily()
				c.reply.Commit = commit
				e.Push(c.reply)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				cut := func() (cut bool) {
					defer func() { cut = recover() != nil }()
					e.ServeHTTP(httptest.NewRecorder(), newRequest(ctx, t, "/token", refreshForm(token), nil))
					return false
				}()
				if cut == c.answer {
					t.Errorf("%s: cut off: %t, want %t", name, cut, !c.answer)
				}
				spent := commit || name == "token"
				if got := !e.AcceptsRefreshToken(token); got != spent || family(t, e).Rotations == 1 != spent {
					t.Errorf("%s, Commit %t: spent: %t, want %t", name, commit, got, spent)
				}
				if family(t, e).Reuses != 0 {
					t.Errorf("%s, Commit %t: a reuse was counted", name, commit)
				}
			})
		}
	}
}

func TestCommitSpendsOnArrival(t *testing.T) {
	e, target := start(t, rotating())
	token := e.NewFamily()
	gate := make(chan struct{})
	e.Push(mockendpoint.Reply{Gate: gate, Commit: true})
	ended := hold(t, e, newRequest(t.Context(), t, target, refreshForm(token), nil))
	if e.AcceptsRefreshToken(token) || family(t, e).Rotations != 1 {
		t.Error("it isn't spent while the answer is held")
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if f := family(t, e); f.Uses != 1 || f.Rotations != 1 || f.Reuses != 0 {
		t.Errorf("got %+v, want one use", f)
	}
}

// Two calls with one refresh token are under way at once: whoever is answered second comes too late.
func TestTwoCallsWithOneRefreshToken(t *testing.T) {
	e, target := start(t, rotating())
	token := e.NewFamily()
	gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
	e.Push(mockendpoint.Reply{Gate: gates[0]}, mockendpoint.Reply{Gate: gates[1]})
	first := hold(t, e, newRequest(t.Context(), t, target, refreshForm(token), nil))
	second := hold(t, e, newRequest(t.Context(), t, target, refreshForm(token), nil))
	close(gates[1])
	if err := <-second; err != nil {
		t.Error(err)
	}
	close(gates[0])
	if err := <-first; err != nil {
		t.Error(err)
	}
	outcomes := []string{e.Requests()[0].Outcome, e.Requests()[1].Outcome}
	if f := family(t, e); outcomes[0] != "400" || outcomes[1] != "200" || !f.Revoked || f.Reuses != 1 || f.Uses != 1 {
		t.Errorf("got outcomes %q and %+v, want the first one refused as a reuse", outcomes, f)
	}
}

func TestFamiliesAreRevokedFromOutside(t *testing.T) {
	e := mockendpoint.New(rotating())
	e.AddRefreshToken("chosen")
	next, accessToken := mustRefresh(t, e, "chosen")
	e.RevokeFamily("unknown")
	if !e.AcceptsRefreshToken(next) || !e.Accepts(accessToken) {
		t.Error("an unknown refresh token revokes something")
	}
	e.RevokeFamily("chosen")
	if f := family(t, e); e.AcceptsRefreshToken(next) || e.Accepts(accessToken) || !f.Revoked || f.RevokedBy != nil || f.Reuses != 0 {
		t.Errorf("got %+v, want it revoked by no call", f)
	}
	defer func() {
		if recover() == nil {
			t.Error("the same refresh token again: got no panic")
		}
	}()
	e.AddRefreshToken("chosen")
}

func TestRefreshTokensThatAreRefused(t *testing.T) {
	o := rotating()
	e := mockendpoint.New(o)
	token := e.NewFamily()
	e.Push(mockendpoint.Reply{Status: 503})
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{
		"none":    {url.Values{"grant_type": {"refresh_token"}}, "invalid_request"},
		"unknown": {refreshForm("x"), "invalid_grant"},
		"twice":   {with(refreshForm(token), "refresh_token", "x"), "invalid_request"},
	} {
		if a := serve(t, e, c.form); a.fields["error"] != c.code {
			t.Errorf("%s: got %v, want %s", name, a.fields, c.code)
		}
	}
	if a := serve(t, e, refreshForm(token)); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d, want the scripted 503: a refusal takes no reply", a.StatusCode)
	}
	plain := mockendpoint.New(mockendpoint.Options{})
	if a := serve(t, plain, refreshForm(plain.NewFamily())); a.fields["error"] != "unsupported_grant_type" {
		t.Errorf("without the grant: got %v, want unsupported_grant_type", a.fields)
	}
}

func TestARefreshTokenIsOneClients(t *testing.T) {
	o := rotating()
	o.Grants = append(o.Grants, mockendpoint.DeviceCode)
	o.ApproveAtPoll = 1
	e, target := start(t, o) // any client is accepted
	if a := askWith(t, target, refreshForm(e.NewFamily()), basic("whoever", "x")); a.StatusCode != http.StatusOK {
		t.Errorf("nobody's: got %d, want 200", a.StatusCode)
	}
	device := askWith(t, base(target)+"/device_authorization", url.Values{}, basic("owner", "x"))
	code, _ := device.fields["device_code"].(string)
	poll := url.Values{"grant_type": {mockendpoint.DeviceCode}, "device_code": {code}}
	if a := askWith(t, target, poll, basic("another", "x")); a.fields["error"] != "invalid_grant" {
		t.Errorf("another's device code: got %v, want invalid_grant", a.fields)
	}
	login := askWith(t, target, poll, basic("owner", "x"))
	token, _ := login.fields["refresh_token"].(string)
	if a := askWith(t, target, refreshForm(token), basic("another", "x")); a.fields["error"] != "invalid_grant" {
		t.Errorf("another's refresh token: got %v, want invalid_grant", a.fields)
	}
	if a := askWith(t, base(target)+"/revoke", url.Values{"token": {token}}, basic("another", "x")); a.fields["error"] != "unauthorized_client" {
		t.Errorf("another revokes it: got %v, want unauthorized_client", a.fields)
	}
	if a := askWith(t, target, refreshForm(token), basic("owner", "x")); a.StatusCode != http.StatusOK {
		t.Errorf("its owner's: got %d %v, want 200", a.StatusCode, a.fields)
	}
}

// A client that nobody here wrote keeps up with the rotation.
func TestOAuth2ClientRefreshes(t *testing.T) {
	o := rotating()
	o.ClientID, o.ClientSecret = "worker", "s3cret"
	e, target := start(t, o)
	config := oauth2.Config{ClientID: "worker", ClientSecret: "s3cret", Endpoint: oauth2.Endpoint{TokenURL: target, AuthStyle: oauth2.AuthStyleInHeader}}
	token := &oauth2.Token{RefreshToken: e.NewFamily()}
	for range 3 {
		next, err := config.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
		if err != nil {
			t.Fatal(err)
		}
		if next.RefreshToken == token.RefreshToken || !e.Accepts(next.AccessToken) {
			t.Error("the refresh token is the same, or the access token isn't accepted")
		}
		token = next
	}
	if f := family(t, e); f.Uses != 3 || f.Revoked {
		t.Errorf("got %+v, want three uses", f)
	}
}

func TestMemoryOfFamiliesIsBounded(t *testing.T) {
	e := mockendpoint.New(rotating())
	first, last := e.NewFamily(), ""
	for range 20_000 {
		last = e.NewFamily()
	}
	if e.AcceptsRefreshToken(first) || !e.AcceptsRefreshToken(last) {
		t.Error("the oldest refresh token is accepted, or the latest is not")
	}
	if all := e.Families(); len(all) < 10_000 || len(all) >= 20_000 || all[len(all)-1].Ordinal != 20_001 {
		t.Errorf("%d families are kept, want the latest 10,000 and not all", len(all))
	}
}
