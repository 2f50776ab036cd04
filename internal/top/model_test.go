package top_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/onetoken/onetoken/internal/top"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// row is an environment with a token that lives for an hour and has ttl left at noon.
func row(name string, state manager.State, ttl time.Duration) *top.Row {
	s := manager.Status{Environment: name, State: state, Usable: true, TTL: manager.Milliseconds(ttl)}
	issued := noon.Add(ttl - time.Hour)
	s.Version, s.ExpiresAt, s.RefreshedBy = new(store.Version(issued.UnixMicro())), new(noon.Add(ttl)), new("worker-1:4711")
	s.Life = time.Hour
	return &top.Row{Status: s, Read: noon}
}

// bare is an environment without a token.
func bare(name string, state manager.State, reason string) *top.Row {
	return &top.Row{Status: manager.Status{Environment: name, State: state, Reason: &reason}, Read: noon}
}

func failed(r *top.Row, code, message string, next time.Duration) *top.Row {
	r.State = manager.StateFailing
	r.Failure = manager.FailureStatus{Code: &code, Status: new(503), Message: &message, Attempt: new(3), RetryAt: new(noon.Add(next))}
	return r
}

func leased(r *top.Row, holder string, ttl time.Duration) *top.Row {
	r.State, r.Lock = manager.StateRefreshing, manager.LockStatus{Holder: &holder, TTL: manager.Milliseconds(ttl)}
	return r
}

// all has a row of each state.
func all() top.Snapshot {
	conflict := row("f-conflict", manager.StateConflict, 20*time.Minute)
	conflict.Usable, conflict.Reason = false, new("it is of another configuration")
	return top.Snapshot{Complete: true, Rows: []*top.Row{
		row("a-fresh", manager.StateFresh, 45*time.Minute),
		row("b-stale", manager.StateStale, 5*time.Minute),
		leased(row("c-refreshing", manager.StateRefreshing, 4*time.Minute), "worker-9:31337", 5*time.Second),
		failed(row("d-failing-but-usable", manager.StateFailing, 90*time.Second), "invalid_client", "the secret is wrong", 42*time.Second),
		failed(bare("e-failing", manager.StateFailing, "no token is stored"), "http_503", "Service Unavailable", 12*time.Second),
		conflict,
		bare("g-missing", manager.StateMissing, "no token is stored"),
	}}
}

// many has n fresh rows, the i-th with i seconds more to live.
func many(n int) top.Snapshot {
	s := top.Snapshot{Complete: true}
	for i := range n {
		s.Rows = append(s.Rows, row(fmt.Sprintf("env-%04d", i), manager.StateFresh, 30*time.Minute+time.Duration(n-i)*time.Second))
	}
	return s
}

func model(s top.Snapshot, width, height int) top.Model {
	return top.Model{Namespace: "onetoken"}.At(noon).Sized(width, height).With(s)
}

