// Package page is the agent's live page for ops: all environments, what they are doing, and two buttons. It shows what
// [manager.Status] has, and that has no token in it.
//
// The browser gets everything over one stream of server-sent events. Redis is read for all of them together, and only while
// somebody looks.
package page

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"

	"github.com/onetoken/onetoken/internal/printable"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// A Source is where the rows come from; an *overview.Overview is one. Where it has a method Configured(env string) bool, the
// page offers no refresh for the environments that it denies: nobody here has their credentials.
type Source interface {
	Names(ctx context.Context) ([]string, error)
	Rows(ctx context.Context, names []string) ([]manager.Status, error)
}

// Options are what a [Page] needs. Overview, Watch and CSRFToken have no default.
type Options struct {
	Overview Source
	// Watch tells of the namespace's events until its context is done: [store.Store.Watch].
	Watch func(context.Context, store.Watcher) error
	// CSRFToken is what the page's requests carry as X-Onetoken-CSRF. The page doesn't check it: the agent does.
	CSRFToken string

	Replica   string // shown, as are the next two
	Namespace string
	Version   string
	Log       *slog.Logger // default: none
}

// A Page serves the page, its assets and its stream. It is safe for concurrent use.
type Page struct {
	hub  *hub
	html []byte
	boot string // tells a browser that it speaks to another process now
}

// New returns a Page. It does no I/O and starts nothing: the first who looks does.
func New(o Options) *Page {
	return newPage(o, defaultPace)
}

func newPage(o Options, p pace) *Page {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	page := &Page{hub: newHub(o, p), boot: rand.Text()}
	page.html = render(o, page.boot)
	return page
}

// Register adds the page's paths to mux: GET /, /assets/… and /v1/events.
func (p *Page) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", p.serveHTML)
	mux.HandleFunc("GET /v1/events", p.serveEvents)
	for name, kind := range assets {
		body, err := embedded.ReadFile("assets/" + name)
		if err != nil {
			panic(err) // embedded: cannot fail
		}
		mux.HandleFunc("GET /assets/"+name, func(w http.ResponseWriter, _ *http.Request) { answer(w, kind, body) })
	}
}

// Close ends all streams and stops reading. New ones are refused from then on. An [http.Server] waits for the streams when
// it shuts down: call Close before, or by RegisterOnShutdown.
func (p *Page) Close() { p.hub.close() }

//go:embed assets
var embedded embed.FS

// assets are the files that a browser may ask for, with their types.
var assets = map[string]string{
	"page.js":  "text/javascript; charset=utf-8",
	"page.css": "text/css; charset=utf-8",
	"icon.svg": "image/svg+xml",
}

// policy allows the page's own script, style, icon and stream, and nothing else: no markup made by a script, no frames, no
// forms.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// guard sets the headers that every answer has, the stream's included.
func guard(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

func answer(w http.ResponseWriter, kind string, body []byte) {
	guard(w.Header())
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body) // who has gone needs no answer
}

func (p *Page) serveHTML(w http.ResponseWriter, _ *http.Request) {
	answer(w, "text/html; charset=utf-8", p.html)
}

func render(o Options, boot string) []byte {
	var b bytes.Buffer
	t := template.Must(template.ParseFS(embedded, "assets/page.html"))
	err := t.Execute(&b, struct{ CSRF, Boot, Replica, Namespace, Version string }{
		o.CSRFToken, boot, printable.Line(o.Replica, 128), printable.Line(o.Namespace, 128), printable.Line(o.Version, 64),
	})
	if err != nil {
		panic(err) // the template is embedded, and a buffer takes all
	}
	return b.Bytes()
}
