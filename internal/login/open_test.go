//go:build unix

package login_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/login"
)

func TestTheChosenBrowserGetsTheURL(t *testing.T) {
	const address = "https://auth.example/authorize?a=b&c=d%20e"
	dir := t.TempDir()
	script := filepath.Join(dir, "browser")
	content := "#!/bin/sh\nprintf '%s|' \"$@\" \"$MARK\" > \"" + dir + "/new\"\nmv \"" + dir + "/new\" \"" + dir + "/seen\"\n"
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	for browser, want := range map[string]string{
		script:                         address + "|here|",
		script + " --new %s:not-there": "--new|" + address + "|here|",
		script + " --url=%s":           "--url=" + address + "|here|",
	} {
		if err := login.Open(address, []string{"BROWSER=" + browser, "MARK=here", "PATH=" + os.Getenv("PATH")}); err != nil {
			t.Fatal(err)
		}
		seen := filepath.Join(dir, "seen")
		for begun := time.Now(); ; <-time.After(5 * time.Millisecond) {
			got, err := os.ReadFile(seen)
			if err == nil {
				if string(got) != want {
					t.Errorf("%s: %q; want %q", browser, got, want)
				}
				break
			}
			if time.Since(begun) > 30*time.Second {
				t.Fatalf("%s wasn't run", browser)
			}
		}
		_ = os.Remove(seen)
	}
}

func TestNoBrowser(t *testing.T) {
	for _, env := range [][]string{nil, {"BROWSER=/not/there"}, {"BROWSER= "}} {
		if err := login.Open("https://auth.example/", env); err == nil {
			t.Errorf("%v: a browser was opened", env)
		}
	}
}