func text(m top.Model) string {
	lines := m.Lines()
	for i := range lines {
		lines[i] = strings.TrimRight(ansi.Strip(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

func press(m top.Model, keys ...string) top.Model {
	for _, key := range keys {
		k := top.Key{Name: key}
		if len(key) == 1 {
			k.Text = key
		}
		m = m.Press(k)
	}
	return m
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if want = strings.TrimPrefix(want, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// names returns the environments in sight.
func names(m top.Model) string { return strings.Join(m.Sight(), " ") }

func TestWide(t *testing.T) {
	same(t, text(model(all(), 120, 16)), `
7 environments, 3 not usable · by state                                                               namespace onetoken
✗ 2 failing  ≠ 1 conflict  ○ 1 missing  ↻ 1 refreshing  ◐ 1 stale  ● 1 fresh
  ENVIRONMENT          STATE        TTL              LEFT VERSION REFRESHED BY      DETAIL
› e-failing            ✗ failing                        - -       -                 http_503, next try 12s
  f-conflict           ≠ conflict   ████▋········· 20m00s …000000 worker-1:4711     it is of another configuration
  g-missing            ○ missing                        - -       -                 no token is stored
  d-failing-but-usable ✗ failing    ▍·············  1m30s …000000 worker-1:4711     invalid_client, next try 42s
  b-stale              ◐ stale      █▏············  5m00s …000000 worker-1:4711
  c-refreshing         ↻ refreshing ▉·············  4m00s …000000 worker-1:4711     lease: worker-9:31337 5s
  a-fresh              ● fresh      ██████████▌··· 45m00s …000000 worker-1:4711



e-failing: failing and not usable: no token is stored · http_503 (Service Unavailable), attempt 3, next try 12:00:12
UTC
/ filter  s sort  r reverse  space pause  ↑↓ move  q quit`)
}

func TestMedium(t *testing.T) {
	same(t, text(model(all(), 80, 15)), `
7 environments, 3 not usable · by state                       namespace onetoken
✗ 2 failing  ≠ 1 conflict  ○ 1 missing  ↻ 1 refreshing  ◐ 1 stale  ● 1 fresh
  ENVIRONMENT        STATE        TTL          LEFT DETAIL
› e-failing          ✗ failing                    - http_503, next try 12s
  f-conflict         ≠ conflict   ███▍······ 20m00s it is of another configurat…
  g-missing          ○ missing                    - no token is stored
  d-fail…-but-usable ✗ failing    ▎·········  1m30s invalid_client, next try 42s
  b-stale            ◐ stale      ▉·········  5m00s by worker-1:4711
  c-refreshing       ↻ refreshing ▋·········  4m00s lease: worker-9:31337 5s
  a-fresh            ● fresh      ███████▌·· 45m00s by worker-1:4711


e-failing: failing and not usable: no token is stored · http_503 (Service
Unavailable), attempt 3, next try 12:00:12 UTC
/ filter  s sort  r reverse  space pause  ↑↓ move  q quit`)
}

func TestNarrow(t *testing.T) {
	same(t, text(model(all(), 40, 11)), `
7 environments, 3 not usable · by state
✗ 2 ≠ 1 ○ 1 ↻ 1 ◐ 1 ● 1
  ENVIRONMENT   STATE        TTL    LEFT
› e-failing     ✗ failing              -
  f-conflict    ≠ conflict   █▍·· 20m00s
  g-missing     ○ missing              -
  d-fa…t-usable ✗ failing    ▏···  1m30s
  b-stale       ◐ stale      ▍···  5m00s
  c-refreshing  ↻ refreshing ▎···  4m00s
http_503, next try 12s
/ filter  s sort  r reverse  q quit`)
}

func TestTiny(t *testing.T) {
	same(t, text(model(all(), 20, 4)), `
✗ 2 ≠ 1 ○ 1 ↻ 1 ◐ 1
› ✗ e-failing
  ≠ f-conflict
/ filter  q quit`)
	same(t, text(model(all(), 30, 2)), `
✗ 2 ≠ 1 ○ 1 ↻ 1 ◐ 1 ● 1
› e-failing       ✗ failing`)
	same(t, text(model(all(), 30, 1)), `
✗ 2 ≠ 1 ○ 1 ↻ 1 ◐ 1 ● 1`)
}

func TestASCII(t *testing.T) {
	m := model(all(), 80, 15)
	m.ASCII = true
	got := text(m)
	same(t, got, `
7 environments, 3 not usable | by state                       namespace onetoken
x 2 failing  = 1 conflict  o 1 missing  @ 1 refreshing  ~ 1 stale  * 1 fresh
  ENVIRONMENT        STATE        TTL          LEFT DETAIL
> e-failing          x failing                    - http_503, next try 12s
  f-conflict         = conflict   ###------- 20m00s it is of another configurat~
  g-missing          o missing                    - no token is stored
  d-fail~-but-usable x failing    ----------  1m30s invalid_client, next try 42s
  b-stale            ~ stale      #---------  5m00s by worker-1:4711
  c-refreshing       @ refreshing #---------  4m00s lease: worker-9:31337 5s
  a-fresh            * fresh      ########-- 45m00s by worker-1:4711


e-failing: failing and not usable: no token is stored | http_503 (Service
Unavailable), attempt 3, next try 12:00:12 UTC
/ filter  s sort  r reverse  space pause  up/down move  q quit`)
	for _, r := range got {
		if r > '~' {
			t.Errorf("%q is no ASCII", r)
		}
	}
}

// A view is never larger than its terminal, whatever is in it.
func TestFits(t *testing.T) {
	hostile := "\x1b[2J\u202e" + strings.Repeat("wide: 世界 ", 40) + "\n"
	s := all()
	s.Rows = append(s.Rows, failed(row(strings.Repeat("x", 128), manager.StateFresh, 400*24*time.Hour), hostile, hostile, 900*24*time.Hour),
		leased(row("y", manager.StateFresh, 0), hostile, time.Hour), bare("z", manager.StateMissing, hostile))
	broken := s
	broken.Problem, broken.Since = errors.New(hostile), noon.Add(-time.Minute)
	typing := press(model(s, 0, 0), "/", "x", "x")
	for name, m := range map[string]top.Model{"rows": model(s, 0, 0), "broken": model(broken, 0, 0), "typing": typing, "nothing": model(top.Snapshot{}, 0, 0)} {
		for _, width := range []int{0, 1, 2, 3, 5, 9, 17, 23, 24, 33, 34, 39, 40, 59, 60, 79, 80, 81, 109, 110, 139, 300} {
			for _, height := range []int{0, 1, 2, 3, 4, 6, 8, 9, 14, 40} {
				m := m.Sized(width, height)
				lines := m.Lines()
				if len(lines) > height {
					t.Fatalf("%s: %d lines in %dx%d", name, len(lines), width, height)
				}
				for _, line := range append(lines, m.Strip()...) {
					plain := ansi.Strip(line)
					if ansi.StringWidth(line) > width || strings.ContainsAny(plain, "\x1b\u202e\n\a") {
						t.Fatalf("%s: %q in %dx%d", name, line, width, height)
					}
				}
			}
		}
	}
}

// What counts down goes on between two reads, and a token whose time has run out is missing.
func TestCountsDown(t *testing.T) {
	m := model(all(), 120, 16).At(noon.Add(10 * time.Second))
	for _, want := range []string{"44m50s", "4m50s", " 1m20s", "lease: worker-9:31337 0s", "http_503, next try 2s", "invalid_client, next try 32s"} {
		if !strings.Contains(text(m), want) {
			t.Errorf("no %q in\n%s", want, text(m))
		}
	}
	m = m.At(noon.Add(6 * time.Minute))
	for _, want := range []string{"○ 2 missing", "◐ 0 stale", "6 not usable", "b-stale              ○ missing", "its life has ended", "next try due"} {
		if !strings.Contains(text(m), want) {
			t.Errorf("no %q in\n%s", want, text(m))
		}
	}
}

func TestSort(t *testing.T) {
	m := model(all(), 120, 20)
	const trouble = "e-failing f-conflict g-missing d-failing-but-usable b-stale c-refreshing a-fresh"
	const byName = "a-fresh b-stale c-refreshing d-failing-but-usable e-failing f-conflict g-missing"
	const byTTL = "e-failing g-missing d-failing-but-usable c-refreshing b-stale f-conflict a-fresh"
	for _, c := range []struct{ keys, want string }{
		{"", trouble}, {"s", byName}, {"s", byTTL}, {"s", trouble}, {"r", backwards(trouble)}, {"s", backwards(byName)}, {"r", byName},
	} {
		if c.keys != "" {
			m = press(m, c.keys)
		}
		if got := names(m); got != c.want {
			t.Errorf("%q: got %s, want %s", c.keys, got, c.want)
		}
	}
}

func backwards(s string) string {
	words := strings.Fields(s)
	for i := range len(words) / 2 {
		words[i], words[len(words)-1-i] = words[len(words)-1-i], words[i]
	}
	return strings.Join(words, " ")
}

func TestFilter(t *testing.T) {
	for filter, want := range map[string]string{
		"Fail":        "e-failing d-failing-but-usable",
		"fail usable": "d-failing-but-usable",
		":fail":       "e-failing d-failing-but-usable",
		":unus fail":  "e-failing",
		":unusable":   "e-failing f-conflict g-missing",
		":re":         "c-refreshing",
		"nothing":     "",
		"":            "e-failing f-conflict g-missing d-failing-but-usable b-stale c-refreshing a-fresh",
	} {
		m := press(model(all(), 120, 20), append([]string{"/"}, strings.Split(filter, "")...)...)
		if got := names(m); got != want {
			t.Errorf("%q: got %s, want %s", filter, got, want)
		}
		if got := names(press(m, "enter")); got != want {
			t.Errorf("%q and enter: got %s, want %s", filter, got, want)
		}
		if got := press(m, "esc"); len(got.Sight()) != 7 || got.Quit() {
			t.Errorf("%q and esc: got %s", filter, names(got))
		}
	}
}

func TestFilterKeys(t *testing.T) {
	m := press(model(all(), 100, 20), "/", "q", "s", "backspace", "backspace", "backspace", "g", "-", "m")
	if names(m) != "g-missing" || m.Quit() || !strings.Contains(text(m), "filter: g-m") {
		t.Errorf("got\n%s", text(m))
	}
	m = press(m, "ctrl+u")
	if len(m.Sight()) != 7 {
		t.Errorf("got\n%s", text(m))
	}
	m = press(m, "f", "enter")
	if got := text(m); !strings.Contains(got, "· 5 match") || !strings.Contains(got, "filter f  esc clear") {
		t.Errorf("got\n%s", got)
	}
	if m = press(m, "esc"); m.Quit() || len(m.Sight()) != 7 {
		t.Errorf("esc with a filter: got\n%s", text(m))
	}
	m = m.Press(top.Key{Name: "/"}).Press(top.Key{Name: "paste", Text: "g-\x1b[2J\nmissing"})
	if !strings.Contains(text(m), "filter: g-[2Jmissing") {
		t.Errorf("pasted: got\n%s", text(m))
	}
	long := m
	for range 500 {
		long = press(long, "x")
	}
	if n := len(text(long)); n > 2000 {
		t.Errorf("a filter without an end: %d", n)
	}
}

func TestLeaves(t *testing.T) {
	for _, key := range []string{"q", "esc", "ctrl+c"} {
		if !press(model(all(), 80, 24), key).Quit() {
			t.Errorf("%s doesn't leave", key)
		}
	}
	if !press(model(all(), 80, 24), "/", "ctrl+c").Quit() {
		t.Error("ctrl+c doesn't leave while a filter is typed")
	}
	if press(model(all(), 80, 24), "x", "up", "enter", "space", "r", "s").Quit() {
		t.Error("left by another key")
	}
}

func TestScroll(t *testing.T) {
	m := press(model(many(100), 120, 12), "s") // by name; 7 rows
	for _, c := range []struct{ key, first, cursor string }{
		{"down", "env-0000", "env-0001"},
		{"pgdown", "env-0006", "env-0007"},
		{"pgdown", "env-0012", "env-0013"},
		{"up", "env-0012", "env-0012"},
		{"up", "env-0011", "env-0011"},
		{"end", "env-0093", "env-0099"},
		{"down", "env-0093", "env-0099"},
		{"pgup", "env-0087", "env-0093"},
		{"home", "env-0000", "env-0000"},
		{"up", "env-0000", "env-0000"},
	} {
		m = press(m, c.key)
		if sight := m.Sight(); len(sight) != 7 || sight[0] != c.first || !strings.Contains(text(m), "› "+c.cursor) {
			t.Errorf("%s: first %s, want %s, cursor on %s:\n%s", c.key, sight[0], c.first, c.cursor, text(m))
		}
	}
	if got := text(m); !strings.Contains(got, " 1 to 7 of 100") {
		t.Errorf("got\n%s", got)
	}
	if m = press(m, "end").Sized(120, 40); len(m.Sight()) != 34 || m.Sight()[33] != "env-0099" {
		t.Errorf("in a higher terminal: %s", names(m))
	}
	if m = m.Sized(120, 8); !strings.Contains(text(m), "› env-0099") {
		t.Errorf("in a lower terminal the cursor is out of sight:\n%s", text(m))
	}
}

// The cursor stays on its environment, wherever that goes; on the first line it stays there.
func TestCursorStays(t *testing.T) {
	m := press(model(all(), 120, 20), "down", "down", "s")
	if !strings.Contains(text(m), "› g-missing") {
		t.Errorf("got\n%s", text(m))
	}
	s := all()
	s.Rows = s.Rows[:3]
	if m = m.With(s); !strings.Contains(text(m), "› c-refreshing") {
		t.Errorf("it is gone: got\n%s", text(m))
	}
	if m = press(model(all(), 120, 20), "s"); !strings.Contains(text(m), "› a-fresh") {
		t.Errorf("at the top: got\n%s", text(m))
	}
	if m = m.With(top.Snapshot{Complete: true}); !strings.Contains(text(m), "no environment is configured, and none is in Redis") {
		t.Errorf("nothing: got\n%s", text(m))
	}
}

func TestPause(t *testing.T) {
	m := press(model(all(), 120, 20), "space").At(noon.Add(time.Minute)).With(many(2))
	if got := text(m); !m.Paused() || !strings.Contains(got, "paused at 12:00:00 UTC") || !strings.Contains(got, "45m00s") {
		t.Errorf("got\n%s", got)
	}
	m = press(m, "space").At(noon.Add(time.Minute)).With(many(2))
	if got := text(m); m.Paused() || !strings.Contains(got, "2 environments") {
		t.Errorf("got\n%s", got)
	}
}

// While reading fails the last rows stay, dimmed, under a line that says since when and why.
func TestProblem(t *testing.T) {
	s := all()
	s.Problem, s.Since = errors.New("store: Redis: connection refused"), noon.Add(-12*time.Second)
	m := model(s, 120, 20)
	if got := text(m); !strings.Contains(got, "\n reading fails since 11:59:48 UTC (12s): store: Redis: connection refused\n") || len(m.Sight()) != 7 {
		t.Errorf("got\n%s", got)
	}
	const faint = "\x1b[2m"
	if line := m.Lines()[4]; !strings.Contains(line, faint+"e-failing") {
		t.Errorf("not dimmed: %q", line)
	}
	s.Rows, s.Complete = nil, false
	if got := text(model(s, 120, 20)); !strings.Contains(got, "nothing was read yet") {
		t.Errorf("got\n%s", got)
	}
	if got := text(model(top.Snapshot{}, 80, 20)); !strings.Contains(got, "looking for environments…") {
		t.Errorf("got\n%s", got)
	}
}

// How old rows are is said where that isn't what the eye expects.
func TestAge(t *testing.T) {
	s := many(10)
	s.Rows[3].Read = noon.Add(-9 * time.Second)
	if got := text(model(s, 120, 20)); !strings.Contains(got, "10 environments · read up to 9s ago · by state") {
		t.Errorf("got\n%s", got)
	}
	if got := text(model(many(10), 120, 20)); strings.Contains(got, "read up to") {
		t.Errorf("got\n%s", got)
	}
}

func TestStrip(t *testing.T) {
	lines := model(all(), 100, 30).Strip()
	for i := range lines {
		lines[i] = strings.TrimRight(ansi.Strip(lines[i]), " ")
	}
	same(t, strings.Join(lines, "\n"), `
─── live, as onetoken status --watch shows it ──────────────────────────────────
  ENVIRONMENT          STATE        TTL          LEFT DETAIL
  e-failing            ✗ failing                    - http_503, next try 12s
  f-conflict           ≠ conflict   ███▍······ 20m00s it is of another configuration
  g-missing            ○ missing                    - no token is stored
  d-failing-but-usable ✗ failing    ▎·········  1m30s invalid_client, next try 42s
e-failing: failing and not usable: no token is stored · http_503 (Service Unavailable), attempt 3, …`)
	if got := model(all(), 79, 30).Strip(); got != nil {
		t.Errorf("in a small terminal: %q", got)
	}
}
