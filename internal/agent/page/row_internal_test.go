package page

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/onetoken/onetoken/manager"
)

func sample(read time.Time) row {
	version, by, code, message, retry := manager.Version(7), "worker-1", "http_503", "it is down", read.Add(time.Minute)
	return newRow(manager.Status{
		Environment: "prod", State: manager.StateFailing, Usable: true, TTL: manager.Milliseconds(time.Hour), Life: 2 * time.Hour,
		Version: &version, RefreshedBy: &by, ReadAt: read.Add(-10 * time.Second),
		Lock:    manager.LockStatus{TTL: manager.Milliseconds(5 * time.Second)},
		Failure: manager.FailureStatus{Code: &code, Message: &message, RetryAt: &retry},
	}, true, read)
}

func TestATimeThatPassesIsNoNews(t *testing.T) {
	began := time.Now()
	old, later := sample(began), sample(began.Add(10*time.Second))
	later.TTL -= manager.Milliseconds(10 * time.Second)
	later.Lock.TTL = 0
	later.Failure.RetryAt = old.Failure.RetryAt
	if later.news(old) {
		t.Error("ten seconds later, with ten seconds less to live: that is said to be news")
	}
	if known := (rows{"prod": old}); len(known.take([]row{later})) != 0 || known["prod"].read != began {
		t.Error("what is no news was taken: small differences would add up")
	}
}

func TestWhatIsNews(t *testing.T) {
	began := time.Now()
	other, version := "else", manager.Version(8)
	for name, change := range map[string]func(*row){
		"a longer life":     func(r *row) { r.TTL += manager.Milliseconds(time.Second) },
		"a shorter life":    func(r *row) { r.TTL -= manager.Milliseconds(time.Second) },
		"a renewed lease":   func(r *row) { r.Lock.TTL += manager.Milliseconds(time.Second) },
		"a state":           func(r *row) { r.State = manager.StateStale },
		"no use":            func(r *row) { r.Usable = false },
		"a reason":          func(r *row) { r.Reason = &other },
		"a version":         func(r *row) { r.Version = &version },
		"no version":        func(r *row) { r.Version = nil },
		"another replica":   func(r *row) { r.RefreshedBy = &other },
		"a holder":          func(r *row) { r.Lock.Holder = &other },
		"another code":      func(r *row) { r.Failure.Code = &other },
		"another message":   func(r *row) { r.Failure.Message = &other },
		"an attempt":        func(r *row) { n := 2; r.Failure.Attempt = &n },
		"a status":          func(r *row) { n := 503; r.Failure.Status = &n },
		"no next try":       func(r *row) { r.Failure.RetryAt = nil },
		"another next try":  func(r *row) { at := began; r.Failure.RetryAt = &at },
		"another life":      func(r *row) { r.Life *= 2 },
		"its configuration": func(r *row) { r.Here = false },
	} {
		old, changed := sample(began), sample(began)
		change(&changed)
		if !changed.news(old) {
			t.Errorf("%s is said to be no news", name)
		}
	}
	if again := sample(began); again.news(sample(began)) {
		t.Error("the same row is said to be news")
	}
}

// The next try counts by Redis's clock, which here is ten seconds behind this machine's.
func TestARowRunsDown(t *testing.T) {
	began := time.Now()
	r := sample(began)
	if got := time.Duration(*r.RetryIn); got != 70*time.Second {
		t.Errorf("the next try is in %v; want 70 s by Redis's clock", got)
	}
	later := r.at(began.Add(90 * time.Second))
	if got := time.Duration(later.TTL); got != time.Hour-90*time.Second {
		t.Errorf("after 90 s it has %v to live", got)
	}
	if got := time.Duration(*later.RetryIn); got != -20*time.Second {
		t.Errorf("after 90 s the next try is in %v; want 20 s ago", got)
	}
	if later.Lock.TTL != 0 || r.at(began.Add(3*time.Hour)).TTL != 0 {
		t.Error("a remaining life is below 0")
	}
	if *r.RetryIn != manager.Milliseconds(70*time.Second) {
		t.Error("the row itself was changed")
	}
}

func TestARowsKeys(t *testing.T) {
	text, err := json.Marshal(newRow(manager.Status{Environment: "prod"}, true, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"environment":"prod","state":"","usable":false,"reason":null,"ttl_ms":0,"expires_at":null,"version":null,` +
		`"refreshed_by":null,"lock":{"holder":null,"ttl_ms":0},"failure":{"code":null,"status":null,"message":null,` +
		`"attempt":null,"retry_at":null},"life_ms":0,"retry_in_ms":null,"here":true}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestForeignTextIsMadeOneLine(t *testing.T) {
	long := "a\u202eb\x00c\n" + strings.Repeat("x", 1000)
	r := newRow(manager.Status{
		Reason: &long, RefreshedBy: &long, Lock: manager.LockStatus{Holder: &long}, Failure: manager.FailureStatus{Code: &long, Message: &long},
	}, true, time.Now())
	for _, s := range []*string{r.Reason, r.RefreshedBy, r.Lock.Holder, r.Failure.Code, r.Failure.Message} {
		if !strings.HasPrefix(*s, "a b c x") || len(*s) > 400 {
			t.Errorf("it is shown as %q", *s)
		}
	}
}
