package peers

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A Redis is a redis-server process of our own.
type Redis struct {
	Addr string

	cmd  *exec.Cmd
	life io.Closer // the server ends when it is closed, by us or by the end of this process
	dir  string
}

// watchdog runs the server of directory $0 at port $1 until standard input ends.
const watchdog = `redis-server --bind 127.0.0.1 --port "$1" --dir "$0" --save "" --appendonly no >"$0/log" 2>&1 & pid=$!
cat >/dev/null
kill -9 $pid
wait $pid`

// StartRedis starts a redis-server on a free port of 127.0.0.1, without persistence.
func StartRedis(ctx context.Context) (*Redis, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Redis{Addr: l.Addr().String()}
	_ = l.Close()
	if r.dir, err = os.MkdirTemp("", "onetoken-peers-"); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(r.Addr)
	r.cmd = exec.CommandContext(context.WithoutCancel(ctx), "sh", "-c", watchdog, r.dir, port)
	if r.life, err = r.cmd.StdinPipe(); err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		_ = os.RemoveAll(r.dir)
		return nil, err
	}
	if err := r.ready(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// ready waits until the server's own log says that it serves: a connection might be answered by another server.
func (r *Redis) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		log, _ := os.ReadFile(r.dir + "/log")
		if strings.Contains(string(log), "Ready to accept connections") {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("redis-server doesn't start: %w\n%s", context.Cause(ctx), log)
		}
	}
}

// Close ends the server.
func (r *Redis) Close() {
	_ = r.life.Close()
	_ = r.cmd.Wait()
	_ = os.RemoveAll(r.dir)
}
