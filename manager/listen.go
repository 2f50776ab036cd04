package manager

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"
)

// OnToken calls f with the token that is usable now, if there is one, and then with each other one that comes to be handed
// out in its place: for those who must pass it on, to a file, a C library, a websocket. It returns at once.
//
//	stop := env.OnToken(func(t *manager.Token) { socket.Authenticate(t.AccessToken.Reveal()) })
//	defer stop()
//
// A listener is somebody who asks: as long as there is one, the token is fetched, and refreshed before it ends, as with
// [Policy.KeepWarm]. What was handed on and forgotten would otherwise end while nobody calls Token.
//
// f is called in a goroutine of its own, one call after the other, with none of the manager's locks held. A slow f misses
// what has been replaced meanwhile: next it gets the latest. So versions go up, save where [Env.Token] itself returns a lower
// one: Redis has lost its history, or a token without a version came from [OutageRefreshAlone]. A token that is invalidated,
// or ends, is no call of f: its successor is, which is fetched at once unless the endpoint fails. Until then what was handed
// on is what there is, until its ExpiresAt.
//
// A panic of f is logged, without its value, and ends that call alone: all replicas hear of a token at the same moment, and
// would all end at once. f isn't called again with the same token.
//
// No call of f begins after stop was called, and stop returns when one that is under way has ended; called by a listener, it
// doesn't wait. It may be called more than once. [Manager.RemoveEnvironment] stops an environment's listeners; [Manager.Close] stops all listeners, and waits for them: f must not call
// it.
func (e *Env) OnToken(f func(*Token)) (stop func()) {
	e = e.present()
	l := &listener{env: e, f: f, news: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{})}
	l.poke()
	e.mu.Lock()
	if e.retired {
		e.mu.Unlock()
		return e.onTokenLater(f)
	}
	if e.listeners == nil {
		e.listeners = map[*listener]struct{}{}
	}
	e.listeners[l] = struct{}{}
	e.listening.Add(1)
	e.mu.Unlock()
	if !e.m.spawn(l.run) {
		l.leave()
		return func() {}
	}
	e.warm(e.m.now())
	return l.stop
}

// onTokenLater is OnToken for an environment that was taken out, once there is one of its name again.
func (e *Env) onTokenLater(f func(*Token)) (stop func()) {
	ctx, cancel := context.WithCancel(e.m.ctx)
	done := make(chan struct{})
	listen := func() {
		defer close(done)
		f := func(t *Token) {
			if ctx.Err() == nil { // stop may have been called by f
				f(t)
			}
		}
		for ctx.Err() == nil {
			if other, err := e.m.lookup(ctx, e.name); err == nil {
				defer other.OnToken(f)() //nolint:contextcheck // it has a life of its own
				<-ctx.Done()
				return
			}
			pause(ctx, time.Second)
		}
	}
	if !e.m.spawn(listen) {
		close(done)
	}
	return func() {
		cancel()
		if !inListener() {
			<-done
		}
	}
}

// A listener is one function that hears of tokens.
type listener struct {
	env     *Env
	f       func(*Token)
	news    chan struct{} // "look"; buffered, so that it isn't lost while f runs
	stopped chan struct{} // closed under env.mu, when it is no longer one of env.listeners
	done    chan struct{} // closed when its goroutine ends
	told    *Token        // the last one that f was called with; the goroutine's own
}

// poke has the listener look at what is handed out now.
func (l *listener) poke() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *listener) run() {
	defer close(l.done)
	defer l.leave() // f may end its goroutine
	for {
		select {
		case <-l.news:
		case <-l.stopped:
			return
		case <-l.env.m.done:
			return
		}
		if t := l.next(); t != nil {
			l.told = t
			l.call(t)
		}
	}
}

// next returns the token that f is to be called with, nil where it has heard of it, or is stopped.
func (l *listener) next() *Token {
	e := l.env
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.usableLocked(anyVersion)
	if _, listens := e.listeners[l]; !listens || s == nil || l.told != nil && l.told.Version == s.token.Version &&
		(s.token.Version != 0 || l.told == s.token) { // those fetched alone all have version 0
		return nil
	}
	return s.token
}

// call calls f. That this is on the stack tells stop that a listener has called it.
func (l *listener) call(t *Token) {
	defer func() {
		if p := recover(); p != nil {
			// Not the panic's value: it may hold a secret.
			l.env.log.Error("a listener panicked", "outcome", "listener_panic", "version", t.Version, "error", fmt.Errorf("panic with a value of type %T", p))
		}
	}()
	l.f(t)
}

// leave takes the listener out of those who hear.
func (l *listener) leave() {
	l.env.mu.Lock()
	defer l.env.mu.Unlock()
	l.leaveLocked()
}

func (l *listener) leaveLocked() {
	e := l.env
	if _, listens := e.listeners[l]; !listens {
		return
	}
	delete(e.listeners, l)
	e.listening.Add(-1)
	close(l.stopped)
}

func (l *listener) stop() {
	l.leave()
	if !inListener() {
		<-l.done
	}
}

// inListener reports whether a listener's function has called, on whatever way.
func inListener() bool {
	const call = ".(*listener).call"
	for skip, pcs := 0, make([]uintptr, 64); ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs)
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var frame runtime.Frame
			frame, more = frames.Next()
			if strings.HasSuffix(frame.Function, "manager"+call) {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}
