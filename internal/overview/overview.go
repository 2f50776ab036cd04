// Package overview reads what Redis holds of many environments: of those that are configured and those that are only found
// there.
package overview

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/store"
)

// An Overview reads one namespace. It is safe for concurrent use.
type Overview struct {
	store      *store.Store
	manager    *manager.Manager // nil where nothing is configured
	configured atomic.Pointer[map[string]bool]
}

// New returns an Overview of s. The environments of m, which may be nil, are judged by their own policy and configuration,
// others by the default policy.
func New(s *store.Store, m *manager.Manager) *Overview {
	o := &Overview{store: s, manager: m}
	o.Reconfigured()
	return o
}

// Reconfigured is to be called when the manager's environments are others than before.
func (o *Overview) Reconfigured() {
	configured := map[string]bool{}
	if o.manager != nil {
		for _, name := range o.manager.Environments() {
			configured[name] = true
		}
	}
	o.configured.Store(&configured)
}

// Configured reports whether env is configured here.
func (o *Overview) Configured(env string) bool { return (*o.configured.Load())[env] }

// Names returns the names of all environments, sorted: the configured ones and those with any key in Redis. That walks
// through all of Redis's keys, with SCAN; ctx bounds it. The error is a *[store.StatusError].
func (o *Overview) Names(ctx context.Context) ([]string, error) {
	found, err := o.store.Environments(ctx)
	if err != nil {
		return nil, err
	}
	return o.withConfigured(found), nil
}

func (o *Overview) withConfigured(found []string) []string {
	names := slices.AppendSeq(slices.Clone(found), maps.Keys(*o.configured.Load()))
	slices.Sort(names)
	return slices.Compact(names)
}

// Choose returns the names that are asked for, each once and in their order, or all known ones where none is. Redis is
// searched only where the configuration doesn't tell. Errors: a *[manager.UnknownEnvironmentError], one that wraps
// [store.ErrName], a *[store.StatusError].
func (o *Overview) Choose(ctx context.Context, names []string) ([]string, error) {
	if len(names) > 0 && !slices.ContainsFunc(names, func(env string) bool { return !o.Configured(env) }) {
		return unique(names), nil
	}
	for _, env := range names {
		if err := store.CheckName(env); err != nil {
			return nil, err
		}
	}
	known, err := o.Names(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return known, nil
	}
	for _, env := range names {
		if o.manager != nil && !slices.Contains(known, env) {
			return nil, &manager.UnknownEnvironmentError{Environment: env, Known: known}
		}
	}
	return unique(names), nil
}

// unique returns names in their order, each once.
func unique(names []string) []string {
	seen := make(map[string]bool, len(names))
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		before := seen[name]
		seen[name] = true
		return before
	})
}

// Rows returns a row for each of names, in their order, read a few hundred in each round trip; never nil, so that it is a list
// in JSON. Errors: a *[manager.RedisError], a *[store.StatusError], one that wraps [store.ErrName].
func (o *Overview) Rows(ctx context.Context, names []string) ([]manager.Status, error) {
	records, err := o.store.ReadMany(ctx, names)
	if err != nil {
		return nil, o.readError(names, err)
	}
	rows := make([]manager.Status, len(names))
	for i, record := range records {
		rows[i] = o.Row(names[i], record)
	}
	return rows, nil
}

// Row describes a record of env.
func (o *Overview) Row(env string, r *store.Record) manager.Status {
	if o.manager == nil {
		return manager.StatusOf(env, r)
	}
	return o.manager.StatusOf(env, r)
}

// readError makes an error of Redis's that of the manager's, where one of names is configured.
func (o *Overview) readError(names []string, err error) error {
	_, failed := errors.AsType[*store.StatusError](err)
	if i := slices.IndexFunc(names, o.Configured); failed && i >= 0 {
		return &manager.RedisError{Environment: names[i], Err: err}
	}
	return err
}
