package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
)

const (
	env        = "prod"
	replicaEnv = "ONETOKEN_FAULTS_REPLICA" // its value is a replicaConfig: the test binary is a replica then

	replicaHeader = "X-Replica" // says the endpoint who asks
)

// A replicaConfig is what a replica's process is told.
type replicaConfig struct {
	Name   string
	Redis  string // address of its proxy
	Token  string // URL of its proxy to the endpoint
	Policy manager.Policy

	RefreshToken string `json:",omitempty"` // the configured one; "": the grant is client_credentials

	Every time.Duration // between two calls of one caller
}

// callers ask for tokens all the time, each with a deadline of its own.
var callers = map[string]time.Duration{"patient": 5 * time.Second, "impatient": 300 * time.Millisecond}

// runReplica is the program of a replica. It writes an event for each answer that it gets to stdout, ends on SIGTERM as
// programs should, and at once when stdin ends, which it does with the test.
func runReplica(raw string) error {
	var c replicaConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	rdb := redis.NewClient(redistest.Options(c.Redis))
	defer func() { _ = rdb.Close() }()
	m, err := manager.New(manager.Config{
		Redis:        rdb,
		Replica:      c.Name,
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Environments: map[string]manager.Environment{env: c.environment()},
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w := &eventWriter{out: os.Stdout, replica: c.Name}
	var all sync.WaitGroup
	for name, deadline := range callers {
		all.Go(func() { callForever(ctx, m, w, name, deadline, c.Every) })
	}
	go obey(m, w)
	go watchStalls(ctx.Done(), func() {}, w.write)
	<-ctx.Done()
	_ = m.Close()
	all.Wait()
	w.write(event{Kind: kindBye, At: now()})
	return nil
}

// environment is what the replica's is configured to be.
func (c replicaConfig) environment() manager.Environment {
	e := manager.Environment{
		// The same URL for all, since it is a part of the configuration's fingerprint; the transport has the proxy's.
		TokenURL: "http://127.0.0.1:1/token", ClientID: "client", ClientSecret: manager.NewSecret("secret"),
		HTTPClient: &http.Client{Transport: &named{name: c.Name, addr: c.Token}},
		Policy:     c.Policy,
	}
	if c.RefreshToken != "" {
		e.Grant, e.RefreshToken = manager.RefreshToken, manager.NewSecret(c.RefreshToken)
	}
	return e
}

// obey does what comes on stdin.
func obey(m *manager.Manager, w *eventWriter) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		e := event{Kind: kindDropped, At: now()}
		v, err := m.Invalidate(ctx, env, 0)
		e.End, e.Version, e.Err = now(), v, errorKind(err)
		cancel()
		w.write(e)
	}
	os.Exit(3)
}

// callForever asks for a token, again and again. It notes the instants before the call and after it: the process may be
// stopped anywhere between.
func callForever(ctx context.Context, m *manager.Manager, w *eventWriter, name string, deadline, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		e := event{Kind: kindAnswer, Caller: name, At: now()}
		e.Deadline = e.At + int64(deadline)
		call, cancel := context.WithDeadline(context.Background(), time.Unix(0, e.Deadline))
		t, err := m.Token(call, env)
		if err == nil {
			e.Left = int64(m.ExpiresIn(env, t))
			e.Version, e.Expires, e.Digest = t.Version, t.ExpiresAt.UnixNano(), digest(t.AccessToken.Reveal())
		}
		e.End, e.Err = now(), errorKind(err)
		cancel()
		if ctx.Err() != nil {
			return // it may be the end that it was told of
		}
		w.write(e)
		<-ticker.C
	}
}

// digest is enough to tell tokens apart, and no token.
func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:6])
}

// errorKind is an error in a word.
func errorKind(err error) string {
	var endpoint *manager.EndpointError
	var away *manager.RedisError
	var wait *manager.WaitError
	var login *manager.LoginError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &login): // with the endpoint's in its chain, for who was told
		return "login"
	case errors.As(err, &endpoint):
		return "endpoint " + endpoint.Code
	case errors.As(err, &away):
		return "redis"
	case errors.As(err, &wait):
		return "wait"
	default:
		return fmt.Sprintf("%T", err)
	}
}

// named sends requests to a replica's own proxy, with the replica's name.
type named struct {
	name, addr string
	next       http.Transport
}

func (n *named) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host = n.addr
	r.Header.Set(replicaHeader, n.name)
	return n.next.RoundTrip(r)
}

// An eventWriter writes events as lines of JSON.
type eventWriter struct {
	mu      sync.Mutex
	out     io.Writer
	replica string
}

func (w *eventWriter) write(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.Replica, e.Process = w.replica, os.Getpid()
	_ = json.NewEncoder(w.out).Encode(e) // an error: the test is gone, and so are we
}

// A replica is such a process, as the test sees it.
type replica struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.Writer
	gone  chan struct{} // closed once the process has ended and all of its events are recorded

	mu      sync.Mutex
	stderr  bytes.Buffer // guarded by mu
	leaving bool         // it was told to end, or killed; for the test's goroutine
}

func (r *replica) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.Write(p)
}

// log returns what the replica has logged.
func (r *replica) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stderr.String()
}

// startReplica starts a process, which is killed at the test's end.
func startReplica(t *testing.T, c replicaConfig, record func(event)) *replica {
	t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, name: c.Name, gone: make(chan struct{})}
	r.cmd = exec.Command(self)
	r.cmd.Env = append(os.Environ(), replicaEnv+"="+string(raw), "GORACE=atexit_sleep_ms=0")
	r.cmd.Stderr = r
	stdout, err1 := r.cmd.StdoutPipe()
	stdin, err2 := r.cmd.StdinPipe()
	if err := errors.Join(err1, err2, r.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	r.stdin = stdin
	go func() {
		defer close(r.gone)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			var e event
			if json.Unmarshal(in.Bytes(), &e) == nil { // else the process was killed in the middle of a line
				record(e)
			}
		}
		_ = r.cmd.Wait() // its error is in the ProcessState
	}()
	t.Cleanup(r.kill)
	return r
}

// kill ends the process, stopped or not, and waits for its end.
func (r *replica) kill() {
	r.leaving = true
	_ = r.cmd.Process.Kill() // an error: it is gone
	<-r.gone
}

func (r *replica) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatalf("%v to %s: %v", sig, r.name, err)
	}
}

// terminate has the process end in good order, and waits for that.
func (r *replica) terminate() {
	r.t.Helper()
	r.leaving = true
	r.signal(syscall.SIGTERM)
	r.ends()
}

// ends waits until the process has ended, in good order.
func (r *replica) ends() {
	r.t.Helper()
	select {
	case <-r.gone:
	case <-time.After(patience):
		r.t.Fatalf("%s doesn't end: %s", r.name, r.log())
	}
}
