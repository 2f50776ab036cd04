package login

import (
	_ "embed"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// A text is what a page says. Nothing that came with the request is ever on one.
type text struct{ Title, Text string }

// pages are all there are.
var pages = struct{ done, refused, again, stray, elsewhere text }{
	done: text{
		"The answer has arrived",
		"onetoken goes on with it. Its terminal says how that went. You can close this window.",
	},
	refused: text{
		"You are not logged in",
		"The answer that your browser brought is a no. The terminal says why. You can close this window.",
	},
	again: text{
		"This login is over",
		"Its answer has arrived before. You can close this window.",
	},
	stray: text{
		"This is the answer to another login",
		"Nothing was done with it. If you are logging in right now, open the address that the terminal shows.",
	},
	elsewhere: text{
		"There is nothing here",
		"onetoken waits for a login to come back, at another address. You can close this window.",
	},
}

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

// show answers with a page that nobody keeps, that loads nothing, and that tells no other site where it was.
func show(w http.ResponseWriter, status int, t text) {
	var b strings.Builder
	if err := page.Execute(&b, t); err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(b.String()))
	_ = http.NewResponseController(w).Flush() // before anything is done that ends the server
}
