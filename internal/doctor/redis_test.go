package doctor_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/doctor"
	"github.com/onetoken/onetoken/internal/redistest"
)

// section names a server, with time-outs that a busy machine doesn't reach.
func section(s *redistest.Server) string { return fmt.Sprintf("{url: %q}", patientURL(s)) }

func patientURL(s *redistest.Server) string { return s.URL() + unhurried }

const unhurried = "?dial_timeout=20s&read_timeout=20s&write_timeout=20s"

// A sound patient has nothing, and is left as it was.
func TestNothingWrong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, section(server))
	got := p.examine()
	got.only(0)
	for _, check := range []string{
		"configuration.file", "configuration.permissions", "configuration.environment", "redis.reachable", "redis.version", "redis.round_trip",
		"redis.clock", "redis.memory", "redis.persistence", "redis.replication", "redis.rights", "redis.events", "redis.keys", "endpoint.connection",
	} {
		got.has(doctor.LevelOK, check)
	}
	if keys, err := server.Client(t).Keys(t.Context(), "*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("left behind: %q, %v", keys, err)
	}
	if n := p.endpoint.Calls(); n != 0 {
		t.Errorf("the endpoint was asked %d times", n)
	}
}

func TestSlowRoundTrip(t *testing.T) {
	t.Parallel()
	p := newPatient(t, section(redistest.Start(t)))
	p.roundTrip = time.Nanosecond
	p.examine().has(doctor.LevelWarning, "redis.round_trip", "in the median of", "nearer")
}

// worker returns the rights of the compose example's user, and its line for Redis.
func worker(t *testing.T) (rights []string, line string) {
	t.Helper()
	data, err := os.ReadFile("../../docs/compose/users.acl")
	must(t, err)
	for l := range strings.Lines(string(data)) {
		if strings.HasPrefix(l, "user onetoken ") {
			line = strings.Replace(strings.TrimSpace(l), "#ONETOKEN_SHA256", ">hunter2-of-redis", 1)
			_, granted, _ := strings.Cut(line, "-@all ")
			return strings.Fields(granted), line
		}
	}
	t.Fatal("users.acl has no user onetoken")
	return nil, ""
}

func asWorker(s *redistest.Server) string {
	return fmt.Sprintf("{url: %q, username: onetoken, password: hunter2-of-redis}", patientURL(s))
}

// The rights of the user that the documentation has are enough; each that is missing is found, and named with what to do.
func TestRightsOneByOne(t *testing.T) {
	t.Parallel()
	rights, line := worker(t)
	server := redistest.Start(t, line)
	admin := server.Client(t)
	p := newPatient(t, asWorker(server))
	got := p.examine()
	got.only(0)
	got.has(doctor.LevelOK, "redis.rights", fmt.Sprintf("each of the %d commands", len(rights)))
	got.has(doctor.LevelOK, "redis.memory", "may not run INFO")

	set := func(rule ...string) { must(t, admin.ACLSetUser(t.Context(), "onetoken", rule...).Err()) }
	for _, right := range rights {
		set("-" + right[1:])
		got := p.examine()
		if right == "+client|setname" { // with which a connection begins
			got.has(doctor.LevelFailure, "redis.reachable", "client|setname", "give the user the right +client|setname")
		} else {
			got.has(doctor.LevelFailure, "redis.rights", "user onetoken may not run", "ACL SETUSER onetoken "+right)
		}
		if right == "+eval" {
			got.has(doctor.LevelOK, "redis.keys", "can't be read without the rights above")
		}
		got.only(1)
		set(right)
	}
	set("resetkeys")
	p.examine().has(doctor.LevelFailure, "redis.rights", "may not use the keys onetoken:*", "ACL SETUSER onetoken ~onetoken:*")
	set("~onetoken:*", "resetchannels")
	p.examine().has(doctor.LevelFailure, "redis.rights", "may not use the channel onetoken:events", "ACL SETUSER onetoken &onetoken:events")
	set("&onetoken:events")
	p.examine().only(0)
	if keys, err := admin.Keys(t.Context(), "*").Result(); err != nil || len(keys) > 2 { // without DEL two are left for 5 s
		t.Errorf("left behind: %q, %v", keys, err)
	}
}

