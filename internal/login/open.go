package login

import (
	"errors"
	"os/exec"
	"runtime"
	"strings"
)

// errNoBrowser is a machine without a screen.
var errNoBrowser = errors.New("there is no screen")

// Open has a browser open url: that of $BROWSER (its first, "%s" in it being the URL), else the system's. It doesn't wait
// for the browser, which gets the variables in env and no terminal. An error says that none could be started; what becomes
// of one that was isn't known.
func Open(url string, env []string) error {
	args, err := opener(runtime.GOOS, func(name string) string { return variable(env, name) })
	if err != nil {
		return err
	}
	placed := false
	for i, arg := range args {
		if strings.Contains(arg, "%s") {
			args[i], placed = strings.ReplaceAll(arg, "%s", url), true
		}
	}
	if !placed {
		args = append(args, url)
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // it stays when this program has ended
	cmd.Env = env
	cmd.SysProcAttr = apart()
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // ends with the program that was started, or with this one
	return nil
}

// opener returns the command that opens the URL behind it.
func opener(system string, variable func(string) string) ([]string, error) {
	chosen := variable("BROWSER")
	if system != "windows" { // where ":" stands in paths
		chosen, _, _ = strings.Cut(chosen, ":")
	}
	if args := strings.Fields(chosen); len(args) > 0 {
		return args, nil
	}
	switch system {
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}, nil
	case "darwin":
		return []string{"open"}, nil
	}
	if variable("DISPLAY") == "" && variable("WAYLAND_DISPLAY") == "" {
		return nil, errNoBrowser // xdg-open would take a browser for terminals
	}
	return []string{"xdg-open"}, nil
}

func variable(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
