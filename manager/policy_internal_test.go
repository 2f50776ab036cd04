package manager

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/onetoken/onetoken/store"
)

const day = 24 * time.Hour

// defaulted is p with its zero fields filled in.
func defaulted(t *testing.T, p Policy) Policy {
	t.Helper()
	p, err := p.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMargin(t *testing.T) {
	for _, c := range []struct {
		configured, life, want time.Duration
	}{
		{0, 30 * day, 10 * time.Second},
		{0, time.Hour, 10 * time.Second},
		{0, 100 * time.Second, 10 * time.Second},
		{0, time.Minute, 6 * time.Second},
		{0, 10 * time.Second, time.Second},
		{0, 8 * time.Second, time.Second},
		{0, 4 * time.Second, 500 * time.Millisecond},
		{0, 2 * time.Second, 250 * time.Millisecond},
		{0, time.Second, 125 * time.Millisecond},
		{0, 0, 0},
		{time.Minute, time.Hour, time.Minute},
		{time.Minute, 2 * time.Minute, time.Minute},
		{time.Minute, time.Minute, 30 * time.Second},
		{time.Hour, time.Minute, 30 * time.Second},
		{time.Millisecond, time.Hour, time.Millisecond},
	} {
		p := defaulted(t, Policy{ExpiryMargin: c.configured})
		if got := p.margin(c.life); got != c.want {
			t.Errorf("expiry_margin %v, life %v: %v; want %v", c.configured, c.life, got, c.want)
		}
	}
}

func TestRefreshPoint(t *testing.T) {
	for _, c := range []struct {
		name       string
		refreshAt  float64
		life, took time.Duration
		draw       float64
		want       time.Duration
	}{
		{"80 % of the life", 0, time.Hour, time.Second, 0, 48 * time.Minute},
		{"earlier by half of 5 %", 0, time.Hour, time.Second, 0.5, 46*time.Minute + 30*time.Second},
		{"earlier by 5 %", 0, time.Hour, time.Second, 1, 45 * time.Minute},
		{"as configured", 0.9, time.Hour, time.Second, 0, 54 * time.Minute},
		{"as configured, and earlier by 5 %", 0.9, time.Hour, time.Second, 1, 51 * time.Minute},
		{"thrice a slow endpoint's time before the margin", 0, time.Minute, 3 * time.Second, 0, 45 * time.Second},
		{"not before half the life, for an endpoint that is too slow", 0, time.Minute, 10 * time.Second, 0, 30 * time.Second},
		{"not before half the life, for a draw", 0.5, time.Hour, time.Second, 1, 30 * time.Minute},
		{"the lead of a slow endpoint, and earlier by 5 %", 0, time.Minute, 3 * time.Second, 1, 42 * time.Second},
		{"a short life", 0, 4 * time.Second, 100 * time.Millisecond, 0, 3200 * time.Millisecond},
		{"a very short life", 0, 2 * time.Second, 100 * time.Millisecond, 0, 1450 * time.Millisecond},
		{"a very short life, and an endpoint that needs a third of it", 0, 2 * time.Second, 600 * time.Millisecond, 0, time.Second},
		{"no life", 0, 0, 0, 0, 0},
	} {
		got := defaulted(t, Policy{RefreshAt: c.refreshAt}).refreshPoint(c.life, c.took, c.draw)
		if (got - c.want).Abs() > time.Microsecond {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestRefreshPointProperties(t *testing.T) {
	lives := []time.Duration{
		time.Second, 1999 * time.Millisecond, 2 * time.Second, 2001 * time.Millisecond, 3 * time.Second, 4 * time.Second,
		5 * time.Second, 10 * time.Second, time.Minute, 99 * time.Second, 5 * time.Minute, time.Hour, day, 30 * day,
	}
	tooks := []time.Duration{
		0, time.Microsecond, time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, time.Second, 6 * time.Second,
		10 * time.Second, time.Minute, time.Hour,
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		lives = append(lives, time.Second+time.Duration(random.ExpFloat64()*float64(time.Hour)).Truncate(time.Millisecond))
		tooks = append(tooks, time.Duration(random.ExpFloat64()*float64(time.Second)))
	}
	policies := map[string]Policy{
		"the defaults":       {},
		"refresh_at 0.5":     {RefreshAt: 0.5},
		"refresh_at 0.99":    {RefreshAt: 0.99},
		"expiry_margin 30 s": {ExpiryMargin: 30 * time.Second},
		"expiry_margin 1 ms": {ExpiryMargin: time.Millisecond, RefreshAt: 0.95},
	}
	for name, p := range policies {
		p = defaulted(t, p)
		broken := 0
		for _, life := range lives {
			for _, took := range tooks {
				before := time.Duration(-1)
				for _, draw := range []float64{0.999999, 0.5, 0} {
					at, handedOut := p.refreshPoint(life, took, draw), life-p.margin(life)
					lead := handedOut - at
					var what string
					switch {
					case at < life/2:
						what = "is before half the life"
					case at < before:
						what = "is earlier than that of a greater draw"
					case lead < 3*took && at > life/2:
						what = "leaves less than three times what the endpoint took"
					case lead <= 0 && life/2 < handedOut:
						what = "leaves no time in which the token is refreshed while it is handed out"
					case time.Duration(p.RefreshAt*float64(life)) < at && at > life/2:
						what = "is after refresh_at"
					}
					if at <= handedOut && what == "" {
						what = wrongStandIn(p, life, took, at)
					}
					if before = at; what != "" {
						if broken++; broken <= 3 {
							t.Errorf("%s: life %v, took %v, draw %v: %v, with a lead of %v, %s", name, life, took, draw, at, lead, what)
						}
					}
				}
			}
		}
		if broken > 3 {
			t.Errorf("%s: … and %d more", name, broken-3)
		}
	}
}

// wrongStandIn says what is wrong with the points at which other replicas refresh a token that one has from the age first on.
func wrongStandIn(p Policy, life, took, first time.Duration) string {
	handedOut := life - p.margin(life)
	soonest, latest := p.standInPoint(life, took, first, 0), p.standInPoint(life, took, first, 0.999999)
	switch {
	case soonest < first, latest < soonest, latest > handedOut:
		return fmt.Sprintf("is stood in for from %v to %v", soonest, latest)
	case soonest-first < min(took, handedOut-first):
		return fmt.Sprintf("is stood in for from %v on, before the endpoint has answered", soonest)
	case handedOut-first >= 3*took && handedOut-latest < took:
		return fmt.Sprintf("is stood in for until %v, too late for the endpoint to answer", latest)
	}
	return ""
}

func TestStandInPoint(t *testing.T) {
	for _, c := range []struct {
		name              string
		life, took, first time.Duration
		draw              float64
		want              time.Duration
	}{
		{"a quarter of the lead later", time.Hour, time.Second, 48 * time.Minute, 0, 50*time.Minute + 57500*time.Millisecond},
		{"and up to another", time.Hour, time.Second, 48 * time.Minute, 1, 53*time.Minute + 55*time.Second},
		{"after the endpoint's time, and a quarter of that", time.Minute, 3 * time.Second, 45 * time.Second, 0, 48750 * time.Millisecond},
		{"the endpoint's time before it isn't handed out", time.Minute, 3 * time.Second, 45 * time.Second, 1, 50250 * time.Millisecond},
		{"no room for the endpoint's time twice", 2 * time.Second, 600 * time.Millisecond, time.Second, 1, 1750 * time.Millisecond},
		{"an endpoint that needs more than there is", time.Minute, time.Minute, 30 * time.Second, 0.5, 54 * time.Second},
		{"no lead", 0, 0, 0, 0.5, 0},
	} {
		got := defaulted(t, Policy{}).standInPoint(c.life, c.took, c.first, c.draw)
		if (got - c.want).Abs() > time.Microsecond {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestLife(t *testing.T) {
	for _, c := range []struct {
		name            string
		policy          Policy
		expiresIn, want time.Duration
	}{
		{"as given", Policy{}, time.Hour, time.Hour},
		{"missing or zero", Policy{}, 0, 5 * time.Minute},
		{"negative", Policy{}, -time.Second, 5 * time.Minute},
		{"missing, with a default", Policy{DefaultLife: time.Hour}, 0, time.Hour},
		{"a century", Policy{}, 36500 * day, 30 * day},
		{"longer than the longest", Policy{MaxLife: time.Hour}, 2 * time.Hour, time.Hour},
		{"missing, with a default longer than the longest", Policy{DefaultLife: day, MaxLife: time.Hour}, 0, time.Hour},
		{"whole milliseconds, rounded down", Policy{}, 1234567 * time.Microsecond, 1234 * time.Millisecond},
		{"shorter than can be used", Policy{}, 500 * time.Millisecond, 500 * time.Millisecond},
		{"next to nothing", Policy{}, time.Nanosecond, 0},
	} {
		if got := defaulted(t, c.policy).life(c.expiresIn); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestBackoffDoubles(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		code   string
		want   []int // seconds, from the first attempt on
	}{
		{"transient", Policy{}, "http_503", []int{1, 2, 4, 8, 16, 32, 60, 60, 60}},
		{"a redirect", Policy{}, "http_302", []int{1, 2}},
		{"a rate limit", Policy{}, "http_429", []int{1, 2}},
		{"a 4xx without a code", Policy{}, "http_400", []int{1, 2}},
		{"no answer", Policy{}, "timeout", []int{1, 2}},
		{"no connection", Policy{}, "unreachable", []int{1, 2}},
		{"no token in the reply", Policy{}, "bad_reply", []int{1, 2}},
		{"refused", Policy{}, "invalid_client", []int{15, 30, 60, 120, 120}},
		{"refused for its grant", Policy{}, "invalid_grant", []int{15, 30}},
		{"a code that isn't RFC 6749's", Policy{}, "slow_down", []int{1, 2}},
		{"as configured", Policy{Backoff: Backoff{7 * time.Second, 40 * time.Second}}, "timeout", []int{7, 14, 28, 40, 40}},
		{"constant", Policy{Backoff: Backoff{5 * time.Second, 5 * time.Second}}, "timeout", []int{5, 5, 5}},
		{"refused, as configured", Policy{BackoffRefused: Backoff{time.Second, 3 * time.Second}}, "invalid_scope", []int{1, 2, 3, 3}},
	} {
		p := defaulted(t, c.policy)
		for i, seconds := range c.want {
			if got, want := p.backoff(c.code, i+1, 0), time.Duration(seconds)*time.Second; got != want {
				t.Errorf("%s: attempt %d: %v; want %v", c.name, i+1, got, want)
			}
		}
	}
}

func TestBackoffWithAnOddAttempt(t *testing.T) {
	p := defaulted(t, Policy{})
	for attempt, want := range map[int]time.Duration{
		0: time.Second, -1: time.Second, 1 << 40: time.Minute, 1<<63 - 1: time.Minute, -1 << 63: time.Second,
	} {
		if got := p.backoff("timeout", attempt, 0); got != want {
			t.Errorf("attempt %d: %v; want %v", attempt, got, want)
		}
	}
}

func TestRetryAfterWinsWhereItIsLonger(t *testing.T) {
	for _, c := range []struct {
		name       string
		policy     Policy
		code       string
		attempt    int
		retryAfter time.Duration
		want       time.Duration
	}{
		{"longer", Policy{}, "http_429", 1, 30 * time.Second, 30 * time.Second},
		{"shorter", Policy{}, "http_429", 5, 3 * time.Second, 16 * time.Second},
		{"longer than the longest backoff", Policy{}, "http_503", 9, 5 * time.Minute, 5 * time.Minute},
		{"longer than is obeyed", Policy{}, "http_503", 1, day, 15 * time.Minute},
		{"longer than is obeyed here", Policy{RetryAfterMax: 10 * time.Second}, "http_503", 1, day, 10 * time.Second},
		{"obeyed less than the backoff", Policy{RetryAfterMax: 10 * time.Second}, "http_503", 9, day, time.Minute},
		{"longer than a refusal's", Policy{}, "invalid_client", 1, time.Minute, time.Minute},
		{"shorter than a refusal's", Policy{}, "invalid_client", 1, time.Second, 15 * time.Second},
		{"negative", Policy{}, "http_503", 1, -time.Hour, time.Second},
		{"without end", Policy{}, "http_503", 1, 1<<63 - 1, 15 * time.Minute},
	} {
		if got := defaulted(t, c.policy).backoff(c.code, c.attempt, c.retryAfter); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestNoBackoffIsLongerThanTheLongest(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy Policy
		want   time.Duration
	}{
		{"a Retry-After", Policy{}, 15 * time.Minute},
		{"a refusal", Policy{RetryAfterMax: time.Second}, 2 * time.Minute},
		{"a transient failure", Policy{RetryAfterMax: time.Second, Backoff: Backoff{time.Second, time.Hour}}, time.Hour},
	} {
		p := defaulted(t, c.policy)
		if got := p.longest(); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
		for _, code := range []string{"timeout", "invalid_client"} {
			if got := p.backoff(code, 100, 1<<63-1); got > p.longest() {
				t.Errorf("%s: a backoff of %v; want at most %v", c.name, got, p.longest())
			}
			if got, want := p.longestOf(code), p.backoff(code, 100, 0); got != want {
				t.Errorf("%s: the longest of %s is %v; want %v", c.name, code, got, want)
			}
		}
	}
}

// redisNow is Redis's clock in the records of these tests.
var redisNow = time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC)

// recordOf is a record of a token that was issued a minute ago with an hour to live, as mend changes it.
func recordOf(mend ...func(*store.Record)) *store.Record {
	r := &store.Record{
		Now: redisNow,
		Token: store.NewToken(store.Token{
			AccessToken: store.NewSecret("t0ken-text"), TokenType: "Bearer", Version: 100, Config: "c1",
			IssuedAt: redisNow.Add(-time.Minute), ExpiresAt: redisNow.Add(59 * time.Minute),
			RefreshedBy: "replica-1", Took: 300 * time.Millisecond,
		}),
		TTL:  59 * time.Minute,
		Mark: store.Mark{Issued: 100, Stored: 100},
	}
	for _, f := range mend {
		f(r)
	}
	return r
}

func noToken(r *store.Record) { r.Token, r.TTL = nil, 0 }

func unreadableToken(r *store.Record) {
	noToken(r)
	r.TokenErr = &store.UnreadableError{Key: "onetoken:{prod}:token", Reason: "not a hash"}
}

func foreignToken(r *store.Record) { r.Token.Config = "c2" }

// age makes the token one of the age.
func age(d time.Duration) func(*store.Record) {
	return func(r *store.Record) {
		life := r.Token.Life()
		r.Token.IssuedAt = r.Now.Add(-d)
		r.Token.ExpiresAt = r.Token.IssuedAt.Add(life)
		r.TTL = life - d
	}
}

func droppedUpTo(v Version) func(*store.Record) {
	return func(r *store.Record) { r.Mark.Dropped = v }
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name        string
		record      *store.Record
		fingerprint string
		want        verdict
	}{
		{"a good token", recordOf(), "c1", usable},
		{"a good token, for whom any will do", recordOf(foreignToken), "", usable},
		{"none", recordOf(noToken), "c1", missing},
		{"unreadable", recordOf(unreadableToken), "c1", unreadable},
		{"unreadable, for whom any will do", recordOf(unreadableToken), "", unreadable},
		{"invalidated", recordOf(droppedUpTo(100)), "c1", dropped},
		{"one below was invalidated", recordOf(droppedUpTo(99)), "c1", usable},
		{"one above was invalidated", recordOf(droppedUpTo(101)), "c1", dropped},
		{"more left than the margin", recordOf(age(time.Hour - 10*time.Second - time.Millisecond)), "c1", usable},
		{"as much left as the margin", recordOf(age(time.Hour - 10*time.Second)), "c1", expiring},
		{"a TTL longer than its whole life", recordOf(func(r *store.Record) { r.TTL = 30 * day }), "c1", usable},
		{"of another configuration", recordOf(foreignToken), "c1", foreign},
		{"of another configuration, and invalidated", recordOf(foreignToken, droppedUpTo(100)), "c1", dropped},
		{"of another configuration, and about to expire", recordOf(foreignToken, age(time.Hour-time.Second)), "c1", expiring},
	} {
		if got := judge(c.record, defaulted(t, Policy{}), c.fingerprint); got != c.want {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

func TestEveryVerdictHasAText(t *testing.T) {
	seen := map[string]bool{}
	for v := usable; v <= foreign; v++ {
		if seen[v.String()] || v.String() == "" {
			t.Errorf("verdict %d: %q", v, v)
		}
		seen[v.String()] = true
	}
}
