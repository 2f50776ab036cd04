package sim

import (
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var (
	mistakes = flag.Bool("mistakes", false, "build the code with one mistake after the other, and see whether a run finds it")
	of       = flag.Int("of", 1, "of so many parts of the mistakes, try one")
	part     = flag.Int("part", 0, "which, from 0")
)

// A mistake is a change of the code that must break a rule.
type mistake struct {
	from     int // the seed to begin with, to be quick: one that has found it before
	name     string
	file     string // from the module's root
	old, new string // a text that stands there once, and what is put in its place
	andIn    string // the file of a second change, where it is another
	andAt    string // its old text
	andNew   string
	rotates  bool // it is looked for where refresh tokens rotate
}

var allMistakes = []mistake{
	{from: 61, name: "a late writer isn't kept out", file: "store/lua/put.lua", old: "if v < m.stored then", new: "if false then"},
	{name: "a token is compared with the last issued", file: "store/lua/put.lua", old: "if v < m.stored then", new: "if v < m.issued then"},
	{from: 14, name: "an invalidated token is stored", file: "store/lua/put.lua", old: "if v <= m.dropped then", new: "if false then"},
	{name: "a life counts from the write", file: "store/lua/put.lua", old: "local expires_at = issued_at +", new: "local expires_at = now +"},
	{name: "a token doesn't clear the failure", file: "store/lua/put.lua", old: "redis.call('DEL', KEYS[1], KEYS[3])", new: "redis.call('DEL', KEYS[1])"},
	{from: 10, name: "a version is issued without the lease", file: "store/lua/issue.lua", old: "redis.call('GET', KEYS[4]) ~= ARGV[1]", new: "false"},
	{
		from: 92, name: "nobody looks again before asking", file: "store/lua/issue.lua",
		old: "if raw_field(KEYS[1], 'version') ~= ARGV[2] or raw_field(KEYS[3], 'version') ~= ARGV[3] then", new: "if false then",
	},
	{name: "a late failure counts", file: "store/lua/fail.lua", old: "if v == 0 or v <= m.stored then", new: "if v == 0 then"},
	{from: 41, name: "who can't reach the endpoint ends a backoff", file: "store/lua/fail.lua", old: "if ARGV[6] == '1' and running", new: "if false and running"},
	{from: 12, name: "an invalidation leaves the token", file: "store/lua/invalidate.lua", old: "version(raw_field(KEYS[1], 'version')) <= m.dropped", new: "false"},
	{name: "all leases have one value", file: "lock/lock.go", old: `l.holder + "|" + rand.Text()`, new: `"somebody|" + rand.Text()[:0]`},
	{name: "a lease is taken from its holder", file: "lock/acquire.lua", old: ", 'NX') then", new: ") then"},
	{
		name: "a release asks for no owner", file: "lock/lock.go",
		old: "	ok, err := mutex.UnlockContext(ctx)\n", new: "	n, err := releaser.Del(ctx, mutex.Name()).Result()\n	ok := n > 0\n",
		andAt:  "	go lease.renew(now)\n	return lease\n}\n",
		andNew: "	releaser = l.rdb\n	go lease.renew(now)\n	return lease\n}\n\nvar releaser redis.UniversalClient\n",
	},
	{name: "a first look takes another's lease", file: "store/lua/read.lua", old: "and lock_ttl == -2 and grant_ttl == -2)", new: "and grant_ttl == -2)"},
	{name: "a first look takes the lease in spite of a failure", file: "store/lua/read.lua", old: "and failure_ttl == -2 and lock_ttl == -2", new: "and lock_ttl == -2"},
	{from: 190, name: "a copy of a first look takes its lease anew", file: "store/lua/claim.lua", old: "(own or not redis.pcall(", new: "(not redis.pcall("},
	{name: "a lease isn't renewed", file: "lock/lock.go", old: "timer := time.NewTimer(l.length / 3)", new: "timer := time.NewTimer(100 * l.length)"},
	{name: "a failure binds though it is local", file: "manager/decide.go", old: "return len(reporters(f)) >= unreachableQuorum", new: "return true"},
	{name: "a backoff binds nobody", file: "manager/decide.go", old: "case !v.failureIsOld && binds(", new: "case v.sent < 0 && binds("},
	{
		name: "a token of another configuration is served", file: "manager/policy.go", old: `case fingerprint != "" && t.Config != fingerprint:`, new: `case fingerprint == "none":`,
		andIn: "manager/snapshot.go", andAt: " || s.token.Config != e.conf().fingerprint || ", andNew: " || ",
	},
	{
		from: 10, name: "an older token replaces a usable one", file: "manager/snapshot.go",
		old: "case old.token.Version > s.token.Version && (old.suspect || e.m.now() < old.usableUntil) && !lost(old):", new: "case lost(old) && old == s:",
	},
	{from: 12, name: "an invalidation ends nothing here", file: "manager/snapshot.go", old: "return t.Version <= e.dropped", new: "return false"},
	{name: "a reader ignores the TTL", file: "manager/snapshot.go", old: "sent+min(r.TTL, r.Token.Life())", new: "sent+r.Token.Life()"},
	{
		name: "a flight is woken by its own read", file: "manager/snapshot.go",
		old: "		e.behindAt.Store(0)\n		e.tellLocked()\n	}\n", new: "		e.behindAt.Store(0)\n	}\n	e.tellLocked()\n",
	},
	{from: 15, name: "a suspended machine isn't noticed", file: "manager/watch.go", old: "parted > time.Second", new: "parted > 1000*time.Hour"},
	{
		from: 85, name: "who has missed events doesn't look", file: "manager/watch.go", old: "		e.hear(true, true)\n", new: "		_ = e\n",
		andAt: "m.now()-e.lastRead >= sweepEvery", andNew: "m.now()-e.lastRead >= 1000*sweepEvery",
	},
	{name: "a refresh outlives its caller", file: "manager/flight.go", old: "f.ask, f.lessened = f.base, true", new: "_ = f.base", andAt: "f.explicit, f.lessened = false, true", andNew: "_ = f.base"},
	{name: "who needs a token for longer gets any", file: "manager/life.go", old: "s.expires-e.m.now() >= left", new: "s.expires-e.m.now() >= 0"},
	{from: 60, name: "who needs a token for longer asks as often as he likes", file: "manager/life.go", old: "left > most {", new: "left > t.Life() {"},
	{name: "a wait doesn't end with its ctx", file: "manager/flight.go", old: "		case <-ctx.Done():\n			return f.giveUp", new: "		case <-make(chan int):\n			return f.giveUp"},
	{from: 58, name: "who goes alone goes as often as he likes", file: "manager/alone.go", old: "const aloneEvery = 10 * time.Second", new: "const aloneEvery = time.Millisecond"},
	{from: 19, name: "a change ends no flight", file: "manager/environments.go", old: "		f.endLocked(errReconfigured)\n	}\n	if s :=", new: "		_ = f\n	}\n	if s :="},
	{from: 7, name: "a token of other settings is published", file: "manager/snapshot.go", old: " || s.token.Config != e.conf().fingerprint || ", new: " || "},

	{rotates: true, name: "a refresh token isn't taken", file: "store/lua/issue.lua", old: "redis.call('HSET', KEYS[5], 'taken',", new: "redis.call('HSET', KEYS[5], 'took',"},
	{rotates: true, name: "who has taken a refresh token is nobody's business", file: "manager/decide.go", old: "case v.grant.takenFor(r) > 0:", new: "case v.grant.takenFor(r) > 0 && v.sent < 0:"},
	{from: 12, rotates: true, name: "a grant is written only with its token", file: "store/lua/put.lua", old: "if ARGV[last + 1] then", new: "if ARGV[last + 1] and v > read_mark(KEYS[2]).dropped then"},
	{
		from: 7, rotates: true, name: "a late grant overwrites", file: "store/lua/grants.lua", old: "if version(g[1]) > v then", new: "if false then",
		andAt: "if version(g[1]) < v then", andNew: "if version(g[1]) ~= v then",
	},
	{rotates: true, name: "the lease isn't renewed before a refresh token is sent", file: "manager/attempt.go", old: "	if a.use == nil {\n		return false, false", new: "	if a.use != nil || a.lease == nil {\n		return false, false"},
	{rotates: true, name: "a failure leaves the refresh token taken", file: "store/lua/fail.lua", old: "  settle_grant(KEYS[4], v)\n", new: ""},
	{from: 10, rotates: true, name: "a late write ends with the token's life", file: "manager/attempt.go", old: "		end = never\n", new: "		end += 0\n"},
	{rotates: true, name: "a configured refresh token is always new", file: "manager/grant.go", old: `return v.label != "" && !g.HasLabel(v.label)`, new: `return v.label != "" && g != nil`},
	{from: 18, rotates: true, name: "a login ignores an attempt under way", file: "store/lua/adopt.lua", old: " or version(g[2]) > v then", new: " then"},
	{from: 65, rotates: true, name: "what was refused isn't compared with what is there", file: "store/lua/fail.lua", old: "if (g[1] or '') ~= ARGV[9] or ARGV[10] ~= '' and (g[1] or '') ~= '' then", new: "if false then"},
	{
		from: 11, rotates: true, name: "a change forgets a refresh token that isn't written", file: "manager/environments.go",
		old: "		other, err := m.add(e)\n", new: "		delete(m.custody.kept, name)\n		other, err := m.add(e)\n",
	},
	{from: 9, rotates: true, name: "who must log in asks on", file: "manager/decide.go", old: `case login != "" && (!v.explicit`, new: `case login != "" && v.sent < 0 && (!v.explicit`},
}

// TestEachMistakeIsFound is the test of the test: a simulation that finds nothing proves nothing.
func TestEachMistakeIsFound(t *testing.T) {
	if !*mistakes {
		t.Skip("it builds the code many times over: -mistakes")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range allMistakes {
		if i%*of != *part%*of {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			out, found := m.try(t, root)
			if !found {
				t.Errorf("not found: %s", out)
				return
			}
			t.Log(out)
		})
	}
}

// TestEachMistakeHasItsPlace notices when code is changed that mistakes are made in.
func TestEachMistakeHasItsPlace(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range allMistakes {
		t.Run(m.name, func(t *testing.T) { m.code(t, root) })
	}
}

// code is the text of each file with the mistake.
func (m mistake) code(t *testing.T, root string) map[string]string {
	t.Helper()
	code := map[string]string{}
	for _, change := range [][3]string{{m.file, m.old, m.new}, {cmp.Or(m.andIn, m.file), m.andAt, m.andNew}} {
		file, was, is := change[0], change[1], change[2]
		if was == "" {
			continue
		}
		if _, ok := code[file]; !ok {
			text, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			code[file] = string(text)
		}
		if n := strings.Count(code[file], was); n != 1 {
			t.Fatalf("%s has %q %d times, want it once: the mistake must be made anew", file, was, n)
		}
		code[file] = strings.Replace(code[file], was, is, 1)
	}
	return code
}

// try builds the simulation with the mistake, and runs seeds until one breaks a rule. It returns which.
func (m mistake) try(t *testing.T, root string) (what string, found bool) {
	dir := t.TempDir()
	replace := map[string]string{}
	for file, code := range m.code(t, root) {
		wrong := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(wrong, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, file)] = wrong
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "sim.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay", list, "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the code doesn't build with the mistake: %v\n%s", err, out)
	}
	const n = 200
	rules := "TestEveryRuleHoldsInEverySeed"
	if m.rotates {
		rules = "TestEveryRuleHoldsWhereRefreshTokensRotate"
	}
	out, err := exec.CommandContext(t.Context(), program, "-test.run", rules, "-first", strconv.Itoa(max(m.from, 1)),
		"-seeds", strconv.Itoa(n), "-trail", "8", "-shrink=false").CombinedOutput()
	if err == nil {
		return strconv.Itoa(n) + " seeds broke no rule", false
	}
	if !strings.Contains(string(out), "✗") {
		return "the run ended otherwise: " + string(out[max(len(out)-2000, 0):]), false
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "✗") || strings.Contains(line, "seed ") && what == "" {
			what += strings.TrimSpace(line) + " "
		}
	}
	return what, true
}
