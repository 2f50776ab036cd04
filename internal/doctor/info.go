package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
)

// info is what INFO says; empty where the user may not ask.
type info map[string]string

func readInfo(ctx context.Context, rdb *redis.Client) info {
	text, _ := rdb.Info(ctx).Result() // without it, what needs it says so
	return parseInfo(text)
}

func parseInfo(text string) info {
	i := info{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			i[name] = value
		}
	}
	return i
}

func (i info) number(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

// asAdmin is how to look at what the user may not.
const asAdmin = "run doctor once as a user who may run INFO, by --redis-url or $ONETOKEN_REDIS_URL"

// full is the part of the memory above which a server counts as nearly full.
const full = 0.9

// memory looks at what happens when there is no more.
func (n *node) memory(r *report) {
	const check = GroupRedis + ".memory"
	used, most, policy := n.info.number("used_memory"), n.info.number("maxmemory"), n.info["maxmemory_policy"]
	switch {
	case policy == "":
		r.unknown(check, n.name, "the user may not run INFO, which tells of memory and eviction", asAdmin)
	case most == 0:
		r.ok(check, n.name, "%s used, no limit (maxmemory 0)", megabytes(used))
	case policy != "noeviction":
		r.warn(check, n.name, fmt.Sprintf("maxmemory-policy %s: when its %s are used (%s are), it throws away tokens, which are fetched again, marks, without which an invalidation is forgotten, or the lock, so that two ask the endpoint at once", policy, megabytes(most), megabytes(used)),
			"CONFIG SET maxmemory-policy noeviction, on a Redis that has the memory that it needs")
	case float64(used) > full*float64(most):
		r.warn(check, n.name, fmt.Sprintf("%s of %s are used: at the limit writes fail (OOM), and no new token can be stored", megabytes(used), megabytes(most)), "raise maxmemory, or find out who uses it (redis-cli --bigkeys)")
	default:
		r.ok(check, n.name, "%s of %s used, nothing is evicted", megabytes(used), megabytes(most))
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// persistence looks what is kept on disk: tokens among it.
func (e *examination) persistence(ctx context.Context, r *report, n *node) {
	const check = GroupRedis + ".persistence"
	if n.info["aof_enabled"] == "" {
		r.unknown(check, n.name, "the user may not run INFO, which tells of persistence", asAdmin)
		return
	}
	for status, what := range map[string]string{"rdb_last_bgsave_status": "snapshot (RDB)", "aof_last_write_status": "write of the log (AOF)"} {
		if said := n.info[status]; said != "" && said != "ok" {
			r.warn(check, n.name, "the last "+what+" failed: by default Redis refuses writes then (MISCONF)", "see Redis's log: the disk is full, or its folder can't be written to")
		}
	}
	snapshots, known := "", false
	if config, err := n.rdb.ConfigGet(ctx, "save").Result(); err == nil {
		snapshots, known = config["save"], true
	}
	switch aof := n.info["aof_enabled"] == "1"; {
	case aof || snapshots != "":
		r.ok(check, n.name, "what is in Redis is written to disk (%s): tokens stand there, and in backups, as they do in Redis; they outlive a restart",
			strings.Join(kinds(aof, snapshots != ""), " and "))
	case !known:
		r.ok(check, n.name, "no log (AOF); whether there are snapshots (RDB) isn't known without CONFIG GET. Tokens stand in them as they do in Redis")
	case e.logins() != "":
		r.warn(check, n.name, "nothing is written to disk: after a restart the refresh tokens are gone, and a person must log in to "+e.logins(),
			"appendonly yes, with appendfsync everysec at least")
	default:
		r.ok(check, n.name, "nothing is written to disk: after a restart each token is fetched again")
	}
}

// logins are the environments with refresh tokens, "" where there are none.
func (e *examination) logins() string {
	var names []string
	for _, name := range e.envs {
		if e.file.Environments[name].Grant == manager.RefreshToken {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func kinds(aof, rdb bool) []string {
	var list []string
	if aof {
		list = append(list, "AOF")
	}
	if rdb {
		list = append(list, "RDB")
	}
	return list
}

// replication tells of the copies.
func (n *node) replication(r *report) {
	const check = GroupRedis + ".replication"
	if n.info["role"] != "master" {
		return // a replica is found by its version's check, and without INFO there is nothing to tell
	}
	replicas := n.info.number("connected_slaves")
	if replicas == 0 {
		r.ok(check, n.name, "no replica")
		return
	}
	slowest := int64(0)
	for i := range replicas {
		for part := range strings.SplitSeq(n.info["slave"+strconv.FormatInt(i, 10)], ",") {
			if lag, ok := strings.CutPrefix(part, "lag="); ok {
				seconds, _ := strconv.ParseInt(lag, 10, 64)
				slowest = max(slowest, seconds)
			}
		}
	}
	r.ok(check, n.name, "%s, the last heard of %d s ago; what isn't there yet is lost in a failover, the lock too", Count(int(replicas), "replica"), slowest)
}
