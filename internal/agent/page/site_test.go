package page_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/internal/overview"
	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
	"github.com/onetoken/onetoken/store"
)

// secretText is in every token of a site: it must never be seen.
const secretText = "never-to-be-seen"

// A site is an agent in small: the page on a real store and manager, and the two requests that it sends.
type site struct {
	t     testing.TB
	redis *miniredis.Miniredis
	kit   *managertest.Kit
	pace  page.Pace
	*httptest.Server

	mu    sync.Mutex
	page  *page.Page // nil while the agent is down
	mux   *http.ServeMux
	csrf  string
	runs  int
	posts []post
}

// A post is a request that the page sent.
type post struct {
	Path string `json:"path"` // with the query
	CSRF string `json:"csrf"`
	OK   bool   `json:"ok"` // whether the CSRF token was right
}

// configured are the environments that a site can refresh; others are only found in Redis.
var configured = []string{"billing", "eu-prod", "legacy-import", "prod", "reports", "sandbox", "staging", "test"}

func newSite(t testing.TB, pace page.Pace) *site {
	t.Helper()
	s := &site{t: t, pace: pace, redis: miniredis.RunT(t)}
	s.redis.ClockTTL(true)
	s.kit = managertest.New(t, managertest.Options{
		EnvironmentNames: configured,
		Endpoint:         mockendpoint.Options{Life: time.Hour},
		Logger:           slog.New(slog.DiscardHandler),
		Namespace:        "onetoken",
		Redis: func(testing.TB) redis.UniversalClient {
			o := redistest.Options(s.redis.Addr())
			o.ContextTimeoutEnabled = false // a slow machine is no Redis that is away
			o.DialTimeout, o.ReadTimeout, o.WriteTimeout = 20*time.Second, 20*time.Second, 20*time.Second
			return redis.NewClient(o)
		},
	})
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.stop()
		s.Close()
	})
	s.start()
	return s
}

// start is the start of the agent's process, with a CSRF token of its own.
func (s *site) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs++
	s.csrf = fmt.Sprintf("csrf-%d", s.runs)
	s.page = page.NewAt(page.Options{
		Overview: overview.New(s.kit.Store, s.kit.Manager), Watch: s.kit.Store.Watch, CSRFToken: s.csrf,
		Replica: "agent-1:4711", Namespace: s.kit.Namespace, Version: "v1.4.0",
	}, s.pace)
	s.mux = http.NewServeMux()
	s.page.Register(s.mux)
	s.mux.HandleFunc("POST /v1/environments/{env}/refresh", s.refresh)
	s.mux.HandleFunc("POST /v1/environments/{env}/invalidate", s.invalidate)
}

// stop is its end: connections break, and new ones are cut until it is started again. The port stays taken.
func (s *site) stop() {
	s.mu.Lock()
	old := s.page
	s.page, s.mux = nil, nil
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	s.CloseClientConnections()
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	mux := s.mux
	s.mu.Unlock()
	if mux == nil {
		panic(http.ErrAbortHandler)
	}
	mux.ServeHTTP(w, r)
}

// allowed records a request and checks its CSRF token, as the agent does.
func (s *site) allowed(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := post{Path: r.URL.RequestURI(), CSRF: r.Header.Get("X-Onetoken-CSRF")}
	p.OK = p.CSRF == s.csrf
	s.posts = append(s.posts, p)
	if !p.OK {
		problem(w, http.StatusForbidden, "Forbidden", "the CSRF token is another process's")
	}
	return p.OK
}

func (s *site) refresh(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r) {
		return
	}
	tok, err := s.kit.Manager.Refresh(r.Context(), r.PathValue("env"))
	if err != nil {
		problem(w, http.StatusServiceUnavailable, "The token endpoint failed", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"environment": r.PathValue("env"), "version": tok.Version, "refreshed_by": tok.RefreshedBy})
}

