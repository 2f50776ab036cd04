package login

import (
	"slices"
	"testing"
)

func TestOpener(t *testing.T) {
	for _, c := range []struct {
		system string
		env    []string
		want   []string // nil: there is none
	}{
		{"linux", nil, nil},
		{"linux", []string{"DISPLAY=:0"}, []string{"xdg-open"}},
		{"freebsd", []string{"WAYLAND_DISPLAY=wayland-0"}, []string{"xdg-open"}},
		{"linux", []string{"BROWSER=w3m:lynx"}, []string{"w3m"}},
		{"linux", []string{"DISPLAY=:0", "BROWSER=firefox --new-window %s"}, []string{"firefox", "--new-window", "%s"}},
		{"darwin", nil, []string{"open"}},
		{"windows", nil, []string{"rundll32", "url.dll,FileProtocolHandler"}},
		{"windows", []string{`BROWSER=C:\ff.exe`}, []string{`C:\ff.exe`}},
	} {
		got, err := opener(c.system, func(name string) string { return variable(c.env, name) })
		if !slices.Equal(got, c.want) || (err != nil) != (c.want == nil) {
			t.Errorf("%s, %v: %v, %v; want %v", c.system, c.env, got, err, c.want)
		}
	}
}
