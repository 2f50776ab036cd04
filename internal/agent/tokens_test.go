package agent_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/agent"
	"github.com/onetoken/onetoken/internal/answer"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestTheTokenIsWhatGetPrints(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	var first answer.Token
	for i := range 3 {
		a := s.get(prod + "/token")
		var got answer.Token
		decoder := json.NewDecoder(strings.NewReader(a.body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil || a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%v: %d %s", err, a.status, a.body)
		}
		tok, err := s.kit.Manager.Token(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		want := answer.Of(s.kit.Manager, "prod", tok)
		if got.ExpiresIn-want.ExpiresIn < 0 || got.ExpiresIn > 3600 {
			t.Errorf("expires_in %d, a moment later %d", got.ExpiresIn, want.ExpiresIn)
		}
		got.ExpiresIn = want.ExpiresIn
		if got != want || !s.kit.Endpoint.Accepts(got.AccessToken) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if i == 0 {
			first = got
		} else if got.Version != first.Version {
			t.Errorf("version %d, want %d", got.Version, first.Version)
		}
	}
	if n := s.kit.Endpoint.Calls(); n != 1 {
		t.Errorf("%d calls of the endpoint", n)
	}
}

// The answer is kept for a second: it must never say more life than there is.
func TestExpiresInCountsDown(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	first := s.get(prod + "/token").fields()["expires_in"].(float64)
	begun := time.Now() // the token's life began before
	eventually(t, "expires_in is smaller", func() bool {
		asked := time.Since(begun)
		now := s.get(prod + "/token").fields()["expires_in"].(float64)
		if now > 3600-asked.Seconds() {
			t.Fatalf("after %v: %v s left of an hour", asked, now)
		}
		return now < first-1
	})
}

func TestARefreshedTokenIsInTheNextAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	before := s.get(prod + "/token").fields()
	a := s.do("POST", prod+"/refresh", "")
	var refreshed answer.Refresh
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&refreshed); err != nil || a.status != 200 || refreshed.Environment != "prod" || refreshed.RefreshedBy != "replica-01" {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
	after := s.get(prod + "/token").fields()
	if after["access_token"] == before["access_token"] || after["version"] != float64(refreshed.Version) {
		t.Errorf("got version %v, want %d", after["version"], refreshed.Version)
	}
}

func TestInvalidate(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	first := s.get(prod + "/token")
	version := string(mustJSON(t, first.fields()["version"]))
	for query, want := range map[string]string{
		"version=0":                `"0" is no version`,
		"version=":                 `"" is no version`,
		"version=-1":               `"-1" is no version`,
		"version=x":                `"x" is no version`,
		"version=1&version=2":      "version is given twice",
		"Version=1":                `unknown parameter "Version"`,
		"version=1;x":              "the query is malformed",
		"version=9999999999999999": "", // beyond what is believed
	} {
		a := s.do("POST", prod+"/invalidate?"+query, "")
		if detail := a.isProblem(400, "bad_version"); !strings.Contains(detail, want) {
			t.Errorf("%s: %s", query, detail)
		}
	}
	if a := s.get(prod + "/token"); a.fields()["version"] != first.fields()["version"] {
		t.Error("a bad request has dropped the token")
	}
	for _, query := range []string{"?version=" + version, ""} {
		before := s.get(prod + "/token").fields()["version"]
		if a := s.do("POST", prod+"/invalidate"+query, ""); a.status != 204 || a.body != "" {
			t.Errorf("%q: %d %s", query, a.status, a.body)
		}
		if after := s.get(prod + "/token").fields()["version"]; after == before {
			t.Errorf("%q: still version %v", query, after)
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	if f, ok := v.(float64); ok {
		v = int64(f)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMinTTL(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	s.kit.Endpoint.Push(mockendpoint.Reply{ExpiresIn: 300}) // then an hour
	for _, query := range []string{"", "?min_ttl=0", "?min_ttl=200", "?min_ttl=3m", "?other=1"} {
		if a := s.get(prod + "/token" + query); a.status != 200 || a.fields()["expires_in"].(float64) > 300 {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	for query, want := range map[string]string{
		"min_ttl=":                  "neither a number of seconds nor a duration",
		"min_ttl=-1":                "neither a number of seconds nor a duration",
		"min_ttl=-1s":               "neither a number of seconds nor a duration",
		"min_ttl=1.5":               "neither a number of seconds nor a duration",
		"min_ttl=%0a":               "neither a number of seconds nor a duration",
		"min_ttl=99999999999999999": "neither a number of seconds nor a duration",
		"min_ttl=9999999h":          "neither a number of seconds nor a duration",
		"min_ttl=1&min_ttl=2":       "min_ttl is given twice",
		"min_ttl=%zz":               "the query is malformed",
	} {
		if detail := s.get(prod+"/token?"+query).isProblem(400, "bad_min_ttl"); !strings.Contains(detail, want) {
			t.Errorf("%s: %s", query, detail)
		}
	}
	if detail := s.get(prod+"/token?min_ttl=10h").isProblem(400, "life_too_long"); !strings.Contains(detail, "no token has 10h0m0s left") {
		t.Errorf("got %s", detail)
	}
	if n := s.kit.Endpoint.Calls(); n != 1 {
		t.Errorf("%d calls, want one", n)
	}
}

func TestAPersonMustLogIn(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: manager.Environment{Grant: manager.RefreshToken}})
	s.kit.Endpoint.RevokeFamily(s.kit.RefreshTokens["prod"])
	if _, err := s.kit.Manager.Logout(t.Context(), "test", nil); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{prod, "/v1/environments/test"} { // by the endpoint's answer, and by what Redis says
		a := s.get(env + "/token")
		if detail := a.isProblem(503, "login"); !strings.Contains(detail, "a person must log in") {
			t.Errorf("%s: detail %q", env, detail)
		}
		if after := a.header.Get("Retry-After"); after != "30" {
			t.Errorf("%s: Retry-After %q", env, after)
		}
	}
	if strings.Contains(s.logged.String(), "unexpected error") {
		t.Error("it is logged as unexpected")
	}
}

func TestAFailingEndpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	s.kit.Endpoint.SetDefault(mockendpoint.Reply{Error: "invalid_client", ErrorDescription: "no such client", RetryAfter: 40 * time.Second})
	a := s.get(prod + "/token")
	detail := a.isProblem(503, "endpoint")
	if !strings.Contains(detail, "the token endpoint refused: invalid_client (no such client)") {
		t.Errorf("detail %q", detail)
	}
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 40 {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	failure := a.fields()["failure"].(map[string]any)
	if failure["code"] != "invalid_client" || failure["status"] != 401.0 || failure["attempt"] != 1.0 || failure["message"] != "no such client" || failure["retry_at"] == nil {
		t.Errorf("failure %v", failure)
	}
	if a := s.do("POST", prod+"/refresh", ""); a.status != 503 {
		t.Errorf("refresh: %d %s", a.status, a.body)
	}
	row := s.get(prod).fields()
	if row["state"] != "failing" && row["state"] != "refreshing" || row["usable"] != false {
		t.Errorf("the row is %v", row)
	}
}

func TestAWaitHasAnEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{environment: endless, agent: func(o *agent.Options) { o.MaxWait = 200 * time.Millisecond }})
	s.kit.Endpoint.SetDefault(mockendpoint.Reply{Hang: true})
	a := s.get(prod + "/token")
	a.isProblem(504, "timeout")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("headers %v", a.header)
	}
	s.do("POST", prod+"/refresh", "").isProblem(504, "timeout")
	b := s.do("POST", prod+"/oauth2/token", "grant_type=client_credentials", own())
	if b.status != 503 || b.fields()["error"] != "temporarily_unavailable" || b.header.Get("Retry-After") != "1" {
		t.Errorf("the token endpoint: %d %s", b.status, b.body)
	}
}

func TestARedisThatIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	eventually(t, "ready at first", func() bool { return s.get("/readyz").status == 200 })
	s.get("/v1/environments/test/token")
	s.kit.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
	eventually(t, "prod has no token", func() bool { return s.get(prod+"/token").status == 503 })
	a := s.get(prod + "/token")
	if a.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", a.header)
	}
	a.isProblem(503, "redis")
	s.get("/v1/environments").isProblem(503, "redis")
	s.get(prod).isProblem(503, "redis")
	s.do("POST", prod+"/invalidate", "").isProblem(503, "redis")
	b := s.do("POST", prod+"/oauth2/token", "grant_type=client_credentials", own())
	if b.status != 503 || b.fields()["error"] != "temporarily_unavailable" || b.header.Get("Retry-After") == "" {
		t.Errorf("the token endpoint: %d %s", b.status, b.body)
	}
	if a := s.get("/v1/environments/test/token"); a.status != 200 {
		t.Errorf("test's token is valid: %d %s", a.status, a.body)
	}
	if a := s.get("/readyz"); a.status != 200 {
		t.Errorf("test can be used: %d %s", a.status, a.body)
	}
}

func TestNotReadyWithoutRedisAndToken(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	s.kit.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
	eventually(t, "prod has no token", func() bool { return s.get(prod+"/token").status == 503 })
	eventually(t, "not ready", func() bool { return s.get(prod+"/token").status == 503 && s.get("/readyz").status == 503 })
	if s.get("/healthz").status != 200 {
		t.Error("the process runs")
	}
	s.kit.Miniredis.SetError("")
	eventually(t, "ready again", func() bool { return s.get(prod+"/token").status == 200 && s.get("/readyz").status == 200 })
}
