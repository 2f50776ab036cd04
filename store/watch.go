package store

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/internal/jitter"
)

// EventKind is what an [Event] tells of.
type EventKind string

// The kinds of events.
const (
	EventStored      EventKind = "stored"
	EventFailed      EventKind = "failed"
	EventInvalidated EventKind = "invalidated"
)

// An Event only says "look": it can be lost, doubled, late or forged, and brings no token.
type Event struct {
	Env     string    `json:"env"`
	Kind    EventKind `json:"kind"`
	Version Version   `json:"version"`
}

// decodeEvent returns false for what no script of ours publishes.
func decodeEvent(payload string) (Event, bool) {
	var e Event
	if len(payload) > 1024 || json.Unmarshal([]byte(payload), &e) != nil || CheckName(e.Env) != nil || e.Version < 0 {
		return Event{}, false
	}
	switch e.Kind {
	case EventStored, EventFailed, EventInvalidated:
		return e, true
	}
	return Event{}, false
}

// A Watcher is told of a namespace's events, by one goroutine, one call after the other: it must not block.
type Watcher interface {
	// Subscribed is called when a subscription is confirmed (true: events may have been lost until now, so all in
	// use must be read again) and when it is lost (false).
	Subscribed(bool)
	Event(Event)
}

// How a subscription's connection is proved, and how fast a new one is tried.
const (
	watchPing    = 10 * time.Second
	watchSilence = 5 * time.Second // without an answer or a confirmation
	retryMin     = 100 * time.Millisecond
	retryMax     = 2 * time.Second
	retryAfresh  = 2 * retryMax // one that lasted so long is no reason to slow down
)

// Watch keeps one subscription to the namespace's events, over restarts and cut connections, and tells w of it until
// ctx is done. It blocks; the error is ctx's cause. It needs a connection of its own, outside the client's pool.
func (s *Store) Watch(ctx context.Context, w Watcher) error {
	pause := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		if s.watchOnce(ctx, w) {
			s.known.forget()
			w.Subscribed(false)
		}
		if time.Since(began) >= retryAfresh {
			pause = retryMin // else each of a row of short ones would have all in use read again at once
		}
		timer := time.NewTimer(pause/2 + jitter.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
		pause = min(2*pause, retryMax)
	}
	return context.Cause(ctx)
}

// watchOnce serves one connection until it ends and reports whether its subscription was ever confirmed. The
// connection is never repaired in place: whatever goes wrong, the next one is subscribed and confirmed from scratch.
func (s *Store) watchOnce(ctx context.Context, w Watcher) (confirmed bool) {
	ctx, cancel := context.WithCancel(ctx)
	pubsub := s.rdb.Subscribe(ctx) // to nothing yet: no I/O
	heard := &heard{began: time.Now()}
	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		guard(ctx, pubsub, heard)
	}()
	defer func() { cancel(); <-guarded }()

	if err := pubsub.Subscribe(ctx, s.Channel()); err != nil {
		s.unreachable(ctx, err)
		return false
	}
	for {
		message, err := pubsub.Receive(ctx)
		if err != nil {
			return confirmed
		}
		heard.note()
		switch m := message.(type) {
		case *redis.Subscription:
			confirmed = true
			w.Subscribed(true)
		case *redis.Message:
			if e, ok := decodeEvent(m.Payload); ok {
				w.Event(e)
			}
		}
	}
}

// heard is when something arrived last. It wakes nobody: of a fleet's replicas all hear at once.
type heard struct {
	began time.Time
	at    atomic.Int64 // nanoseconds from began, and 1: 0 is never
}

func (h *heard) note() { h.at.Store(int64(time.Since(h.began)) + 1) }

// guard closes the connection when ctx is done or it can't prove itself: a Receive knows no cancellation, closing is
// what ends it. heard tells of everything that arrives.
func guard(ctx context.Context, pubsub *redis.PubSub, heard *heard) {
	defer pubsub.Close()
	var asked time.Duration // when the last question was: first the subscription, later a PING. What arrives after it is an answer.
	timer := time.NewTimer(watchSilence)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now, last := time.Since(heard.began), time.Duration(heard.at.Load())
		switch quiet := now - last; {
		case last <= asked:
			return
		case quiet < watchPing:
			timer.Reset(watchPing - quiet)
		default:
			asked = now
			if pubsub.Ping(ctx) != nil {
				return
			}
			timer.Reset(watchSilence)
		}
	}
}