func (s *site) invalidate(w http.ResponseWriter, r *http.Request) {
	if !s.allowed(w, r) {
		return
	}
	v, _ := strconv.ParseInt(r.URL.Query().Get("version"), 10, 64)
	if _, err := s.kit.Store.Invalidate(r.Context(), r.PathValue("env"), store.Version(v)); err != nil {
		problem(w, http.StatusServiceUnavailable, "Redis can't be used", err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func problem(w http.ResponseWriter, status int, title, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": title, "status": status, "detail": detail})
}

// do does what a path says, as a test in Go or one in a browser asks for it: /put?env=a&life=1h. It is for tests, and fails
// the test where it can't.
func (s *site) do(path string) any {
	u, err := url.Parse(path)
	if err != nil {
		s.fail(err)
		return nil
	}
	q := u.Query()
	env, keys := q.Get("env"), s.kit.Store.Keys(q.Get("env"))
	ctx, rdb := s.t.Context(), s.kit.Redis
	switch u.Path {
	case "/refresh": // for real
		s.kit.Endpoint.Push(mockendpoint.Reply{AccessToken: secretText + q.Get("life"), ExpiresIn: seconds(q.Get("life"))})
		_, err = s.kit.Manager.Refresh(ctx, env)
	case "/put": // a token that some worker has fetched
		err = s.put(env, q.Get("by"), duration(q.Get("life")))
	case "/fail":
		err = s.putFailure(env, q.Get("code"), q.Get("message"), duration(q.Get("backoff")))
	case "/lease":
		err = rdb.Set(ctx, keys.Lock, q.Get("holder")+"|x", duration(q.Get("life"))).Err()
	case "/expire":
		err = rdb.PExpire(ctx, keys.Token, duration(q.Get("life"))).Err()
	case "/release":
		err = rdb.Del(ctx, keys.Lock).Err()
	case "/delete":
		err = rdb.Del(ctx, keys.Token, keys.Mark, keys.Failure, keys.Lock).Err()
	case "/endpoint-fails":
		s.kit.Endpoint.Push(mockendpoint.Reply{Error: "temporarily_unavailable", ErrorDescription: q.Get("message"), Status: 503})
	case "/redis-away":
		s.redis.SetError(q.Get("message"))
	case "/redis-back":
		s.redis.SetError("")
	case "/stop":
		s.stop()
	case "/start":
		s.start()
	case "/posts":
		s.mu.Lock()
		defer s.mu.Unlock()
		sent := append([]post{}, s.posts...)
		return sent
	default:
		err = fmt.Errorf("no such thing: %s", path)
	}
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", path, err))
	}
	return nil
}

func (s *site) fail(err error) { s.t.Errorf("site: %v", err) }

func duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return time.Hour
	}
	return d
}

func seconds(text string) float64 { return duration(text).Seconds() }

// issue takes the lease of env and has a version issued.
func (s *site) issue(env string) (store.Issue, error) {
	ctx := s.t.Context()
	const holder = "worker-1:99|x"
	if err := s.kit.Redis.Set(ctx, s.kit.Store.Keys(env).Lock, holder, time.Minute).Err(); err != nil {
		return store.Issue{}, err
	}
	seen, err := s.kit.Store.Read(ctx, env)
	if err != nil {
		return store.Issue{}, err
	}
	return s.kit.Store.Issue(ctx, env, holder, seen)
}

func (s *site) put(env, by string, life time.Duration) error {
	at, err := s.issue(env)
	if err != nil {
		return err
	}
	token := store.NewToken(store.Token{
		AccessToken: store.NewSecret(secretText + env), TokenType: "Bearer", RefreshedBy: by, Config: "another",
	})
	if _, err := s.kit.Store.Put(s.t.Context(), env, at, life, token); err != nil {
		return err
	}
	return s.kit.Redis.Del(s.t.Context(), s.kit.Store.Keys(env).Lock).Err()
}

func (s *site) putFailure(env, code, message string, backoff time.Duration) error {
	at, err := s.issue(env)
	if err != nil {
		return err
	}
	_, _, err = s.kit.Store.Fail(s.t.Context(), env, store.Failure{
		Code: code, Status: 503, Message: message, Attempt: 3, Version: at.Version, ReportedBy: "worker-1:99", Config: "c", Credential: "a1b2",
	}, backoff, 2*backoff)
	if err != nil {
		return err
	}
	return s.kit.Redis.Del(s.t.Context(), s.kit.Store.Keys(env).Lock).Err()
}

// control serves do over HTTP, to a test that runs in another process.
func (s *site) control() *httptest.Server {
	c := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(s.do(r.URL.RequestURI()))
	}))
	s.t.Cleanup(c.Close)
	return c
}

// show puts one environment into every state.
func (s *site) show() {
	for _, path := range []string{
		"/refresh?env=prod&life=1h", "/refresh?env=eu-prod&life=95s",
		"/refresh?env=test&life=1h", "/expire?env=test&life=8m20s",
		"/refresh?env=staging&life=1h", "/expire?env=staging&life=31m",
		"/fail?env=staging&code=http_503&message=the+token+endpoint+answered+503+Service+Unavailable&backoff=40m",
		"/fail?env=billing&code=invalid_client&message=Client+authentication+failed:+the+secret+was+rotated+on+1+November&backoff=20m",
		"/put?env=sandbox&by=worker-9:812&life=40m",
		"/refresh?env=reports&life=2h", "/expire?env=reports&life=24m", "/lease?env=reports&holder=worker-17.eu.internal:4123&life=40m",
		"/put?env=tenant-0042&by=ip-10-0-3-17.ap-southeast-2.compute.internal:51123&life=24h",
	} {
		s.do(path)
	}
}
