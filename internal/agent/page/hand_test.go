package page_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/agent/page"
)

var (
	listen = flag.String("listen", "", "serve a site here until interrupted, to look at it")
	many   = flag.Int("many", 0, "with so many environments beside those in every state")
)

// To look at the page:
//
//	go test ./internal/agent/page -run ByHand -timeout 0 -v -listen 127.0.0.1:8086 -many 2000
//
// What [site.do] does is done by a POST of its path, with a /do before it.
func TestByHand(t *testing.T) {
	if *listen == "" {
		t.Skip("it needs -listen")
	}
	s := newSite(t, page.Pace{})
	s.show()
	for i := range *many {
		s.do(fmt.Sprintf("/put?env=tenant-%05d&by=worker-%d:100&life=%ds", i+100, i%40, 600+i))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /do/", func(_ http.ResponseWriter, r *http.Request) { s.do(r.URL.RequestURI()[len("/do"):]) })
	mux.HandleFunc("/", s.serve)
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: time.Second}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt)
	defer stop()
	go func() {
		<-ctx.Done()
		s.stop()
		_ = server.Close()
	}()
	t.Logf("http://%s/", *listen)
	if err := server.ListenAndServe(); ctx.Err() == nil {
		t.Error(err)
	}
}
