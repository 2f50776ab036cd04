package agent

import (
	"reflect"

	"github.com/onetoken/onetoken/manager"
)

// A Setup is what the agent knows of environments and clients. It is made by [Agent.Prepare].
type Setup struct {
	envs    map[string]*environment
	clients []*client
}

// An environment is what the agent knows of one.
type environment struct {
	name     string
	settings manager.Environment
	handle   *manager.Env
	cache    rendered
	drop     dropIn
}

// Prepare reads the files of environments and clients; what is as it was keeps what is known of it. Nothing has changed until
// [Agent.Use]. The error is a *[SettingError].
func (a *Agent) Prepare(environments map[string]manager.Environment, clients []Client) (*Setup, error) {
	s, was := &Setup{envs: make(map[string]*environment, len(environments))}, a.setup()
	for name, settings := range environments {
		if e := was.envs[name]; e != nil && reflect.DeepEqual(e.settings, settings) {
			s.envs[name] = e
			continue
		}
		drop, err := newDropIn(a.log, settings)
		if err != nil {
			return nil, &SettingError{Setting: "environments." + name + ".client_secret_file", Err: err}
		}
		s.envs[name] = &environment{name: name, settings: settings, drop: drop}
	}
	for _, c := range clients {
		known, err := newClient(a.log, c)
		if err != nil {
			return nil, &SettingError{Setting: "clients", Err: err}
		}
		s.clients = append(s.clients, known)
	}
	return s, nil
}

// Use has the agent answer by s, but for environments that the manager hasn't got.
func (a *Agent) Use(s *Setup) {
	for name, e := range s.envs {
		if e.handle != nil {
			continue
		}
		handle, err := a.options.Manager.Env(name)
		if err != nil {
			delete(s.envs, name)
			continue
		}
		e.handle = handle
	}
	a.current.Store(s)
}

func (a *Agent) setup() *Setup {
	if s := a.current.Load(); s != nil {
		return s
	}
	return &Setup{}
}
