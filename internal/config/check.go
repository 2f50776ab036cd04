package config

import (
	"errors"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/manager"
)

// Check reads the configuration and makes all that it describes, without I/O to Redis or an endpoint. It returns how many
// environments there are, and all that is found wrong: of each environment the first thing that its manager finds.
func (s Sources) Check() (environments int, problems []error) {
	f, err := s.Load()
	if err != nil {
		problems = append(problems, err)
		if located, ok := errors.AsType[*Error](err); ok {
			for _, other := range located.Others {
				problems = append(problems, other)
			}
		}
		return 0, problems
	}
	return len(f.Environments), f.Problems()
}

// Problems are what is found wrong in making what the file describes, as [Sources.Check] has it.
func (f *File) Problems() []error {
	rdb, err := f.Client()
	if err != nil {
		return []error{err}
	}
	defer func() { _ = rdb.Close() }()
	first := f.tried(rdb)
	if first == nil {
		return nil
	}
	wrong, ok := errors.AsType[*manager.ConfigError](first)
	if !ok || wrong.Environment == "" { // it isn't about an environment: each would have it
		return []error{f.locate(first)}
	}
	var found []error
	for _, name := range slices.Sorted(maps.Keys(f.Environments)) {
		one := func(c *manager.Config) {
			c.Environments = map[string]manager.Environment{name: f.Environments[name]}
		}
		if err := f.tried(rdb, one); err != nil {
			found = append(found, f.locate(err))
		}
	}
	return found
}

// tried makes a manager, and lets it go.
func (f *File) tried(rdb redis.UniversalClient, changes ...func(*manager.Config)) error {
	c, err := f.config(rdb, nil, changes...)
	if err != nil {
		return err
	}
	c.Environments = maps.Clone(c.Environments)
	for name, e := range c.Environments {
		e.KeepWarm = false // it would begin at once
		c.Environments[name] = e
	}
	m, err := manager.New(c)
	if err == nil {
		err = m.Close()
	}
	return err
}
