package page_test

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/internal/agent/page"
	"github.com/onetoken/onetoken/internal/overview"
)

var _ page.Source = (*overview.Overview)(nil)

func fetch(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp := get(t, url)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("a"), page.Pace{})
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/assets/page.js": "text/javascript; charset=utf-8",
		"/assets/page.css": "text/css; charset=utf-8", "/assets/icon.svg": "image/svg+xml", "/v1/events": "text/event-stream",
	} {
		resp := get(t, s.URL+path)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != kind {
			t.Errorf("%s: %s, %s", path, resp.Status, resp.Header.Get("Content-Type"))
		}
		csp := resp.Header.Get("Content-Security-Policy")
		for _, directive := range []string{
			"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'", "base-uri 'none'",
			"form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
		} {
			if !strings.Contains(csp, directive) {
				t.Errorf("%s: no %s in %q", path, directive, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "data:") || strings.Contains(csp, "*") {
			t.Errorf("%s: too much is allowed: %q", path, csp)
		}
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			"Cross-Origin-Opener-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		_ = resp.Body.Close()
	}
}

func TestOtherMethodsAndPathsAreNone(t *testing.T) {
	t.Parallel()
	s := serve(t, newSource("a"), page.Pace{})
	for _, path := range []string{"/assets/", "/assets/page.html", "/assets/../page.go", "/index.html", "/v1/events/"} {
		if resp := get(t, s.URL+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, path := range []string{"/", "/v1/events", "/assets/page.js"} {
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
		w = httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodHead, path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("HEAD %s: %d", path, w.Code)
		}
	}
}

// What the template is given is text, whatever is in it.
func TestTheHTML(t *testing.T) {
	t.Parallel()
	p := page.New(page.Options{Overview: newSource(), CSRFToken: `a"b<c`, Replica: "<img src=x onerror=alert(1)>", Namespace: "ns", Version: "v1"})
	defer p.Close()
	mux := http.NewServeMux()
	p.Register(mux)
	server := httptest.NewServer(mux)
	defer server.Close()
	_, html := fetch(t, server.URL)
	for _, want := range []string{
		`<meta name="onetoken-csrf" content="a&#34;b&lt;c">`, "&lt;img src=x onerror=alert(1)&gt;", `<html lang="en">`, "<noscript>",
		"<title>onetoken · ns</title>", "v1",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("no %s in the HTML", want)
		}
	}
	if strings.Contains(html, "<img") || strings.Contains(html, "\nv1.4") {
		t.Error("the replica's name is markup")
	}
	_, again := fetch(t, server.URL)
	if html != again {
		t.Error("two answers of one process differ")
	}
}

// No inline script or style, nothing from elsewhere, and no way from text to markup.
func TestTheAssetsAreStrict(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`(?i)https?:|src="//|\sstyle=|\son[a-z]+="|<style|<script>|javascript:|innerHTML|outerHTML|` +
		`insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|setHTML|localStorage|@import|url\(|Date\.now`)
	allowed := strings.NewReplacer(`xmlns="http://www.w3.org/2000/svg"`, "")
	files := 0
	err := fs.WalkDir(os.DirFS("assets"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		text, err := os.ReadFile("assets/" + path)
		if err != nil {
			return err
		}
		if found := forbidden.FindAllString(allowed.Replace(string(text)), -1); found != nil {
			t.Errorf("%s has %q", path, found)
		}
		return nil
	})
	if err != nil || files < 4 {
		t.Errorf("%d assets were read: %v", files, err)
	}
}
