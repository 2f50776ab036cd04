package page_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/store"
)

// A bubble is a page in a bubble of testing/synctest, where time is the test's, and nothing waits for a machine.
type bubble struct {
	t      *testing.T
	source *fakeSource
	watch  chan store.Event
	page   *page.Page
	mux    *http.ServeMux
}

func inBubble(t *testing.T, test func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, source: newSource("a", "b"), watch: make(chan store.Event), mux: http.NewServeMux()}
		b.page = page.New(page.Options{Overview: b.source, Watch: func(ctx context.Context, w store.Watcher) error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case e := <-b.watch:
					w.Event(e)
				}
			}
		}})
		b.page.Register(b.mux)
		defer b.page.Close()
		test(b)
	})
}

// look opens a stream that lasts until it is told to end.
func (b *bubble) look() (end func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		b.mux.ServeHTTP(&discard{ResponseWriter: httptest.NewRecorder()}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/events", nil))
	})
	synctest.Wait()
	return func() {
		cancel()
		running.Wait()
		synctest.Wait()
	}
}

type discard struct{ http.ResponseWriter }

func (discard) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (discard) Flush()                      {}

// pass lets time pass and returns what was read meanwhile.
func (b *bubble) pass(d time.Duration) [][]string {
	b.source.took()
	<-time.After(d)
	synctest.Wait()
	return b.source.took()
}

func TestNothingIsReadForNobody(t *testing.T) {
	inBubble(t, func(b *bubble) {
		if got := b.pass(time.Hour); len(got) != 0 {
			t.Errorf("before anybody looked %d reads", len(got))
		}
		first, second := b.look(), b.look()
		first()
		if got := b.pass(10 * time.Second); len(got) == 0 {
			t.Error("one still looks, and nothing is read")
		}
		second()
		b.watch <- store.Event{Env: "a", Kind: store.EventStored, Version: 2}
		if got := b.pass(time.Hour); len(got) != 0 {
			t.Errorf("when all had gone, %d reads", len(got))
		}
		end := b.look()
		defer end()
		if got := b.source.took(); len(got) != 1 || len(got[0]) != 2 {
			t.Errorf("for the next who looks %v is read at once; want all", got)
		}
	})
}

func TestWithoutEventsAllIsReadEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		defer b.look()() // many who look are one
		if got := b.pass(time.Minute); len(got) < 29 || len(got) > 31 {
			t.Errorf("%d reads in a minute", len(got))
		}
	})
}

func TestAFloodOfEventsIsReadFiveTimesASecond(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		b.pass(time.Second)
		for i := range 1000 { // a second's
			b.watch <- store.Event{Env: fmt.Sprintf("env-%d", i%3), Kind: store.EventStored, Version: 2}
			<-time.After(time.Millisecond)
		}
		synctest.Wait()
		got := b.source.took()
		if len(got) < 4 || len(got) > 6 {
			t.Errorf("%d reads in a second", len(got))
		}
		if !slices.ContainsFunc(got, func(names []string) bool { return slices.Equal(names, []string{"env-0", "env-1", "env-2"}) }) {
			t.Errorf("events in a row are not read together: %v", got)
		}
	})
}

func TestARedisThatIsAwayIsAskedEveryTwoSeconds(t *testing.T) {
	inBubble(t, func(b *bubble) {
		defer b.look()()
		b.pass(time.Second)
		b.source.fail(io.ErrUnexpectedEOF)
		if got := b.pass(time.Minute); len(got) < 15 || len(got) > 31 {
			t.Errorf("%d reads in a minute", len(got))
		}
	})
}