func TestRedisCannotBeUsed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "requirepass sesame")
	for _, c := range []struct{ name, section, want, mend string }{
		{"gone", "{url: 'redis://127.0.0.1:1'}", "connection refused", "is it started"},
		{"no password", section(server), "NOAUTH", "the password right"},
		{"a wrong password", fmt.Sprintf("{url: %q, password: hunter2}", patientURL(server)), "WRONGPASS", "the password right"},
		{"no such host", "{url: 'redis://no-such-host.invalid:6379'}", "no-such-host.invalid", "host's name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := newPatient(t, c.section).examine()
			got.has(doctor.LevelFailure, "redis.reachable", c.want, c.mend)
			got.only(1)
		})
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	p := newPatient(t, section(server))
	set := func(name, value string) { must(t, admin.ConfigSet(t.Context(), name, value).Err()) }

	set("maxmemory", "1gb")
	p.examine().has(doctor.LevelOK, "redis.memory", "of 1024.0 MiB used, nothing is evicted")
	for _, policy := range []string{"allkeys-lru", "volatile-ttl"} {
		set("maxmemory-policy", policy)
		got := p.examine()
		got.has(doctor.LevelWarning, "redis.memory", policy, "maxmemory-policy noeviction")
		got.only(1)
	}
	set("maxmemory-policy", "noeviction")
	set("maxmemory", "1")
	got := p.examine()
	got.has(doctor.LevelWarning, "redis.memory", "at the limit writes fail")
	got.has(doctor.LevelFailure, "redis.rights", "OOM", "raise maxmemory")
}

func TestPersistence(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(t)
	p := newPatient(t, section(server))
	p.examine().has(doctor.LevelOK, "redis.persistence", "nothing is written to disk")
	p.write(section(server), fmt.Sprintf("  prod: {token_url: %q, client_id: the-client, client_secret: %q, grant: refresh_token}\n", p.url+"/token", clientSecret))
	p.examine().has(doctor.LevelWarning, "redis.persistence", "a person must log in to prod", "appendonly yes")
	must(t, admin.ConfigSet(t.Context(), "save", "3600 1").Err())
	p.examine().has(doctor.LevelOK, "redis.persistence", "written to disk (RDB)")
	must(t, admin.ConfigSet(t.Context(), "appendonly", "yes").Err())
	p.examine().has(doctor.LevelOK, "redis.persistence", "written to disk (AOF and RDB)")
}

func TestReplica(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	replica := redistest.Start(t, "replicaof "+host+" "+port)
	rdb := replica.Client(t)
	eventually(t, "a replica in step", func() bool {
		return strings.Contains(rdb.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	got := newPatient(t, section(replica)).examine()
	got.has(doctor.LevelFailure, "redis.role", "a replica", "its master")
	got.has(doctor.LevelFailure, "redis.rights", "READONLY", "its master")
	newPatient(t, section(master)).examine().has(doctor.LevelOK, "redis.replication", "1 replica,")
}

// eventually waits for what comes in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", patience, what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestOddKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	ctx := t.Context()
	p := newPatient(t, section(server))
	p.token = true
	p.examine().only(0)
	p.token = false
	eventually(t, "the lease's end", func() bool { return rdb.Exists(ctx, "onetoken:{prod}:lock").Val() == 0 })
	p.examine().only(0) // now with a token, a mark
	key := func(env, kind string) string { return "onetoken:{" + env + "}:" + kind }

	must(t, rdb.Set(ctx, "onetoken:cache:1", "x", 0).Err())
	must(t, rdb.Set(ctx, key("prod", "tokens"), "x", 0).Err())
	must(t, rdb.Set(ctx, "onetoken2:{prod}:token", "x", 0).Err()) // another's
	must(t, rdb.LPush(ctx, key("a", "lock"), "x").Err())
	must(t, rdb.Set(ctx, key("b", "mark"), "x", 0).Err())
	must(t, rdb.Set(ctx, key("c", "lock"), "worker-7|x", 0).Err())
	must(t, rdb.HSet(ctx, key("d", "mark"), "issued", "9999999999999999").Err())
	must(t, rdb.HSet(ctx, key("e", "token"), "version", "1", "access_token", "x\x1b").Err())
	must(t, rdb.HSet(ctx, key("f", "mark"), "issued", "1").Err())
	must(t, rdb.Expire(ctx, key("f", "mark"), time.Hour).Err())

	got := p.examine()
	got.has(doctor.LevelWarning, "redis.keys", "onetoken:cache:1, onetoken:{prod}:tokens", "not written by this version")
	got.has(doctor.LevelWarning, "redis.keys", key("a", "lock")+", "+key("b", "mark"), "of a type", "DEL it")
	got.has(doctor.LevelWarning, "redis.keys", key("c", "lock")+", "+key("e", "token"), "without a TTL")
	got.has(doctor.LevelWarning, "redis.keys", key("d", "mark"), "can't have been issued")
	got.has(doctor.LevelWarning, "redis.keys", key("e", "token"), "is unreadable", "onetoken refresh e")
	got.has(doctor.LevelWarning, "redis.keys", key("f", "mark"), "a mark with a TTL", "PERSIST")
	got.has(doctor.LevelOK, "redis.environments", "a, b, c, d, e and 1 more", "not in this file")
	got.only(6)
	// Of prod alone there is nothing, but its configuration changes.
	p.examine("prod").only(0)
	p.write(section(server), fmt.Sprintf("  prod: {token_url: %q, client_id: another, client_secret: %q}\n", p.url+"/token", clientSecret))
	got = p.examine("prod")
	got.has(doctor.LevelWarning, "redis.conflict", "of another configuration")
	got.only(1)
}

func TestManyKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(t)
	for from := range 12 {
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := range 1000 {
				p.HSet(t.Context(), fmt.Sprintf("onetoken:{env-%d}:mark", from*1000+i), "issued", "1")
			}
			return nil
		})
		must(t, err)
	}
	got := newPatient(t, section(server)).examine()
	got.has(doctor.LevelOK, "redis.keys", "many keys: only the first")
	got.only(0)
}

func TestCluster(t *testing.T) {
	t.Parallel()
	rights, line := worker(t)
	server := redistest.Start(t, "cluster-enabled yes", line+" +cluster|slots +asking +command")
	admin := server.Client(t)
	p := newPatient(t, fmt.Sprintf("{addresses: [%q], username: onetoken, password: hunter2-of-redis}", "redis://"+server.Addr()+unhurried))
	must(t, admin.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	eventually(t, "a Cluster that serves", func() bool {
		return strings.Contains(admin.ClusterInfo(t.Context()).Val(), "cluster_state:ok")
	})
	got := p.examine()
	got.only(0)
	got.has(doctor.LevelOK, "redis.rights", fmt.Sprintf("each of the %d commands", len(rights)+3))
	got.has(doctor.LevelOK, "redis.cluster", "may not run CLUSTER INFO")

	must(t, admin.ACLSetUser(t.Context(), "onetoken", "-asking", "-command", "+cluster|info").Err())
	got = p.examine()
	got.has(doctor.LevelFailure, "redis.rights", "may not run ASKING", "+asking")
	got.has(doctor.LevelWarning, "redis.rights", "may not run COMMAND", "+command")
	got.has(doctor.LevelOK, "redis.cluster", "cluster_state is ok")
	got.only(2)

	must(t, admin.ACLSetUser(t.Context(), "onetoken", "+asking", "+command", "-cluster|slots").Err())
	p.examine().has(doctor.LevelFailure, "redis.reachable", "can't be asked for its nodes", "+cluster|slots")
	must(t, admin.ACLSetUser(t.Context(), "onetoken", "+cluster|slots").Err())
	must(t, admin.ClusterDelSlotsRange(t.Context(), 0, 99).Err())
	eventually(t, "a Cluster without some slots", func() bool {
		return strings.Contains(admin.ClusterInfo(t.Context()).Val(), "cluster_state:fail")
	})
	p.examine().has(doctor.LevelFailure, "redis.cluster", "cluster_state is fail")
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	sentinel := redistest.StartSentinel(t, "sentinel monitor main "+host+" "+port+" 1")
	const gone = "127.0.0.1:1"
	p := newPatient(t, fmt.Sprintf("{addresses: [%q, %q], master_name: main}", "redis://"+sentinel.Addr()+unhurried, gone))
	got := p.examine()
	got.has(doctor.LevelOK, "redis.sentinel", sentinel.Addr(), "the master is at "+master.Addr())
	got.has(doctor.LevelWarning, "redis.sentinel", gone, "refused")
	got.has(doctor.LevelOK, "redis.rights", "the master of main")
	got.only(1)
	got = newPatient(t, fmt.Sprintf("{addresses: [%q], master_name: other}", "redis://"+sentinel.Addr()+unhurried)).examine()
	got.has(doctor.LevelWarning, "redis.sentinel", `knows no master "other"`, "redis.master_name")
	got.has(doctor.LevelFailure, "redis.reachable")
}

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	client, clientKey := a.issue("client", 3*24*time.Hour)
	ca := fmt.Sprintf("tls: {ca_file: %q}", a.file)
	for _, c := range []struct {
		name  string
		life  time.Duration
		tls   string
		check func(findings)
	}{
		{"valid", 90 * 24 * time.Hour, ca, func(f findings) {
			f.has(doctor.LevelOK, "redis.certificate", "TLS 1.3, verified")
			f.only(0)
		}},
		{"ends soon", 3*24*time.Hour + time.Hour, ca, func(f findings) {
			f.has(doctor.LevelWarning, "redis.certificate", "in 3 days", "renew")
			f.only(1)
		}},
		{"expired", -time.Hour, ca, func(f findings) {
			f.has(doctor.LevelFailure, "redis.reachable", "expired", "renew it")
			f.only(1)
		}},
		{"of an unknown authority", time.Hour, "tls: true", func(f findings) {
			f.has(doctor.LevelFailure, "redis.reachable", "unknown authority", "redis.tls.ca_file")
			f.only(1)
		}},
		{"of another name", time.Hour, fmt.Sprintf("tls: {ca_file: %q, server_name: other.example}", a.file), func(f findings) {
			f.has(doctor.LevelFailure, "redis.reachable", "redis.tls.server_name")
			f.only(1)
		}},
		{"with a client's", 90 * 24 * time.Hour, fmt.Sprintf("tls: {ca_file: %q, cert_file: %q, key_file: %q}", a.file, client, clientKey), func(f findings) {
			f.has(doctor.LevelWarning, "configuration.certificate", "redis.tls.cert_file", "renew")
			f.only(1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cert, key := a.issue(strings.NewReplacer(" ", "-", "'", "").Replace(c.name), c.life)
			server := redistest.Start(t, "port 0", "tls-port {port}", "tls-auth-clients optional",
				"tls-cert-file "+cert, "tls-key-file "+key, "tls-ca-cert-file "+a.file)
			c.check(newPatient(t, fmt.Sprintf("{url: 'rediss://%s/0%s', %s}", server.Addr(), unhurried, c.tls)).examine())
		})
	}
}

// Nothing hangs: a Redis and an endpoint that take connections and don't answer.
func TestNothingHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := newPatient(t, "")
	server.Pause(t)
	defer server.Continue(t)
	silent := listen(t)
	p.write(fmt.Sprintf("{url: %q}", server.URL()), fmt.Sprintf("  prod: {token_url: 'https://%s/token', client_id: c, client_secret: x, connect_timeout: 1s}\n", silent))
	got := p.examine()
	got.has(doctor.LevelFailure, "redis.reachable", "no answer")
	got.has(doctor.LevelFailure, "endpoint.connection", silent, "no answer")

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	got = p.examineFor(ctx)
	got.has(doctor.LevelFailure, "redis.time", "before all was looked at")
	got.has(doctor.LevelFailure, "endpoint.time", "before all was looked at")
}

// Without the rights that would end a scratch hash none is written.
func TestNoScratchKeyStays(t *testing.T) {
	t.Parallel()
	_, line := worker(t)
	server := redistest.Start(t, line+" -del -pexpire")
	admin := server.Client(t)
	got := newPatient(t, asWorker(server)).examine()
	got.has(doctor.LevelFailure, "redis.rights", "+del")
	got.has(doctor.LevelFailure, "redis.rights", "+pexpire")
	got.only(2)
	eventually(t, "an empty Redis", func() bool { return admin.DBSize(t.Context()).Val() == 0 })
}
