package redistest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/onetoken/onetoken/internal/redistest"
)

func TestMain(m *testing.M) {
	if os.Getenv("REDISTEST_CHILD") == "1" {
		os.Exit(m.Run()) // it is killed in the midst of a test: nothing to verify
	}
	goleak.VerifyTestMain(m)
}

func TestEachIsEmptyAndItsTTLsRun(t *testing.T) {
	for range 2 { // the second round must not see the first one's key
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			ctx := t.Context()
			if n, err := rdb.DBSize(ctx).Result(); n != 0 || err != nil {
				t.Fatalf("DBSIZE is %d, %v", n, err)
			}
			if err := rdb.Set(ctx, "k", "v", 20*time.Millisecond).Err(); err != nil {
				t.Fatal(err)
			}
			if err := rdb.Set(ctx, "stays", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			for rdb.Exists(ctx, "k").Val() == 1 {
				<-time.After(time.Millisecond)
			}
		})
	}
}

func TestStopAndStart(t *testing.T) {
	s := redistest.Start(t)
	rdb := s.Client(t)
	ctx := t.Context()
	if err := rdb.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := rdb.Ping(ctx).Err(); err == nil {
		t.Fatal("a stopped server answers")
	}
	s.Start(t)
	if n, err := rdb.DBSize(ctx).Result(); n != 0 || err != nil {
		t.Fatalf("restarted: DBSIZE is %d, %v", n, err)
	}
}

func TestPauseAndContinue(t *testing.T) {
	s := redistest.Start(t)
	rdb := s.Client(t)
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := rdb.Ping(ctx).Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a paused server's answer: %v", err)
	}
	s.Continue(t)
	if err := rdb.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigLines(t *testing.T) {
	s := redistest.Start(t, "requirepass other", "user worker on >secret ~a:* +get")
	if err := s.Client(t).Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
	o := redistest.Options(s.Addr())
	o.Username, o.Password = "worker", "secret"
	rdb := redistest.NewClient(t, o)
	if err := rdb.Get(t.Context(), "a:k").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("a key that the user may read: %v", err)
	}
	if err := rdb.Get(t.Context(), "b:k").Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("a key that the user may not read: %v", err)
	}
}

func TestConfigLinesKnowThePort(t *testing.T) {
	s := redistest.Start(t, "requirepass secret-{port}")
	o := redistest.Options(s.Addr())
	_, port, _ := strings.Cut(s.Addr(), ":")
	o.Password = "secret-" + port
	if err := redistest.NewClient(t, o).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestStartSentinel(t *testing.T) {
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr(), ":")
	s := redistest.StartSentinel(t, "sentinel monitor main "+host+" "+port+" 1")
	c := redis.NewSentinelClient(redistest.Options(s.Addr()))
	defer func() { _ = c.Close() }()
	addr, err := c.GetMasterAddrByName(t.Context(), "main").Result()
	if err != nil || strings.Join(addr, ":") != master.Addr() {
		t.Errorf("the master is at %v, %v", addr, err)
	}
}

func TestBadConfigIsAnError(t *testing.T) {
	redistest.Start(t).Stop() // skips where there is none
	fake := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		redistest.Start(fake, "no-such-setting yes")
	}()
	<-done
	if !fake.failed || !strings.Contains(fake.message, "no-such-setting") {
		t.Errorf("failed %v with %q", fake.failed, fake.message)
	}
}

// A test binary that is killed runs no clean-up; its servers must end all the same, a paused one among them.
func TestServerEndsWithTheTestBinary(t *testing.T) {
	if os.Getenv("REDISTEST_CHILD") == "1" {
		s := redistest.Start(t)
		s.Pause(t)
		_, _ = os.Stdout.WriteString("server " + strconv.Itoa(s.PID()) + "\n")
		select {}
	}
	s := redistest.Start(t) // skips where there is none
	s.Stop()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), "REDISTEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pid := serverPID(t, out)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	deadline := time.After(10 * time.Second)
	for running(pid) {
		select {
		case <-deadline:
			t.Fatalf("redis-server %d still runs", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func serverPID(t *testing.T, out io.Reader) int {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "server ")))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// running tells a live process from one that is gone or a zombie: in a container there may be nobody to reap it.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestMissingServerSkipsOrFails(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct {
		name, required  string
		skipped, failed bool
	}{
		{"a laptop", "", true, false},
		{"CI", "1", false, true},
	} {
		t.Setenv(redistest.RequireEnv, c.required)
		fake := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			redistest.Start(fake)
		}()
		<-done
		if fake.skipped != c.skipped || fake.failed != c.failed {
			t.Errorf("%s: skipped %v, failed %v; want %v, %v", c.name, fake.skipped, fake.failed, c.skipped, c.failed)
		}
	}
}
