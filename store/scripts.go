package store

import (
	"context"
	"embed"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var lua embed.FS

// script makes one of files, beside those that are shared by all. It goes over the wire without its comments.
func script(names ...string) *redis.Script {
	return scriptOf("", append([]string{"keys", "common", "changes"}, names...)...)
}

// scriptOf makes a script of the beginning and files.
func scriptOf(beginning string, names ...string) *redis.Script {
	var source strings.Builder
	source.WriteString(beginning)
	for _, name := range names {
		part, err := lua.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err) // embedded: cannot fail
		}
		for line := range strings.Lines(string(part)) {
			if line = strings.TrimLeft(line, " "); !strings.HasPrefix(line, "--") {
				source.WriteString(line)
			}
		}
	}
	return redis.NewScript(source.String())
}

// A redis.Script is immutable once made and safe for concurrent use.
var (
	readScript       = scriptOf(fieldNames, "keys", "read", "common", "claim")
	issueScript      = script("grants", "issue")
	putScript        = script("grants", "put")
	failScript       = script("grants", "fail")
	invalidateScript = script("invalidate")
	keepScript       = script("grants", "keep")
	nextScript       = script("next")
	adoptScript      = script("grants", "adopt")
	resealScript     = script("reseal")
)

// known are the scripts that servers have from a Store. A script that isn't among them goes by its text, which is 2 to 5 KB,
// once; by its hash, which is 40 bytes, it would cost a round trip more wherever Redis has been restarted or failed over: for
// each replica of a fleet, all at once. Where Redis has lost one, the others are gone, too.
type known struct{ m sync.Map }

// A place is a script on a server: in a Cluster each has scripts of its own.
type place struct{ node, hash string }

func (k *known) has(p place) bool {
	_, ok := k.m.Load(p)
	return ok
}

func (k *known) add(p place) { k.m.Store(p, nil) }

// forget is for when a server may have been restarted, or another has taken its place.
func (k *known) forget() { k.m.Clear() }

// place returns where a script about key is run.
func (s *Store) place(ctx context.Context, sc *redis.Script, key string) place {
	p := place{hash: sc.Hash()}
	if c, ok := s.rdb.(*redis.ClusterClient); ok {
		if node, err := c.MasterForKey(ctx, key); err == nil {
			p.node = node.Options().Addr
		}
	}
	return p
}

// eval runs a script.
func (s *Store) eval(ctx context.Context, sc *redis.Script, keys []string, args ...any) *redis.Cmd {
	p := s.place(ctx, sc, keys[0])
	if s.known.has(p) {
		cmd := sc.EvalSha(ctx, s.rdb, keys, args...)
		if !isNoScript(cmd.Err()) {
			return cmd
		}
		s.known.forget()
	}
	cmd := sc.Eval(ctx, s.rdb, keys, args...)
	if cmd.Err() == nil {
		s.known.add(p)
	}
	return cmd
}

func isNoScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }
